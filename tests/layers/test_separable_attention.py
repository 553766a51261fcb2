"""Separable self-attention against the paper's formula, place by place; its cost; a patch that does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.layers.separable_attention import SeparableSelfAttention
from vitjax.paths import flatten, unflatten


def random_variables(module, shape, seed=0):
    draw = np.random.default_rng(seed).normal
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros(shape, np.float32))
    return {path: draw(size=leaf.shape).astype(np.float32) for path, leaf in flatten(dict(shapes)).items()}


def papers_formula(tokens, weights):
    """Eq. 1 for `[N, D]` tokens, with a key for every token and the query's bias, in float64."""
    get = {path.removeprefix("params/"): value.astype(np.float64) for path, value in weights.items()}
    query = tokens @ get["query/kernel"] + get["query_bias"]
    scores = np.exp(query - query.max())
    scores /= scores.sum()
    context = (scores * (tokens @ get["key/kernel"] + get["key/bias"])).sum(axis=0)
    value = np.maximum(tokens @ get["value/kernel"] + get["value/bias"], 0)
    return (value * context) @ get["out/kernel"] + get["out/bias"]


@pytest.mark.parametrize("side", [1, 2])
def test_is_the_papers_formula_at_each_place_of_the_patches(side):
    module = SeparableSelfAttention(patch_size=side)
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 5)).astype(np.float32)
    weights = random_variables(module, x.shape)
    found = np.asarray(jax.jit(module.apply)(unflatten(weights), x))
    for image, result in zip(x.astype(np.float64), found, strict=True):
        for row in range(side):
            for column in range(side):
                expected = papers_formula(image[row::side, column::side].reshape(-1, 5), weights)
                np.testing.assert_allclose(
                    result[row::side, column::side].reshape(-1, 5), expected, rtol=1e-4, atol=1e-4
                )


def test_cost_is_linear_in_the_tokens():
    module = SeparableSelfAttention()

    def operations(tokens):
        x = jnp.zeros((1, tokens, 1, 16))
        return jax.jit(module.init_with_output).lower(jax.random.key(0), x).cost_analysis()["flops"]

    low, middle, high = (operations(tokens) for tokens in (256, 512, 768))
    assert high - middle == pytest.approx(middle - low, rel=0.01)


def test_bfloat16_is_computed_and_returned():
    module = SeparableSelfAttention(dtype="bfloat16")
    output, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.zeros((1, 2, 2, 8), jnp.bfloat16))
    assert output.dtype == jnp.bfloat16


def test_a_patch_that_does_not_divide_the_map():
    with pytest.raises(UserError, match=r"`patch_size`.*3x4"):
        SeparableSelfAttention(patch_size=2).init(jax.random.key(0), jnp.zeros((1, 3, 4, 8)))
