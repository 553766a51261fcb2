"""Few-shot evaluation: exact, whichever way it is solved, and as big_vision draws the images."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.evaluation.fewshot import draw_shots, few_shot, fit_ridge, ridge_scores


def random_data(images, width, classes, seed=0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(images, width)).astype(np.float32)
    return features, generator.integers(0, classes, images)


def reference_weights(features, labels, classes, ridge):
    """The normal equations, with numpy's general solver."""
    inputs = features.astype(np.float64)
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-5)
    inputs = np.concatenate([inputs, np.full((len(inputs), 1), 100.0)], axis=1)
    targets = np.where(np.arange(classes) == np.asarray(labels)[:, None], 1.0, -1.0)
    return np.linalg.solve(inputs.T @ inputs + ridge * np.eye(inputs.shape[1]), inputs.T @ targets)


@given(st.integers(2, 40), st.integers(1, 30), st.sampled_from([1.0, 1024.0, 1e5]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_both_forms_solve_the_normal_equations(images, width, ridge, seed):
    # more images than features takes one form, fewer the other
    features, labels = random_data(images, width, 5, seed)
    probe = fit_ridge(features, labels, 5, regularisation=ridge)
    np.testing.assert_allclose(probe.weights, reference_weights(features, labels, 5, ridge), rtol=1e-6, atol=1e-9)


def test_the_two_forms_agree():
    # one more image turns 9 features and the constant from "fewer images" to "at least as many"
    for images in (9, 10, 11):
        features, labels = random_data(images, 9, 3, images)
        expected = reference_weights(features, labels, 3, 1024.0)
        np.testing.assert_allclose(fit_ridge(features, labels, 3).weights, expected, rtol=0, atol=3e-15)  # 9e-17 seen


def test_by_hand():
    # Features -1 and 1 have mean 0 and deviation 1 (+ 1e-5); the constant's column is orthogonal to theirs:
    # w = 2 / (2 + λ) · target per class, and the constant's weight is 0 because the targets cancel.
    probe = fit_ridge(np.array([[-1.0], [1.0]]), np.array([0, 1]), 2, regularisation=2.0)
    np.testing.assert_allclose(probe.weights, [[-0.5, 0.5], [0, 0]], atol=1e-4)
    np.testing.assert_allclose(ridge_scores(probe, np.array([[3.0]])), [[-1.5, 1.5]], atol=1e-4)


def test_shots_are_drawn_class_by_class_from_one_generator():
    labels = np.random.default_rng(0).integers(0, 4, 100)
    generator = np.random.default_rng(7)
    expected = [generator.permutation(np.where(labels == number)[0])[:5] for number in range(4)]
    np.testing.assert_array_equal(draw_shots(labels, 4, 5, seed=7), np.concatenate(expected))


@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_more_shots_contain_fewer(seed):
    labels = np.random.default_rng(1).integers(0, 6, 200)
    one, five = (draw_shots(labels, 6, shots, seed) for shots in (1, 5))
    assert set(one) < set(five)
    assert np.bincount(labels[five]).tolist() == [5] * 6


def test_a_class_with_too_few_images_is_logged(caplog):
    labels = np.array([0, 0, 0, 1])
    with caplog.at_level(logging.WARNING, "vitjax"):
        drawn = draw_shots(labels, 3, 2, seed=0)
    assert sorted(labels[drawn]) == [0, 0, 1]
    assert "2 of 3 classes have fewer than 2 images, first class 1 with 1" in caplog.text


def test_the_order_of_the_test_images_means_nothing(digits):
    train, (pixels, labels) = digits
    order = np.random.default_rng(0).permutation(len(labels))
    options = {"shots": (2,), "seeds": (0,)}
    one = few_shot(*train, pixels, labels, 10, **options)
    other = few_shot(*train, pixels[order], labels[order], 10, **options)
    assert one == other


def test_digits_from_few_examples(digits):
    (train, test) = digits
    found = few_shot(*train, *test, 10, shots=(1, 5, 25), seeds=(0, 1, 2))
    assert list(found) == [1, 5, 25]
    means = [np.mean(hits) for hits in found.values()]
    assert means == sorted(means)
    assert means[0] > 0.35  # chance is 0.1
    assert means[2] > 0.8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"regularisation": 0.0}, "`regularisation` (=0.0) must be positive"),
        ({"num_classes": 2}, "labels reach from 0 to 2, expected 0 to 1"),
        ({"shots": (0,)}, "`shots` (=(0,)) must be 1 or more"),
        ({"seeds": ()}, "not empty"),
    ],
)
def test_mistakes_are_one_line(changed, message):
    features, _ = random_data(6, 3, 3)
    labels = np.array([0, 1, 2, 0, 1, 2])
    options = {"num_classes": 3, "shots": (1,)} | changed
    with pytest.raises(UserError) as error:
        few_shot(features, labels, features, labels, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
