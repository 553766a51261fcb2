"""Feature maps brought to another size, as torch's `interpolate` does it."""

import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.ops.patches import bilinear_matrix

__all__ = ["resize_bilinear"]


def resize_bilinear(
    images: Float[Array, "B H W C"], size: tuple[int, int], *, align_corners: bool
) -> Float[Array, "B h w C"]:
    """Bilinear interpolation without antialiasing, also where it shrinks.

    Two small matrix products, whose gradients are matrix products as well: a gather's would be a scatter. In float32,
    returned in the images' type.

    Args:
        images: maps of any size.
        size: rows and columns wanted.
        align_corners: the centres of the corner pixels keep their places; otherwise the outer edges of the map do.

    Raises:
        UserError: a side of `size` is not positive.
    """
    if min(size) < 1:
        raise UserError(f"resize_bilinear: `size` (={size}) must be positive")
    images = jnp.asarray(images)
    if images.shape[1:3] == tuple(size):
        return images
    matrix = _corner_matrix if align_corners else bilinear_matrix
    rows, columns = (
        jnp.asarray(matrix(old, new), jnp.float32) for old, new in zip(images.shape[1:3], size, strict=True)
    )
    high = jnp.einsum("hr,brcd->bhcd", rows, images.astype(jnp.float32), precision="highest")
    return jnp.einsum("wc,bhcd->bhwd", columns, high, precision="highest").astype(images.dtype)


def _corner_matrix(old: int, new: int) -> np.ndarray:
    """`[new, old]` weights of one axis: first and last pixels stay where they are."""
    centres = np.arange(new) * ((old - 1) / max(new - 1, 1))
    return np.maximum(0.0, 1.0 - np.abs(np.arange(old)[None] - centres[:, None]))
