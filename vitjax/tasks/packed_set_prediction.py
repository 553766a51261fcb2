"""Detection by set prediction in images of any size, several to a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax

from vitjax.arrays import Array, Batch, Tree
from vitjax.inference.detection_results import detection_result
from vitjax.tasks.detection_meter import DetectionMeter
from vitjax.tasks.packed_classification import packed_inputs
from vitjax.tasks.set_prediction import Outputs, SetPrediction
from vitjax.tasks.task import Metrics

__all__ = ["PackedDetectionMeter", "PackedSetPrediction"]

_OF_SLOTS = ("boxes", "labels", "box_mask", "crowd", "area", "image_mask", "image_size", "example")


@dataclass(frozen=True)
class PackedSetPrediction:
    """DETR's task on packed images; batches of `PackedBatches` with `BoxSlots`, outputs of `PackedDETR`.

    Every slot is an image of `SetPrediction`; empty ones are its padding.

    Attributes:
        images: normalisation, matching and losses.
    """

    images: SetPrediction = field(default_factory=SetPrediction)
    least_classes: ClassVar[int] = 1
    """Told from no object."""

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch itself: images and boxes are changed together, on the host."""
        del key
        return batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """See `packed_inputs`."""
        return packed_inputs(batch, self.images.mean, self.images.std)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, Metrics]:
        """That of `SetPrediction` over all slots with an image."""
        return self.images.loss(outputs, _slots(batch))

    def predict(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """See `SetPrediction.predict`; with leading axes [B, S]."""
        shape = batch["image_mask"].shape
        found = self.images.predict(outputs, _slots(batch))
        return {name: leaf.reshape(*shape, *leaf.shape[1:]) for name, leaf in found.items()}

    def meter(self) -> "PackedDetectionMeter":
        """Means of the losses, and COCO's twelve numbers."""
        return PackedDetectionMeter(self.images.meter())

    make_result = staticmethod(detection_result)
    """What `Bundle.predict` returns for one picture."""


class PackedDetectionMeter:
    """Hands slots to a `DetectionMeter` as its images."""

    def __init__(self, images: DetectionMeter):
        self._images = images

    def add(self, metrics: Mapping[str, tuple[Any, Any]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch's metrics and boxes; empty slots do not count."""
        self._images.add(metrics, {name: _flat(leaf) for name, leaf in predictions.items()}, _slots(batch))

    def scores(self) -> dict[str, float]:
        """See `DetectionMeter.scores`."""
        return self._images.scores()


def _slots(batch: Batch) -> Batch:
    """One entry per slot, row after row."""
    return {name: _flat(batch[name]) for name in _OF_SLOTS if name in batch}


def _flat(leaf: Array) -> Array:
    return leaf.reshape(-1, *leaf.shape[2:])
