"""The Hybrid Vision Transformer: a ViT on the features of a residual network."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.layers.convolution import standardise_by_deviation
from vitjax.models.bit_resnet import BitResNet
from vitjax.models.vit import ViT, with_vit_keywords
from vitjax.ops.patches import cut_patches, project_patches

__all__ = ["MODEL", "VARIANTS", "HybridEmbedding", "hybrid_vit"]


class HybridEmbedding(nn.Module):
    """Patches are cut from a feature map instead of the image ("Hybrid architecture", section 3.1).

    Attributes:
        patch_size: side of a patch in pixels of the image; on the features it is that over the backbone's stride.
        width: D.
        backbone: factory of a module from images to features, with a `stride`.
        dtype: compute type.
    """

    patch_size: int
    width: int
    backbone: Callable[..., nn.Module] = BitResNet
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], grid: tuple[int, int] | None, train: bool
    ) -> tuple[Float[Array, "B N D"], tuple[int, int]]:
        """Tokens, row-major, and their grid.

        Raises:
            UserError: the backbone's stride does not divide the patch, or the patch does not divide the image.
        """
        network: Any = self.backbone(dtype=self.dtype, name="network")
        side, rest = divmod(self.patch_size, network.stride)
        if rest or not side:
            raise UserError(
                f"Hybrid: `patch_size` (={self.patch_size}) must be a multiple of the backbone's stride "
                f"(={network.stride}), in pixels of the image"
            )
        rows, columns = images.shape[1:3]
        if rows % self.patch_size or columns % self.patch_size:
            raise UserError(
                f"an image of {rows}x{columns} px cannot be cut into patches of {self.patch_size} px; "
                f"resize or crop it to a multiple of `patch_size` (={self.patch_size})"
            )
        if grid is not None:
            raise UserError(f"Hybrid: patches have one size, but `grid` asks for {grid[0]}x{grid[1]}")
        features = network(images)
        self.sow("intermediates", "features", features)
        patches, found = cut_patches(features, side)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (patches.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
        return project_patches(patches, kernel, bias, self.dtype), found


@with_vit_keywords("embedding")
def hybrid_vit(
    *,
    stages: tuple[int, ...] = (3, 4, 9),
    stem_width: int = 64,
    num_groups: int = 32,
    standardise: Callable[[Array], Array] = standardise_by_deviation,
    group_norm_epsilon: float = 1e-6,
    **keywords: Any,
) -> ViT:
    """A ViT on the features of `BitResNet`; on from the embedding it is a ViT.

    An Image is Worth 16x16 Words. Dosovitskiy et al., 2021. https://arxiv.org/abs/2010.11929, section 3.1; the smaller
    ones are those of How to train your ViT?, Steiner et al., 2022. https://arxiv.org/abs/2106.10270

    Args:
        stages: units of each stage of the network; see `BitResNet`.
        stem_width: channels of its root.
        num_groups: of its norms.
        standardise: how its kernels are standardised.
        group_norm_epsilon: of its norms.
        **keywords: of `ViT`. `patch_size` counts pixels of the image: R50+ViT-B/16 has 16, where one pixel of its
            features is a patch.
    """
    backbone = functools.partial(
        BitResNet,
        stages=stages,
        width=stem_width,
        num_groups=num_groups,
        standardise=standardise,
        norm_epsilon=group_norm_epsilon,
    )
    return ViT(embedding=functools.partial(HybridEmbedding, backbone=backbone), **keywords)


_TINY = {"width": 192, "depth": 12, "num_heads": 3, "mlp_width": 768}
_SMALL = {"width": 384, "depth": 12, "num_heads": 6, "mlp_width": 1536}
_BASE = {"width": 768, "depth": 12, "num_heads": 12, "mlp_width": 3072}
_LARGE = {"width": 1024, "depth": 24, "num_heads": 16, "mlp_width": 4096}

_MODELS: dict[str, dict[str, Any]] = {
    # R+ViT-Ti/16 is called after 16 px by everybody, but root (4) times patch (8) makes tokens of 32 px.
    "vit_tiny_r_s16_p8": {"stages": (), "patch_size": 32, **_TINY},
    "vit_small_r26_s32": {"stages": (2, 2, 2, 2), "patch_size": 32, **_SMALL},
    "vit_base_r26_s32": {"stages": (2, 2, 2, 2), "patch_size": 32, **_BASE},
    "vit_base_r50_s16": {"stages": (3, 4, 9), "patch_size": 16, **_BASE},
    "vit_large_r50_s32": {"stages": (3, 4, 6, 3), "patch_size": 32, **_LARGE},
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"{name}_{image}": {**keywords, "image_size": image, "num_classes": 1000}
    for name, keywords in _MODELS.items()
    for image in (224, 384)
}
"""Name -> keywords of `hybrid_vit`; timm's names."""

MODEL = hybrid_vit
