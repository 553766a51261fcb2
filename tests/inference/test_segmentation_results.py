"""Segmentation results: sizes, what is said, what is drawn, and what cannot be."""

import numpy as np
import pytest
from PIL import Image

from vitjax.errors import UserError
from vitjax.inference.segmentation_results import class_colours, paint, segmentation_result
from vitjax.tasks.segmentation import Segmentation

LABELS = ("background", "cat", "dog")
PREDICTION = np.array([[0, 0, 2, 2], [0, 1, 2, 2]])


def make(prediction=PREDICTION, size=(20, 60), **keywords):
    return segmentation_result("a.jpg", LABELS, prediction, size, 2, **keywords)


def test_the_map_has_the_originals_size():
    result = make()
    assert result.class_map.shape == (20, 60)
    np.testing.assert_array_equal(result.class_map[5::10, 7::15], PREDICTION)
    np.testing.assert_array_equal(make(size=(2, 4)).class_map, PREDICTION)
    np.testing.assert_array_equal(make(size=(1, 2)).class_map, PREDICTION[1:, 1::2])


def test_text_names_what_covers_most():
    assert str(make()) == "a.jpg: dog 50.0%, background 37.5%"
    assert [found.index for found in make().top(9)] == [2, 0, 1]
    assert make().top1.label == "dog"
    assert str(make(np.zeros((2, 2), int))) == "a.jpg: background 100.0%"


def test_a_picture_that_could_not_be_read(tmp_path):
    result = Segmentation().make_result("a.jpg", LABELS, None, None, 5, error="no such file")
    assert str(result) == "a.jpg: no such file"
    for use in (result.top, lambda: result.plot(tmp_path / "a.png")):
        with pytest.raises(UserError, match=r"no such file; look at `result\.error`"):
            use()


def test_what_does_not_fit():
    with pytest.raises(UserError, match="finds class 3, but the bundle holds 3 labels"):
        make(np.full((2, 2), 3))
    with pytest.raises(UserError, match=r"`k` \(=0\)"):
        make().top(0)
    with pytest.raises(UserError, match="does not know its picture"):
        make().plot("a.png")


def test_it_draws_a_picture(tmp_path):
    result = make(picture=lambda: np.full((20, 60, 3), 255, np.uint8))
    path = result.plot(tmp_path / "new" / "a.png")
    assert len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0)) > 3


def test_paint_leaves_the_background():
    picture = np.full((2, 4, 3), 51, np.uint8)
    painted = paint(picture, np.array([[0, 255, 1, 2]] * 2), 3, opacity=0.5)
    np.testing.assert_allclose(painted[:, :2], 0.2)
    np.testing.assert_allclose(painted[0, 2:], 0.1 + 0.5 * class_colours(3)[1:])


def test_many_classes_have_many_colours():
    assert len(np.unique(class_colours(21).round(6), axis=0)) == 21
    assert len(np.unique(class_colours(151).round(6), axis=0)) == 151
