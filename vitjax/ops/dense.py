"""The matrix product of every dense layer, with a gradient that XLA on CPU runs fast."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float

__all__ = ["dense_product"]


def dense_product(
    tokens: Float[Array, "rows inputs"], kernel: Float[Array, "inputs outputs"], dtype: jnp.dtype | str = "float32"
) -> Float[Array, "rows outputs"]:
    """`tokens @ kernel` computed in `dtype`, both gradients being plain two-dimensional products.

    Autodiff of a product writes the kernel's gradient transposed and turns it round afterwards; here it is one product
    in the layout it is stored in, accumulated straight into the kernel's own type. Forward-mode derivatives are not
    defined (`jax.custom_vjp`).

    Args:
        tokens: one row per token; cast to `dtype`.
        kernel: float32 parameter; cast to `dtype`.
        dtype: the type computed in and returned.
    """
    dtype = jnp.dtype(dtype)
    return _product(tokens.astype(dtype), jnp.asarray(kernel), dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(tokens: Any, kernel: Any, dtype: jnp.dtype) -> jax.Array:
    return tokens @ kernel.astype(dtype)


def _product_forward(tokens: Any, kernel: Any, dtype: jnp.dtype) -> tuple[jax.Array, tuple]:
    return _product(tokens, kernel, dtype), (tokens, kernel)


def _product_backward(dtype: jnp.dtype, saved: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    tokens, kernel = saved
    tokens_gradient = gradient @ kernel.astype(dtype).T
    kernel_gradient = jax.lax.dot_general(
        tokens, gradient, (((0,), (0,)), ((), ())), preferred_element_type=kernel.dtype
    )
    return tokens_gradient, kernel_gradient


_product.defvjp(_product_forward, _product_backward)
