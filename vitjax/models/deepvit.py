"""DeepViT: deep vision transformers whose attention maps do not collapse."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.layers.attention import SelfAttention
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.transformer import MLP, DropPath
from vitjax.models.vit import ClassTokenPooling, LearnedPositions, check_transformer, cut_patches
from vitjax.ops.activations import gelu
from vitjax.ops.attention import attend_remapped
from vitjax.ops.fusion import end_fusion

__all__ = [
    "VARIANTS",
    "AverageOfAllTokens",
    "ConvolutionalStem",
    "DeepViT",
    "DeepViTBlock",
    "LinearPatches",
    "NormedPatches",
    "ReAttention",
    "vit_pytorch",
    "vit_pytorch_settings",
]

_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""torch's default for convolutions: uniform within `1 / sqrt(fan_in)`."""
_small = nn.initializers.normal(0.02)


def _uniform(limit: float) -> Callable[..., Array]:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def _project(patches: Array, width: int, dtype: str) -> Array:
    bias_init = _uniform(patches.shape[-1] ** -0.5)
    return Dense(width, dtype=dtype, kernel_init=_torch_uniform, bias_init=bias_init, name="projection")(patches)


def batch_norm_of_heads(*, name: str, dtype: str) -> Callable[[Array, bool], Array]:
    """The authors' `Norm`: one mean and variance per head, over the batch and all N x N places of its maps."""
    return BatchNorm(dtype=dtype, name=name)


def layer_norm_of_heads(*, name: str, dtype: str) -> Callable[[Array, bool], Array]:
    """vit-pytorch's `Norm`: at each of the N x N places over the heads."""
    norm = LayerNorm(epsilon=1e-5, dtype=dtype, name=name)
    return lambda maps, train: norm(maps)


class ReAttention(nn.Module):
    """`Norm(Θᵀ A)`, re-attention: new maps from all heads' maps, place by place; rows no longer add up to 1.

    Θ is `[A, A]`, old head first.

    Attributes:
        norm: factory, called with `name` and `dtype`, of a callable (maps, train) -> maps, their heads the last axis.
        use_bias: the authors' code has biases (a 1x1 convolution); the paper's formula has none.
        scale: factor of the result; the authors' `transform_scale` is `1 / sqrt(K)`.
        dtype: compute type.
    """

    norm: Callable[..., Callable[[Array, bool], Array]] = batch_norm_of_heads
    use_bias: bool = True
    scale: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, maps: Float[Array, "B A N N"], train: bool) -> Float[Array, "B A N N"]:
        """Mixes the heads and normalises them."""
        heads = maps.shape[1]
        kernel = self.param("kernel", _torch_uniform, (heads, heads), jnp.float32)
        maps, kernel = maps.astype(self.dtype), jnp.asarray(kernel, self.dtype)
        mixed = jnp.einsum("bhnm,hg->bnmg", maps, kernel)
        if self.use_bias:
            bias = self.param("bias", _uniform(heads**-0.5), (heads,), jnp.float32)
            mixed = mixed + bias.astype(mixed.dtype)
        return jnp.moveaxis(self.norm(name="norm", dtype=self.dtype)(mixed, train), -1, 1) * self.scale


class DeepViTBlock(nn.Module):
    """`x + attention(norm(r x)) / r`, then `x + mlp(norm(r x)) / r`; r = 1 is the plain pre-norm block.

    The norms cancel r, up to their epsilon, so that r = 0.5 doubles the branches. Sows the maps that average the
    values as `attention_map`, `[B, A, N, N]`.

    Attributes:
        attention: factory, called with `name`.
        mlp: factory, called with `name`.
        norm: factory, called with `name`.
        reattention: factory, called with `name`; `None` leaves the maps as they are.
        scale_adjustment: r.
        dropout_rate: after the attention's output projection.
        attention_dropout_rate: of attention probabilities, in front of re-attention.
        drop_path_rate: of both branches.
    """

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    reattention: Callable[..., nn.Module] | None = None
    scale_adjustment: float = 1.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "T D"], images: Int[Array, "T"], num_images: int, train: bool
    ) -> Float[Array, "T D"]:
        """One block on the flat trunk; `images` numbers the image of each token, for stochastic depth."""
        tokens, r = end_fusion(tokens), self.scale_adjustment
        drop_path = DropPath(self.drop_path_rate)
        attention = self.attention(name="attention")
        branch = attention(self.norm(name="attention_norm")(r * tokens), self._attend(num_images, train))
        branch = nn.Dropout(self.dropout_rate, deterministic=not train)(branch)
        tokens = tokens + drop_path(branch, images, train) / r
        branch = self.mlp(name="mlp")(self.norm(name="mlp_norm")(r * tokens), train)
        return tokens + drop_path(branch, images, train) / r

    def _attend(self, num_images: int, train: bool) -> Callable[..., Array]:
        # Made here and not inside the attention, whose parameter it would become.
        change = None if self.reattention is None else self.reattention(name="reattention")

        def changed(maps: Array) -> Array:
            maps = maps if change is None else change(maps, train)
            self.sow("intermediates", "attention_map", maps)
            return maps

        drops = train and self.attention_dropout_rate > 0
        key = self.make_rng("dropout") if drops else None
        return attend_remapped(num_images, changed, dropout_rate=self.attention_dropout_rate, dropout_key=key)


