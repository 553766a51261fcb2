"""A table read along one axis as if it had been resized to each image's own size: weights of its rows, per token.

`ops.positions` resizes a whole table to one size, which must be known at trace time. Here every token has an image of
its own, and its size is data: token `index` of an axis of `count` patches gets the weights with which a table of `size`
rows would be averaged at that place of the resized table. Same kernels, same half-pixel centres ("align_corners=False"
in all but `corners`). No limit on counts: distances are quotients of whole numbers, rounded once.
"""

from collections.abc import Callable

import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int

__all__ = ["AxisWeights", "bicubic", "bicubic_antialias", "bilinear", "bilinear_antialias", "corners"]

AxisWeights = Callable[[Array, Array, int], Array]
"""(index of the patch, patches of the axis, rows of the table) -> weights of the rows, `[..., size]`, sum 1."""


def bilinear_antialias(index: Int[Array, "*shape"], count: Int[Array, "*shape"], size: int) -> Float[Array, "*shape _"]:
    """As `resample_bilinear_antialias`: SigLIP 2's NaFlex in big_vision, transformers and timm."""
    return _antialiased(index, count, size, _triangle)


def bicubic_antialias(index: Int[Array, "*shape"], count: Int[Array, "*shape"], size: int) -> Float[Array, "*shape _"]:
    """As `resample_bicubic_antialias`: timm, whose NaFlexVit does it unless told otherwise."""
    return _antialiased(index, count, size, lambda x: _cubic(x, -0.5))


def bilinear(index: Int[Array, "*shape"], count: Int[Array, "*shape"], size: int) -> Float[Array, "*shape _"]:
    """As `resample_bilinear`: torch's "linear" and "bilinear" without antialiasing; timm's factorised tables."""
    return _of_taps(2 * count, (2 * jnp.asarray(index) + 1) * size - count, size, _triangle, reach=1)


def bicubic(index: Int[Array, "*shape"], count: Int[Array, "*shape"], size: int) -> Float[Array, "*shape _"]:
    """As `resample_bicubic`: the ViTs of transformers."""
    return _of_taps(2 * count, (2 * jnp.asarray(index) + 1) * size - count, size, lambda x: _cubic(x, -0.75), reach=2)


def corners(index: Int[Array, "*shape"], count: Int[Array, "*shape"], size: int) -> Float[Array, "*shape _"]:
    """As `resample_corners`: the plain ViTs of vit_jax and big_vision."""
    return _of_taps(jnp.maximum(count - 1, 1), jnp.asarray(index) * (size - 1), size, _triangle, reach=1)


def _antialiased(index: Array, count: Array, size: int, kernel: Callable[[Array], Array]) -> Array:
    """The kernel widens where the axis is shorter than the table, and its weights are made to sum to 1."""
    index, count = jnp.asarray(index)[..., None], jnp.asarray(count)[..., None]
    # (row - centre) / stretch with centre = (index + 1/2) size / count - 1/2 and stretch = max(size / count, 1)
    numerator = (2 * jnp.arange(size) + 1) * count - (2 * index + 1) * size
    weights = kernel(numerator / (2 * jnp.maximum(count, size)))
    return weights / weights.sum(axis=-1, keepdims=True)


def _of_taps(denominator: Array, numerator: Array, size: int, kernel: Callable[[Array], Array], *, reach: int) -> Array:
    """The kernel's weights of the rows around `numerator / denominator`; rows beyond the edge are the edge."""
    first, rest = jnp.divmod(jnp.asarray(numerator), jnp.asarray(denominator))
    share = rest / denominator
    weights = 0.0
    for tap in range(1 - reach, 1 + reach):
        row = jnp.clip(first + tap, 0, size - 1)[..., None]
        weights = weights + jnp.where(row == jnp.arange(size), kernel(tap - share)[..., None], 0.0)
    return jnp.asarray(weights)


def _triangle(x: Array) -> Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _cubic(x: Array, a: float) -> Array:
    """Keys' kernel (1981, eq. 15), each piece as a product with its root: exactly 0 at whole numbers but 0."""
    x = jnp.abs(x)
    near = (1 - x) * (1 + x - (a + 2) * x**2)
    far = a * (x - 1) * (x - 2) ** 2
    return jnp.where(x <= 1, near, jnp.where(x < 2, far, 0.0))
