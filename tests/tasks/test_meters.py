"""Exact sums under masks, and ranks that do not flatter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.tasks.meters import MeanMeter, class_ranks, masked_scores


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_ranks_are_the_places_in_a_stable_sort(seed):
    generator = np.random.default_rng(seed)
    logits = generator.integers(-2, 3, (5, 7)).astype(np.float32)  # few values, so that many are equal
    labels = generator.integers(0, 7, 5)
    order = np.argsort(-logits, axis=-1, kind="stable")
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    np.testing.assert_array_equal(class_ranks(logits, labels), expected)


def test_a_model_that_says_the_same_of_all_classes_is_right_by_chance_only():
    np.testing.assert_array_equal(class_ranks(np.zeros((10, 10)), np.arange(10)), np.arange(10))


def test_a_logit_that_is_no_number_is_no_hit():
    assert class_ranks(np.full((1, 7), np.nan), np.array([0]))[0] == 6


@pytest.mark.parametrize(("num_classes", "expected"), [(5, {"loss", "top1"}), (6, {"loss", "top1", "top5"})])
def test_top5_is_reported_only_where_it_can_fail(num_classes, expected):
    _, metrics = masked_scores(np.ones(3), np.ones((3, num_classes)), np.zeros(3, int), np.ones(3, bool))
    assert set(metrics) == expected


def test_scores_count_what_the_mask_says_is_real():
    logits = np.eye(8, dtype=np.float32)[[0, 1, 2, 3]]
    labels, mask = np.array([0, 1, 0, 3]), np.array([True, True, True, False])
    losses = np.array([1.0, 2.0, 6.0, np.nan])
    mean, metrics = masked_scores(losses, logits, labels, mask)
    assert float(mean) == 3
    assert {name: (float(total), float(count)) for name, (total, count) in metrics.items()} == {
        "loss": (9, 3),
        "top1": (2, 3),
        "top5": (3, 3),
    }


def test_no_real_image_gives_zero_and_a_finite_gradient():
    def mean(losses):
        return masked_scores(losses, np.ones((3, 8)), np.zeros(3, int), np.zeros(3, bool))[0]

    value, gradient = jax.value_and_grad(mean)(jnp.ones(3))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_meter_weighs_batches_by_their_examples():
    meter = MeanMeter()
    meter.add({"loss": (np.float32(2.0), np.float32(1.0))}, None, {})
    meter.add({"loss": (jnp.float32(4.0), jnp.float32(3.0))}, None, {})
    assert meter.scores() == {"loss": 1.5}


@pytest.mark.parametrize("batches", [[], [{"loss": (0.0, 0.0)}]])
def test_an_evaluation_without_images_is_an_error(batches):
    meter = MeanMeter()
    for metrics in batches:
        meter.add(metrics, None, {})
    with pytest.raises(UserError, match="evaluation saw no image"):
        meter.scores()
