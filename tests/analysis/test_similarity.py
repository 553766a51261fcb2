"""Similarity of layers by columns, of heads by whole maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.analysis.similarity import (
    column_similarity,
    cross_head_similarity,
    head_similarity,
    layer_similarity,
    similar_blocks,
    similar_share,
)
from vitjax.errors import UserError


def maps(seed, layers=3, heads=2, tokens=4):
    return list(jax.nn.softmax(jax.random.normal(jax.random.key(seed), (layers, 2, heads, tokens, tokens)) * 2))


def test_columns_are_compared_and_not_rows():
    one = np.zeros((1, 1, 2, 2), np.float32)
    one[0, 0] = [[1, 0], [1, 0]]  # both tokens look at the first
    other = one.copy()
    other[0, 0] = [[0.5, 0.5], [0.5, 0.5]]
    np.testing.assert_allclose(column_similarity(one, other)[0, 0], [1, 0], atol=1e-6)  # the second gives nothing


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_similarity_is_symmetric_bounded_and_one_with_itself(seed):
    own = maps(seed)
    similarity = layer_similarity(own)
    np.testing.assert_allclose(similarity, similarity.T)
    np.testing.assert_allclose(np.diagonal(similarity), 1, atol=1e-5)
    assert np.abs(similarity).max() <= 1 + 1e-5
    pair = column_similarity(own[0], own[1])
    np.testing.assert_allclose(similarity[1, 0], pair.mean(), atol=1e-6)
    assert similar_share(own, threshold=0.7)[1, 0] == pytest.approx(float((pair > 0.7).mean()))


def test_blocks_that_repeat_the_one_before_are_counted():
    first, second, third = maps(5)
    share = similar_share([first, first, second, second, second, third])
    assert similar_blocks(share) == 3
    assert similar_blocks(np.eye(6)) == 0
    assert similar_blocks(np.ones((1, 1))) == 0


def test_maps_of_different_sizes_are_no_layers_of_one_model():
    with pytest.raises(UserError, match="must have one shape"):
        layer_similarity([maps(0)[0], maps(0, tokens=5)[0]])
    with pytest.raises(UserError, match="none at all"):
        similar_share([])


def test_heads_are_compared_by_whole_maps():
    one = maps(3, heads=1)[0]
    both = jnp.concatenate([one, 3 * one], axis=1)
    np.testing.assert_allclose(head_similarity(both), 1, atol=1e-5)
    halves = jnp.zeros((1, 2, 2, 2)).at[0, 0, 0].set(1.0).at[0, 1, 1].set(1.0)
    np.testing.assert_allclose(head_similarity(halves)[0], np.eye(2), atol=1e-6)


def test_of_each_head_the_most_alike_or_the_mean():
    one, two = maps(3, heads=2)[0][:, :1], maps(4, heads=2)[0][:, 1:]
    layer = jnp.concatenate([one, one, two], axis=1)
    pair = float(head_similarity(layer)[:, 0, 2].mean())
    (most,), (mean,) = (cross_head_similarity([layer], reduce=reduce) for reduce in (jnp.max, jnp.mean))
    assert most == pytest.approx((1 + 1 + pair) / 3, abs=1e-5)
    assert mean == pytest.approx(((1 + pair) / 2 * 2 + pair) / 3, abs=1e-5)


def test_a_single_head_has_no_other():
    with pytest.raises(UserError, match="single head"):
        cross_head_similarity([maps(0, heads=1)[0]])
