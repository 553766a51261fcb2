"""The Vision Transformer, in all its sizes."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float
from vitjax.errors import UserError
from vitjax.layers import pooling as pooling_layers
from vitjax.layers.attention import SelfAttention
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.transformer import MLP, Block
from vitjax.ops.activations import gelu
from vitjax.ops.attention import attend_images, attention_report
from vitjax.ops.patches import cut_patches, project_patches
from vitjax.ops.positions import resample_bicubic_antialias, sincos_2d

__all__ = [
    "VARIANTS",
    "AttentionPooling",
    "AveragePooling",
    "ClassTokenPooling",
    "LearnedPositions",
    "PatchEmbedding",
    "SinCosPositions",
    "ViT",
    "check_transformer",
    "with_vit_keywords",
]


class PatchEmbedding(nn.Module):
    """Eq. 1: each patch, flattened, through one linear map.

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
        """Tokens, row-major, and their grid.

        Raises:
            UserError: a side is not divisible by the patch, or `grid` is not what these images have.
        """
        patches, found = cut_patches(images, self.patch_size)
        if grid not in (None, found):
            raise UserError(
                f"an image of {images.shape[1]}x{images.shape[2]} px has {found[0]}x{found[1]} patches of "
                f"{self.patch_size} px, but `grid` asks for {grid[0]}x{grid[1]}; only FlexiViT's patches change size"
            )
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (patches.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
        return project_patches(patches, kernel, bias, self.dtype), found


class LearnedPositions(nn.Module):
    """A learned vector for each patch of the training grid, resampled when an image has another one.

    Attributes:
        embed_class: the table has a first row for the class token (ViT, timm, Hugging Face); without it the class
            token gets no position (big_vision, timm's `no_embed_class`).
        resampling: one of `vitjax.ops.positions.resample_*`.
    """

    embed_class: bool = True
    resampling: Callable[..., Array] = resample_bicubic_antialias

    @nn.compact
    def __call__(
        self, table_grid: tuple[int, int], grid: tuple[int, int], width: int, num_prefix: int
    ) -> tuple[Float[Array, "prefix D"], Float[Array, "N D"]]:
        """Positions of the class token (zeros where it has none) and of the image's patches."""
        prefix = num_prefix if self.embed_class else 0
        rows, columns = table_grid
        table = self.param("table", nn.initializers.normal(0.02), (prefix + rows * columns, width), jnp.float32)
        patches = table[prefix:]
        if grid != table_grid:
            patches = self.resampling(patches.reshape(rows, columns, width), grid).reshape(-1, width)
        return table[:prefix] if prefix else jnp.zeros((num_prefix, width)), patches


class SinCosPositions(nn.Module):
    """Fixed sinusoids for any grid (Beyer et al. 2022, Better plain ViT baselines); none for the class token."""

    def __call__(
        self, table_grid: tuple[int, int], grid: tuple[int, int], width: int, num_prefix: int
    ) -> tuple[Float[Array, "prefix D"], Float[Array, "N D"]]:
        """As `LearnedPositions`; the training grid plays no part."""
        return jnp.zeros((num_prefix, width)), sincos_2d(grid, width)


class ClassTokenPooling(nn.Module):
    """The class token, which is the first of the tokens (eq. 4)."""

    def __call__(self, tokens: Float[Array, "B N D"], num_prefix: int, train: bool) -> Float[Array, "B D"]:
        """Also where there is no class token: then the first patch."""
        return tokens[:, 0]


class AveragePooling(nn.Module):
    """The mean of the patches; a class token is left out of it."""

    def __call__(self, tokens: Float[Array, "B N D"], num_prefix: int, train: bool) -> Float[Array, "B D"]:
        """In float32, returned in the tokens' type."""
        return tokens[:, num_prefix:].mean(axis=1, dtype=jnp.float32).astype(tokens.dtype)


class AttentionPooling(nn.Module):
    """One learned probe attends to all tokens: "MAP" (Zhai et al. 2022).

    Attributes:
        num_heads: A.
        mlp_width: of the MLP behind the attention.
        activation: of that MLP.
        norm_epsilon: of the layer norm between them.
        dtype: compute type.
    """

    num_heads: int
    mlp_width: int
    activation: Callable[[Array], Array] = gelu
    norm_epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"], num_prefix: int, train: bool) -> Float[Array, "B D"]:
        """All tokens of an image, the class token among them if there is one."""
        pool = pooling_layers.AttentionPooling(
            num_heads=self.num_heads,
            mlp=functools.partial(MLP, width=self.mlp_width, activation=self.activation, dtype=self.dtype),
            norm=functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype),
            dtype=self.dtype,
            name="attention",
        )
        segments = jnp.ones(tokens.shape[:2], jnp.int32)
        return pool(tokens, segments, 1, train)[:, 0]


