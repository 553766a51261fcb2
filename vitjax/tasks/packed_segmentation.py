"""Semantic segmentation of images of any size, several to a row."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from vitjax.arrays import Array, Batch, Float, Int, Tree
from vitjax.ops.token_maps import neighbours, upsample_tokens
from vitjax.tasks.packed_classification import packed_inputs
from vitjax.tasks.segmentation import Segmentation, SegmentationMeter
from vitjax.tasks.task import Metrics

__all__ = ["PackedSegmentation", "PackedSegmentationMeter"]

Outputs = dict[str, Float[Array, "B N classes"]]
"""`logits` of each token's patch."""


@dataclass(frozen=True)
class PackedSegmentation:
    """A class for every pixel of packed images; batches of `PackedBatches` with `ClassMapPatches`.

    Each patch's logits are interpolated to its pixels, bilinear within its image (`ops.token_maps.upsample_tokens`),
    which is the upsampling of Segmenter (Strudel et al., 2021, arXiv:2105.05633, section 3.2). Then it is
    `Segmentation`: its loss is the mean over all pixels of the batch. Scores are of the images at the size that their
    grids have, as they are of resized images there; `Bundle.predict` goes back to the pictures' own.

    Attributes:
        pixels: normalisation and loss; there is no auxiliary loss here.
    """

    pixels: Segmentation = field(default_factory=Segmentation)

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch itself: images and maps are changed together, on the host."""
        del key
        return batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """See `packed_inputs`."""
        return packed_inputs(batch, self.pixels.mean, self.pixels.std)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, Metrics]:
        """That of `Segmentation` over the pixels of all images."""
        # A token is a small image, of one row of pixels.
        class_map = batch["class_map"].reshape(-1, 1, batch["class_map"].shape[-1])
        logits = _upsampled(outputs, batch).reshape(*class_map.shape, -1)
        tokens = {"class_map": class_map, "image_mask": batch["segments"].reshape(-1) > 0}
        return self.pixels.loss({"logits": logits}, tokens)

    def predict(self, outputs: Outputs, batch: Batch) -> Int[Array, "B N pixels"]:
        """The class of each pixel of each patch."""
        return _upsampled(outputs, batch).argmax(axis=-1)

    def unpack(self, predictions: Int[Array, "B N pixels"], batch: Batch) -> np.ndarray:
        """`[B, S]` of class maps of the images' own sizes (whole patches), `None` in empty slots; on the host."""
        predictions, segments = np.asarray(predictions), np.asarray(batch["segments"])
        maps = np.empty(batch["image_mask"].shape, object)
        size = math.isqrt(predictions.shape[-1])
        for row, slot in np.argwhere(batch["image_mask"]):
            tokens = segments[row] == slot + 1
            down, across = np.moveaxis(np.asarray(batch["positions"])[row, tokens], -1, 0)
            rows, columns = batch["grid_sizes"][row, slot]
            canvas = np.full((rows, columns, size, size), self.pixels.ignored, predictions.dtype)
            canvas[down, across] = predictions[row, tokens].reshape(-1, size, size)
            maps[row, slot] = canvas.swapaxes(1, 2).reshape(rows * size, columns * size)
        return maps

    def meter(self) -> "PackedSegmentationMeter":
        """Means over all pixels, and the mean intersection over union."""
        return PackedSegmentationMeter(self.pixels.meter())

    @property
    def make_result(self) -> Callable[..., Any]:
        """What `Bundle.predict` returns for one picture."""
        return self.pixels.make_result


class PackedSegmentationMeter:
    """Hands tokens to a `SegmentationMeter` as if each were an image."""

    def __init__(self, pixels: SegmentationMeter):
        self._pixels = pixels

    def add(self, metrics: Mapping[str, tuple[Any, Any]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch's metrics and classes; padding does not count."""
        tokens = {"class_map": batch["class_map"], "image_mask": np.asarray(batch["segments"]) > 0}
        self._pixels.add(metrics, predictions, tokens)

    def scores(self) -> dict[str, float]:
        """See `SegmentationMeter.scores`."""
        return self._pixels.scores()


def _upsampled(outputs: Outputs, batch: Batch) -> Float[Array, "B N pixels classes"]:
    near = neighbours(batch["segments"], batch["positions"])
    return upsample_tokens(outputs["logits"], near, math.isqrt(batch["class_map"].shape[-1]))
