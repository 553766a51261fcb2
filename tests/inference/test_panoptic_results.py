"""A panoptic result: its segments, its text, its pictures."""

import numpy as np
import pytest
from PIL import Image

from vitjax.errors import UserError
from vitjax.inference.detection_results import DetectionResult
from vitjax.inference.panoptic_results import PanopticResult, save_panoptic

LABELS = ("cat", "dog", "sky")


def a_result(error=None, picture=lambda: np.full((20, 30, 3), 90, np.uint8)):
    boxes = np.array([[1, 2, 9, 12]], np.float32)
    found = DetectionResult("a.png", LABELS, boxes, np.array([0.9], np.float32), np.array([1]), error, 5, picture)
    segment_map = np.full((20, 30), 2, np.int32)
    segment_map[2:12, 1:9] = 1
    segment_map[19] = 0
    labels, scores = np.array([1, 2], np.int32), np.array([0.9, 0.95], np.float32)
    return PanopticResult(found, None if error else segment_map, labels, scores, (2,))


def test_segments_are_listed_by_size():
    result = a_result()
    sky, dog = result.segments
    assert (sky.label, sky.is_stuff, sky.number, sky.index) == ("sky", True, 2, 2)
    assert (dog.label, dog.is_stuff, dog.number) == ("dog", False, 1)
    assert (sky.area, dog.area) == pytest.approx((490 / 600, 80 / 600))
    assert str(result) == "a.png: sky 0.950 on 81.7%, dog 0.900 on 13.3%"
    assert result.boxes_xyxy_pixels.shape == (1, 4)
    assert len(result) == 2


def test_the_picture_shows_each_segment_in_its_colour(tmp_path):
    path = a_result().plot(tmp_path / "new" / "one.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 4
    truth = (np.ones((20, 30), np.int32), ["dog"])
    several = save_panoptic([a_result()] * 2, tmp_path / "two.png", truths=[truth] * 2)
    assert np.asarray(Image.open(several)).shape[1] > pixels.shape[1]


def test_what_cannot_be_shown_says_why():
    broken = a_result(error="no such file")
    assert str(broken) == "a.png: no such file"
    with pytest.raises(UserError, match=r"no such file; look at `result\.error`"):
        broken.segments  # noqa: B018
    with pytest.raises(UserError, match="does not know its picture"):
        a_result(picture=None).plot("x.png")
