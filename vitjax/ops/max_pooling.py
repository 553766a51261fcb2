"""Max pooling as ResNets use it, in the form that is fast on this backend."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.ops.convolution import windows

__all__ = ["max_pool", "max_pool_directly", "max_pool_of_windows"]

_STEPS: dict[str, Any] = {"stride": 2, "dilation": 1, "padding": 1, "around": -jnp.inf}


def max_pool(images: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """The largest of 3x3 pixels at every second one; sides become `ceil(side / 2)`.

    XLA on CPU takes 4 to 5 times as long for its own, forward and backward.
    """
    form = max_pool_of_windows if jax.default_backend() == "cpu" else max_pool_directly
    return form(jnp.asarray(images))


def max_pool_directly(images: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """XLA's own pooling: the right form on GPU and TPU, and the meaning of the other."""
    lowest, sides = jnp.asarray(-jnp.inf, images.dtype), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(images, lowest, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)


@jax.custom_vjp
def max_pool_of_windows(images: Any) -> jax.Array:
    """The larger of nine shifted images. Of equal pixels the first has the gradient, as XLA and torch have it."""
    return functools.reduce(jnp.maximum, windows(images, (3, 3), **_STEPS))


def _forward(images: jax.Array) -> tuple[jax.Array, tuple]:
    largest = max_pool_of_windows(images)
    return largest, (images, largest)


def _backward(saved: tuple, gradient: jax.Array) -> tuple[jax.Array]:
    images, largest = saved

    def shares(images: jax.Array) -> list[jax.Array]:
        return list(windows(images, (3, 3), **_STEPS))

    is_first, taken = [], jnp.zeros(largest.shape, bool)
    for window in shares(images):
        is_largest = window == largest
        is_first.append(jnp.where(is_largest & ~taken, gradient, jnp.zeros_like(gradient)))
        taken |= is_largest
    return tuple(jax.linear_transpose(shares, images)(is_first))


max_pool_of_windows.defvjp(_forward, _backward)
