"""NaFlex: a ViT for images of any size whose positions are one learned table, read at each image's own grid; packed."""

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
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid, longer_side
from vitjax.layers.transformer import MLP, DropPath
from vitjax.models.vit import check_transformer
from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.ops.attention import Attend, attend_packed, attention_report, packed_plan
from vitjax.ops.axis_weights import bilinear_antialias
from vitjax.ops.fusion import end_fusion
from vitjax.ops.prefix_rows import prefix_rows
from vitjax.ops.segments import own_grid, segment_mean

__all__ = ["VARIANTS", "AttentionPooling", "AveragePooling", "ClassTokenPooling", "NaFlexBlock", "NaFlexViT"]


class ClassTokenPooling(nn.Module):
    """Each image's class token."""

    def __call__(
        self,
        prefix: Float[Array, "B S prefix D"],
        tokens: Float[Array, "B N D"],
        segments: Int[Array, "B N"],
        train: bool,
    ) -> Float[Array, "B S D"]:
        """Raises `UserError` where images have no tokens but patches."""
        if not prefix.shape[2]:
            raise UserError("NaFlexViT: ClassTokenPooling needs `use_class_token`")
        return prefix[:, :, 0]


class AveragePooling(nn.Module):
    """The mean of each image's patches."""

    def __call__(
        self,
        prefix: Float[Array, "B S prefix D"],
        tokens: Float[Array, "B N D"],
        segments: Int[Array, "B N"],
        train: bool,
    ) -> Float[Array, "B S D"]:
        """In float32, returned in the tokens' type."""
        return segment_mean(tokens, segments, prefix.shape[1]).astype(tokens.dtype)


class AttentionPooling(nn.Module):
    """One learned probe attends to each image's tokens: "MAP" (Zhai et al. 2022).

    Attributes:
        num_heads: A.
        mlp_width: of the MLP behind the attention.
        activation: of that MLP.
        norm_epsilon: of the layer norm between them.
        include_prefix: to class and register tokens as well, as a plain ViT does.
        dtype: compute type.
    """

    num_heads: int
    mlp_width: int
    activation: Callable[[Array], Array] = gelu
    norm_epsilon: float = 1e-6
    include_prefix: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        prefix: Float[Array, "B S prefix D"],
        tokens: Float[Array, "B N D"],
        segments: Int[Array, "B N"],
        train: bool,
    ) -> Float[Array, "B S D"]:
        """One vector per slot; that of an empty one is finite and means nothing."""
        batch, slots, count, width = prefix.shape
        if self.include_prefix:
            own = jnp.broadcast_to(jnp.repeat(jnp.arange(1, slots + 1), count), (batch, slots * count))
            tokens = jnp.concatenate([prefix.reshape(batch, -1, width), tokens], axis=1)
            segments = jnp.concatenate([own.astype(segments.dtype), segments], axis=1)
        pool = pooling_layers.AttentionPooling(
            num_heads=self.num_heads,
            mlp=functools.partial(MLP, width=self.mlp_width, activation=self.activation, dtype=self.dtype),
            norm=functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype),
            dtype=self.dtype,
            name="attention",
        )
        return pool(tokens, segments, slots, train)


class NaFlexBlock(nn.Module):
    """The pre-norm block, with LayerScale (Touvron et al. 2021, eq. 4): each branch times a learned vector.

    Attributes:
        attention: factory, called with `name`.
        mlp: factory, called with `name`.
        norm: factory, called with `name`.
        layer_scale: what the vectors start at; `None` for none.
        dropout_rate: after the attention's output projection.
        drop_path_rate: of both branches.
    """

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    layer_scale: float | None = None
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "T D"], attend: Attend, images: Int[Array, "T"], train: bool
    ) -> Float[Array, "T D"]:
        """One block; `images` numbers the image of each token, for stochastic depth."""
        tokens = end_fusion(tokens)
        drop_path = DropPath(self.drop_path_rate)
        branch = self.attention(name="attention")(self.norm(name="attention_norm")(tokens), attend)
        branch = nn.Dropout(self.dropout_rate, deterministic=not train)(branch)
        tokens = tokens + drop_path(self._scaled("attention_scale", branch), images, train)
        branch = self.mlp(name="mlp")(self.norm(name="mlp_norm")(tokens), train)
        return tokens + drop_path(self._scaled("mlp_scale", branch), images, train)

    def _scaled(self, name: str, branch: Array) -> Array:
        if self.layer_scale is None:
            return branch
        scale = self.param(name, nn.initializers.constant(self.layer_scale), branch.shape[-1:], jnp.float32)
        return branch * scale.astype(branch.dtype)


