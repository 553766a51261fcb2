"""Convolutions of channels-last images, in the forms that are fast on one backend or another.

All forms take the same arguments and mean the same; `layers.convolution.choose_form` says which is used where.

Args of each form:
    images: `[B, H, W, inputs]`; zeros are put around them.
    kernel: `[rows, columns, inputs / groups, outputs]`, in the type of the images.
    stride: step along both axes.
    dilation: distance of neighbouring weights in pixels.
    padding: rows and columns of zeros at each side.
    groups: of channels that do not see each other; as many as inputs makes a depthwise convolution.

The forms differ in how they round: sums of products are taken in another order. In bfloat16 all of them add up in
float32. Those other than `convolve_directly` have no forward-mode derivative (`jax.custom_vjp`).
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.ops.dense import dense_product

__all__ = [
    "convolve_by_columns",
    "convolve_by_pairs",
    "convolve_by_shifts",
    "convolve_directly",
    "convolve_points",
    "output_side",
    "windows",
]

Images = Float[Array, "B H W inputs"]
Kernel = Float[Array, "rows columns _ outputs"]
Outputs = Float[Array, "B h w outputs"]


def output_side(side: int, kernel_side: int, *, stride: int, dilation: int, padding: int) -> int:
    """Pixels along an axis of the result; below 1 where the kernel is larger than the padded image."""
    return (side + 2 * padding - dilation * (kernel_side - 1) - 1) // stride + 1


def convolve_directly(
    images: Images, kernel: Kernel, *, stride: int, dilation: int, padding: int, groups: int
) -> Outputs:
    """XLA's own convolution: the right form on GPU and TPU, and the meaning of all others."""
    return jax.lax.conv_general_dilated(
        jnp.asarray(images),
        jnp.asarray(kernel),
        (stride, stride),
        ((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def convolve_points(
    images: Images, kernel: Kernel, *, stride: int, dilation: int, padding: int, groups: int
) -> Outputs:
    """A kernel of one pixel as one dense product; the stride takes a slice of the images. For one group."""
    assert (*kernel.shape[:2], groups) == (1, 1, 1), (kernel.shape, groups)
    pixels = _pad(images, padding)[:, ::stride, ::stride]
    y = dense_product(pixels.reshape(-1, pixels.shape[-1]), kernel[0, 0], images.dtype)
    return y.reshape(*pixels.shape[:-1], -1)


def convolve_by_columns(
    images: Images, kernel: Kernel, *, stride: int, dilation: int, padding: int, groups: int
) -> Outputs:
    """The pixels under the kernel side by side, made by slices, times the kernel as a matrix ("im2col")."""
    rows, columns, depth, outputs = kernel.shape
    seen = list(windows(images, kernel.shape, stride=stride, dilation=dilation, padding=padding))
    shape = seen[0].shape[:-1]
    if groups == 1:
        pixels = jnp.concatenate(seen, axis=-1).reshape(-1, rows * columns * depth)
        return dense_product(pixels, kernel.reshape(-1, outputs), images.dtype).reshape(*shape, outputs)
    parts = jnp.stack([window.reshape(-1, groups, depth) for window in seen], axis=2)
    pixels = parts.reshape(parts.shape[0], groups, -1)
    weights = kernel.reshape(rows * columns * depth, groups, outputs // groups)
    y = jnp.einsum("ngk,kgo->ngo", pixels, weights, preferred_element_type=jnp.float32)
    return y.astype(images.dtype).reshape(*shape, outputs)


def convolve_by_pairs(
    images: Images, kernel: Kernel, *, stride: int, dilation: int, padding: int, groups: int
) -> Outputs:
    """Two neighbouring outputs of a row at a time: they see one run of pixels, times the kernel at both its places.

    `convolve_by_columns` moves runs of `inputs` numbers about, which for pictures are three; here the runs are `columns
    + stride` times as long and half as many, for a product with some zeros. For one group without dilation.
    """
    assert (dilation, groups) == (1, 1), (dilation, groups)
    rows, columns, depth, outputs = kernel.shape
    height, width = (
        output_side(side, size, stride=stride, dilation=1, padding=padding)
        for side, size in zip(images.shape[1:3], (rows, columns), strict=True)
    )
    pairs, step, reach = -(-width // 2), 2 * stride, columns + stride
    blocks = pairs + -(-(reach - step) // step) if reach > step else pairs
    below = stride * (height - 1) + rows - padding - images.shape[1]
    right = blocks * step - padding - images.shape[2]
    sides = ((0, 0, 0), (padding, below, 0), (padding, right, 0), (0, 0, 0))
    padded = jax.lax.pad(jnp.asarray(images), jnp.zeros((), images.dtype), sides)  # negative sides cut
    padded = padded.reshape(*padded.shape[:2], blocks, step * depth)
    runs = []
    for row in range(rows):
        seen = padded[:, row : row + stride * (height - 1) + 1 : stride]
        for start in range(0, reach, step):
            taken = min(reach - start, step) * depth
            runs.append(seen[:, :, start // step : start // step + pairs, :taken])
    pixels = jnp.concatenate(runs, axis=-1)
    places = [jnp.pad(kernel, ((0, 0), (start, stride - start), (0, 0), (0, 0))) for start in (0, stride)]
    weights = jnp.stack(places, axis=3).reshape(-1, 2 * outputs)
    y = dense_product(pixels.reshape(-1, pixels.shape[-1]), weights, images.dtype)
    return y.reshape(images.shape[0], height, 2 * pairs, outputs)[:, :, :width]


def convolve_by_shifts(
    images: Images, kernel: Kernel, *, stride: int, dilation: int, padding: int, groups: int
) -> Outputs:
    """A depthwise convolution as the sum over the kernel's pixels of shifted images times one weight per channel."""
    assert (kernel.shape[2], groups) == (1, images.shape[-1]), (kernel.shape, groups)
    copies = kernel.shape[3] // groups
    if copies > 1:
        images = jnp.repeat(images, copies, axis=-1)
    return _shifted(images, kernel[:, :, 0], stride, dilation, padding)


def _sum_of_shifts(images: Array, weights: Array, stride: int, dilation: int, padding: int) -> jax.Array:
    """Weights are `[rows, columns, C]`."""
    seen = windows(images, weights.shape, stride=stride, dilation=dilation, padding=padding)
    flat = jnp.asarray(weights, jnp.float32).reshape(-1, weights.shape[-1])
    total: Any = sum(window.astype(jnp.float32) * weight for window, weight in zip(seen, flat, strict=True))
    return total.astype(images.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _shifted(images: Any, weights: Any, stride: int, dilation: int, padding: int) -> jax.Array:
    return _sum_of_shifts(images, weights, stride, dilation, padding)


def _shifted_forward(images: Any, weights: Any, *steps: int) -> tuple[jax.Array, tuple]:
    return _shifted(images, weights, *steps), (images, weights)


def _shifted_backward(
    stride: int, dilation: int, padding: int, saved: tuple, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, weights = saved
    steps = {"stride": stride, "dilation": dilation, "padding": padding}
    kernel_gradient = _shifted_kernel_gradient(images, gradient, weights.shape, **steps).astype(weights.dtype)
    if stride == 1 and padding <= dilation * (weights.shape[0] - 1):
        reach = dilation * (weights.shape[0] - 1) - padding
        return _sum_of_shifts(gradient, weights[::-1, ::-1], 1, dilation, reach), kernel_gradient
    transposed = jax.linear_transpose(lambda images: _sum_of_shifts(images, weights, **steps), images)
    return transposed(gradient)[0], kernel_gradient


def _shifted_kernel_gradient(
    images: Array, gradient: Array, shape: tuple[int, ...], *, stride: int, dilation: int, padding: int
) -> jax.Array:
    """The pixels of a kernel's row in one pass over a row of the images, which stays in the cache meanwhile."""
    rows, columns, channels = shape
    seen = windows(images, shape, stride=stride, dilation=dilation, padding=padding)
    products = [window.astype(jnp.float32) * gradient.astype(jnp.float32) for window in seen]
    sums: list[jax.Array] = []
    for row in range(rows):
        terms = tuple(products[row * columns : (row + 1) * columns])
        sums += jax.lax.reduce(terms, (jnp.float32(0),) * columns, _add_each, (2,))
    return jnp.stack([partial.sum(axis=(0, 1)) for partial in sums]).reshape(rows, columns, channels)


def _add_each(ones: tuple[Any, ...], others: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one + other for one, other in zip(ones, others, strict=True))


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _pad(images: Array, padding: int, around: float = 0.0) -> jax.Array:
    """The same number at all four sides."""
    sides = (padding, padding, 0)
    return jax.lax.pad(jnp.asarray(images), jnp.asarray(around, images.dtype), ((0, 0, 0), sides, sides, (0, 0, 0)))


def windows(
    images: Array, kernel_shape: tuple[int, ...], *, stride: int, dilation: int, padding: int, around: float = 0.0
) -> Iterator[jax.Array]:
    """What each pixel of the kernel sees, row by row: arrays `[B, h, w, inputs]`; `around` is in the padding."""
    padded = _pad(images, padding, around)
    height, width = (
        output_side(side, kernel_side, stride=stride, dilation=dilation, padding=padding)
        for side, kernel_side in zip(images.shape[1:3], kernel_shape[:2], strict=True)
    )
    for row in range(kernel_shape[0]):
        for column in range(kernel_shape[1]):
            top, left = row * dilation, column * dilation
            bottom, right = top + stride * (height - 1) + 1, left + stride * (width - 1) + 1
            yield padded[:, top:bottom:stride, left:right:stride]
