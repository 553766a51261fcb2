import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops.max_pooling import max_pool, max_pool_directly, max_pool_of_windows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [(7, 8), (1, 2)])
def test_both_forms_are_the_same_with_equal_pixels_too(size, dtype):
    """Few different numbers, so that most windows have several largest pixels, of which the first has the gradient."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(-2, 2, (2, *size, 3)), dtype)

    def run(form):
        pooled, pull = jax.vjp(form, images)
        outer = jnp.asarray(np.arange(pooled.size).reshape(pooled.shape) % 16, dtype)
        return pooled, *pull(outer)

    for ours, direct in zip(jax.jit(lambda: run(max_pool_of_windows))(), run(max_pool_directly), strict=True):
        assert ours.dtype == direct.dtype
        np.testing.assert_array_equal(np.float32(ours), np.float32(direct))


def test_the_largest_of_what_lies_around():
    images = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    expected = [
        [images[0, max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].max(axis=(0, 1)) for c in range(0, 6, 2)]
        for r in range(0, 5, 2)
    ]
    np.testing.assert_array_equal(max_pool(images)[0], expected)
