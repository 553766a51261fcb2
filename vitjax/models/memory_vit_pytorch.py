"""The ViT and Adapter of vit-pytorch, composed from `MemoryViT`, so that models trained with them can be used here.

Where they depart from the paper (Sandler et al. 2022): memory joins behind the norm, an added class token has no
position and its head a norm of its own; both start at a standard deviation of 1. Names of the arguments are theirs.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.models.memory_vit import MemoryTask, MemoryViT, no_position, plain_memory
from vitjax.models.vit import cut_patches

__all__ = ["NormedPatchEmbedding", "torch_norm", "vit_pytorch_adapter"]

torch_norm = functools.partial(LayerNorm, epsilon=1e-5)
"""Layer norm with torch's epsilon."""


class NormedPatchEmbedding(nn.Module):
    """Layer norms before and behind the projection of patches.

    Attributes:
        patch_size: side of a patch, pixels.
        width: D.
        dtype: compute type.
    """

    patch_size: int
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], grid: tuple[int, int] | None, train: bool
    ) -> tuple[Float[Array, "B N D"], tuple[int, int]]:
        """Tokens, row-major, and their grid, which is that of the images.

        Raises:
            UserError: a side is not divisible by the patch, or `grid` is another.
        """
        patches, found = cut_patches(jnp.asarray(images), self.patch_size)
        if grid not in (None, found):
            raise UserError(f"images of {images.shape[1]}x{images.shape[2]} px have {found} patches, not {grid}")
        patches = torch_norm(dtype=self.dtype, name="patch_norm")(patches)
        tokens = Dense(self.width, dtype=self.dtype, name="projection")(patches)
        return torch_norm(dtype=self.dtype, name="token_norm")(tokens), found


def vit_pytorch_adapter(
    *,
    image_size: int | tuple[int, int],
    patch_size: int,
    num_classes: int,
    dim: int,
    depth: int,
    heads: int,
    mlp_dim: int,
    dim_head: int = 64,
    adapter_classes: int = 2,
    num_memories_per_layer: int = 10,
    **overrides: Any,
) -> MemoryViT:
    """`Adapter(vit=ViT(...))` of `vit_pytorch.learnable_memory_vit`; the adapter's task is called "adapter".

    Args:
        image_size: side, or (rows, columns), in pixels.
        patch_size: side of a patch.
        num_classes: outputs of the ViT.
        dim: width.
        depth: blocks.
        heads: attention heads.
        mlp_dim: width of the MLPs.
        dim_head: size of a head.
        adapter_classes: outputs of the adapter, its `num_classes`.
        num_memories_per_layer: memory cells.
        **overrides: further keywords of `MemoryViT`.
    """
    keywords: dict[str, Any] = {
        "tasks": (MemoryTask("adapter", num_memories_per_layer, adapter_classes),),
        "num_classes": adapter_classes,
        "base_classes": num_classes,
        "prepare_memory": plain_memory,
        "place_class_token": no_position,
        "task_norm": torch_norm,
        "embedding": NormedPatchEmbedding,
        "use_qkv_bias": False,
        "norm_epsilon": 1e-5,
    }
    return MemoryViT(
        image_size=image_size, patch_size=patch_size, width=dim, depth=depth, num_heads=heads, mlp_width=mlp_dim,
        head_size=dim_head, **(keywords | overrides),
    )  # fmt: skip
