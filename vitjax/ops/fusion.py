"""Keeps XLA on CPU from fusing the backward pass across blocks."""

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float

__all__ = ["end_fusion"]


def end_fusion(tokens: Float[Array, "T D"]) -> Float[Array, "T D"]:
    """The identity, whose gradient XLA on CPU computes once instead of anew in everything that reads it.

    The gradient of a residual trunk is a sum that grows by a term per branch. XLA on CPU holds additions for cheap and
    repeats the whole sum in each of its readers: fusions with two more operands per branch, time quadratic in depth.
    Divisions it holds for dear and computes once, so the gradient is divided by a 1 that it cannot see through
    (`optimization_barrier` is ignored on CPU). Exact, and the plain identity on other backends.
    """
    tokens = jnp.asarray(tokens)
    return _pinned(tokens) if jax.default_backend() == "cpu" else tokens


@jax.custom_vjp
def _pinned(tokens: jax.Array) -> jax.Array:
    return tokens


def _forward(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tokens, tokens


def _backward(tokens: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient / (1 + 0 * tokens),)


_pinned.defvjp(_forward, _backward)
