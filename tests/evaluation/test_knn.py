"""Nearest neighbours: exact in blocks of any size, equal to scikit-learn and to votes counted by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from vitjax.errors import UserError
from vitjax.evaluation.knn import ExponentialVotes, cosine, equal_votes, knn_scores, minus_distance


def random_data(images=50, width=6, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(images, width)).astype(np.float32), generator.integers(0, classes, images)


@given(st.sampled_from([1, 16, 49, 70]), st.sampled_from([1, 12]), st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_blocks_do_not_change_the_answer(block, neighbours, seed):
    train, labels = random_data(seed=seed)
    test, _ = random_data(23, seed=seed + 100)
    options = {"neighbours": neighbours, "votes": equal_votes}
    whole = knn_scores(train, labels, test, 4, **options)
    parts = knn_scores(train, labels, test, 4, block=block, **options)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@pytest.mark.parametrize(("similarity", "metric"), [(minus_distance, "euclidean"), (cosine, "cosine")])
def test_shares_are_those_of_scikit_learn(similarity, metric):
    train, labels = random_data()
    test, _ = random_data(20, seed=1)
    reference = KNeighborsClassifier(7, metric=metric, algorithm="brute").fit(train, labels).predict_proba(test)
    found = knn_scores(train, labels, test, 4, neighbours=7, similarity=similarity, votes=equal_votes, block=16)
    np.testing.assert_allclose(found, reference, atol=1e-6)


def test_votes_by_hand():
    # Cosines to (1, 0): 1, 0.6 and 0 of classes 0, 1 and 1.
    train = np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]], np.float32)
    labels, test = np.array([0, 1, 1]), np.array([[5.0, 0.0]], np.float32)
    for temperature in (0.07, 1.0):
        found = knn_scores(train, labels, test, 2, neighbours=3, votes=ExponentialVotes(temperature))
        votes = np.exp(np.array([1.0, 0.6, 0.0]) / temperature)
        np.testing.assert_allclose(found, [[votes[0], votes[1] + votes[2]]] / votes.sum(), rtol=1e-5)
    majority = knn_scores(train, labels, test, 2, neighbours=3, votes=equal_votes)
    np.testing.assert_allclose(majority, [[1 / 3, 2 / 3]], rtol=1e-6)


def test_of_equally_near_ones_the_earlier_counts():
    train = np.ones((6, 2), np.float32)
    labels = np.array([2, 2, 0, 0, 1, 1])
    for block in (1, 2, 6):
        found = knn_scores(train, labels, train[:1], 3, neighbours=2, votes=equal_votes, block=block)
        np.testing.assert_allclose(found, [[0, 0, 1]])


@given(st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_training_images_means_nothing(seed):
    train, labels = random_data(seed=seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    one, other = (knn_scores(train[at], labels[at], train, 4, neighbours=5) for at in (np.arange(len(labels)), order))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_first_neighbour_of_an_image_is_itself(digits):
    (pixels, labels), _ = digits
    answers = knn_scores(pixels, labels, pixels[:100], 10, neighbours=1).argmax(axis=1)
    np.testing.assert_array_equal(answers, labels[:100])


def test_a_zero_vector_is_near_nothing():
    found = cosine(jnp.zeros((1, 3)), jnp.ones((2, 3)))
    np.testing.assert_array_equal(found, 0.0)


def test_digits(digits):
    (pixels, labels), (others, right) = digits
    for options in ({}, {"similarity": minus_distance, "votes": equal_votes}):
        answers = knn_scores(pixels, labels, others, 10, neighbours=5, **options).argmax(axis=1)
        assert np.mean(answers == right) > 0.93


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbours": 51}, "`neighbours` (=51) must lie in 1 to 50"),
        ({"neighbours": 0}, "`neighbours` (=0)"),
        ({"num_classes": 3}, "labels reach from 0 to 3, expected 0 to 2"),
    ],
)
def test_mistakes_are_one_line(options, message):
    train, labels = random_data()
    with pytest.raises(UserError) as error:
        knn_scores(train, labels, train, **({"num_classes": 4} | options))
    assert message in str(error.value)
    with pytest.raises(UserError, match="`temperature` \\(=0\\.0\\) must be positive"):
        ExponentialVotes(0.0)
