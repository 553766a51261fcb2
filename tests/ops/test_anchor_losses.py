"""Losses of anchors: what mining keeps, against a plain statement, and what focal loss is at its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.ops.anchor_losses import FocalLoss, HardNegativeCrossEntropy, hardest_negatives


def draw(seed, anchors=20, classes=4):
    generator = np.random.default_rng(seed)
    targets = np.where(generator.random((3, anchors)) < 0.15, generator.integers(1, classes, (3, anchors)), 0)
    return generator.normal(size=(3, anchors, classes)).astype(np.float32), targets


mined = jax.jit(HardNegativeCrossEntropy(ratio=3))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16))
def test_mining_keeps_objects_and_the_worst_background(seed):
    logits, targets = draw(seed)
    found = np.asarray(mined(logits, targets))
    log_shares = np.asarray(jax.nn.log_softmax(logits))
    for image in range(3):
        losses = -log_shares[image][np.arange(20), targets[image]]
        background = np.flatnonzero(targets[image] == 0)
        worst = background[np.argsort(-losses[background])][: 3 * (targets[image] > 0).sum()]
        kept = np.zeros(20, bool)
        kept[worst] = kept[targets[image] > 0] = True
        np.testing.assert_allclose(found[image], np.where(kept, losses, 0), rtol=1e-5)


def test_mining_without_objects_is_nothing_and_with_few_background_anchors_is_all():
    positive = np.array([[False] * 4, [True, True, True, False]])
    found = hardest_negatives(np.ones((2, 4), np.float32), positive, np.array([0, 9]))
    np.testing.assert_array_equal(found, [[False] * 4, [False, False, False, True]])


def test_mined_probabilities_leave_out_the_background():
    shares = HardNegativeCrossEntropy().probabilities(np.zeros((2, 4), np.float32))
    np.testing.assert_allclose(shares, np.full((2, 3), 0.25))


def test_focal_loss_without_focus_is_half_of_binary_cross_entropy():
    logits, targets = draw(0)
    truth = np.arange(1, 4) == targets[..., None]
    expected = np.logaddexp(0, np.where(truth, -1, 1) * logits[..., 1:]).sum(axis=-1) / 2
    np.testing.assert_allclose(jax.jit(FocalLoss(alpha=0.5, gamma=0))(logits, targets), expected, rtol=1e-5)


def test_focal_loss_is_equation_5():
    logits = np.array([[[7.0, 1.0, -2.0]]], np.float32)  # the background's does not matter
    p, q = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(2.0))
    expected = -0.25 * (1 - p) ** 2 * np.log(p) - 0.75 * q**2 * np.log(1 - q)
    np.testing.assert_allclose(jax.jit(FocalLoss())(logits, np.array([[1]])), [[expected]], rtol=1e-5)
    np.testing.assert_allclose(FocalLoss().probabilities(logits), [[[p, q]]], rtol=1e-5)


def test_gradients_reach_only_what_is_kept():
    logits, targets = draw(1)
    gradient = np.asarray(jax.grad(lambda logits: mined(logits, targets).sum())(jnp.asarray(logits)))
    np.testing.assert_array_equal(np.abs(gradient).sum(axis=-1) > 0, np.asarray(mined(logits, targets)) > 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HardNegativeCrossEntropy(ratio=0), r"`ratio` \(=0\) must be positive"),
        (lambda: FocalLoss(alpha=1.0), r"`alpha` \(=1.0\) must lie in \(0, 1\)"),
        (lambda: FocalLoss(gamma=-1), r"`gamma` \(=-1\) be 0 or more"),
    ],
)
def test_impossible_settings(make, message):
    with pytest.raises(UserError, match=message):
        make()
