import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.layers.convolution import (
    GroupNorm,
    StandardisedConv,
    convolve,
    standardise_by_deviation,
    standardise_by_variance,
)


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("standardise", [standardise_by_deviation, standardise_by_variance])
def test_a_kernel_is_standardised_per_output(standardise):
    kernel = 3 * pictures(3, 3, 4, 5) + 2
    result = np.asarray(standardise(kernel), np.float64)
    np.testing.assert_allclose(result.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(result.std(axis=(0, 1, 2)), 1, rtol=1e-4)


def test_the_two_conventions_differ_as_they_say():
    kernel = (1e-4 * pictures(3, 3, 2, 1)).astype(np.float64)
    deviation = kernel.std()
    centred = kernel - kernel.mean()
    np.testing.assert_allclose(standardise_by_deviation(kernel), centred / (deviation + 1e-5), rtol=1e-4)
    np.testing.assert_allclose(standardise_by_variance(kernel), centred / np.sqrt(deviation**2 + 1e-8), rtol=1e-4)


@pytest.mark.parametrize("standardise", [standardise_by_deviation, standardise_by_variance])
def test_a_constant_kernel_has_a_finite_gradient(standardise):
    gradient = jax.grad(lambda kernel: (standardise(kernel) ** 2).sum() + kernel.sum())(jnp.ones((3, 3, 1, 1)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("side", [7, 8])
def test_padding_is_same(size, stride, side):
    """Against a sum over shifted windows; an odd pixel of padding goes to the end."""
    x = pictures(1, side, side, 2)
    conv = StandardisedConv(3, size, stride)
    variables = conv.init(jax.random.key(0), x)
    result = conv.apply(variables, x)
    kernel = np.asarray(standardise_by_deviation(variables["params"]["kernel"]))
    steps = -(-side // stride)
    padding = max((steps - 1) * stride + size - side, 0)
    padded = np.pad(x, [(0, 0)] + 2 * [(padding // 2, padding - padding // 2)] + [(0, 0)])
    expected = np.zeros((1, steps, steps, 3))
    for row in range(steps):
        for column in range(steps):
            window = padded[:, row * stride : row * stride + size, column * stride : column * stride + size]
            expected[:, row, column] = np.einsum("bhwi,hwio->bo", window, kernel)
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_groups_are_normalised_image_by_image():
    x = 5 * pictures(2, 4, 3, 6) + 1
    norm = GroupNorm(num_groups=2, epsilon=0.0)
    result = np.asarray(norm.apply(norm.init(jax.random.key(0), x), x)).reshape(2, 12, 2, 3)
    np.testing.assert_allclose(result.mean(axis=(1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std(axis=(1, 3)), 1, atol=1e-5)


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(UserError, match=r"`num_groups` \(=4\) must divide the 6 channels"):
        GroupNorm(num_groups=4).init(jax.random.key(0), pictures(1, 2, 2, 6))


def test_bfloat16_keeps_parameters_in_float32():
    conv = StandardisedConv(3, 3, dtype="bfloat16")
    variables = conv.init(jax.random.key(0), pictures(1, 4, 4, 2))
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert conv.apply(variables, pictures(1, 4, 4, 2)).dtype == jnp.bfloat16


def test_a_kernel_that_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"5x5 pixels \(dilation 2\) does not fit into 6x9 with a padding of 1"):
        convolve(pictures(1, 6, 9, 2), pictures(5, 5, 2, 2), dilation=2, padding=1)


@pytest.mark.parametrize(("size", "groups"), [(1, 1), (3, 1), (3, 4), (3, 2)])
def test_a_convolution_is_centred_by_default(size, groups):
    """A kernel that is the identity in its middle leaves the images alone."""
    kernel = np.zeros((size, size, 4 // groups, 4), np.float32)
    kernel[size // 2, size // 2] = np.tile(np.eye(4 // groups), groups)
    x = pictures(2, 5, 6, 4)
    np.testing.assert_allclose(convolve(x, kernel, dilation=2, groups=groups), x, atol=1e-6)
