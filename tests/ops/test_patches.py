import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.ops.patches import bilinear_matrix, cut_patches, project_patches, resize_patch_kernel

sides = st.integers(1, 12)


def resized(patches, size):
    """A bilinear resize of `[n, rows, columns, C]`."""
    rows, columns = (bilinear_matrix(old, new) for old, new in zip(patches.shape[1:3], size, strict=True))
    return np.einsum("hr,wc,nrci->nhwi", rows, columns, patches)


@given(old=st.tuples(sides, sides), more=st.tuples(sides, sides))
@settings(deadline=None, max_examples=25)
def test_a_larger_patch_gets_the_token_that_the_small_one_had(old, more):
    """Section 3.4: <x, w> = <B x, w'> for every patch when B enlarges."""
    new = (old[0] + more[0] - 1, old[1] + more[1] - 1)
    generator = np.random.default_rng(old[0] + 100 * new[1])
    patches = generator.standard_normal((4, *old, 2))
    kernel = generator.standard_normal((*old, 2, 3)).astype(np.float32)
    with jax.disable_jit():
        larger = np.asarray(resize_patch_kernel(kernel, new), np.float64)
    tokens = np.einsum("nrci,rcid->nd", patches, kernel)
    # float32 kernels: 2e-6 seen
    np.testing.assert_allclose(np.einsum("nrci,rcid->nd", resized(patches, new), larger), tokens, rtol=0, atol=5e-5)


def test_a_smaller_kernel_is_the_best_in_the_mean():
    """No other kernel comes closer on white noise: the error is orthogonal to every resized patch."""
    kernel = np.random.default_rng(0).standard_normal((8, 8, 1, 1)).astype(np.float32)
    smaller = np.asarray(resize_patch_kernel(kernel, (5, 3)), np.float64).reshape(-1)
    matrix = np.kron(bilinear_matrix(8, 5), bilinear_matrix(8, 3))
    np.testing.assert_allclose(matrix @ (matrix.T @ smaller - kernel.reshape(-1)), 0, atol=1e-5)


def test_the_same_size_is_the_same_kernel():
    kernel = np.random.default_rng(0).standard_normal((6, 4, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(resize_patch_kernel(kernel, (6, 4)), kernel)


def test_a_resize_of_images_keeps_constants_and_order():
    for old, new in ((4, 9), (9, 4), (5, 5), (1, 3), (3, 1)):
        np.testing.assert_allclose(bilinear_matrix(old, new).sum(axis=1), 1)
        assert (np.diff(bilinear_matrix(old, new) @ np.arange(old)) > 0).all() or old == 1


def test_gradients_reach_the_underlying_kernel():
    kernel = jnp.ones((4, 4, 1, 2))
    gradient = jax.grad(lambda kernel: (resize_patch_kernel(kernel, (6, 6)) ** 2).sum())(kernel)
    assert np.all(np.asarray(gradient) != 0)


def test_patches_are_cut_row_by_row():
    image = np.arange(4 * 6, dtype=np.float32).reshape(1, 4, 6, 1)
    patches, grid = cut_patches(image, (2, 3))
    assert grid == (2, 2)
    np.testing.assert_array_equal(patches[0, 1], [3, 4, 5, 9, 10, 11])
    with pytest.raises(UserError, match="4x6 px cannot be cut into patches of 2x4 px"):
        cut_patches(image, (2, 4))


def test_a_projection_in_bfloat16_returns_it():
    tokens = project_patches(jnp.ones((2, 3, 4)), jnp.ones((4, 5)), jnp.ones(5), "bfloat16")
    assert tokens.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(tokens, np.float32), np.full((2, 3, 5), 5.0))
