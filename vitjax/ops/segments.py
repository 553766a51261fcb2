"""Sums, means and softmaxes over the images packed in a row. Segment 0 is padding and belongs to no image."""

from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float, Int

__all__ = ["gather_rows", "inverse_rows", "own_grid", "segment_mask", "segment_mean", "segment_softmax", "slot_mask"]

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
"""Logit of what must not be attended to: finite, so that a row without anything to attend to is finite too."""


def segment_mask(query_segments: Int[Array, "B N"], key_segments: Int[Array, "B M"]) -> Bool[Array, "B N M"]:
    """True where query and key belong to the same image; always False for padding."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return jnp.asarray(same & (query_segments > 0)[:, :, None])


def slot_mask(segments: Int[Array, "B N"], num_slots: int) -> Bool[Array, "B S N"]:
    """True where a token belongs to the image of slot s, which is segment s + 1."""
    return jnp.asarray(segments)[:, None, :] == jnp.arange(1, num_slots + 1)[None, :, None]


def own_grid(grid_sizes: Int[Array, "B S axes"], segments: Int[Array, "B N"]) -> Int[Array, "B N axes"]:
    """The grid of each token's image; 1 along every axis for padding."""
    padded = jnp.pad(jnp.asarray(grid_sizes), ((0, 0), (1, 0), (0, 0)), constant_values=1)
    return jnp.take_along_axis(padded, segments[:, :, None], axis=1)


def segment_softmax(
    logits: Float[Array, "B A N"], segments: Int[Array, "B N"], num_slots: int
) -> Float[Array, "B A S N"]:
    """Softmax of one logit per token over each image's own tokens.

    Where all images ask the same question (one shared probe), a token's logit does not depend on the slot; only the
    normalisation does. Weights outside an image are exactly 0, and all weights of an empty slot are.

    Args:
        logits: float32.
        segments: the image of each token, 1…S; 0 is padding.
        num_slots: S.
    """
    mask = slot_mask(segments, num_slots)[:, None]
    masked = jnp.where(mask, logits[:, :, None, :], MASKED)
    largest = jax.lax.stop_gradient(masked.max(axis=-1, keepdims=True))
    # Where the mask is False the difference is 0, never an overflow whose gradient would be 0 * inf.
    powers = jnp.where(mask, jnp.exp(jnp.where(mask, masked - largest, 0.0)), 0.0)
    sums = powers.sum(axis=-1, keepdims=True)
    return powers / jnp.where(sums > 0, sums, 1.0)


def segment_mean(tokens: Float[Array, "B N D"], segments: Int[Array, "B N"], num_slots: int) -> Float[Array, "B S D"]:
    """Mean of each image's tokens in float32; 0 for empty slots."""
    mask = slot_mask(segments, num_slots).astype(jnp.float32)
    sums = jnp.einsum("bsn,bnd->bsd", mask, tokens.astype(jnp.float32), precision="highest")
    return sums / jnp.maximum(mask.sum(axis=-1, keepdims=True), 1.0)


def inverse_rows(take: Int[Array, "G M"], num_rows: int) -> Int[Array, "G N"]:
    """Where each row went: `inverse[g, take[g, m]] == m`, and M for a row that nothing takes.

    Args:
        take: numbers of rows, each at most once; `num_rows` stands for none.
        num_rows: N.
    """
    empty = jnp.full((take.shape[0], num_rows), take.shape[1], jnp.int32)
    places = jnp.arange(take.shape[1], dtype=jnp.int32)
    return jax.vmap(lambda inverse, rows: inverse.at[rows].set(places, mode="drop"))(empty, jnp.asarray(take))


def gather_rows(rows: Float[Array, "G N D"], take: Int[Array, "G M"], back: Int[Array, "G N"]) -> Float[Array, "G M D"]:
    """Row `take[g, m]` of group g in place m, and zeros where `take` is N.

    `take` and `back` are each other's inverse (`inverse_rows`), so the gradient is the same gather the other way round
    instead of a scatter-add. A row that `take` leaves out gets an exactly zero gradient: `back` is M there.
    """
    return _exchange(jnp.asarray(rows), jnp.asarray(take), jnp.asarray(back))


def _gather(rows: jax.Array, take: jax.Array) -> jax.Array:
    return jax.vmap(lambda group, index: group.at[index].get(mode="fill", fill_value=0))(rows, jnp.asarray(take))


@jax.custom_vjp
def _exchange(rows: Any, take: Any, back: Any) -> jax.Array:
    return _gather(jnp.asarray(rows), jnp.asarray(take))


def _exchange_forward(rows: Any, take: Any, back: Any) -> tuple[jax.Array, Any]:
    return _gather(jnp.asarray(rows), jnp.asarray(take)), back


def _exchange_backward(back: Any, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    return _gather(gradient, jnp.asarray(back)), None, None


_exchange.defvjp(_exchange_forward, _exchange_backward)
