"""The scores of a detector over a whole evaluation; of its predictions only the boxes are kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.arrays import Batch, Tree
from vitjax.errors import UserError
from vitjax.evaluation.coco_ap import CocoBoxes
from vitjax.ops.boxes import scale_boxes

__all__ = ["DetectionMeter"]


class DetectionMeter:
    """Adds (sum, count) pairs, and hands boxes in pixels of the original images to COCO's evaluation.

    Predictions are `boxes` [B, D, 4], `scores`, `labels` and `mask` [B, D], the batch's truth `boxes`, `labels` and
    `box_mask` as `BoxTargets` makes them; `crowd` where there is one, and `area` [B, S] in pixels of the original where
    objects are smaller than their boxes. Boxes are xyxy in 0...1 of an image that shows the whole original.
    """

    def __init__(self, nms_threshold: float | None = None):
        """An empty meter.

        Args:
            nms_threshold: if given, AP is also computed without duplicates and called `AP_nms`; see
                `CocoBoxes.without_duplicates`.
        """
        self._nms_threshold = nms_threshold
        self._totals: dict[str, tuple[float, float]] = {}
        self._boxes = CocoBoxes()

    def add(self, metrics: Mapping[str, tuple[Any, Any]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch's metrics and boxes; images under the mask do not count."""
        for name, (total, count) in metrics.items():
            old_total, old_count = self._totals.get(name, (0.0, 0.0))
            self._totals[name] = (old_total + float(total), old_count + float(count))
        found, truth = (_in_pixels(boxes["boxes"], batch["image_size"]) for boxes in (predictions, batch))
        for row in np.flatnonzero(batch["image_mask"]):
            kept, real = np.asarray(predictions["mask"])[row], np.asarray(batch["box_mask"])[row]
            self._boxes.add(
                int(batch["example"][row]),
                found[row][kept],
                np.asarray(predictions["scores"])[row][kept],
                np.asarray(predictions["labels"])[row][kept],
                truth_xyxy_pixels=truth[row][real],
                truth_labels=np.asarray(batch["labels"])[row][real],
                **{name: np.asarray(batch[name])[row][real] for name in ("crowd", "area") if name in batch},
            )

    def scores(self) -> dict[str, float]:
        """The mean of each metric, 0 where it counted nothing, and COCO's numbers; see `CocoBoxes.numbers`.

        Raises:
            UserError: no image was added.
        """
        if not len(self._boxes):
            raise UserError("evaluation saw no image: the evaluation data is empty, or none of its files can be read")
        means = {name: total / count if count else 0.0 for name, (total, count) in self._totals.items()}
        numbers = self._boxes.numbers()
        if self._nms_threshold is not None:
            numbers["AP_nms"] = self._boxes.without_duplicates(self._nms_threshold).numbers()["AP"]
        return means | numbers


def _in_pixels(boxes: Any, sizes: Any) -> np.ndarray:
    return np.asarray(scale_boxes(np.asarray(boxes), np.asarray(sizes)))
