"""COCO's numbers: those that pycocotools gives when it is called directly, and cases that are known."""

import contextlib
import io
import json
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitjax.errors import UserError
from vitjax.evaluation import coco_ap
from vitjax.evaluation.coco_ap import NUMBERS, CocoBoxes

BOX = np.array([[0.0, 0, 50, 50]])
NOTHING = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))  # boxes, scores, labels


def draw_image(generator, found=12, objects=5):
    """Objects of all sizes, and detections of which some are moved objects and some are anything."""
    corners = np.sort(generator.uniform(0, 300, (objects, 2, 2)), axis=1) + [[[0, 0], [4, 4]]]
    truth = corners.reshape(objects, 4).astype(np.float32)
    boxes = truth[generator.integers(0, objects, found)] + generator.normal(0, 4, (found, 4)).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return {
        "boxes_xyxy_pixels": boxes,
        "scores": generator.random(found).astype(np.float32),
        "labels": generator.integers(0, 3, found),
        "truth_xyxy_pixels": truth,
        "truth_labels": generator.integers(0, 3, objects),
        "crowd": generator.random(objects) < 0.2,
    }


def call_directly(images, folder):
    """The same by files, as COCO's own users do it; categories get ids with gaps."""

    def xywh(box):
        left, top, right, bottom = (float(edge) for edge in box)
        return [left, top, right - left, bottom - top]

    annotations, results = [], []
    for number, image in images.items():
        for box, label, crowd in zip(image["truth_xyxy_pixels"], image["truth_labels"], image["crowd"], strict=True):
            left, top, width, height = xywh(box)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 7 * int(label) + 1,
                "bbox": [left, top, width, height], "area": width * height, "iscrowd": int(crowd),
            })  # fmt: skip
        for box, score, label in zip(image["boxes_xyxy_pixels"], image["scores"], image["labels"], strict=True):
            results.append({
                "image_id": number, "category_id": 7 * int(label) + 1, "bbox": xywh(box), "score": float(score)
            })  # fmt: skip
    truth = {"info": {}, "images": [{"id": number} for number in images], "annotations": annotations}
    truth["categories"] = [{"id": 7 * label + 1, "name": str(label)} for label in range(3)]
    for name, content in (("truth", truth), ("results", results)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_numbers_are_pycocotools_own(tmp_path, capsys):
    generator = np.random.default_rng(0)
    images = {number: draw_image(generator) for number in (3, 0, 17, 5, 40)}
    boxes = CocoBoxes()
    for number, image in images.items():
        boxes.add(number, **image)
    found = boxes.numbers()
    assert tuple(found) == NUMBERS
    np.testing.assert_array_equal(list(found.values()), call_directly(images, tmp_path))
    assert 0.1 < found["AP"] < 0.9  # neither empty nor perfect
    assert capsys.readouterr().out == ""


def test_perfect_detections_are_perfect_and_empty_images_are_harmless():
    generator, boxes = np.random.default_rng(1), CocoBoxes()
    image = draw_image(generator) | {"crowd": np.zeros(5, bool)}
    truth = {"boxes_xyxy_pixels": image["truth_xyxy_pixels"], "labels": image["truth_labels"], "scores": np.ones(5)}
    boxes.add(0, **image | truth)
    boxes.add(1, *NOTHING, truth_xyxy_pixels=NOTHING[0], truth_labels=NOTHING[2])
    assert boxes.numbers()["AP"] == pytest.approx(1)
    assert set(boxes.class_precision()) == set(image["truth_labels"].tolist())
    assert min(boxes.class_precision().values()) == pytest.approx(1)


def test_no_detection_at_all_scores_zero_and_no_object_has_no_score():
    boxes = CocoBoxes()
    boxes.add(0, *NOTHING, truth_xyxy_pixels=BOX, truth_labels=np.array([2]))
    assert boxes.numbers()["AP"] == 0
    boxes = CocoBoxes()
    boxes.add(0, BOX, np.ones(1), np.array([2]), truth_xyxy_pixels=NOTHING[0], truth_labels=NOTHING[2])
    assert boxes.numbers()["AP"] == -1


def test_the_area_given_decides_what_is_small():
    boxes = CocoBoxes()
    truth = {"truth_xyxy_pixels": BOX, "truth_labels": np.array([0]), "area": np.array([100.0])}
    boxes.add(0, BOX, np.ones(1), np.array([0]), **truth)
    found = boxes.numbers()
    assert (found["AP_small"], found["AP_medium"]) == (pytest.approx(1), -1)


def test_an_image_counts_once():
    boxes = CocoBoxes()
    for _ in range(2):
        boxes.add(4, **draw_image(np.random.default_rng(2)))
    with pytest.raises(UserError, match="image 4 was added twice"):
        boxes.numbers()


def test_many_images_of_many_classes_are_scored_in_parts_without_a_difference(tmp_path, monkeypatch):
    """Also with equal scores, whose order decides, and images in no order."""
    generator = np.random.default_rng(3)
    images = {int(number): draw_image(generator) for number in generator.permutation(9)}
    for image in images.values():
        image["scores"] = np.round(image["scores"], 1)
    monkeypatch.setattr(coco_ap, "_IMAGES_AT_ONCE", 2)
    boxes = CocoBoxes()
    for number, image in images.items():
        boxes.add(number, **image)
    np.testing.assert_array_equal(list(boxes.numbers().values()), call_directly(images, tmp_path))


def test_memory_of_the_scores_is_not_much_more_than_that_of_the_boxes(monkeypatch):
    """The dicts of pycocotools would be 1.5 kB for each box and object."""
    monkeypatch.setattr(coco_ap, "_IMAGES_AT_ONCE", 4)

    def peak(count):
        generator, boxes = np.random.default_rng(4), CocoBoxes()
        for number in range(count):
            boxes.add(number, **draw_image(generator, found=60, objects=1))
        tracemalloc.start()
        boxes.numbers()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)  # makes what is made once
    few, many = 8, 24
    assert (peak(many) - peak(few)) / (many - few) / 61 < 500
