"""Classification of images of any size, several to a row (NaViT: Dehghani et al., 2023, arXiv:2307.06304)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Batch, Float
from vitjax.ops.losses import ClassLoss, SigmoidCrossEntropy
from vitjax.ops.normalisation import normalise_patches
from vitjax.tasks.meters import MeanMeter, masked_scores
from vitjax.tasks.task import Metrics

__all__ = ["PackedClassification", "packed_inputs"]


def packed_inputs(batch: Batch, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """What a model of packed rows takes: normalised patches, and where they belong."""
    names = ("segments", "positions", "grid_sizes", "buckets")
    packing = {name: batch[name] for name in names if name in batch}
    return {"patches": normalise_patches(batch["patches"], mean, std)} | packing


@dataclass(frozen=True)
class PackedClassification:
    """One label per packed image; batches as in the column "packed batch" of ARCHITECTURE.md.

    The loss is the mean over *images*, however many tokens each has or how they are spread over the rows.

    Attributes:
        mean: per channel, in units of the brightest value (0 to 1).
        std: per channel, in the same units.
        criterion: the loss of one image; the paper's is `SigmoidCrossEntropy` (B.1).
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    criterion: ClassLoss = field(default_factory=SigmoidCrossEntropy)

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch itself: images of different sizes have no pixels in common to mix."""
        del key
        return batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """`patches` float32 [B, N, P], normalised; the packing's description; `buckets` where the batch has them."""
        return packed_inputs(batch, self.mean, self.std)

    def loss(self, outputs: Float[Array, "B S classes"], batch: Batch) -> tuple[jax.Array, Metrics]:
        """Mean over the real images of all rows."""
        # An empty slot may hold anything; see Classification.loss.
        logits = jnp.where(batch["image_mask"][..., None], outputs, 0.0)
        return masked_scores(self.criterion(logits, batch["label"]), logits, batch["label"], batch["image_mask"])

    def predict(self, outputs: Float[Array, "B S classes"], batch: Batch) -> Float[Array, "B S classes"]:
        """Probabilities as the loss means them."""
        del batch
        return self.criterion.probabilities(outputs)

    def meter(self) -> MeanMeter:
        """Means of loss, top-1 and top-5 over all images."""
        return MeanMeter()
