"""Maps on packed tokens: each token's neighbours in its image, and values between patches by bilinear interpolation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.ops.patches import bilinear_matrix
from vitjax.ops.segments import gather_rows

__all__ = ["neighbours", "upsample_tokens"]

_STEPS = np.moveaxis(np.indices((3, 3)), 0, -1).reshape(9, 2) - 1
"""(rows, columns) to each of the 3 x 3 places around a token, in raster order: step 8 - d leads back from step d."""


def neighbours(segments: Int[Array, "B N"], positions: Int[Array, "B N 2"]) -> Int[Array, "B N 9"]:
    """Number, within its row, of the token at each of the 3 x 3 places around each token, in raster order.

    Found by binary search among the tokens in the order (image, row, column): N log N, wherever they lie.

    Args:
        segments: the image of each token, 1...S; 0 is padding.
        positions: (row, column) of each patch in its image's grid.

    Returns:
        N where there is none: outside of the image, where a token was dropped, and all around padding.
    """
    segments, positions = jnp.asarray(segments), jnp.asarray(positions)
    span = positions.max() + 3  # rows and columns from -1 to one beyond the last

    def key_of(places: Array, segments: Array) -> Array:
        return (segments * span + places[..., 0] + 1) * span + places[..., 1] + 1

    keys = jnp.where(segments > 0, key_of(positions, segments), -1)
    wanted = key_of(positions[:, :, None] + jnp.asarray(_STEPS, positions.dtype), segments[:, :, None])  # B N 9
    order = jnp.argsort(keys, axis=1)
    ordered = jnp.take_along_axis(keys, order, axis=1)
    count = keys.shape[1]
    at = jnp.minimum(jax.vmap(jnp.searchsorted)(ordered, wanted), count - 1).reshape(len(keys), -1)
    found = jnp.take_along_axis(ordered, at, axis=1).reshape(wanted.shape) == wanted
    tokens = jnp.take_along_axis(order, at, axis=1).reshape(wanted.shape)
    return jnp.where(found & (segments > 0)[:, :, None], tokens, count).astype(jnp.int32)


def upsample_tokens(
    values: Float[Array, "B N D"], near: Int[Array, "B N 9"], factor: int
) -> Float[Array, "B N pixels D"]:
    """Values of the `factor` x `factor` pixels of each patch, as resizing each image's own map of values gives them.

    Bilinear with half-pixel centres, the edges repeated: Segmenter's upsampling (Strudel et al., 2021, section 3.2),
    torch's with `align_corners=False`. A neighbour that was dropped counts for nothing, and the weights of those that
    are left are made to add up to 1; at an image's edge that is the repeating. The token itself has at least a quarter.
    Gradients are gathers as well: nothing is scattered. What padding gets is 0.

    Args:
        values: of each token, float.
        near: of `neighbours`.
        factor: pixels along a side of a patch.

    Raises:
        UserError: the factor is not positive.
    """
    if factor < 1:
        raise UserError(f"upsample_tokens: `factor` (={factor}) must be at least 1")
    near, count = jnp.asarray(near), values.shape[1]
    weights = jnp.asarray(_weights(factor), values.dtype)  # 9 pixels
    around = jnp.stack([gather_rows(values, near[:, :, d], near[:, :, 8 - d]) for d in range(9)], axis=2)
    sums = jnp.einsum("bnkd,kp->bnpd", around, weights, precision="highest")
    present = jnp.einsum("bnk,kp->bnp", (near < count).astype(values.dtype), weights, precision="highest")
    return sums / jnp.where(present > 0, present, 1.0)[..., None]


@functools.lru_cache(maxsize=32)
def _weights(factor: int) -> np.ndarray:
    """`[9, pixels]`: what each of the 3 x 3 patches gives to each pixel of the middle one."""
    axis = bilinear_matrix(3, 3 * factor)[factor : 2 * factor]  # pixel, patch: the middle third of three in a row
    weights = np.einsum("ya,xb->abyx", axis, axis).reshape(9, factor**2)
    weights.setflags(write=False)
    return weights
