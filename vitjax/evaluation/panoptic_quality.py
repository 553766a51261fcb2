"""Panoptic quality: how well segments are found, each pixel in one segment or in none.

Panoptic Segmentation. Kirillov et al., 2019. https://arxiv.org/abs/1801.00868, section 4; what void and crowds do is as
in COCO's panoptic API (https://cocodataset.org/#panoptic-eval).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from vitjax.errors import UserError

__all__ = ["NUMBERS", "PanopticQuality"]

NUMBERS = ("PQ", "SQ", "RQ", "PQ_things", "SQ_things", "RQ_things", "PQ_stuff", "SQ_stuff", "RQ_stuff")
"""Panoptic, segmentation and recognition quality over all classes, over things, and over stuff."""


class PanopticQuality:
    """Adds segments picture by picture. What is kept are four numbers per class.

    A found segment is right if a true one of its class overlaps it by an IoU above 0.5: there is one at most. Pixels
    that are void in the truth count in no union; a found segment that is not right is forgiven where more than half of
    it is void or a crowd of its class. Crowds themselves need not be found.

    Args:
        is_stuff: of each class, whether it is stuff; the others are things.
    """

    def __init__(self, is_stuff: Sequence[bool] | Bool[np.ndarray, "classes"]):
        self._is_stuff = np.asarray(is_stuff, bool)
        self._overlap = np.zeros(len(self._is_stuff))
        self._counts = np.zeros((3, len(self._is_stuff)), np.int64)  # right, found in vain, missed
        self._pictures = 0

    def __len__(self) -> int:
        return self._pictures

    def add(
        self,
        found_map: Integer[np.ndarray, "_ _"],
        found_labels: Integer[np.ndarray, "found"],
        true_map: Integer[np.ndarray, "_ _"],
        true_labels: Integer[np.ndarray, "true"],
        crowd: Bool[np.ndarray, "true"] | None = None,
    ) -> None:
        """Takes one picture. Segments that have no pixel are none.

        Args:
            found_map: numbers of the segments found, from 1; 0 is none.
            found_labels: classes of segments 1, 2, ...
            true_map: numbers of the true segments, from 1; 0 is void.
            true_labels: classes of segments 1, 2, ...
            crowd: true segments of things that nobody told apart; none if not given.

        Raises:
            UserError: a map has another size or numbers without a class, or a class is unknown.
        """
        crowd = np.zeros(len(true_labels), bool) if crowd is None else crowd
        self._check(found_map, found_labels, true_map, true_labels)
        size = (len(true_labels) + 1, len(found_labels) + 1)
        pairs = true_map.astype(np.int64) * size[1] + found_map
        shared = np.bincount(pairs.reshape(-1), minlength=size[0] * size[1]).reshape(size)
        true_areas, found_areas = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
        void, shared = shared[0, 1:], shared[1:, 1:]
        same_class = np.asarray(true_labels)[:, None] == np.asarray(found_labels)[None]
        unions = true_areas[:, None] + found_areas[None] - shared - void[None]
        overlaps = np.where(same_class & ~crowd[:, None], shared / np.maximum(unions, 1), 0.0)
        right = overlaps > 0.5
        forgiven = 2 * (void + (shared * (same_class & crowd[:, None])).sum(axis=0)) > found_areas
        in_vain = (found_areas > 0) & ~right.any(axis=0) & ~forgiven
        missed = (true_areas > 0) & ~right.any(axis=1) & ~crowd
        which, _ = np.nonzero(right)
        np.add.at(self._overlap, true_labels[which], overlaps[right])
        for number, labels in enumerate((true_labels[which], found_labels[in_vain], true_labels[missed])):
            self._counts[number] += np.bincount(labels, minlength=len(self._is_stuff))
        self._pictures += 1

    def numbers(self) -> dict[str, float]:
        """`NUMBERS` in 0...1: means over the classes that were there or were found; -1 over none."""
        quality, seen = self.class_numbers(), self._counts.any(axis=0)
        parts = {"": seen, "_things": seen & ~self._is_stuff, "_stuff": seen & self._is_stuff}
        return {
            f"{name}{part}": float(values[classes].mean()) if classes.any() else -1.0
            for part, classes in parts.items()
            for name, values in quality.items()
        }

    def class_numbers(self) -> dict[str, Float[np.ndarray, "classes"]]:
        """`PQ`, `SQ` and `RQ` of each class, 0 where there was nothing."""
        right, in_vain, missed = self._counts
        halves = right + in_vain / 2 + missed / 2
        return {
            "PQ": self._overlap / np.maximum(halves, 0.5),
            "SQ": self._overlap / np.maximum(right, 1),
            "RQ": right / np.maximum(halves, 0.5),
        }

    @property
    def counts(self) -> Int[np.ndarray, "3 classes"]:
        """Segments of each class that were right, found in vain, and missed."""
        return self._counts.copy()

    def _check(self, found_map: np.ndarray, found: np.ndarray, true_map: np.ndarray, true: np.ndarray) -> None:
        if found_map.shape != true_map.shape:
            raise UserError(
                f"PanopticQuality: found segments of {found_map.shape} pixels and true ones of {true_map.shape}; both "
                "maps must be of one picture"
            )
        for name, numbers, labels in (("found", found_map, found), ("true", true_map, true)):
            if numbers.size and not 0 <= numbers.min() <= numbers.max() <= len(labels):
                raise UserError(
                    f"PanopticQuality: the {name} map has segments {numbers.min()}...{numbers.max()}, but there are "
                    f"{len(labels)} classes of segments, for 1...{len(labels)}; 0 is no segment"
                )
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._is_stuff):
                raise UserError(
                    f"PanopticQuality: {name} segments have classes {labels.min()}...{labels.max()}, expected "
                    f"0...{len(self._is_stuff) - 1}"
                )
