"""DETR on packed rows: a NaViT reads the images, and a decoder finds each one's objects among its own tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.layers.dense import Dense
from vitjax.models.detr import BoxHead
from vitjax.models.detr_transformer import Decoder, torch_bias, torch_dense
from vitjax.models.navit import AllTokens, NaViT
from vitjax.models.vit import check_transformer
from vitjax.ops.segments import own_grid, slot_mask
from vitjax.ops.sine_positions import grid_sine_positions

__all__ = ["PackedDETR"]


class PackedDETR(nn.Module):
    """NaViT in the place of DETR's backbone and encoder; Q learned queries for every slot of a row.

    Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution. Dehghani et al., 2023.
    https://arxiv.org/abs/2307.06304, which detects with a NaViT backbone below OWL-ViT's heads. Here decoder and heads
    are those of End-to-End Object Detection with Transformers. Carion et al., 2020. https://arxiv.org/abs/2005.12872,
    section 3.2 and appendix A.3; the NaViT's blocks are its encoder.

    The queries of a slot attend to one another, and to the tokens of their own image under a mask: the map of a row is
    [S * Q, N], S times what its images alone would need, beside which stands the trunk's attention. An image's objects
    are the same whatever is packed with it. What the queries of an empty slot find is finite and means nothing.

    Intermediates: NaViT's below `backbone`, `projected` `[B, N, D]`, `decoder/block_{i}_output` `[B * S, Q, D]`.

    Attributes:
        num_classes: of objects. `None` is filled in by the trainer.
        trunk: factory of a NaViT, without `num_classes`, `pool` and `norm_before_head`; its variables are those of the
            classifier without pooling and head, below `backbone`.
        num_queries: Q, more than a picture has objects.
        width: D, of the decoder; divisible by 4.
        num_heads: A.
        mlp_width: in the middle of the decoder's MLPs.
        decoder_depth: L, blocks of the decoder.
        dropout_rate: of attention probabilities, behind each attention, and twice in each MLP of the decoder.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms, softmax and heads are float32.
    """

    num_classes: int | None = None
    trunk: Callable[..., NaViT] = NaViT
    num_queries: int = 100
    width: int = 256
    num_heads: int = 8
    mlp_width: int = 2048
    decoder_depth: int = 6
    dropout_rate: float = 0.1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="PackedDETR")
        for name in ("num_queries", "decoder_depth"):
            if getattr(self, name) < 1:
                raise UserError(f"PackedDETR: `{name}` (={getattr(self, name)}) must be at least 1")

    def describe(self, **inputs: Any) -> str:
        """The trunk's attention for these inputs, in words."""
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
    ) -> dict[str, Float[Array, "L slots Q _"]]:
        """Predicts a set of Q objects for each slot, once behind every block of the decoder, the last one last.

        Arguments as for `NaViT`.

        Returns:
            `logits` `[L, B * S, Q, num_classes + 1]`, where the last class is no object, and `boxes`
            `[L, B * S, Q, 4]`, `boxes_cxcywh` in 0 to 1 of the picture; float32. Slots stand in the order of
            `grid_sizes`.

        Raises:
            UserError: `num_classes` is not set, 4 does not divide `width`, or what `NaViT` raises.
        """
        if not self.num_classes:
            raise UserError(f"PackedDETR: `num_classes` (={self.num_classes}) must be set: classes of objects")
        (batch, slots), segments = grid_sizes.shape[:2], jnp.asarray(segments)
        whole = partial(self.trunk, num_classes=0, pool=AllTokens, norm_before_head=None, dtype=self.dtype)
        tokens = whole(name="backbone")(patches, segments, positions, grid_sizes, buckets=buckets, train=train)
        project = Dense(
            self.width, kernel_init=torch_dense, bias_init=torch_bias(tokens.shape[-1]), dtype=self.dtype,
            name="projection",
        )  # fmt: skip
        memory = project(tokens)
        self.sow("intermediates", "projected", memory)
        places = grid_sine_positions(positions, own_grid(grid_sizes, segments), self.width).astype(memory.dtype)
        embedding = self.param("query_embedding", nn.initializers.normal(1.0), (self.num_queries, self.width))
        decoder = Decoder(
            self.decoder_depth, self.num_heads, self.mlp_width, self.dropout_rate, self.dtype, name="decoder"
        )
        states = decoder(
            jnp.tile(embedding.astype(memory.dtype), (batch * slots, 1)),
            memory.reshape(-1, self.width),
            places.reshape(-1, self.width),
            batch=batch,
            slots=slots,
            mask=jnp.repeat(slot_mask(segments, slots), self.num_queries, axis=1),
            train=train,
        ).astype(jnp.float32)
        head = Dense(self.num_classes + 1, kernel_init=torch_dense, bias_init=torch_bias(self.width), name="class_head")
        return {"logits": head(states), "boxes": BoxHead(name="box_head")(states)}
