"""Semantic segmentation: a class for every pixel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer

from vitjax.arrays import Array, Batch, Bool, Float, Int, Tree
from vitjax.errors import UserError
from vitjax.evaluation.mean_iou import confusion_matrix, grow_matrix, mean_iou
from vitjax.inference.segmentation_results import SegmentationResult, segmentation_result
from vitjax.ops.normalisation import normalise_images
from vitjax.ops.resizing import resize_bilinear
from vitjax.tasks.meters import MeanMeter
from vitjax.tasks.task import Metrics

__all__ = ["Segmentation", "SegmentationMeter", "pixel_cross_entropy"]

Outputs = dict[str, Float[Array, "B h w classes"]]
"""`logits`, at any size, and perhaps `auxiliary`."""


def pixel_cross_entropy(logits: Float[Array, "B H W classes"], class_map: Int[Array, "B H W"]) -> Float[Array, "B H W"]:
    """`-log softmax` of the right class of each pixel, in float32; NaN for a class that the logits do not have."""
    logits = jnp.asarray(logits, jnp.float32)
    numbers = jnp.arange(logits.shape[-1])
    right = jnp.where(class_map[..., None] == numbers, logits, 0.0).sum(axis=-1)
    known = (class_map >= 0) & (class_map < logits.shape[-1])
    return jnp.where(known, jax.nn.logsumexp(logits, axis=-1) - right, jnp.nan)


@dataclass(frozen=True)
class Segmentation:
    """A class map per image; batches of `SceneBatches` with `ClassMapTargets`.

    Logits of another size than the class map are resized to it, bilinear with half-pixel centres, as transformers does;
    a model that resizes them itself (`DeepLabV3.upsample`) keeps its own way.

    Attributes:
        mean: per channel, in units of the brightest value (0 to 1).
        std: per channel, in the same units. MobileViT's papers have neither: pixels are 0 to 1.
        ignored: class number of pixels that do not count.
        auxiliary_weight: of the loss of the model's `auxiliary` logits; 0.4 in PSPNet (Zhao et al. 2017, section 3.3)
            and MobileViT's code.
        focusing: each pixel's loss counts `(1 - probability of the right class) ** focusing`, so that where most of the
            picture is background the few other pixels are heard; 0 is plain cross-entropy. The gamma of Focal Loss
            for Dense Object Detection (Lin et al., 2017. https://arxiv.org/abs/1708.02002, equation 4).
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    ignored: int = 255
    auxiliary_weight: float = 0.4
    focusing: float = 0.0

    def __post_init__(self):
        if self.focusing != 0 and self.focusing < 1:  # between them the slope is infinite at a loss of 0
            raise UserError(f"Segmentation: `focusing` (={self.focusing}) must be 0 or at least 1")

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch itself: images and maps are changed together, on the host."""
        del key
        return batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """`images`: float32 [B, H, W, C], normalised."""
        return {"images": normalise_images(batch["image"], self.mean, self.std)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Mean cross-entropy over the pixels of real images that are not ignored, and the weighted auxiliary one.

        `loss` is that of the main logits; `pixel_accuracy` the share of pixels that they get right.
        """
        class_map = batch["class_map"]
        counted = (class_map != self.ignored) & batch["image_mask"][:, None, None]
        logits = resize_bilinear(outputs["logits"], class_map.shape[1:3], align_corners=False)
        total, count = self._summed(logits, class_map, counted)
        right = jnp.sum((logits.argmax(axis=-1) == class_map) & counted, dtype=jnp.float32)
        metrics = {"loss": (total, count), "pixel_accuracy": (right, count)}
        loss = total / jnp.maximum(count, 1.0)
        if "auxiliary" in outputs:
            auxiliary = resize_bilinear(outputs["auxiliary"], class_map.shape[1:3], align_corners=False)
            extra, _ = self._summed(auxiliary, class_map, counted)
            metrics["auxiliary_loss"] = (extra, count)
            loss += self.auxiliary_weight * extra / jnp.maximum(count, 1.0)
        return loss, metrics

    def _summed(
        self, logits: Float[Array, "B H W classes"], class_map: Int[Array, "B H W"], counted: Bool[Array, "B H W"]
    ) -> tuple[jax.Array, jax.Array]:
        # What is not counted may hold anything; see Classification.loss.
        logits = jnp.where(counted[..., None], logits, 0.0)
        losses = pixel_cross_entropy(logits, jnp.where(counted, class_map, 0))
        if self.focusing:
            losses *= (-jnp.expm1(-losses)) ** self.focusing
        return jnp.sum(jnp.where(counted, losses, 0.0)), jnp.sum(counted, dtype=jnp.float32)

    def predict(self, outputs: Outputs, batch: Batch) -> Int[Array, "B H W"]:
        """The class of each pixel of the batch's images."""
        return resize_bilinear(outputs["logits"], batch["image"].shape[1:3], align_corners=False).argmax(axis=-1)

    def meter(self) -> "SegmentationMeter":
        """Means over all pixels, and the mean intersection over union."""
        return SegmentationMeter(self.ignored)

    def make_result(
        self,
        name: str,
        labels: tuple[str, ...],
        prediction: Integer[np.ndarray, "h w"] | None,
        original_size: tuple[int, int] | None,
        top_k: int,
        *,
        error: str | None = None,
        picture: Callable[[], np.ndarray] | None = None,
    ) -> SegmentationResult:
        """What `Bundle.predict` returns for one picture."""
        return segmentation_result(name, labels, prediction, original_size, top_k, error=error, picture=picture)


class SegmentationMeter:
    """Adds (sum, count) pairs, and counts pixels by true and predicted class.

    Args:
        ignored: class number of pixels that do not count.
    """

    def __init__(self, ignored: int = 255):
        self._ignored = ignored
        self._means = MeanMeter()
        self._matrix = np.zeros((0, 0), np.int64)

    def add(self, metrics: Mapping[str, tuple[Any, Any]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch's metrics and class maps; images under the mask do not count."""
        self._means.add(metrics, predictions, batch)
        real = np.asarray(batch["image_mask"])
        truth, predicted = np.asarray(batch["class_map"])[real], np.asarray(predictions)[real]
        counts = confusion_matrix(truth, predicted, ignored=self._ignored)
        classes = max(len(self._matrix), len(counts))
        self._matrix = grow_matrix(self._matrix, classes) + grow_matrix(counts, classes)

    @property
    def matrix(self) -> Int[np.ndarray, "classes classes"]:
        """Pixels so far, by true class (rows) and predicted class (columns)."""
        return self._matrix

    def scores(self) -> dict[str, float]:
        """The means of the metrics over all pixels, and `mean_iou`.

        Raises:
            UserError: no pixel was counted.
        """
        return {**self._means.scores(), "mean_iou": mean_iou(self._matrix)}
