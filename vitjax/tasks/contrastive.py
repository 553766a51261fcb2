"""Contrastive training of image-text pairs: which text belongs to which image (Radford et al., 2021, and others)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Batch, Float, Int, Tree
from vitjax.evaluation.retrieval import chance_recall, recall_at
from vitjax.ops.contrastive_chunks import PairLoss, SoftmaxPairs
from vitjax.tasks.meters import MeanMeter
from vitjax.tasks.packed_classification import packed_inputs
from vitjax.tasks.task import Metrics

__all__ = ["Contrastive", "RetrievalMeter"]


@dataclass(frozen=True)
class Contrastive:
    """Batches as `PackedPairBatches` makes them; the loss is the mean over the real pairs of the whole batch.

    Every image is compared with the texts of all devices, a chunk at a time (`ops.contrastive_chunks`). Gradient
    accumulation is different: a part of the batch knows no other part, so `accumulate_steps = k` compares among 1/k of
    the pairs; parts weigh as many pairs as they hold. For more negatives use more devices, rows or `remat`.

    Attributes:
        mean: per channel, in units of the brightest value (0 to 1).
        std: per channel, in the same units.
        criterion: `SoftmaxPairs`, or `SigmoidPairs` with a model that has a bias.
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    criterion: PairLoss = field(default_factory=SoftmaxPairs)

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch itself: mixed images would need mixed texts."""
        del key
        return batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """`patches` float32, normalised; the packing of images and texts; `buckets` where the batch has them."""
        names = ("text_tokens", "text_segments", "text_positions", "text_mask")
        return packed_inputs(batch, self.mean, self.std) | {name: batch[name] for name in names}

    def loss(self, outputs: Mapping[str, Array], batch: Batch) -> tuple[jax.Array, Metrics]:
        """Mean over the real pairs (0 if there are none)."""
        mask = jnp.asarray(batch["pair_mask"]).reshape(-1)
        images, texts = (vectors.reshape(-1, vectors.shape[-1]) for vectors in self.predict(outputs, batch).values())
        scale = jnp.asarray(outputs["scale"])
        losses = self.criterion(images, texts, mask, scale, outputs.get("bias"))
        total, count = jnp.sum(losses), jnp.sum(mask, dtype=jnp.float32)
        return total / jnp.maximum(count, 1.0), {"loss": (total, count), "scale": (scale * count, count)}

    def predict(self, outputs: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
        """The unit vectors of each pair, `images` and `texts`, both `[packers, pairs, width]`."""
        pairs = jnp.asarray(batch["pairs"])
        return {
            "images": _of_pairs(outputs["images"], pairs[..., 0]),
            "texts": _of_pairs(outputs["texts"], pairs[..., 1]),
        }

    def meter(self) -> "RetrievalMeter":
        """Means of loss and scale, and R@1, 5 and 10 both ways over all pairs."""
        return RetrievalMeter()


def _of_pairs(vectors: Float[Array, "B S D"], slots: Int[Array, "G pairs"]) -> Float[Array, "G pairs D"]:
    """The vectors in each packer's own slots."""
    shares = vectors.reshape(len(slots), -1, vectors.shape[-1])
    return jnp.take_along_axis(jnp.asarray(shares), slots[..., None], axis=1)


class RetrievalMeter:
    """Gathers the vectors of all pairs of an evaluation, and searches each text among all images and each image's text.

    Images with the same text, token by token, answer for one another. `..._chance` is what guessing would find.
    """

    def __init__(self):
        self._means = MeanMeter()
        self._vectors: dict[str, list[np.ndarray]] = {"images": [], "texts": []}
        self._groups: list[int] = []
        self._known: dict[bytes, int] = {}

    def add(self, metrics: Mapping[str, tuple[Any, Any]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch; see `tasks.task.Meter`."""
        self._means.add(metrics, None, batch)
        mask = np.asarray(batch["pair_mask"])
        for name, kept in self._vectors.items():
            kept.append(np.asarray(predictions[name], np.float32)[mask])
        for text in _texts_of(batch):
            self._groups.append(self._known.setdefault(text.tobytes(), len(self._known)))

    def scores(self) -> dict[str, float]:
        """`image_to_text_r1` and so on, `r1`, the mean of both directions, and the means.

        Raises:
            UserError: no pair was added.
        """
        scores = self._means.scores()
        images, texts = (np.concatenate(parts) for parts in self._vectors.values())
        groups = np.array(self._groups, np.int32)
        found = {"image_to_text": recall_at(images, texts, groups, groups)}
        found["text_to_image"] = recall_at(texts, images, groups, groups)
        scores |= {f"{name}_r{k}": share for name, recalls in found.items() for k, share in recalls.items()}
        mean = (scores["image_to_text_r1"] + scores["text_to_image_r1"]) / 2
        return scores | {"r1": mean, "r1_chance": chance_recall(groups, groups, (1,))[1]}


def _texts_of(batch: Batch) -> list[np.ndarray]:
    """The tokens of each real pair's text, in the order of the pairs."""
    lanes = len(batch["pairs"])
    tokens, segments = (np.asarray(batch[name]) for name in ("text_tokens", "text_segments"))
    slots, rows = batch["text_mask"].shape[1], len(tokens) // lanes
    lane, pair = np.nonzero(batch["pair_mask"])
    row, slot = np.divmod(np.asarray(batch["pairs"])[lane, pair, 1], slots)
    row = row + lane * rows
    return [tokens[r][segments[r] == s + 1] for r, s in zip(row, slot, strict=True)]
