"""NaViT: images of any size and aspect ratio, packed into rows."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.layers import pooling as pooling_layers
from vitjax.layers.attention import SelfAttention
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.packed_positions import FactorisedPositions
from vitjax.layers.transformer import MLP, Block
from vitjax.models.vit import check_transformer
from vitjax.ops.activations import gelu
from vitjax.ops.attention import attend_packed, attention_report, packed_plan
from vitjax.ops.segments import own_grid

__all__ = ["VARIANTS", "AllTokens", "AttentionPooling", "NaViT", "PatchEmbedding"]

_norm = functools.partial(LayerNorm, use_bias=False)


class PatchEmbedding(nn.Module):
    """One linear map from flattened patches to tokens.

    Attributes:
        use_bias: the paper has none.
    """

    use_bias: bool = False

    @nn.compact
    def __call__(self, patches: Float[Array, "T P"], width: int, dtype: str) -> Float[Array, "T D"]:
        """Position-wise."""
        lecun = nn.initializers.lecun_normal()
        return Dense(width, use_bias=self.use_bias, dtype=dtype, kernel_init=lecun, name="projection")(patches)


class AttentionPooling(nn.Module):
    """Masked attention pooling (section 2.2, "MAP" of Zhai et al. 2022): one vector per image of a row, no biases.

    Attributes:
        num_heads: A; the model's if not given.
        mlp_width: of the MLP behind the attention; four times the width if not given.
    """

    num_heads: int | None = None
    mlp_width: int | None = None

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], segments: Int[Array, "B N"], num_slots: int, model: "NaViT", train: bool
    ) -> Float[Array, "B S D"]:
        """Pools each image's own tokens; `model` says heads, norms and types."""
        width = tokens.shape[-1]
        pool = pooling_layers.AttentionPooling(
            num_heads=self.num_heads or model.num_heads,
            mlp=functools.partial(
                MLP, width=self.mlp_width or 4 * width, activation=model.activation, use_bias=False, dtype=model.dtype
            ),
            norm=functools.partial(model.norm, dtype=model.dtype),
            use_bias=False,
            query_norm=model.query_norm,
            key_norm=model.key_norm,
            dtype=model.dtype,
            name="attention",
        )
        return pool(tokens, segments, num_slots, train)


class AllTokens(nn.Module):
    """In the place of a pooling: every token as it is, for decoders that read them."""

    def __call__(
        self, tokens: Float[Array, "B N D"], segments: Int[Array, "B N"], num_slots: int, model: "NaViT", train: bool
    ) -> Float[Array, "B N D"]:
        """Padding included."""
        return tokens


