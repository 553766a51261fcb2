"""Linear probe: the optimum of its objective, chosen without the test images."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.evaluation.linear_probe import fit_linear_probe, fit_logistic, hold_out, probe_scores


def blobs(images=90, width=5, classes=3, spread=1.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = 2 * generator.normal(size=(classes, width))
    return (centres[labels] + spread * generator.normal(size=(images, width))).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_the_gradient_of_the_objective_vanishes(strength):
    features, labels = blobs()
    probe = fit_logistic(features, labels, 3, strength=strength)
    inputs = (features - probe.mean) / probe.deviation
    logits = probe_scores(probe, features)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    error = weights / weights.sum(1, keepdims=True) - np.eye(3)[labels]
    gradient = inputs.T @ error / len(labels) + strength * probe.weights
    np.testing.assert_allclose(gradient, 0, atol=2e-4)
    np.testing.assert_allclose(error.mean(0), 0, atol=2e-4)  # biases are free


def test_two_classes_have_two_logits():
    features, labels = blobs(classes=2, images=40)
    probe = fit_logistic(features, labels + 1, 4, strength=1e-2)
    scores = probe_scores(probe, features)
    assert np.isneginf(scores[:, [0, 3]]).all()  # no image, never the answer
    assert np.mean(scores.argmax(1) == labels + 1) > 0.8


def test_a_feature_that_never_changes_is_harmless():
    features, labels = blobs()
    padded = np.concatenate([features, np.full((len(features), 1), 7.0, np.float32)], axis=1)
    one = probe_scores(fit_logistic(features, labels, 3, strength=1e-2), features)
    other = probe_scores(fit_logistic(padded, labels, 3, strength=1e-2), padded)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)  # 2e-15 seen; L-BFGS may stop elsewhere


def test_the_sweep_takes_the_best_and_of_equals_the_strongest():
    features, labels = blobs(spread=1.5)
    probe = fit_linear_probe(features, labels, 3, strengths=(1e-3, 1e-1, 1e3))
    assert set(probe.sweep) == {1e-3, 1e-1, 1e3}
    best = max(probe.sweep.values())
    assert probe.strength == max(strength for strength, top1 in probe.sweep.items() if top1 == best)
    np.testing.assert_allclose(
        probe.weights, fit_logistic(features, labels, 3, strength=probe.strength).weights, atol=1e-6
    )
    assert fit_linear_probe(features, labels, 3, strengths=(1e-2,)).sweep == {}


def test_the_best_at_the_end_of_the_sweep_is_logged(caplog):
    features, labels = blobs()
    with caplog.at_level(logging.WARNING, "vitjax"):
        fit_linear_probe(features, labels, 3, strengths=(1e2, 1e3, 1e4))
    assert "did best, the last of those tried" in caplog.text


@given(st.integers(0, 20), st.sampled_from([0.1, 0.25, 0.5]))
@settings(max_examples=20, deadline=None)
def test_each_class_gives_its_share(seed, share):
    labels = np.random.default_rng(seed).integers(0, 5, 200)
    chosen = hold_out(labels, share, seed)
    counts = np.bincount(labels, minlength=5)
    assert np.bincount(labels[chosen], minlength=5).tolist() == [int(share * count) for count in counts]


def test_digits(digits):
    (train, (pixels, labels)) = digits
    probe = fit_linear_probe(*train, 10, strengths=(1e-4, 1e-2, 1e2))
    assert np.mean(probe_scores(probe, pixels).argmax(1) == labels) > 0.88
    assert probe.strength < 1e2


def test_what_does_not_converge_is_logged(caplog, digits):
    with caplog.at_level(logging.WARNING, "vitjax"):
        fit_logistic(*digits[0], 10, strength=1e-6, max_iterations=2)
    assert "no convergence in 2 iterations at strength 1e-06" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": ()}, "`strengths` (=()) must be positive, at least one"),
        ({"strengths": (0.0, 1.0)}, "must be positive"),
        ({"held_out_share": 1.0}, "`share` (=1.0) must lie in (0, 1)"),
        ({"held_out_share": 0.001}, "no class has the 1000 images"),
        ({"num_classes": 2}, "expected at least two of 0 to 1"),
    ],
)
def test_mistakes_are_one_line(options, message):
    features, labels = blobs()
    with pytest.raises(UserError) as error:
        fit_linear_probe(features, labels, **({"num_classes": 3} | options))
    assert message in str(error.value)
