"""Tables of position vectors: fixed sinusoids, and resampling of a learned grid to another size.

A resampling function takes `[h, w, D]` and the wanted `(rows, columns)`; all but `resample_corners` have half-pixel
centres ("align_corners=False"). Each is a product with two small fixed matrices, made with numpy at trace time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float
from vitjax.errors import UserError

__all__ = [
    "resample_bicubic",
    "resample_bicubic_antialias",
    "resample_bilinear",
    "resample_bilinear_antialias",
    "resample_corners",
    "sincos_1d",
    "sincos_2d",
]


def resample_bicubic_antialias(
    table: Float[Array, "rows columns D"], new_grid: tuple[int, int]
) -> Float[Array, "h w D"]:
    """What timm does with a state dict or a dynamic image size. Keys' kernel a = -0.5, as torch's antialiased form."""
    return _resample(table, new_grid, lambda x: _cubic(x, -0.5), reach=2, antialias=True)


def resample_bicubic(table: Float[Array, "rows columns D"], new_grid: tuple[int, int]) -> Float[Array, "h w D"]:
    """What Hugging Face's `interpolate_pos_encoding` does: no antialiasing, kernel a = -0.75, edges repeated."""
    return _resample(table, new_grid, lambda x: _cubic(x, -0.75), reach=2, antialias=False)


def resample_bilinear_antialias(
    table: Float[Array, "rows columns D"], new_grid: tuple[int, int]
) -> Float[Array, "h w D"]:
    """What FlexiViT, NaFlex and `jax.image.resize(..., "linear")` do."""
    return _resample(table, new_grid, _triangle, reach=1, antialias=True)


def resample_bilinear(table: Float[Array, "rows columns D"], new_grid: tuple[int, int]) -> Float[Array, "h w D"]:
    """What timm's loader of NPZ files does: no antialiasing."""
    return _resample(table, new_grid, _triangle, reach=1, antialias=False)


def resample_corners(table: Float[Array, "rows columns D"], new_grid: tuple[int, int]) -> Float[Array, "h w D"]:
    """What vit_jax and big_vision do (`scipy.ndimage.zoom`, order 1): the corners of both grids coincide."""
    matrices = [_corner_matrix(old, new) for old, new in zip(table.shape[:2], new_grid, strict=True)]
    return _apply(table, matrices)


def _resample(
    table: Array, new_grid: tuple[int, int], kernel: Callable[[np.ndarray], np.ndarray], *, reach: int, antialias: bool
) -> jax.Array:
    matrices = [
        _matrix(old, new, kernel, reach=reach, antialias=antialias)
        for old, new in zip(table.shape[:2], new_grid, strict=True)
    ]
    return _apply(table, matrices)


def _apply(table: Array, matrices: list[np.ndarray]) -> jax.Array:
    rows, columns = (jnp.asarray(matrix, jnp.float32) for matrix in matrices)
    return jnp.einsum("hr,wc,rcd->hwd", rows, columns, jnp.asarray(table), precision="highest")


def _matrix(
    old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], *, reach: int, antialias: bool
) -> np.ndarray:
    """`[new, old]` weights of one axis."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    if antialias:
        # The kernel widens with the step, is cut off at the edges, and its weights are made to sum to 1 again.
        stretch = max(old / new, 1.0)
        weights = kernel((np.arange(old)[None] - centres[:, None]) / stretch)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(centres)[:, None] + np.arange(1 - reach, 1 + reach)[None]
    weights = kernel(taps - centres[:, None])
    matrix = np.zeros((new, old))
    # Taps beyond the edge read the edge.
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)), weights)
    return matrix


def _corner_matrix(old: int, new: int) -> np.ndarray:
    centres = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    return _triangle(np.arange(old)[None] - centres[:, None])


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981, eq. 15)."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def sincos_1d(coordinates: Float[Array, "*shape"], width: int) -> Float[Array, "*shape width"]:
    """`[sin(c ω_k), cos(c ω_k)]` with `ω_k = 10000^(-k / (width/2 - 1))`, k from 0 to width/2 - 1.

    Args:
        coordinates: in units of patches.
        width: even, at least 4.
    """
    if width % 2 or width < 4:
        raise UserError(f"sinusoidal positions: `width` (={width}) of an axis must be even and at least 4")
    half = width // 2
    frequencies = jnp.asarray(10000.0 ** (-np.arange(half) / (half - 1)), jnp.float32)
    angles = jnp.asarray(coordinates)[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sincos_2d(grid: tuple[int, int], width: int) -> Float[Array, "N D"]:
    """The fixed table of Beyer et al. 2022 (Better plain ViT baselines): columns in the first half, rows in the second.

    Args:
        grid: rows and columns; tokens are row-major.
        width: D, divisible by 4.
    """
    if width % 4:
        raise UserError(f"sinusoidal positions: `width` (={width}) must be divisible by 4")
    rows, columns = np.indices(grid, dtype=np.float32).reshape(2, -1)
    return jnp.concatenate([sincos_1d(columns, width // 2), sincos_1d(rows, width // 2)], axis=-1)
