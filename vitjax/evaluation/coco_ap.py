"""Average precision and recall of boxes as COCO defines them, computed by pycocotools.

Microsoft COCO: Common Objects in Context. Lin et al., 2014. https://arxiv.org/abs/1405.0312, and
https://cocodataset.org/#detection-eval.
"""

import contextlib
import io
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.errors import UserError

__all__ = ["NUMBERS", "CocoBoxes"]

NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""The twelve numbers of COCO's summary in its order: AP over IoU 0.50...0.95; at 0.50; at 0.75; by size of the object
(below 32², to 96², above, in pixels); recall with 1, 10 and 100 detections of an image; recall by size."""

_IMAGES_AT_ONCE = 64


class CocoBoxes:
    """Gathers the boxes of an evaluation, image by image, and scores them.

    What is kept are the boxes, 48 or 56 bytes each. `numbers` needs pycocotools, which makes more than a kilobyte of
    each: it gets those of one class at a time, and of a few images, as no others are compared with one another.
    """

    def __init__(self):
        self._images: list[int] = []
        self._found: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(
        self,
        image: int,
        boxes_xyxy_pixels: Float[np.ndarray, "found 4"],
        scores: Float[np.ndarray, "found"],
        labels: Int[np.ndarray, "found"],
        *,
        truth_xyxy_pixels: Float[np.ndarray, "n 4"],
        truth_labels: Int[np.ndarray, "n"],
        crowd: Bool[np.ndarray, "n"] | None = None,
        area: Float[np.ndarray, "n"] | None = None,
    ) -> None:
        """Takes one image's detections and truth.

        Args:
            image: its number.
            boxes_xyxy_pixels: detections.
            scores: of each.
            labels: class numbers of each.
            truth_xyxy_pixels: objects.
            truth_labels: class numbers of each.
            crowd: boxes around many objects, in which detections are neither right nor wrong; none if not given.
            area: of the objects in pixels, which makes them small or large; that of the boxes if not given.
        """
        found, truth = _xywh(boxes_xyxy_pixels), _xywh(truth_xyxy_pixels)
        area = truth[:, 2] * truth[:, 3] if area is None else area
        crowd = np.zeros(len(truth), bool) if crowd is None else crowd
        self._images.append(image)
        self._found.append(np.column_stack([found, scores, labels]))
        self._truth.append(np.column_stack([truth, area, crowd, truth_labels]))

    def numbers(self) -> dict[str, float]:
        """`NUMBERS` in 0...1; -1, as in pycocotools, for a number that no object has a say in.

        Raises:
            UserError: pycocotools is not installed, or an image was added twice.
        """
        evaluation = self._evaluated()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.summarize()
        return dict(zip(NUMBERS, map(float, evaluation.stats), strict=True))

    def without_duplicates(self, threshold: float) -> "CocoBoxes":
        """The same images and truth without detections that overlap a better one of their class (suppression, NMS).

        Args:
            threshold: IoU above which the worse one is dropped.
        """
        thinned = CocoBoxes()
        thinned._images, thinned._truth = self._images, self._truth
        thinned._found = [rows[_distinct(rows, threshold)] for rows in self._found]
        return thinned

    def class_precision(self) -> dict[int, float]:
        """AP of each class that has objects."""
        evaluation = self._evaluated()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all sizes, 100 detections
        means = {
            number: precision[:, :, place][precision[:, :, place] > -1]
            for place, number in enumerate(evaluation.params.catIds)
        }
        return {int(number): float(values.mean()) for number, values in means.items() if values.size}

    def _evaluated(self) -> Any:
        """pycocotools' evaluation with the curves of all classes."""  # noqa: D403, its name
        if len(set(self._images)) != len(self._images):
            twice = next(image for image in self._images if self._images.count(image) > 1)
            raise UserError(f"average precision: image {twice} was added twice; each is scored once")
        _, COCOeval = _pycocotools()
        whole = COCOeval(iouType="bbox")
        classes = {label for rows in (*self._found, *self._truth) for label in rows[:, -1].astype(int).tolist()}
        whole.params.catIds = sorted(classes) or [0]
        with contextlib.redirect_stdout(io.StringIO()):
            parts = [self._curves(label) for label in whole.params.catIds]
        axes = {"precision": 2, "recall": 1}  # of the classes
        whole.eval = {name: np.concatenate([part[name] for part in parts], axis=axis) for name, axis in axes.items()}
        return whole

    def _curves(self, label: int) -> dict[str, np.ndarray]:
        """`precision` and `recall` of one class; of a few images at a time only what `accumulate` reads is kept."""
        _, COCOeval = _pycocotools()
        evaluation = COCOeval(iouType="bbox")
        params, order = evaluation.params, np.argsort(self._images).tolist()
        params.catIds = [label]
        kept: list[list[dict[str, Any]]] = [[] for _ in params.areaRng]
        for start in range(0, len(order), _IMAGES_AT_ONCE):
            places = order[start : start + _IMAGES_AT_ONCE]
            params.imgIds = [self._images[place] for place in places]
            evaluation.cocoGt = self._annotations(label, places, self._truth, _truth_entry)
            evaluation.cocoDt = self._annotations(label, places, self._found, _found_entry)
            evaluation.evaluate()
            for number, made in enumerate(evaluation.evalImgs):  # all images for each range of areas
                if made is not None:
                    kept[number // len(places)].append(_without_dicts(made))
        params.imgIds = list(range(len(kept[0])))
        evaluation._paramsEval, evaluation.evalImgs = params, [made for area in kept for made in area]
        evaluation.accumulate()
        return {name: evaluation.eval[name] for name in ("precision", "recall")}

    def _annotations(self, label: int, places: list[int], images: list[np.ndarray], entry: Any) -> Any:
        """The boxes of one class in some images, as pycocotools holds them."""
        boxes = [
            {"image_id": self._images[place], "bbox": row[:4], "category_id": label} | entry(row)
            for place in places
            for row in images[place][images[place][:, -1] == label].tolist()
        ]
        for number, box in enumerate(boxes, start=1):  # to pycocotools 0 means "not matched"
            box["id"] = number
        holder = _pycocotools()[0]()
        holder.dataset = {"images": [], "categories": [{"id": label}], "annotations": boxes}
        holder.createIndex()
        return holder


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError("average precision needs pycocotools: pip install pycocotools") from error
    return COCO, COCOeval


def _without_dicts(made: dict[str, Any]) -> dict[str, Any]:
    """What `COCOeval.accumulate` reads of one image; of matches whether there is one."""
    scores, matches = np.asarray(made["dtScores"]), made["dtMatches"] > 0
    return {"dtScores": scores, "dtMatches": matches, "dtIgnore": made["dtIgnore"], "gtIgnore": made["gtIgnore"]}


def _truth_entry(row: list[float]) -> dict[str, Any]:
    return {"area": row[4], "iscrowd": int(row[5]), "ignore": 0}


def _found_entry(row: list[float]) -> dict[str, Any]:
    return {"area": row[2] * row[3], "iscrowd": 0, "score": row[4]}


def _xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes_xyxy, np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _distinct(rows: np.ndarray, threshold: float) -> list[int]:
    """Numbers of the detections that no better one of their class overlaps, best first; rows of `CocoBoxes`."""
    low, high, labels = rows[:, :2], rows[:, :2] + rows[:, 2:4], rows[:, -1]
    area = rows[:, 2] * rows[:, 3]
    kept: list[int] = []
    for number in np.argsort(-rows[:, 4], kind="stable").tolist():
        sides = np.minimum(high[number], high[kept]) - np.maximum(low[number], low[kept])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        duplicate = shared > threshold * (area[number] + area[kept] - shared)
        if not (duplicate & (labels[kept] == labels[number])).any():
            kept.append(number)
    return kept