class NaFlexViT(nn.Module):
    """A plain ViT on packed rows: attention and pooling see one image each, positions stretch over every grid.

    SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense
    Features. Tschannen et al., 2025. https://arxiv.org/abs/2502.14786, section 2.4 ("NaFlex"): native aspect ratio and
    any sequence length in one model, as NaViT (arXiv:2307.06304) and FlexiViT (arXiv:2212.08013) before it. timm's
    NaFlexVit adds register tokens, LayerScale, and other position tables.

    The published implementations pad one image per row; here rows hold several, as in NaViT, and compute the same. So
    do the weights of a plain ViT (`vitjax.inference.packed`). Class and register tokens stand in front of a row's
    patches, slot after slot, so the data need not know of them.

    Intermediates: `embedded`, `block_{i}_output` (`[B, S * prefix + N, D]`), `normed`, `pooled`, `features`
    (`[B, S, D]`). Parameters have the paths of a `ViT`.

    Attributes:
        num_classes: outputs per image; 0 returns the features in front of the head. `None` is filled in by the trainer.
        patch_size: side of a patch; P must be a multiple of its square.
        table_grid: rows and columns of the table of positions.
        width: D.
        depth: L.
        num_heads: A.
        mlp_width: size in the middle of the MLP.
        positions: factory of a module such as `ResampledGrid` (`vitjax.layers.resampled_positions`), or of
            `vitjax.layers.packed_positions`.
        use_class_token: each image has a class token.
        num_registers: further learned tokens of each image, which nothing reads but attention.
        pool: factory of a module (prefix `[B, S, prefix, D]`, patches `[B, N, D]`, segments, train) -> `[B, S, D]`.
        norm_after_pooling: the final norm acts on the pooled vectors instead of on all tokens.
        representation_size: width of a tanh layer in front of the head; `None` for none.
        layer_scale: see `NaFlexBlock`.
        zero_init_head: the head starts at zero; otherwise lecun-normal.
        head_bias: what the head's biases start at.
        use_qkv_bias: biases of the attention's queries, keys and values.
        use_qk_norm: each head's queries and keys are normalised (Dehghani et al. 2023, arXiv:2302.05442, section 2).
        activation: of the MLPs.
        norm_epsilon: of all layer norms.
        dropout_rate: after the positions, after the attention, and twice in the MLP.
        drop_path_rate: of the last block; rises linearly from 0 at the first; decided per image.
        remat: recompute each block in the backward pass instead of keeping its insides.
        attention_implementation: see `vitjax.ops.attention.select_packed_attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax are float32.
    """

    num_classes: int | None = None
    patch_size: int = 16
    table_grid: tuple[int, int] = (16, 16)
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    positions: Callable[..., nn.Module] = ResampledGrid
    use_class_token: bool = False
    num_registers: int = 0
    pool: Callable[..., nn.Module] = AveragePooling
    norm_after_pooling: bool = False
    representation_size: int | None = None
    layer_scale: float | None = None
    zero_init_head: bool = True
    head_bias: float = 0.0
    use_qkv_bias: bool = True
    use_qk_norm: bool = False
    activation: Callable[[Array], Array] = gelu
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False
    attention_implementation: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="NaFlexViT")
        if len(self.table_grid) != 2 or min(self.table_grid) < 1 or self.num_registers < 0:
            raise UserError(
                f"NaFlexViT: `table_grid` (={self.table_grid}) must be two positive numbers, (rows, columns), and "
                f"`num_registers` (={self.num_registers}) at least 0"
            )

    @property
    def num_prefix(self) -> int:
        """Tokens of an image beside its patches."""
        return int(self.use_class_token) + self.num_registers

    def describe(self, patches: Any, segments: Any, positions: Any, grid_sizes: Any, buckets: Any = None) -> str:
        """The attention that runs for these inputs, in words; only shapes matter."""
        return attention_report(
            packed=True,
            dtype=self.dtype,
            length=patches.shape[1] + grid_sizes.shape[1] * self.num_prefix,
            head_size=self.width // self.num_heads,
            has_buckets=buckets is not None,
            implementation=self.attention_implementation,
        )

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
    ) -> Float[Array, "B S classes"]:
        """Classifies every image of every row; what an empty slot gets is finite and means nothing.

        Args:
            patches: normalised values, a patch flattened (row, column, channel).
            segments: the image of each patch, 1…S; 0 is padding.
            positions: (row, column) of the patch in its image's grid.
            grid_sizes: (rows, columns) of each image's whole grid.
            buckets: where attention finds each image, on CPU; see `vitjax.ops.attention.packed_attention`.
            train: whether dropout and stochastic depth act.

        Raises:
            UserError: P does not fit `patch_size`, or `num_classes` is `None`.
        """
        if self.num_classes is None:
            raise UserError("NaFlexViT: `num_classes` is not set; give the number of labels, or 0 for features")
        segments, grid_sizes = jnp.asarray(segments), jnp.asarray(grid_sizes)
        batch, slots = grid_sizes.shape[:2]
        front = slots * self.num_prefix
        rows = prefix_rows(segments, slots, self.num_prefix, buckets)
        tokens = self._embed(patches, segments, positions, grid_sizes, train)
        self.sow("intermediates", "embedded", tokens)
        tokens = self._encode(tokens.reshape(-1, self.width), rows.segments, rows.buckets, train)
        norm = LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="final_norm")
        if not self.norm_after_pooling:
            tokens = norm(tokens)
            self.sow("intermediates", "normed", tokens.reshape(batch, -1, self.width))
        tokens = tokens.reshape(batch, -1, self.width)
        prefix = tokens[:, :front].reshape(batch, slots, self.num_prefix, self.width)
        pooled = self.pool(name="pooling")(prefix, tokens[:, front:], segments, train)
        if self.norm_after_pooling:
            pooled = norm(pooled)
        self.sow("intermediates", "pooled", pooled)
        return self._classify(pooled)

    def _embed(self, patches: Array, segments: Array, positions: Array, grid_sizes: Array, train: bool) -> Array:
        """Patches with their positions, behind every slot's own tokens, which have none."""
        batch, length, values = patches.shape
        if values % self.patch_size**2:
            raise UserError(
                f"NaFlexViT: patches of {values} values do not fit `patch_size` (={self.patch_size}), whose patches "
                f"have {self.patch_size**2} values per channel; give the data and the model the same `patch_size`"
            )
        lecun = nn.initializers.lecun_normal()
        embed = Dense(self.width, dtype=self.dtype, kernel_init=lecun, name="patch_embedding")
        tokens = embed(jnp.asarray(patches, jnp.dtype(self.dtype)).reshape(-1, values)).reshape(batch, length, -1)
        place = self.positions(name="position_embedding")
        tokens = tokens + place(positions, own_grid(grid_sizes, segments), self.table_grid, self.width).astype(
            tokens.dtype
        )
        tiny = nn.initializers.normal(1e-6)
        own = []
        if self.use_class_token:
            own.append(self.param("class_token", tiny, (1, self.width), jnp.float32))
        if self.num_registers:
            own.append(self.param("register_tokens", tiny, (self.num_registers, self.width), jnp.float32))
        if own:
            prefix = jnp.tile(jnp.concatenate(own).astype(tokens.dtype), (grid_sizes.shape[1], 1))
            prefix = jnp.broadcast_to(prefix, (batch, *prefix.shape))
            tokens = jnp.concatenate([prefix, tokens], axis=1)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(tokens)

    def _encode(self, tokens: Array, segments: Array, buckets: tuple[Array, ...] | None, train: bool) -> Array:
        batch, length = segments.shape
        attend = attend_packed(packed_plan(segments, buckets), implementation=self.attention_implementation)
        # Numbers every image of the batch, below B*N, for stochastic depth; all of a row's padding shares one.
        images = (jnp.arange(batch)[:, None] * length + jnp.maximum(segments - 1, 0)).reshape(-1)
        block = nn.remat(NaFlexBlock, static_argnums=(4,)) if self.remat else NaFlexBlock
        norm = functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
        for number in range(self.depth):
            tokens = block(
                attention=functools.partial(
                    SelfAttention,
                    num_heads=self.num_heads,
                    use_qkv_bias=self.use_qkv_bias,
                    query_norm=norm if self.use_qk_norm else None,
                    key_norm=norm if self.use_qk_norm else None,
                    dtype=self.dtype,
                ),
                mlp=functools.partial(
                    MLP,
                    width=self.mlp_width,
                    activation=self.activation,
                    dropout_rate=self.dropout_rate,
                    dtype=self.dtype,
                ),
                norm=norm,
                layer_scale=self.layer_scale,
                dropout_rate=self.dropout_rate,
                drop_path_rate=self.drop_path_rate * number / max(self.depth - 1, 1),
                name=f"block_{number}",
            )(tokens, attend, images, train)
            self.sow("intermediates", f"block_{number}_output", tokens.reshape(batch, length, -1))
        return tokens

    def _classify(self, pooled: Array) -> Array:
        zeros, lecun = nn.initializers.zeros_init(), nn.initializers.lecun_normal()
        features = pooled
        if self.representation_size is not None:
            dense = Dense(self.representation_size, dtype=self.dtype, kernel_init=lecun, name="pre_logits")
            features = jnp.tanh(dense(pooled))
        self.sow("intermediates", "features", features)
        if not self.num_classes:
            return features
        head = Dense(
            self.num_classes,
            kernel_init=zeros if self.zero_init_head else lecun,
            bias_init=nn.initializers.constant(self.head_bias),
            name="head",
        )
        return head(features)


