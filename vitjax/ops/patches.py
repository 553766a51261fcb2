"""Cutting images into patches, and kernels of patches brought to another size (FlexiViT's PI-resize)."""

import functools

import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.ops.dense import dense_product

__all__ = ["bilinear_matrix", "cut_patches", "project_patches", "resize_patch_kernel"]

Size = tuple[int, int]


def cut_patches(images: Float[Array, "B H W C"], patch_size: int | Size) -> tuple[Float[Array, "B N P"], Size]:
    """Flattened patches in (row, column, channel) order, row-major, and their grid.

    Raises:
        UserError: a side is not divisible by the patch.
    """
    high, wide = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    batch, height, width, channels = images.shape
    if height % high or width % wide:
        shown = high if high == wide else f"{high}x{wide}"
        raise UserError(
            f"an image of {height}x{width} px cannot be cut into patches of {shown} px; "
            f"resize or crop it to a multiple of `patch_size` (={patch_size})"
        )
    rows, columns = height // high, width // wide
    patches = jnp.asarray(images).reshape(batch, rows, high, columns, wide, channels)
    patches = patches.transpose(0, 1, 3, 2, 4, 5)  # B rows columns p p C
    return patches.reshape(batch, rows * columns, high * wide * channels), (rows, columns)


def project_patches(
    patches: Float[Array, "B N P"], kernel: Float[Array, "P D"], bias: Float[Array, "D"], dtype: str
) -> Float[Array, "B N D"]:
    """`patches @ kernel + bias`, computed in `dtype`."""
    tokens = dense_product(patches.reshape(-1, patches.shape[-1]), kernel, dtype)
    return (tokens + jnp.asarray(bias, tokens.dtype)).reshape(*patches.shape[:2], -1)


def resize_patch_kernel(kernel: Float[Array, "rows columns C D"], size: Size) -> Float[Array, "h w C D"]:
    """PI-resize: the kernel that gives a resized patch the token that the patch had (Beyer et al. 2023, section 3.4).

    With B the matrix of the bilinear resize of a patch from the kernel's own size to `size`, each channel of the kernel
    becomes `pinv(B^T) @ kernel`: exactly `<x, w> = <B x, w'>` for every patch x if B enlarges, the least mean square
    error over white noise if it shrinks. B is the Kronecker product of the resizes of rows and of columns, and so is
    its pseudo-inverse: two small products instead of a large one, through which gradients reach the kernel.

    Args:
        kernel: of one patch, as a convolution's.
        size: rows and columns of a patch.
    """
    rows, columns = (_inverse_resize(old, new) for old, new in zip(kernel.shape[:2], size, strict=True))
    if kernel.shape[:2] == size:
        return jnp.asarray(kernel)
    return jnp.einsum(
        "hr,wc,rcid->hwid", jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32), jnp.asarray(kernel),
        precision="highest",
    )  # fmt: skip


def bilinear_matrix(old: int, new: int) -> np.ndarray:
    """`[new, old]` weights of one axis: half-pixel centres, edges repeated, no antialiasing.

    The resize that the paper's patches go through: TensorFlow's bilinear, PyTorch's with `align_corners=False`.
    """
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(np.arange(old)[None] - centres[:, None]))


@functools.lru_cache(maxsize=256)
def _inverse_resize(old: int, new: int) -> np.ndarray:
    """`[new, old]`: the pseudo-inverse of the transposed `bilinear_matrix`, float64."""
    matrix = np.eye(old) if old == new else np.linalg.pinv(bilinear_matrix(old, new).T)
    matrix.setflags(write=False)
    return matrix
