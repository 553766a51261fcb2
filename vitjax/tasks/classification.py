"""Classification of images that all have one shape."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Batch, Float
from vitjax.errors import UserError
from vitjax.ops.losses import ClassLoss, SoftmaxCrossEntropy, class_weights
from vitjax.ops.mixing import cutmix_weights, mix, mixup_weights
from vitjax.ops.normalisation import normalise_images
from vitjax.tasks.meters import MeanMeter, masked_scores
from vitjax.tasks.task import Metrics

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification:
    """One label per image; batches as in the column "image batch" of ARCHITECTURE.md.

    Attributes:
        mean: per channel, in units of the brightest value (0 to 1).
        std: per channel, in the same units.
        criterion: the loss of one image, `SoftmaxCrossEntropy` or `SigmoidCrossEntropy`.
        mixup_alpha: Beta parameter of mixup; 0 is off.
        cutmix_alpha: Beta parameter of CutMix; 0 is off. With both on, each batch takes one of them at even odds.
        mix_per_example: draws the share, or the box, anew for each image instead of once per batch.
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    criterion: ClassLoss = field(default_factory=SoftmaxCrossEntropy)
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_per_example: bool = False

    def __post_init__(self):
        for name in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise UserError(f"`{name}` (={getattr(self, name)}) must be 0 (off) or positive")

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Mixes neighbours; adds `partner_label` int32 [B] and `label_share` float32 [B], and `image` becomes float."""
        if not self.mixup_alpha and not self.cutmix_alpha:
            return batch
        mixed = mix(batch["image"], batch["label"], batch["image_mask"], self._pixel_weights(batch["image"].shape, key))
        return batch | {
            "image": mixed.images,
            "partner_label": mixed.partner_labels,
            "label_share": mixed.label_share,
        }

    def _pixel_weights(self, shape: tuple[int, ...], key: jax.Array) -> Array:
        batch_size, rows, columns, _ = shape
        choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
        settings = {"batch_size": batch_size, "per_example": self.mix_per_example}
        if not self.cutmix_alpha:
            return mixup_weights(mixup_key, self.mixup_alpha, **settings)
        boxes = cutmix_weights(cutmix_key, self.cutmix_alpha, (rows, columns), **settings)
        if not self.mixup_alpha:
            return boxes
        return jnp.where(
            jax.random.bernoulli(choice_key), mixup_weights(mixup_key, self.mixup_alpha, **settings), boxes
        )

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """`images`: float32 [B, H, W, C], normalised; the batch's `grid` of patches, if it has one, as it is."""
        grid = {name: batch[name] for name in ("grid",) if name in batch}
        return {"images": normalise_images(batch["image"], self.mean, self.std), **grid}

    def loss(self, outputs: Float[Array, "B classes"], batch: Batch) -> tuple[jax.Array, Metrics]:
        """Mean over the real images; `top1` and `top5` count the image's own label, mixed or not."""
        # Padding may hold anything; a number that is not finite would spoil the gradient even behind the outer mask.
        logits = jnp.where(batch["image_mask"][..., None], outputs, 0.0)
        targets = batch["label"]
        if "partner_label" in batch:
            share = batch["label_share"][:, None]
            own, other = (class_weights(batch[name], logits.shape[-1]) for name in ("label", "partner_label"))
            targets = share * own + (1 - share) * other
        return masked_scores(self.criterion(logits, targets), logits, batch["label"], batch["image_mask"])

    def predict(self, outputs: Float[Array, "B classes"], batch: Batch) -> Float[Array, "B classes"]:
        """Probabilities as the loss means them."""
        del batch
        return self.criterion.probabilities(outputs)

    def meter(self) -> MeanMeter:
        """Means of loss, top-1 and top-5 over all images."""
        return MeanMeter()