_BASE: dict[str, int] = {"width": 768, "depth": 12, "num_heads": 12, "mlp_width": 3072}
_SO150M2: dict[str, Any] = {
    "width": 832, "depth": 21, "num_heads": 13, "mlp_width": 2176, "use_qkv_bias": False, "num_registers": 1,
    "layer_scale": 1e-5,
}  # fmt: skip
_SO400M: dict[str, int] = {"width": 1152, "depth": 27, "num_heads": 16, "mlp_width": 4304}
_AVERAGE: dict[str, Any] = {"pool": AveragePooling, "norm_after_pooling": True}
_GAP: dict[str, Any] = {**_BASE, **_AVERAGE, "num_registers": 4, "layer_scale": 1e-5}


def _map(sizes: Mapping[str, Any], **keywords: Any) -> dict[str, Any]:
    pool = functools.partial(
        AttentionPooling, num_heads=sizes["num_heads"], mlp_width=sizes["mlp_width"], **keywords
    )  # fmt: skip
    return {**sizes, "pool": pool, **keywords}


def _siglip(sizes: Mapping[str, int]) -> dict[str, Any]:
    positions = functools.partial(ResampledGrid, weights=bilinear_antialias)
    return {**_map(sizes, activation=gelu_tanh), "positions": positions}


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    name: {"num_classes": 1000, **keywords}
    for name, keywords in {
        "naflexvit_base_patch16_gap": _GAP,
        "naflexvit_base_patch16_par_gap": {**_GAP, "positions": functools.partial(ResampledGrid, sides=longer_side)},
        "naflexvit_base_patch16_parfac_gap": {**_GAP, "positions": functools.partial(ResampledAxes, sides=longer_side)},
        "naflexvit_base_patch16_map": {**_map(_BASE), "num_registers": 1, "layer_scale": 1e-5},
        "naflexvit_so150m2_patch16_reg1_gap": {**_SO150M2, **_AVERAGE},
        "naflexvit_so150m2_patch16_reg1_map": _map(_SO150M2),
        "naflexvit_base_patch16_siglip": _siglip(_BASE),
        "naflexvit_so400m_patch16_siglip": _siglip(_SO400M),
    }.items()
}
"""Name -> keywords of `NaFlexViT`, for `vitjax.create_model`; timm's names."""

MODEL = NaFlexViT
