"""Losses against their formulas, by properties that hold for any logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.ops.losses import (
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    class_weights,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)

LOSSES = [SoftmaxCrossEntropy, SigmoidCrossEntropy]
seeds = st.integers(0, 2**16)


def random_logits(seed, shape=(6, 7)):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape).astype(np.float32) * 3, generator.integers(0, shape[-1], shape[:-1])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_softmax_is_the_negative_log_probability_of_the_label(seed):
    logits, labels = random_logits(seed)
    exact = logits.astype(np.float64)
    expected = np.log(np.exp(exact).sum(-1)) - exact[np.arange(6), labels]
    np.testing.assert_allclose(softmax_cross_entropy(logits, labels), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_sigmoid_sums_one_binary_loss_per_class(seed):
    logits, labels = random_logits(seed)
    targets = np.eye(7)[labels]
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(targets * np.log(probabilities) + (1 - targets) * np.log1p(-probabilities)).sum(-1)
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, labels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_class_numbers_and_their_one_hot_shares_give_the_same(loss, label_smoothing):
    logits, labels = random_logits(0, (2, 3, 7))
    function = loss(label_smoothing=label_smoothing)
    shares = np.eye(7, dtype=np.float32)[labels]
    assert function(logits, labels).shape == (2, 3)
    np.testing.assert_allclose(function(logits, labels), function(logits, shares), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_linear_in_the_target_shares(loss):
    logits, _ = random_logits(3)
    first, second = np.eye(7, dtype=np.float32)[[0] * 6], np.eye(7, dtype=np.float32)[[4] * 6]
    mixed = loss()(logits, 0.3 * first + 0.7 * second)
    np.testing.assert_allclose(mixed, 0.3 * loss()(logits, first) + 0.7 * loss()(logits, second), rtol=1e-5)


def test_smoothing_spreads_its_share_over_all_classes():
    np.testing.assert_allclose(
        class_weights(np.array([1]), 4, label_smoothing=0.2), [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_and_half_precision_logits_stay_finite_in_float32(loss):
    logits = jnp.array([[3e4, -3e4, -3e4], [-3e4, 3e4, -3e4]], jnp.bfloat16)
    values, gradient = jax.value_and_grad(lambda x: loss()(x, jnp.array([0, 0])).sum())(logits)
    assert values.dtype == jnp.float32
    assert np.isfinite(values)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    assert loss()(logits, jnp.array([0, 0]))[0] == 0


def test_softmax_probabilities_sum_to_one_and_sigmoid_ones_stand_alone():
    logits, _ = random_logits(5)
    np.testing.assert_allclose(SoftmaxCrossEntropy().probabilities(logits).sum(-1), 1, rtol=1e-6)
    changed = logits.copy()
    changed[:, 0] += 10
    sigmoid = SigmoidCrossEntropy().probabilities
    np.testing.assert_array_equal(sigmoid(logits)[:, 1:], sigmoid(changed)[:, 1:])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_smoothing_is_refused(loss, rate):
    with pytest.raises(UserError, match=rf"`label_smoothing` \(={rate}\) of {loss.__name__} must lie in"):
        loss(label_smoothing=rate)