class LinearPatches(nn.Module):
    """A linear map of each patch: the pure transformers."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], patch_size: int, width: int, dtype: str, train: bool
    ) -> Float[Array, "B N D"]:
        """Tokens in row-major order."""
        patches, _ = cut_patches(images, patch_size)
        return _project(patches, width, dtype)


class ConvolutionalStem(nn.Module):
    """Two convolutions at half the resolution, then patches half as large: S and L.

    Convolution 7x7 with stride 2 and 3x3, each with batch norm and ReLU, 64 channels (as in T2T-ViT), and a linear map
    of `patch_size / 2` patches.

    Attributes:
        channels: in between.
    """

    channels: int = 64

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], patch_size: int, width: int, dtype: str, train: bool
    ) -> Float[Array, "B N D"]:
        """Tokens in row-major order; sides must be divisible by the patch, which must be even."""
        cut_patches(images[:1], patch_size)  # says what is wrong in terms of the image
        maps = images
        for number, (side, stride) in enumerate(((7, 2), (3, 1)), start=1):
            convolution = nn.Conv(
                self.channels,
                (side, side),
                strides=stride,
                padding=side // 2,
                use_bias=False,
                dtype=jnp.dtype(dtype),
                kernel_init=_torch_uniform,
                name=f"convolution_{number}",
            )
            maps = nn.relu(BatchNorm(dtype=dtype, name=f"norm_{number}")(convolution(maps), train))
        patches, _ = cut_patches(maps, patch_size // 2)
        return _project(patches, width, dtype)


class NormedPatches(nn.Module):
    """A linear map of each patch between two layer norms: vit-pytorch's.

    Attributes:
        epsilon: of both norms.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], patch_size: int, width: int, dtype: str, train: bool
    ) -> Float[Array, "B N D"]:
        """Tokens in row-major order."""
        patches, _ = cut_patches(images, patch_size)
        norm = functools.partial(LayerNorm, epsilon=self.epsilon, dtype=dtype)
        return norm(name="token_norm")(_project(norm(name="patch_norm")(patches), width, dtype))


class AverageOfAllTokens(nn.Module):
    """The mean of all tokens, the class token among them: vit-pytorch's "mean"."""

    def __call__(self, tokens: Float[Array, "B N D"], num_prefix: int, train: bool) -> Float[Array, "B D"]:
        """In float32, returned in the tokens' type."""
        return tokens.mean(axis=1, dtype=jnp.float32).astype(tokens.dtype)


