"""FlexiViT: one Vision Transformer for all patch sizes."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.models.vit import LearnedPositions, PatchEmbedding, ViT, with_vit_keywords
from vitjax.ops.patches import cut_patches, project_patches, resize_patch_kernel
from vitjax.ops.positions import resample_bilinear_antialias

__all__ = ["MODEL", "VARIANTS", "FlexiEmbedding", "FlexiPositions", "at_patch_size", "flexivit"]

Size = int | tuple[int, int]


def _sides(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class FlexiEmbedding(nn.Module):
    """Patches of any size through one underlying kernel, which PI-resize brings to that size (section 3.4).

    Attributes:
        patch_size: side of a patch where no grid is asked for, pixels.
        width: D.
        kernel_size: side, or (rows, columns), of the underlying kernel.
        dtype: compute type; the kernel is resized in float32.
    """

    patch_size: int
    width: int
    kernel_size: Size = 32
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], grid: tuple[int, int] | None, train: bool
    ) -> tuple[Float[Array, "B N D"], tuple[int, int]]:
        """Tokens, row-major, and their grid: `grid`, or what patches of `patch_size` make.

        Raises:
            UserError: the image cannot be cut so.
        """
        own = _sides(self.kernel_size)
        shape = (own[0] * own[1] * images.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.normal(self.width**-0.5), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
        patch = _sides(self.patch_size) if grid is None else _patch_of(images.shape[1:3], grid)
        patches, found = cut_patches(images, patch)
        kernel = resize_patch_kernel(kernel.reshape(*own, images.shape[-1], self.width), patch)
        return project_patches(patches, kernel.reshape(-1, self.width), bias, self.dtype), found


def _patch_of(image: tuple[int, ...], grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a patch that makes this grid."""
    if any(sides < 1 for sides in grid) or image[0] % grid[0] or image[1] % grid[1]:
        raise UserError(
            f"an image of {image[0]}x{image[1]} px cannot be cut into a `grid` of {grid[0]}x{grid[1]} patches of equal "
            "whole sides; choose divisors of the sides"
        )
    return image[0] // grid[0], image[1] // grid[1]


class FlexiPositions(nn.Module):
    """A learned grid of positions, resized for every call to the grid at hand; the class token has none (section 3.4).

    Attributes:
        position_grid: side, or (rows, columns), of the underlying grid.
    """

    position_grid: Size = 7

    @nn.compact
    def __call__(
        self, table_grid: tuple[int, int], grid: tuple[int, int], width: int, num_prefix: int
    ) -> tuple[Float[Array, "prefix D"], Float[Array, "N D"]]:
        """As `vit.LearnedPositions`; `table_grid`, the grid at the default patch size, plays no part."""
        own = _sides(self.position_grid)
        table = self.param("table", nn.initializers.normal(width**-0.5), (own[0] * own[1], width), jnp.float32)
        if grid != own:
            table = resample_bilinear_antialias(table.reshape(*own, width), grid).reshape(-1, width)
        return jnp.zeros((num_prefix, width)), table


@with_vit_keywords("embedding", "positions")
def flexivit(
    *,
    image_size: Size = 240,
    kernel_size: Size = 32,
    position_grid: Size = 7,
    **keywords: Any,
) -> ViT:
    """A ViT whose patch size is chosen at every call: `model.apply(variables, images, grid=(rows, columns))`.

    FlexiViT: One Model for All Patch Sizes. Beyer et al., 2023. https://arxiv.org/abs/2212.08013

    Only the patch embedding's kernel and the positions depend on the patch size; both are resized inside the model
    from underlying parameters, which therefore get the gradients of all sizes. Images of 240 px have patches of 48,
    40, 30, 24, 20, 16, 15, 12, 10 and 8 px. `at_patch_size` makes a plain ViT of one patch size from it.

    Args:
        image_size: of the images, pixels.
        kernel_size: of the underlying kernel.
        position_grid: of the underlying positions.
        **keywords: of `ViT`; `patch_size` is that of a call without `grid`.
    """
    return ViT(
        image_size=image_size,
        embedding=functools.partial(FlexiEmbedding, kernel_size=kernel_size),
        positions=functools.partial(FlexiPositions, position_grid=position_grid),
        **keywords,
    )


def at_patch_size(module: ViT, variables: Mapping[str, Any], patch_size: int) -> tuple[ViT, dict[str, Any]]:
    """The plain ViT that a FlexiViT is at one patch size on images of its `image_size`: resized once and for all.

    Args:
        module: a FlexiViT.
        variables: its variables, `{"params": ..., ...}`.
        patch_size: side of the patches from now on, pixels.

    Returns:
        The ViT, and its variables.

    Raises:
        UserError: the patch does not divide the image.
    """
    plain = module.clone(
        patch_size=patch_size,
        embedding=PatchEmbedding,
        positions=functools.partial(LearnedPositions, embed_class=False, resampling=resample_bilinear_antialias),
    )
    embedding: Any = module.embedding(patch_size=patch_size, width=module.width, parent=None)
    rows, columns = _sides(embedding.kernel_size)
    params = dict(variables["params"])
    kernel = params["patch_embedding"]["kernel"].reshape(rows, columns, -1, module.width)
    resized = resize_patch_kernel(kernel, (patch_size, patch_size)).reshape(-1, module.width)
    params["patch_embedding"] = {**params["patch_embedding"], "kernel": resized}
    positions: Any = module.positions(parent=None)
    _, table = positions.apply({"params": params["position_embedding"]}, plain.grid, plain.grid, module.width, 0)
    params["position_embedding"] = {"table": table}
    return plain, {**variables, "params": params}


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "flexivit_small": {"width": 384, "depth": 12, "num_heads": 6, "mlp_width": 1536, "num_classes": 1000},
    "flexivit_base": {"width": 768, "depth": 12, "num_heads": 12, "mlp_width": 3072, "num_classes": 1000},
    "flexivit_large": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_width": 4096, "num_classes": 1000},
}
"""Name -> keywords of `flexivit`; timm's names, the sizes of ViT's."""

MODEL = flexivit
