"""NaViT with Segmenter's linear decoder: a class for every pixel of packed images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.layers.dense import Dense
from vitjax.models.navit import AllTokens, NaViT

__all__ = ["NaViTSegmenter"]


class NaViTSegmenter(nn.Module):
    """One linear map from each token to the logits of its patch; images stay as far apart as in `NaViT`.

    Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution. Dehghani et al., 2023.
    https://arxiv.org/abs/2307.06304. Its linear decoder is that of Segmenter: Transformer for Semantic Segmentation.
    Strudel et al., 2021. https://arxiv.org/abs/2105.05633, section 3.2. The task, `tasks.packed_segmentation`,
    interpolates the logits between patches.

    Intermediates: NaViT's below `backbone`.

    Attributes:
        num_classes: background included. `None` is filled in by the trainer.
        trunk: factory of a NaViT, without `num_classes`, `pool` and `norm_before_head`; its variables are those of the
            classifier without pooling and head, below `backbone`.
        dtype: compute type, "float32" or "bfloat16"; parameters and logits are float32.
    """

    num_classes: int | None = None
    trunk: Callable[..., NaViT] = NaViT
    dtype: str = "float32"

    def describe(self, **inputs: Any) -> str:
        """The attention that runs for these inputs, in words."""
        return self.trunk(dtype=self.dtype, parent=None).describe(**inputs)

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B N P"],
        segments: Int[Array, "B N"],
        positions: Int[Array, "B N 2"],
        grid_sizes: Int[Array, "B S 2"],
        *,
        buckets: tuple[Int[Array, "G _ _"], ...] | None = None,
        train: bool = False,
    ) -> dict[str, Float[Array, "B N classes"]]:
        """`logits` of each token's patch; padding's mean nothing. Arguments as for `NaViT`.

        Raises:
            UserError: `num_classes` is not set, or what `NaViT` raises.
        """
        if not self.num_classes:
            raise UserError(f"NaViTSegmenter: `num_classes` (={self.num_classes}) must be set: classes of pixels")
        whole = partial(self.trunk, num_classes=0, pool=AllTokens, norm_before_head=None, dtype=self.dtype)
        tokens = whole(name="backbone")(patches, segments, positions, grid_sizes, buckets=buckets, train=train)
        # The authors' start.
        decoder = Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(0.02), name="decoder")
        return {"logits": decoder(tokens)}
