"""ImageNet-ReaL: several right answers, images without any left out and counted."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.evaluation.real_labels import image_number, read_real_labels, real_top1


def names_of(numbers):
    return [f"val/n01440764/ILSVRC2012_val_{number + 1:08d}.JPEG" for number in numbers]


def test_by_hand(tmp_path):
    (tmp_path / "real.json").write_text(json.dumps([[3], [], [1, 4], [0]]))
    labels = read_real_labels(tmp_path / "real.json")
    assert labels == ((3,), (), (1, 4), (0,))
    # files in another order than their numbers: image 2 is right by its second label, 0 is wrong, 1 does not count
    score = real_top1(np.array([4, 2, 9]), names_of([2, 0, 1]), labels)
    assert score == (0.5, 2, 1)


@given(st.lists(st.lists(st.integers(0, 9), max_size=3, unique=True), min_size=2, max_size=20), st.integers(0, 1000))
def test_order_means_nothing_and_any_label_is_right(labels, seed):
    labels = [*labels, [5]]
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    right = np.array([generator.choice(labels[number]) if labels[number] else 0 for number in order])
    score = real_top1(right, names_of(order), labels)
    assert score.top1 == 1.0
    assert score.counted + score.unlabelled == len(labels)
    assert score.unlabelled == sum(not numbers for numbers in labels)
    assert real_top1(np.full(len(labels), 11), names_of(order), labels).top1 == 0.0


@pytest.mark.parametrize(
    ("name", "number"),
    [("ILSVRC2012_val_00000001.JPEG", 0), ("/data/val/x/ILSVRC2012_val_00050000.jpeg", 49999)],
)
def test_numbers_start_at_one(name, number):
    assert image_number(name) == number


@pytest.mark.parametrize(
    "name", ["cat.jpg", "ILSVRC2012_val_1.JPEG", "ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_test_00000001.JPEG",
             "ILSVRC2012_val_000000012.JPEG"],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="is no name of an ImageNet validation image"):
        image_number(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1], ", "cannot be read as JSON"),
        ('{"a": [1]}', "holds a dict, expected a list"),
        ("[]", "holds a list, expected a list with"),
        ("[[1], 2]", "entry 1 is 2, expected a list of class numbers"),
        ('[[1], ["2"]]', "entry 1 is"),
        ("[[1], [-2]]", "entry 1 is"),
        ("[[true]]", "entry 0 is"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "real.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_real_labels(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_what_cannot_be_scored_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no such file; it is real\.json of"):
        read_real_labels(tmp_path / "real.json")
    with pytest.raises(UserError, match="image 2, but there are labels of 1 images"):
        real_top1(np.array([0]), names_of([1]), [[0]])
    with pytest.raises(UserError, match="none of the 1 images has a label"):
        real_top1(np.array([0]), names_of([0]), [[]])
    with pytest.raises(UserError, match="2 answers, but 1 names"):
        real_top1(np.array([0, 1]), names_of([0]), [[0]])