class NaViT(nn.Module):
    """Native-resolution ViT: attention and pooling are masked so that each packed image sees only itself.

    Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution. Dehghani et al., 2023.
    https://arxiv.org/abs/2307.06304. Masked attention and pooling: section 2.2; factorised positions: section 2.2 and
    appendix; queries and keys normalised and no biases as in ViT-22B (Dehghani et al., 2023, section 2).

    Clips are packed like images, cut into tubelets (`vitjax.data.clips`), with a third, factorised position for time:
    what the paper does on Kinetics-400. `vitjax.transfer.clips` starts such a model from one of images.

    Where the public PyTorch versions differ (`vitjax.models.navit_pytorch` composes both from this class): they have
    biases in the MLPs and the patch embedding, layer norms around the latter, a pooling without MLP; one of them
    normalises queries and keys to a length instead, and leaves out the factor `1 / sqrt(K)`.

    Intermediates: `embedded`, `block_{i}_output`, `normed` (`[B, N, D]`), `pooled`, `features` (`[B, S, D]`).

    Settings have other names than submodules, which `flax.nnx.bridge.ToNNX` turns into attributes too.

    Attributes:
        num_classes: outputs per image; 0 returns the pooled features. `None` is filled in by the trainer.
        patch_size: side of a patch; P must be a multiple of its square.
        max_grid: rows and columns of the largest grid that learned absolute positions know; for clips (times, rows,
            columns). A patch beyond it is a `UserError` where positions are known, and NaN under `jit`: never a
            neighbour's position. `data` checks.
        width: D.
        depth: L.
        num_heads: A.
        head_size: K; `width / num_heads` if not given.
        mlp_width: size in the middle of the MLP.
        positions: factory of a module such as `FactorisedPositions` (`vitjax.layers.packed_positions`).
        embed: factory of a module such as `PatchEmbedding`.
        pool: factory of a module such as `AttentionPooling`.
        norm: factory of the blocks' and the final norm.
        query_norm: factory of the norm of queries, over `[B*N, A, K]`; `None` for none.
        key_norm: likewise for keys.
        norm_before_head: factory of a norm between pooling and head; `None` for none.
        attention_scale: factor of the logits; `1 / sqrt(K)` if not given.
        use_mlp_bias: biases in the MLPs.
        activation: of the MLPs.
        zero_init_head: the head starts at zero; otherwise lecun-normal.
        head_bias: what the head's biases start at; `None` for no biases.
        dropout_rate: after the positions, after the attention, and twice in the MLP.
        drop_path_rate: of the last block; rises linearly from 0 at the first; decided per image.
        remat: recompute each block in the backward pass instead of keeping its insides.
        attention_implementation: see `vitjax.ops.attention.select_packed_attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax are float32.
    """

    num_classes: int | None = None
    patch_size: int = 16
    max_grid: tuple[int, ...] = (64, 64)
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    head_size: int | None = None
    mlp_width: int = 3072
    positions: Callable[..., nn.Module] = FactorisedPositions
    embed: Callable[..., nn.Module] = PatchEmbedding
    pool: Callable[..., nn.Module] = AttentionPooling
    norm: Callable[..., nn.Module] = _norm
    query_norm: Callable[..., nn.Module] | None = _norm
    key_norm: Callable[..., nn.Module] | None = _norm
    norm_before_head: Callable[..., nn.Module] | None = None
    attention_scale: float | None = None
    use_mlp_bias: bool = False
    activation: Callable[[Array], Array] = gelu
    zero_init_head: bool = True
    head_bias: float | None = 0.0
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False
    attention_implementation: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="NaViT", head_size=self.head_size)
        if len(self.max_grid) not in (2, 3) or min(self.max_grid) < 1:
            raise UserError(
                f"NaViT: `max_grid` (={self.max_grid}) must be positive numbers, (rows, columns), or for clips "
                "(times, rows, columns)"
            )

    def describe(self, patches: Any, segments: Any, positions: Any, grid_sizes: Any, buckets: Any = None) -> str:
        """The attention that runs for these inputs, in words; only shapes matter."""
        return attention_report(
            packed=True,
            dtype=self.dtype,
            length=patches.shape[1],
            head_size=self.head_size or self.width // self.num_heads,
            has_buckets=buckets is not None,
            implementation=self.attention_implementation,
        )

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B N P"],
        segments: Int[Array, "B N"],
        positions: Int[Array, "B N axes"],
        grid_sizes: Int[Array, "B S axes"],
        *,
        buckets: tuple[Int[Array, "G _ _"], ...] | None = None,
        train: bool = False,
    ) -> Float[Array, "B _ classes"]:
        """Classifies every image of every row, `[B, S, classes]`; an empty slot's numbers are finite and mean nothing.

        Args:
            patches: normalised values, a patch flattened (row, column, channel), a tubelet with time in front.
            segments: the image of each token, 1…S; 0 is padding.
            positions: (row, column) of the patch in its image's grid; of clips (time, row, column), as `max_grid`.
            grid_sizes: (rows, columns) of each image's whole grid; of clips (times, rows, columns).
            buckets: where attention finds each image, on CPU; see `vitjax.ops.attention.packed_attention`.
            train: whether dropout and stochastic depth act.

        Raises:
            UserError: P does not fit `patch_size`, positions are of images and `max_grid` of clips or the other way
                round, a known position lies beyond `max_grid`, or `num_classes` is `None`.
        """
        if self.num_classes is None:
            raise UserError("NaViT: `num_classes` is not set; give the number of labels, or 0 for features")
        batch, length, values = patches.shape
        if values % self.patch_size**2:
            raise UserError(
                f"NaViT: patches of {values} values do not fit `patch_size` (={self.patch_size}), whose patches have "
                f"{self.patch_size**2} values per channel; give the data and the model the same `patch_size`"
            )
        if positions.shape[-1] != len(self.max_grid):
            raise UserError(
                f"NaViT: `max_grid` (={self.max_grid}) has {len(self.max_grid)} axes, and the patches' positions have "
                f"{positions.shape[-1]}; give the data and the model the same `max_grid`, two numbers for images and "
                "three for clips"
            )
        segments = jnp.asarray(segments)
        embed = self.embed(name="patch_embedding")
        tokens = embed(jnp.asarray(patches, jnp.dtype(self.dtype)).reshape(-1, values), self.width, self.dtype)
        place = self.positions(name="position_embedding")
        vectors = place(positions, own_grid(grid_sizes, segments), self.max_grid, self.width)
        tokens = tokens + vectors.reshape(-1, self.width).astype(tokens.dtype)
        tokens = nn.Dropout(self.dropout_rate, deterministic=not train)(tokens)
        self.sow("intermediates", "embedded", tokens.reshape(batch, length, -1))
        tokens = self._encode(tokens, segments, buckets, train)
        tokens = self.norm(dtype=self.dtype, name="final_norm")(tokens).reshape(batch, length, -1)
        self.sow("intermediates", "normed", tokens)
        # Slots are the images' places in a row, so their number is static.
        pooled = self.pool(name="pooling")(tokens, segments, grid_sizes.shape[1], self, train)
        self.sow("intermediates", "pooled", pooled)
        return self._classify(pooled)

    def _encode(self, tokens: Array, segments: Array, buckets: tuple[Array, ...] | None, train: bool) -> Array:
        batch, length = segments.shape
        attend = attend_packed(packed_plan(segments, buckets), implementation=self.attention_implementation)
        # Numbers every image of the batch, below B*N, for stochastic depth; all of a row's padding shares one.
        images = (jnp.arange(batch)[:, None] * length + jnp.maximum(segments - 1, 0)).reshape(-1)
        block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
        for number in range(self.depth):
            tokens = block(
                attention=functools.partial(
                    SelfAttention,
                    num_heads=self.num_heads,
                    head_size=self.head_size,
                    use_qkv_bias=False,
                    use_out_bias=False,
                    query_norm=self.query_norm,
                    key_norm=self.key_norm,
                    scale=self.attention_scale,
                    dtype=self.dtype,
                ),
                mlp=functools.partial(
                    MLP,
                    width=self.mlp_width,
                    activation=self.activation,
                    use_bias=self.use_mlp_bias,
                    dropout_rate=self.dropout_rate,
                    dtype=self.dtype,
                ),
                norm=functools.partial(self.norm, dtype=self.dtype),
                dropout_rate=self.dropout_rate,
                drop_path_rate=self.drop_path_rate * number / max(self.depth - 1, 1),
                name=f"block_{number}",
            )(tokens, attend, images, train)
            self.sow("intermediates", f"block_{number}_output", tokens.reshape(batch, length, -1))
        return tokens

    def _classify(self, pooled: Array) -> Array:
        if self.norm_before_head is not None:
            pooled = self.norm_before_head(dtype=self.dtype, name="head_norm")(pooled)
        self.sow("intermediates", "features", pooled)
        if not self.num_classes:
            return pooled
        zeros, lecun = nn.initializers.zeros_init(), nn.initializers.lecun_normal()
        head = Dense(
            self.num_classes,
            use_bias=self.head_bias is not None,
            kernel_init=zeros if self.zero_init_head else lecun,
            bias_init=nn.initializers.constant(self.head_bias or 0.0),
            name="head",
        )
        return head(pooled)


_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 12, "num_heads": 3, "mlp_width": 768},
    "small": {"width": 384, "depth": 12, "num_heads": 6, "mlp_width": 1536},
    "base": {"width": 768, "depth": 12, "num_heads": 12, "mlp_width": 3072},
    "large": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_width": 4096},
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"navit_{size}_patch{patch}": {**keywords, "patch_size": patch, "num_classes": 1000}
    for size, keywords in _SIZES.items()
    for patch in (16, 32)
}
"""Name -> keywords of `NaViT`, for `vitjax.create_model`. The paper trains B/32, B/16 and L/16 (table 2)."""

MODEL = NaViT
