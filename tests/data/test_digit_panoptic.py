"""Panoptic scenes of digits: every pixel in one segment, boxes around masks, the digits of `DigitScenes`."""

import pickle

import numpy as np
import pytest

from vitjax.data.digit_panoptic import DigitPanoptic
from vitjax.data.digits import DigitScenes
from vitjax.errors import UserError

SOURCE = DigitPanoptic("train", num_scenes=30, sides=(64, 96), digit_sides=(20, 40))


def test_a_scene_is_cut_into_segments():
    kinds = set()
    for index in range(12):
        scene = SOURCE[index]
        assert scene["image"].dtype == np.uint8
        assert (scene["masks"].sum(axis=0) == 1).all()
        assert len(scene["labels"]) == len(scene["masks"]) == len(scene["boxes_xyxy_pixels"])
        assert scene["masks"].any(axis=(1, 2)).all()
        stuff = scene["labels"][np.isin(scene["labels"], SOURCE.stuff)]
        assert 1 <= len(stuff) == len(set(stuff))
        kinds |= set(stuff.tolist())
        for mask, (left, top, right, bottom) in zip(
            scene["masks"], scene["boxes_xyxy_pixels"].astype(int), strict=True
        ):
            assert mask[top:bottom, left:right].sum() == mask.sum()
            assert mask[top].any()
            assert mask[:, right - 1].any()
    assert kinds == set(SOURCE.stuff) == {10, 11, 12}
    assert len(SOURCE.labels) == 13


def test_the_digits_are_those_of_the_scenes():
    plain, scene = DigitScenes("train", 30, 0, (64, 96), (20, 40), 4)[5], SOURCE[5]
    things = len(plain["labels"])
    np.testing.assert_array_equal(scene["masks"][:things], plain["masks"])
    np.testing.assert_array_equal(scene["labels"][:things], plain["labels"])
    ink = plain["masks"].any(axis=0)
    np.testing.assert_array_equal(scene["image"][ink], plain["image"][ink])
    np.testing.assert_array_equal(SOURCE.sizes()[5], scene["image"].shape[:2])


def test_a_function_of_seed_and_index():
    again = pickle.loads(pickle.dumps(SOURCE))
    for index in (3, 1):
        first, second = SOURCE[index], again[index]
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)
    other = DigitPanoptic("train", num_scenes=30, seed=1, sides=(64, 96), digit_sides=(20, 40))
    assert not np.array_equal(other.sizes(), SOURCE.sizes())


def test_settings_are_checked():
    with pytest.raises(UserError, match="split"):
        DigitPanoptic("test")