class ViT(nn.Module):
    """Vision Transformer (eq. 1 to 4): patches become tokens, pre-norm blocks mix them, one vector is classified.

    An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale. Dosovitskiy et al., 2021.
    https://arxiv.org/abs/2010.11929. Stochastic depth as in How to train your ViT?, Steiner et al., 2022.

    Intermediates under `intermediates/`: `embedded`, `block_{i}_output` (`[B, N, D]`), `normed`, `pooled`, `features`.

    Attributes:
        num_classes: outputs; 0 returns the features in front of the head. `None` is filled in by the trainer.
        image_size: side, or (rows, columns), of the images that the position table is made for.
        patch_size: side of a patch, in pixels of the image.
        width: D.
        depth: L.
        num_heads: A.
        mlp_width: size in the middle of the MLP.
        embedding: factory of a module like `PatchEmbedding`: (images, grid or `None`, train) -> (tokens, grid).
        use_class_token: whether a learned token stands in front of the patches.
        pool: factory of a module (tokens, number of prefix tokens, train) -> `[B, D]`.
        positions: factory of a module like `LearnedPositions`.
        norm_after_pooling: the final norm acts on the pooled vector (timm's average pooling) instead of on all tokens.
        representation_size: width of a tanh layer in front of the head (pre-training); `None` for none.
        zero_init_head: the head starts at zero, as for fine-tuning; otherwise lecun-normal.
        head_bias: what the head's biases start at.
        use_qkv_bias: biases of the attention's projections.
        activation: of the MLPs.
        norm_epsilon: of all layer norms: 1e-6 in flax and timm, 1e-12 in Hugging Face.
        dropout_rate: after the positions, after the attention, and twice in the MLP.
        attention_dropout_rate: of attention probabilities.
        drop_path_rate: of the last block; rises linearly from 0 at the first.
        remat: recompute each block in the backward pass instead of keeping its insides.
        channel_sizes: of a model pruned by `vitjax.transfer.pruning`: ((place and unit, size), ...), such as
            `("block_3/hidden", 96)`, or "query" (the keys' too) and "value", of all heads together.
        attention_implementation: see `vitjax.ops.attention.select_dense_attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax are float32.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    embedding: Callable[..., nn.Module] = PatchEmbedding
    use_class_token: bool = True
    pool: Callable[..., nn.Module] = ClassTokenPooling
    positions: Callable[..., nn.Module] = LearnedPositions
    norm_after_pooling: bool = False
    representation_size: int | None = None
    zero_init_head: bool = True
    head_bias: float = 0.0
    use_qkv_bias: bool = True
    activation: Callable[[Array], Array] = gelu
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False
    channel_sizes: tuple[tuple[str, int], ...] = ()
    attention_implementation: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="ViT")
        if any(side % self.patch_size for side in self.image_shape):
            raise UserError(
                f"ViT: `image_size` (={self.image_size}) must be divisible by `patch_size` (={self.patch_size})"
            )

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

    def describe(self, images: Any, grid: Any = None) -> str:
        """The attention that runs for these inputs, in words; only shapes matter."""
        return attention_report(packed=False, dtype=self.dtype, implementation=self.attention_implementation)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W C"],
        grid: tuple[int, int] | Bool[Array, "B rows columns"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B classes"]:
        """Classifies images, normalised as the weights expect.

        Args:
            images: of any size that the patches divide.
            grid: rows and columns of patches to cut the images into, for embeddings that can choose (FlexiViT); or any
                array of that shape behind the batch axis, whose content plays no part: shapes are static under `jit`.
            train: dropout and stochastic depth act.

        Raises:
            UserError: an image's side is not divisible by the patch, or `num_classes` is `None`.
        """
        if self.num_classes is None:
            raise UserError("ViT: `num_classes` is not set; give the number of labels, or 0 for features")
        sides = grid if grid is None or isinstance(grid, tuple) else (grid.shape[1], grid.shape[2])
        tokens = self._embed(jnp.asarray(images, jnp.dtype(self.dtype)), sides, train)
        num_images, length, width = tokens.shape
        tokens = self._encode(tokens.reshape(-1, width), num_images, train)
        norm = LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="final_norm")
        if not self.norm_after_pooling:
            tokens = norm(tokens)
            self.sow("intermediates", "normed", tokens.reshape(num_images, length, width))
        tokens = tokens.reshape(num_images, length, width)
        pooled = self.pool(name="pooling")(tokens, int(self.use_class_token), train)
        if self.norm_after_pooling:
            pooled = norm(pooled)
        self.sow("intermediates", "pooled", pooled)
        return self._classify(pooled)

    def _embed(self, images: Array, grid: tuple[int, int] | None, train: bool) -> Array:
        """Eq. 1: patches to tokens, the class token in front, positions added."""
        embed = self.embedding(patch_size=self.patch_size, width=self.width, dtype=self.dtype, name="patch_embedding")
        tokens, grid = embed(images, grid, train)
        num_prefix = int(self.use_class_token)
        place = self.positions(name="position_embedding")
        prefix, table = place(self.grid, grid, self.width, num_prefix)
        tokens = tokens + table.astype(tokens.dtype)
        if self.use_class_token:
            first = self.param("class_token", nn.initializers.zeros_init(), (1, self.width), jnp.float32) + prefix
            first = jnp.broadcast_to(first.astype(tokens.dtype), (tokens.shape[0], 1, self.width))
            tokens = jnp.concatenate([first, tokens], axis=1)
        tokens = nn.Dropout(self.dropout_rate, deterministic=not train)(tokens)
        self.sow("intermediates", "embedded", tokens)
        return tokens

    def _encode(self, tokens: Array, num_images: int, train: bool) -> Array:
        """Eq. 2 and 3, on the flat trunk `[B*N, D]`."""
        images = jnp.repeat(jnp.arange(num_images), tokens.shape[0] // num_images)
        drops_attention = train and self.attention_dropout_rate > 0
        # Under `remat` a block is traced twice as often, but takes its arguments the same way; 4 is `train`.
        block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
        sizes, heads = dict(self.channel_sizes), self.num_heads
        for number in range(self.depth):
            place = f"block_{number}"
            attend = attend_images(
                num_images,
                dropout_rate=self.attention_dropout_rate,
                dropout_key=self.make_rng("dropout") if drops_attention else None,
                implementation=self.attention_implementation,
            )
            tokens = block(
                attention=functools.partial(
                    SelfAttention,
                    num_heads=heads,
                    head_size=sizes.get(f"{place}/query", self.width) // heads,
                    value_size=sizes.get(f"{place}/value", self.width) // heads,
                    scale=(self.width // heads) ** -0.5,
                    use_qkv_bias=self.use_qkv_bias,
                    dtype=self.dtype,
                ),
                mlp=functools.partial(
                    MLP,
                    width=sizes.get(f"{place}/hidden", self.mlp_width),
                    activation=self.activation,
                    dropout_rate=self.dropout_rate,
                    dtype=self.dtype,
                ),
                norm=functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype),
                dropout_rate=self.dropout_rate,
                drop_path_rate=self.drop_path_rate * number / max(self.depth - 1, 1),
                name=place,
            )(tokens, attend, images, train)
            self.sow("intermediates", f"{place}_output", tokens.reshape(num_images, -1, self.width))
        return tokens

    def _classify(self, pooled: Array) -> Array:
        features = pooled
        if self.representation_size is not None:
            lecun = nn.initializers.lecun_normal()
            dense = Dense(self.representation_size, dtype=self.dtype, kernel_init=lecun, name="pre_logits")
            features = jnp.tanh(dense(pooled))
        self.sow("intermediates", "features", features)
        if not self.num_classes:
            return features
        zeros, lecun = nn.initializers.zeros_init(), nn.initializers.lecun_normal()
        head = Dense(
            self.num_classes,
            kernel_init=zeros if self.zero_init_head else lecun,
            bias_init=nn.initializers.constant(self.head_bias),
            name="head",
        )
        return head(features)


def check_transformer(width: int, num_heads: int, dtype: str, *, where: str, head_size: int | None = None) -> None:
    """Raises `UserError` for heads that do not divide the width, or an unknown compute type."""
    if head_size is None and width % num_heads:
        raise UserError(f"{where}: `width` (={width}) must be divisible by `num_heads` (={num_heads})")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"{where}: `dtype` (={dtype!r}) must be 'float32', 'bfloat16' or 'float16'")


def with_vit_keywords(*own: str) -> Callable[[Callable[..., ViT]], Callable[..., ViT]]:
    """Decorates a function that makes a ViT and passes `**keywords` on to it: writes them into its signature.

    Configs and `create_model` check keywords against the signature, and store its defaults.

    Args:
        *own: keywords of ViT that the function gives itself.
    """

    def write(make: Callable[..., ViT]) -> Callable[..., ViT]:
        parameters = inspect.signature(make).parameters
        kept = [parameter for parameter in parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        passed = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(ViT).parameters.items()
            if name not in (*parameters, *own, "parent", "name")
        ]
        make.__signature__ = inspect.Signature(kept + passed)  # pyright: ignore[reportFunctionMemberAccess]
        return make

    return write


_SIZES: dict[str, dict[str, int]] = {
    # Zhai et al. 2022, table 2, and Dosovitskiy et al. 2021, table 1; timm's names.
    "tiny": {"width": 192, "depth": 12, "num_heads": 3, "mlp_width": 768},
    "small": {"width": 384, "depth": 12, "num_heads": 6, "mlp_width": 1536},
    "medium": {"width": 512, "depth": 12, "num_heads": 8, "mlp_width": 2048},
    "base": {"width": 768, "depth": 12, "num_heads": 12, "mlp_width": 3072},
    "large": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_width": 4096},
    "so400m": {"width": 1152, "depth": 27, "num_heads": 16, "mlp_width": 4304},
    "huge": {"width": 1280, "depth": 32, "num_heads": 16, "mlp_width": 5120},
    "giant": {"width": 1408, "depth": 40, "num_heads": 16, "mlp_width": 6144},
    "gigantic": {"width": 1664, "depth": 48, "num_heads": 16, "mlp_width": 8192},
}

_IMAGES: dict[str, tuple[tuple[int, int], ...]] = {
    # (patch, image) of each size that has public weights or a row in the papers' tables.
    "tiny": ((16, 224), (16, 384)),
    "small": ((32, 224), (32, 384), (16, 224), (16, 384), (8, 224)),
    "medium": ((16, 224), (32, 224)),
    "base": ((32, 224), (32, 384), (16, 224), (16, 384), (8, 224)),
    "large": ((32, 224), (32, 384), (16, 224), (16, 384), (14, 224)),
    "so400m": ((14, 224), (16, 224)),
    "huge": ((14, 224), (16, 224)),
    "giant": ((14, 224),),
    "gigantic": ((14, 224),),
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"vit_{size}_patch{patch}_{image}": {
        **_SIZES[size],
        "patch_size": patch,
        "image_size": image,
        "num_classes": 1000,
    }
    for size, images in _IMAGES.items()
    for patch, image in images
}
"""Name -> keywords of `ViT`, for `vitjax.create_model`."""

MODEL = ViT
