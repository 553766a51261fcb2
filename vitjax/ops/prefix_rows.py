"""Packed rows in which every image has tokens that are no patches: class and register tokens."""

from typing import NamedTuple

import jax.numpy as jnp

from vitjax.arrays import Array, Int
from vitjax.ops.segments import slot_mask

__all__ = ["PrefixedRows", "prefix_rows"]


class PrefixedRows(NamedTuple):
    """Where the images are once `S * num_prefix` tokens stand in front of each row, slot after slot.

    Attributes:
        segments: the image of each token; 0 for padding, and for the prefix of an empty slot.
        buckets: as `vitjax.ops.attention.packed_attention` takes them, each slot longer by the prefix.
    """

    segments: Array
    buckets: tuple[Array, ...] | None


def prefix_rows(
    segments: Int[Array, "B N"],
    num_slots: int,
    num_prefix: int,
    buckets: tuple[Int[Array, "G _ _"], ...] | None = None,
) -> PrefixedRows:
    """Segments and buckets of the longer rows.

    The data need not know how many such tokens a model has; attention does not mind that an image's tokens lie apart.

    Args:
        segments: the image of each patch, 1…S; 0 is padding.
        num_slots: S.
        num_prefix: tokens in front of each image's patches.
        buckets: of the rows of patches.
    """
    segments = jnp.asarray(segments)
    if not num_prefix:
        return PrefixedRows(segments, buckets)
    slots = jnp.arange(1, num_slots + 1, dtype=segments.dtype)
    used = jnp.where(slot_mask(segments, num_slots).any(axis=-1), slots, 0)  # B S
    longer = jnp.concatenate([jnp.repeat(used, num_prefix, axis=1), segments], axis=1)
    if buckets is None:
        return PrefixedRows(longer, None)
    return PrefixedRows(longer, tuple(_prefix_bucket(segments, num_slots, num_prefix, bucket) for bucket in buckets))


def _prefix_bucket(segments: Array, num_slots: int, num_prefix: int, bucket: Array) -> Array:
    """One bucket, `[G, images, length]`, with the image's prefix in front of its patches."""
    bucket = jnp.asarray(bucket)
    length, front, groups = segments.shape[1], num_slots * num_prefix, bucket.shape[0]
    flat = segments.reshape(groups, -1)
    nothing, new_nothing = flat.shape[1], flat.shape[1] // length * (front + length)
    first = bucket[..., :1]  # any of the image's patches tells its row and its slot
    place = jnp.minimum(first, nothing - 1)
    slot = jnp.take_along_axis(flat, place[..., 0], axis=1)[..., None] - 1
    own = place // length * (front + length) + slot * num_prefix + jnp.arange(num_prefix)
    patches = bucket // length * (front + length) + front + bucket % length
    return jnp.concatenate(
        [jnp.where(first < nothing, own, new_nothing), jnp.where(bucket < nothing, patches, new_nothing)], axis=-1
    ).astype(bucket.dtype)
