"""Results: order of classes, and what is said of a picture that could not be read."""

import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.inference.results import Prediction, Result

LABELS = ("cat", "dog", "emu")


def make_result(scores, **keywords):
    return Result("a.jpg", LABELS, np.array(scores, np.float32), **keywords)


def test_classes_come_best_first_and_equal_ones_in_order():
    result = make_result([0.2, 0.5, 0.2])
    assert [prediction.label for prediction in result.top()] == ["dog", "cat", "emu"]
    assert result.top1 == Prediction("dog", 0.5, 1)
    assert len(result.top(2)) == 2
    assert len(result.top(99)) == 3


def test_text_names_the_picture_and_its_best_classes():
    assert str(make_result([0.2, 0.5, 0.3], top_k=2)) == "a.jpg: dog 0.500, emu 0.300"
    assert repr(make_result([0.2, 0.5, 0.3], top_k=1)) == "Result(a.jpg: dog 0.500)"


def test_a_picture_that_could_not_be_read_says_why():
    result = Result("a.jpg", LABELS, error="no such file")
    assert str(result) == "a.jpg: no such file"
    with pytest.raises(UserError, match=r"a.jpg: there are no scores, no such file; look at `result.error` first"):
        _ = result.top1


def test_no_classes_at_all_cannot_be_asked_for():
    with pytest.raises(UserError, match=r"`k` \(=0\) must be 1 or more"):
        make_result([1, 0, 0]).top(0)