class DeepViT(nn.Module):
    """ViT with re-attention in its last blocks, which lets it grow deeper than attention collapse allows.

    DeepViT: Towards Deeper Vision Transformer. Zhou et al., 2021. https://arxiv.org/abs/2103.11886. Re-attention
    with batch norm and a bias as in the authors' repository (zhoudaquan/dvit_repo), from which also come
    `scale_adjustment` and the stem. Class token, learned positions and MLPs are ViT's.

    Intermediates under `intermediates/`: `embedded`, `block_{i}_output` (`[B, N, D]`), `normed`, `pooled`, `features`;
    and the attention maps as `block_{i}/attention_map`, `[B, A, N, N]`. They cost nothing unless asked for by
    `mutable=["intermediates"]`.

    Attributes:
        num_classes: outputs; 0 returns the features in front of the head. `None` is filled in by the trainer.
        image_size: side, or (rows, columns), of the images that the position table is made for.
        patch_size: side of a patch.
        width: D.
        depth: L.
        num_heads: A.
        head_size: K; `width / num_heads` if not given.
        mlp_width: size in the middle of the MLP.
        num_reattention: re-attention acts in this many of the last blocks; all if not given, 0 is a plain ViT.
        reattention: factory of a module like `ReAttention`.
        scale_adjustment: r of `DeepViTBlock`.
        embed: factory of a module like `LinearPatches`.
        positions: factory of a module like `vitjax.models.vit.LearnedPositions`.
        pool: factory of a module (tokens, number of prefix tokens, train) -> `[B, D]`.
        norm_after_pooling: the final norm acts on the pooled vector instead of on all tokens.
        use_qkv_bias: biases of queries, keys and values.
        activation: of the MLPs.
        norm_epsilon: of all layer norms of blocks and end.
        zero_init_head: the head starts at zero, as for fine-tuning; otherwise as small as the authors'.
        dropout_rate: after the positions, after the attention, and twice in the MLP.
        attention_dropout_rate: of attention probabilities, in front of re-attention.
        drop_path_rate: of the last block; rises linearly from 0 at the first.
        remat: recompute each block in the backward pass instead of keeping its insides.
        dtype: compute type, "float32" or "bfloat16"; parameters, statistics, norms and softmax are float32.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 384
    depth: int = 16
    num_heads: int = 12
    head_size: int | None = None
    mlp_width: int = 1152
    num_reattention: int | None = None
    reattention: Callable[..., nn.Module] = ReAttention
    scale_adjustment: float = 1.0
    embed: Callable[..., nn.Module] = LinearPatches
    positions: Callable[..., nn.Module] = LearnedPositions
    pool: Callable[..., nn.Module] = ClassTokenPooling
    norm_after_pooling: bool = False
    use_qkv_bias: bool = True
    activation: Callable[[Array], Array] = gelu
    norm_epsilon: float = 1e-6
    zero_init_head: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="DeepViT", head_size=self.head_size)
        if any(side % self.patch_size for side in self.image_shape):
            raise UserError(
                f"DeepViT: `image_size` (={self.image_size}) must be divisible by `patch_size` (={self.patch_size})"
            )
        if self.num_reattention is not None and not 0 <= self.num_reattention <= self.depth:
            raise UserError(
                f"DeepViT: `num_reattention` (={self.num_reattention}) must be 0 to `depth` (={self.depth})"
            )
        if self.scale_adjustment <= 0:
            raise UserError(f"DeepViT: `scale_adjustment` (={self.scale_adjustment}) must be positive")

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the images that the position table is made for."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the position table is made for."""
        rows, columns = self.image_shape
        return rows // self.patch_size, columns // self.patch_size

    @property
    def first_reattention(self) -> int:
        """Number of the first block with re-attention."""
        return 0 if self.num_reattention is None else self.depth - self.num_reattention

    def describe(self, images: Any) -> str:
        """The attention that runs, in words."""
        active = self.depth - self.first_reattention
        return f"attention: {jax.default_backend()} explicit, re-attention in {active} of {self.depth} blocks"

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> Float[Array, "B classes"]:
        """Classifies images, normalised as the weights expect; batch statistics are updated where `train` is set.

        Raises:
            UserError: an image's side is not divisible by the patch, or `num_classes` is `None`.
        """
        if self.num_classes is None:
            raise UserError("DeepViT: `num_classes` is not set; give the number of labels, or 0 for features")
        tokens = self._embed(jnp.asarray(images, jnp.dtype(self.dtype)), train)
        shape = tokens.shape
        tokens = self._encode(tokens.reshape(-1, self.width), shape[0], train).reshape(shape)
        norm = LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="final_norm")
        if not self.norm_after_pooling:
            tokens = norm(tokens)
            self.sow("intermediates", "normed", tokens)
        pooled = self.pool(name="pooling")(tokens, 1, train)
        if self.norm_after_pooling:
            pooled = norm(pooled)
        self.sow("intermediates", "pooled", pooled)
        self.sow("intermediates", "features", pooled)
        if not self.num_classes:
            return pooled
        kernel_init = nn.initializers.zeros_init() if self.zero_init_head else _small
        return Dense(self.num_classes, kernel_init=kernel_init, name="head")(pooled)

    def _embed(self, images: Array, train: bool) -> Array:
        """Patches to tokens, the class token in front, positions added to all of them."""
        grid = images.shape[1] // self.patch_size, images.shape[2] // self.patch_size
        tokens = self.embed(name="patch_embedding")(images, self.patch_size, self.width, self.dtype, train)
        prefix, table = self.positions(name="position_embedding")(self.grid, grid, self.width, 1)
        first = self.param("class_token", _small, (1, self.width), jnp.float32) + prefix
        first = jnp.broadcast_to(first.astype(tokens.dtype), (tokens.shape[0], 1, self.width))
        tokens = jnp.concatenate([first, tokens + table.astype(tokens.dtype)], axis=1)
        tokens = nn.Dropout(self.dropout_rate, deterministic=not train)(tokens)
        self.sow("intermediates", "embedded", tokens)
        return tokens

    def _encode(self, tokens: Array, num_images: int, train: bool) -> Array:
        images = jnp.repeat(jnp.arange(num_images), tokens.shape[0] // num_images)
        # 3 and 4 are `num_images` and `train`.
        block = nn.remat(DeepViTBlock, static_argnums=(3, 4)) if self.remat else DeepViTBlock
        reattention = functools.partial(self.reattention, dtype=self.dtype)
        for number in range(self.depth):
            tokens = block(
                attention=functools.partial(
                    SelfAttention,
                    num_heads=self.num_heads,
                    head_size=self.head_size,
                    use_qkv_bias=self.use_qkv_bias,
                    dtype=self.dtype,
                ),
                mlp=functools.partial(
                    MLP,
                    width=self.mlp_width,
                    activation=self.activation,
                    dropout_rate=self.dropout_rate,
                    dtype=self.dtype,
                ),
                norm=functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype),
                reattention=reattention if number >= self.first_reattention else None,
                scale_adjustment=self.scale_adjustment,
                dropout_rate=self.dropout_rate,
                attention_dropout_rate=self.attention_dropout_rate,
                drop_path_rate=self.drop_path_rate * number / max(self.depth - 1, 1),
                name=f"block_{number}",
            )(tokens, images, num_images, train)
            self.sow("intermediates", f"block_{number}_output", tokens.reshape(num_images, -1, self.width))
        return tokens


