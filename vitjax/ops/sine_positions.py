"""Sinusoids over the part of a map that is picture: DETR's spatial positions (Carion et al. 2020, appendix A.4)."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.errors import UserError

__all__ = ["grid_sine_positions", "masked_sine_positions"]


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
    real = jnp.asarray(mask, jnp.float32)
    shares = []
    for axis in (1, 2):
        counts = jnp.cumsum(real, axis=axis)
        total = jnp.take(counts, jnp.asarray([counts.shape[axis] - 1]), axis=axis)
        shares.append(counts / (total + epsilon))
    return _sines(shares, width, temperature)


def grid_sine_positions(
    positions: Int[Array, "*leading 2"], grids: Int[Array, "*leading 2"], width: int, *, temperature: float = 10000.0
) -> Float[Array, "*leading D"]:
    """What `masked_sine_positions` gives a picture's pixels, for single patches of pictures of any size.

    Args:
        positions: (row, column) of each patch in the grid of its picture, from 0.
        grids: (rows, columns) of that grid.
        width: D, divisible by 4.
        temperature: see `masked_sine_positions`.

    Raises:
        UserError: 4 does not divide the width.
    """
    shares = (jnp.asarray(positions) + 1.0) / grids
    return _sines([shares[..., 0], shares[..., 1]], width, temperature)


def _sines(shares: Sequence[Array], width: int, temperature: float) -> Array:
    """Of (row, column), each in 0...1."""
    if width % 4:
        raise UserError(f"sine positions: `width` (={width}) must be divisible by 4")
    half = width // 2
    # In float32, as torch raises it: the angles reach 2π, so a rounding here is one of the result.
    wavelengths = np.float32(temperature) ** (2 * (np.arange(half, dtype=np.float32) // 2) / np.float32(half))
    parts = []
    for share in shares:
        angles = (share * (2 * np.pi))[..., None] / jnp.asarray(wavelengths, jnp.float32)
        pairs = jnp.stack([jnp.sin(angles[..., 0::2]), jnp.cos(angles[..., 1::2])], axis=-1)
        parts.append(pairs.reshape(*angles.shape))
    return jnp.concatenate(parts, axis=-1)
