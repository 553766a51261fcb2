"""Sinusoids over the part of a map that is picture: DETR's spatial positions (Carion et al. 2020, appendix A.4)."""

import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Bool, Float
from vitjax.errors import UserError

__all__ = ["masked_sine_positions"]


def masked_sine_positions(
    mask: Bool[Array, "B h w"], width: int, *, temperature: float = 10000.0, epsilon: float = 1e-6
) -> Float[Array, "B h w D"]:
    """Rows in the first half of the channels, columns in the second; sine and cosine alternate.

    A pixel's coordinate is its count among the picture's pixels of its column (row), from 1, over the number of them
    all, times 2π: so the same place of a picture has the same position whatever its size.

    Args:
        mask: True where there is picture, which begins at the top left.
        width: D, divisible by 4.
        temperature: ratio of the longest wavelength to the shortest, nearly.
        epsilon: keeps columns and rows without picture finite.

    Raises:
        UserError: 4 does not divide the width.
    """
    if width % 4:
        raise UserError(f"sine positions: `width` (={width}) must be divisible by 4")
    real = jnp.asarray(mask, jnp.float32)
    half = width // 2
    # In float32, as torch raises it: the angles reach 2π, so a rounding here is one of the result.
    wavelengths = np.float32(temperature) ** (2 * (np.arange(half, dtype=np.float32) // 2) / np.float32(half))
    parts = []
    for axis in (1, 2):
        counts = jnp.cumsum(real, axis=axis)
        total = jnp.take(counts, jnp.asarray([counts.shape[axis] - 1]), axis=axis)
        angles = (counts / (total + epsilon) * (2 * np.pi))[..., None] / jnp.asarray(wavelengths, jnp.float32)
        pairs = jnp.stack([jnp.sin(angles[..., 0::2]), jnp.cos(angles[..., 1::2])], axis=-1)
        parts.append(pairs.reshape(*angles.shape))
    return jnp.concatenate(parts, axis=-1)