def vit_pytorch_settings() -> dict[str, Any]:
    """What makes a `DeepViT` compute what `vit_pytorch.deepvit.DeepViT` does.

    A layer norm over the heads without bias in front, layer norms around the patch projection, epsilon 1e-5, no biases
    of queries, keys and values; its final norm belongs to its head and acts on the pooled vector. With its
    `pool="mean"`, `AverageOfAllTokens` is the pooling.
    """
    return {
        "reattention": functools.partial(ReAttention, norm=layer_norm_of_heads, use_bias=False),
        "embed": NormedPatches,
        "norm_epsilon": 1e-5,
        "use_qkv_bias": False,
        "norm_after_pooling": True,
        "num_reattention": None,
        "scale_adjustment": 1.0,
    }


def vit_pytorch(
    *,
    image_size: int,
    patch_size: int,
    num_classes: int,
    dim: int,
    depth: int,
    heads: int,
    mlp_dim: int,
    dim_head: int = 64,
    **overrides: Any,
) -> DeepViT:
    """`vit_pytorch.deepvit.DeepViT` with `pool="cls"`, by its own arguments.

    Args:
        image_size: side in pixels.
        patch_size: side of a patch.
        num_classes: outputs.
        dim: width.
        depth: blocks, all with re-attention.
        heads: attention heads.
        mlp_dim: width of the MLPs.
        dim_head: size of a head.
        **overrides: further keywords of `DeepViT`.
    """
    return DeepViT(
        num_classes=num_classes, image_size=image_size, patch_size=patch_size, width=dim, depth=depth, num_heads=heads,
        head_size=dim_head, mlp_width=mlp_dim, **(vit_pytorch_settings() | overrides),
    )  # fmt: skip


_DEEP = {"num_classes": 1000, "width": 384, "num_heads": 12, "mlp_width": 1152, "patch_size": 16}
_STEM = {**_DEEP, "embed": ConvolutionalStem, "scale_adjustment": 0.5}
_LARGE = {**_STEM, "width": 420, "mlp_width": 1260, "depth": 32, "num_reattention": 12}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **{f"deepvit_patch16_224_re_attn_{depth}b": {**_DEEP, "depth": depth} for depth in (16, 24, 32)},
    "deepvit_s": {
        **_STEM,
        "width": 396,
        "mlp_width": 1188,
        "depth": 16,
        "num_reattention": 5,
        "reattention": functools.partial(ReAttention, scale=33**-0.5),
    },
    "deepvit_l": _LARGE,
    "deepvit_l_384": {**_LARGE, "image_size": 384},
}
"""Name -> keywords of `DeepViT`: what the authors' repository registers."""

MODEL = DeepViT
