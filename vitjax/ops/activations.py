"""Nonlinearities by the name their papers' code gives them."""

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float

__all__ = ["gelu", "gelu_tanh"]


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x Φ(x)` with the exact normal distribution function, as PyTorch computes it (Hendrycks & Gimpel 2016)."""
    half = jnp.asarray(0.5, x.dtype)
    return x * half * (1 + jax.lax.erf(x * jnp.asarray(2**-0.5, x.dtype)))


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The tanh approximation, which the original JAX checkpoints were trained with."""
    return jax.nn.gelu(x, approximate=True)
