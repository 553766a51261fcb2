"""The meter: pixels of the original image, images under the mask, and what has no count."""

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from vitjax.errors import UserError
from vitjax.evaluation.coco_ap import NUMBERS
from vitjax.tasks.detection_meter import DetectionMeter


def perfect(example, size, *, shift=0.0):
    """One image (and one of padding) with an object that is found, `shift` of its width beside it."""
    boxes = np.array([[[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]]] * 2, np.float32)
    batch = {
        "boxes": boxes,
        "labels": np.array([[2, 0]] * 2, np.int32),
        "box_mask": np.array([[True, False]] * 2),
        "image_mask": np.array([True, False]),
        "example": np.array([example, -1], np.int32),
        "image_size": np.array([size, (0, 0)], np.int32),
    }
    found = {
        "boxes": boxes + np.float32(shift) * np.float32([0.5, 0, 0.5, 0]),
        "scores": np.array([[0.9, 0.0]] * 2, np.float32),
        "labels": batch["labels"],
        "mask": batch["box_mask"],
    }
    return {"loss": (3.0, 2.0), "box_loss": (0.0, 0.0)}, found, batch


def test_scores_are_means_and_cocos_numbers():
    meter = DetectionMeter()
    meter.add(*perfect(0, (40, 40)))
    meter.add(*perfect(1, (40, 40)))
    scores = meter.scores()
    assert set(scores) == {"loss", "box_loss", *NUMBERS}
    assert scores["loss"] == 1.5
    assert scores["box_loss"] == 0
    assert scores["AP"] == pytest.approx(1)


def test_objects_are_measured_in_pixels_of_the_original():
    for size, name in (((40, 40), "AP_small"), ((40, 200), "AP_medium"), ((400, 200), "AP_large")):
        meter = DetectionMeter()
        meter.add(*perfect(0, size))
        scores = meter.scores()
        assert [scores[part] for part in ("AP_small", "AP_medium", "AP_large")].count(-1) == 2
        assert scores[name] == pytest.approx(1)


def test_a_box_beside_its_object_counts_up_to_its_overlap():
    meter = DetectionMeter()
    meter.add(*perfect(0, (100, 50), shift=0.2))  # IoU 0.8 / 1.2
    assert meter.scores()["AP50"] == pytest.approx(1)
    assert meter.scores()["AP75"] == 0
    assert meter.scores()["AP"] == pytest.approx(0.4)  # at 0.50, 0.55, 0.60 and 0.65 of ten


def test_crowds_are_neither_right_nor_wrong():
    metrics, found, batch = perfect(0, (40, 40))
    batch["crowd"] = batch["box_mask"]
    meter = DetectionMeter()
    meter.add(metrics, found, batch)
    meter.add(*perfect(1, (40, 40)))
    assert meter.scores()["AP"] == pytest.approx(1)


def test_an_evaluation_without_images_is_an_error():
    with pytest.raises(UserError, match="evaluation saw no image"):
        DetectionMeter().scores()
