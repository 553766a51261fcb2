"""ViT and NaViT as backbones of DETR; ResNet's is `ResNetTrunk` itself.

A backbone is a factory of a module `(images, content_size, train=...) -> {stage: map}`, which takes `dtype` and `name`
and says its `stride`, the pixels of the picture per pixel of the last map; see `DETR`.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.models.navit import AllTokens, NaViT
from vitjax.models.vit import ViT
from vitjax.ops.padded_maps import clear_padding, content_mask
from vitjax.ops.patches import cut_patches

__all__ = ["NaViTBackbone", "ViTBackbone"]


class _AllTokens(nn.Module):
    """In the place of a ViT's pooling: all patches, one after another."""

    def __call__(self, tokens: Float[Array, "B N D"], num_prefix: int, train: bool) -> Float[Array, "B values"]:
        """Without the class token."""
        return tokens[:, num_prefix:].reshape(tokens.shape[0], -1)


class ViTBackbone(nn.Module):
    """A ViT whose tokens, behind its final norm, are the map `tokens`, at one pixel per patch.

    Its variables are those of the ViT without head, below `vit`. Positions are resampled to the images' size. A ViT
    looks at all of its image: padding is seen as zeros, and a padded picture is another than the same alone. Give
    pictures that fill their frames, or take a NaViT.

    Attributes:
        model: factory of a ViT, without `num_classes`, `pool` and `norm_after_pooling`.
        patch_size: side of a patch.
        dtype: compute type.
    """

    model: Callable[..., ViT] = ViT
    patch_size: int = 16
    dtype: str = "float32"

    @property
    def stride(self) -> int:
        """Pixels of the image per token."""
        return self.patch_size

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], content_size: Int[Array, "B 2"] | None = None, *, train: bool = False
    ) -> dict[str, Float[Array, "B h w D"]]:
        """The map; sides that patches do not divide are filled up with zeros.

        Args:
            images: of any size.
            content_size: rows and columns of each picture; what is outside is set to zero.
            train: dropout and stochastic depth act.
        """
        images = _whole_patches(clear_padding(images, content_size), self.patch_size)
        make = partial(self.model, patch_size=self.patch_size, num_classes=0, pool=_AllTokens, dtype=self.dtype)
        tokens = make(norm_after_pooling=False, name="vit")(images, train=train)
        return {"tokens": _as_map(tokens, images, self.patch_size)}


class NaViTBackbone(nn.Module):
    """A NaViT with one picture in each row; its tokens, behind its final norm, are the map `tokens`.

    Its variables are those of the NaViT without pooling and head, below `navit`. Padding is segment 0, which no picture
    sees: a padded picture's tokens are those that it has alone.

    Attributes:
        model: factory of a NaViT, without `num_classes`, `pool` and `norm_before_head`.
        patch_size: side of a patch.
        max_grid: rows and columns of the largest frame, in patches.
        dtype: compute type.
    """

    model: Callable[..., NaViT] = NaViT
    patch_size: int = 16
    max_grid: tuple[int, int] = (64, 64)
    dtype: str = "float32"

    @property
    def stride(self) -> int:
        """Pixels of the image per token."""
        return self.patch_size

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], content_size: Int[Array, "B 2"] | None = None, *, train: bool = False
    ) -> dict[str, Float[Array, "B h w D"]]:
        """The map; sides that patches do not divide are filled up with zeros.

        Args:
            images: of any size up to `max_grid`.
            content_size: rows and columns of each picture; `None` takes the whole image.
            train: dropout and stochastic depth act.

        Raises:
            UserError: the frame has more patches than `max_grid`.
        """
        size, (batch, high, wide, _) = self.patch_size, images.shape
        sizes = jnp.full((batch, 2), jnp.asarray([high, wide])) if content_size is None else jnp.asarray(content_size)
        images = _whole_patches(clear_padding(images, content_size), size)
        patches, grid = cut_patches(images, size)
        if any(side > most for side, most in zip(grid, self.max_grid, strict=True)):
            raise UserError(
                f"NaViTBackbone: images of {high}x{wide} px have {grid[0]}x{grid[1]} patches of {size} px; `max_grid` "
                f"(={self.max_grid}) must be as large"
            )
        mask = content_mask(sizes, np.arange(grid[0]) * size, np.arange(grid[1]) * size)
        places = jnp.asarray(np.moveaxis(np.indices(grid), 0, -1).reshape(1, -1, 2), jnp.int32)
        make = partial(self.model, patch_size=size, max_grid=self.max_grid, num_classes=0, pool=AllTokens)
        tokens = make(norm_before_head=None, dtype=self.dtype, name="navit")(
            patches,
            mask.reshape(batch, -1).astype(jnp.int32),
            jnp.broadcast_to(places, (batch, *places.shape[1:])),
            -(-sizes[:, None] // size),
            train=train,
        )
        return {"tokens": _as_map(tokens, images, size)}


def _whole_patches(images: Array, patch_size: int) -> Array:
    """Zeros at the bottom and on the right, up to whole patches."""
    more = [-side % patch_size for side in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), (0, more[0]), (0, more[1]), (0, 0))) if any(more) else images


def _as_map(tokens: Array, images: Array, patch_size: int) -> Array:
    batch, high, wide, _ = images.shape
    return tokens.reshape(batch, high // patch_size, wide // patch_size, -1)
