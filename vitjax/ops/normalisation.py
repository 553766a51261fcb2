"""From stored pixels to what a model was trained on, on the device: `(x / 255 - mean) / std`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float, UInt8
from vitjax.errors import UserError

__all__ = ["normalise_images", "normalise_patches"]


def normalise_images(
    images: UInt8[Array, "*B C"] | Float[Array, "*B C"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Float[Array, "*B C"]:
    """Normalises the last axis, which holds the channels.

    Args:
        images: values from 0 to 255; floats where mixing has been at work.
        mean: per channel, in units of the brightest value (0 to 1).
        std: per channel, in the same units.
        dtype: type of the result; the arithmetic is done in float32.

    Raises:
        UserError: `mean` or `std` is not one number per channel, or `std` is not positive.
    """
    scale, offset = _affine(mean, std)
    if images.shape[-1] != len(scale):
        raise UserError(
            f"`mean` (={tuple(mean)}) has {len(scale)} channels, but the images have {images.shape[-1]}; "
            "give one number per channel"
        )
    return (jnp.asarray(images, jnp.float32) * scale + offset).astype(dtype)


def normalise_patches(
    patches: UInt8[Array, "*B P"] | Float[Array, "*B P"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Float[Array, "*B P"]:
    """Like `normalise_images`, for patches flattened as (row, column, channel).

    Raises:
        UserError: as `normalise_images`, or the patch's size is no multiple of the number of channels.
    """
    scale, offset = _affine(mean, std)
    pixels, rest = divmod(patches.shape[-1], len(scale))
    if rest:
        raise UserError(
            f"`mean` (={tuple(mean)}) has {len(scale)} channels, but a patch of {patches.shape[-1]} values "
            "cannot be cut into that many; give one number per channel"
        )
    return (jnp.asarray(patches, jnp.float32) * np.tile(scale, pixels) + np.tile(offset, pixels)).astype(dtype)


def _affine(mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """`(x / 255 - mean) / std` as `x * scale + offset`: one multiplication and addition per value."""
    if len(mean) != len(std) or not len(mean):
        raise UserError(f"`mean` (={tuple(mean)}) and `std` (={tuple(std)}) must both have one number per channel")
    if min(std) <= 0:
        raise UserError(f"`std` (={tuple(std)}) must be positive")
    scale = 1 / (255 * np.asarray(std, np.float64))
    return scale.astype(np.float32), (-np.asarray(mean, np.float64) / np.asarray(std, np.float64)).astype(np.float32)
