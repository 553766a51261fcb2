"""EfficientViT of Microsoft Research Asia, M0 to M5; MIT's EfficientViT is another family of the same name."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float, Tree
from vitjax.errors import UserError
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.cascaded_attention import CascadedGroupAttention, WindowAttention, offset_numbers
from vitjax.layers.channels import Channels
from vitjax.layers.conv_norm import ConvNorm, FoldedConv, fold_norms
from vitjax.layers.dense import Dense
from vitjax.ops.positions import resample_bicubic
from vitjax.paths import flatten, unflatten

__all__ = ["VARIANTS", "EfficientViT", "EfficientViTTrunk"]

_STRIDE = 16
_ZEROS = nn.initializers.zeros_init()


class PatchEmbedding(nn.Module):
    """Section 3.2: four 3x3 convolutions with stride 2, so that patches overlap; no activation behind the last."""

    width: int
    conv_norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        """Sides become `ceil(side / 16)`."""
        for number, share in enumerate((8, 4, 2)):
            conv = self.conv_norm(self.width // share, 3, stride=2, activation=nn.relu, name=f"conv_{number}")
            x = conv(x, train)
        return self.conv_norm(self.width, 3, stride=2, name="conv_3")(x, train)


class FFN(nn.Module):
    """Two 1x1 convolutions; the second norm's scale starts at 0."""

    width: int
    conv_norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """Position-wise, with the residual."""
        hidden = self.conv_norm(self.width, activation=nn.relu, name="expand")(x, train)
        return x + self.conv_norm(x.shape[-1], scale_init=_ZEROS, name="contract")(hidden, train)


class TokenInteraction(nn.Module):
    """`x + depthwise(x)`, of which a fused model makes one convolution, the 1 being added to the centre of its kernel.

    Attributes:
        fused: the kernel holds the 1.
        conv_norm: factory of convolution and norm.
        scale_init: of the norm's scale.
    """

    fused: bool
    conv_norm: Callable[..., nn.Module]
    scale_init: Callable[..., Array] = _ZEROS

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """3x3."""
        conv = self.conv_norm(x.shape[-1], 3, groups=x.shape[-1], scale_init=self.scale_init, name="residual")
        return conv(x, train) if self.fused else x + conv(x, train)


class SqueezeExcite(nn.Module):
    """Scales each channel by a function of all channels' means (Hu et al. 2018), a quarter as many in between."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """The quarter is rounded to a multiple of 8."""
        quarter = max(8, (x.shape[-1] // 4 + 4) // 8 * 8)
        squeezed = nn.relu(Dense(quarter, dtype=self.dtype, name="reduce")(x.mean(axis=(1, 2))))
        return x * nn.sigmoid(Dense(x.shape[-1], dtype=self.dtype, name="expand")(squeezed))[:, None, None]


class Block(nn.Module):
    """Figure 3, the sandwich: token interaction and FFN, attention, token interaction and FFN; all residual.

    Attributes:
        ffn_widths: in the middle of the two FFNs.
        attention: factory of the token mixer, called with `name`.
        fused: see `TokenInteraction`.
        conv_norm: factory of convolution and norm.
    """

    ffn_widths: tuple[int, int]
    attention: Callable[..., nn.Module]
    fused: bool
    conv_norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """Everything starts as the identity."""
        x = TokenInteraction(self.fused, self.conv_norm, name="interaction_0")(x, train)
        x = FFN(self.ffn_widths[0], self.conv_norm, name="ffn_0")(x, train)
        x = x + self.attention(name="attention")(x, train)
        x = TokenInteraction(self.fused, self.conv_norm, name="interaction_1")(x, train)
        return FFN(self.ffn_widths[1], self.conv_norm, name="ffn_1")(x, train)


class Subsample(nn.Module):
    """Section 3.2: an inverted residual block with squeeze-excite halves the map, half a sandwich at either side of it.

    Attributes:
        width: of the next stage.
        ffn_widths: in the middle of the two FFNs.
        fused: see `TokenInteraction`.
        conv_norm: factory of convolution and norm.
        dtype: compute type.
    """

    width: int
    ffn_widths: tuple[int, int]
    fused: bool
    conv_norm: Callable[..., nn.Module]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        """Sides become `ceil(side / 2)`."""
        ones, middle = nn.initializers.ones_init(), 4 * x.shape[-1]
        x = TokenInteraction(self.fused, self.conv_norm, ones, name="interaction_0")(x, train)
        x = FFN(self.ffn_widths[0], self.conv_norm, name="ffn_0")(x, train)
        x = self.conv_norm(middle, activation=nn.relu, name="expand")(x, train)
        x = self.conv_norm(middle, 3, stride=2, groups=middle, activation=nn.relu, name="depthwise")(x, train)
        x = SqueezeExcite(self.dtype, name="squeeze_excite")(x)
        x = self.conv_norm(self.width, name="reduce")(x, train)
        x = TokenInteraction(self.fused, self.conv_norm, ones, name="interaction_1")(x, train)
        return FFN(self.ffn_widths[1], self.conv_norm, name="ffn_1")(x, train)


class EfficientViTTrunk(nn.Module):
    """Embedding and the three stages: everything in front of the classifier. Attributes as `EfficientViT`'s."""

    image_size: int | tuple[int, int] = 224
    widths: tuple[int, ...] = (64, 128, 192)
    depths: tuple[int, ...] = (1, 2, 3)
    num_heads: tuple[int, ...] = (4, 4, 4)
    query_kernels: tuple[int, ...] = (5, 5, 5, 5)
    key_size: int = 16
    window_size: int = 7
    channel_sizes: tuple[tuple[str, int], ...] = ()
    conv_norm: Callable[..., nn.Module] = ConvNorm
    fused: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool) -> dict[str, Float[Array, "B _ _ _"]]:
        """The map behind each stage: `stage_1` (stride 16), `stage_2` (32), `stage_3` (64).

        Raises:
            UserError: a map is smaller than the windows that the model is built with.
        """
        conv_norm = functools.partial(self.conv_norm, dtype=self.dtype)
        x = jnp.asarray(images, jnp.dtype(self.dtype))
        x = PatchEmbedding(self.widths[0], conv_norm, name="patch_embedding")(x, train)
        maps = {}
        for stage, width in enumerate(self.widths, start=1):
            if stage > 1:
                name = f"stage_{stage}_subsample"
                widths = self._ffn_widths(name, self.widths[stage - 2], width)
                x = Subsample(width, widths, self.fused, conv_norm, self.dtype, name=name)(x, train)
            attention = functools.partial(WindowAttention, self._resolution(stage, x, images), self._mixer(stage))
            for number in range(self.depths[stage - 1]):
                name = f"stage_{stage}_block_{number}"
                widths = self._ffn_widths(name, width, width)
                x = Block(widths, attention, self.fused, conv_norm, name=name)(x, train)
            maps[f"stage_{stage}"] = x
        return maps

    def _ffn_widths(self, place: str, first: int, second: int) -> tuple[int, int]:
        """Twice the input's width (table 1), unless the model is pruned."""
        sizes = dict(self.channel_sizes)
        widths = [sizes.get(f"trunk/{place}/ffn_{n}/hidden", 2 * width) for n, width in enumerate((first, second))]
        return widths[0], widths[1]

    def _resolution(self, stage: int, x: Array, images: Array) -> int:
        side = window_sides(self.image_size, self.window_size, len(self.widths))[stage - 1]
        if min(x.shape[1:3]) < side:
            raise UserError(
                f"EfficientViT: an image of {images.shape[1]}x{images.shape[2]} px has a map of {x.shape[1]}x"
                f"{x.shape[2]} in stage {stage}, smaller than its windows of {side}x{side}, which are those of "
                f"`image_size` (={self.image_size}); give larger images, or build the model with their size"
            )
        return side

    def _mixer(self, stage: int) -> Callable[..., nn.Module]:
        return functools.partial(
            CascadedGroupAttention,
            num_heads=self.num_heads[stage - 1],
            query_kernels=self.query_kernels,
            key_size=self.key_size,
            gathered=self.fused,
            conv_norm=self.conv_norm,
            dtype=self.dtype,
        )


def window_sides(image_size: int | tuple[int, int], window_size: int, num_stages: int) -> list[int]:
    """Rows and columns of each stage's windows: `window_size`, or those of a smaller map, of which it is all.

    Counted from the shorter side with the rests cut off, as timm does, whereas maps are rounded up.
    """
    side = min(image_shape_of(image_size)) // _STRIDE
    sides = []
    for _ in range(num_stages):
        sides.append(min(window_size, side))
        side = (side - 1) // 2 + 1
    return sides


def image_shape_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class EfficientViT(nn.Module):
    """Overlapping patches, three stages of sandwich blocks with cascaded group attention, average pooling.

    EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention. Liu et al., 2023.
    https://arxiv.org/abs/2305.07027. No positions but the attention's biases; batch norm throughout.

    Intermediates under `intermediates/`: `stage_1` to `stage_3` (`[B, H, W, C]`), `pooled`.

    Attributes:
        num_classes: outputs; 0 returns the pooled features. `None` is filled in by the trainer.
        image_size: side, or (rows, columns), of the images that windows and bias tables are made for. Others are
            taken where no map is smaller than its windows.
        widths: of the stages.
        depths: blocks of each stage.
        num_heads: of each stage; they share out its width.
        query_kernels: side of the depthwise convolution on the queries of each head.
        key_size: of queries and keys, in every head.
        window_size: rows and columns of a window, where the map is not smaller.
        distilled: a second classifier behind the first (Touvron et al. 2021). In training both outputs are returned,
            `[2, B, classes]`, the class head's first; in evaluation their mean.
        channel_sizes: of a pruned model: ((place and unit, size), ...), such as
            `("trunk/stage_1_block_0/ffn_0/hidden", 96)`.
        bias_resampling: one of `vitjax.ops.positions.resample_*`, for windows of another size.
        conv_norm: factory of convolution and norm; `FoldedConv` in a fused model.
        fused: made by `fuse`: one convolution for each residual depthwise one, biases of all pairs gathered, no norms.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax are float32.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = 224
    widths: tuple[int, ...] = (64, 128, 192)
    depths: tuple[int, ...] = (1, 2, 3)
    num_heads: tuple[int, ...] = (4, 4, 4)
    query_kernels: tuple[int, ...] = (5, 5, 5, 5)
    key_size: int = 16
    window_size: int = 7
    distilled: bool = False
    channel_sizes: tuple[tuple[str, int], ...] = ()
    bias_resampling: Callable[..., Array] = resample_bicubic
    conv_norm: Callable[..., nn.Module] = ConvNorm
    fused: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        if not len(self.widths) == len(self.depths) == len(self.num_heads):
            raise UserError(
                f"EfficientViT: `widths` (={self.widths}), `depths` (={self.depths}) and `num_heads` "
                f"(={self.num_heads}) must have one number for each stage"
            )
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads:
                raise UserError(f"EfficientViT: a width (={width}) must be divisible by its `num_heads` (={heads})")
        if self.widths[0] % 8:
            raise UserError(f"EfficientViT: the first of `widths` (={self.widths[0]}) must be divisible by 8")
        if max(self.num_heads) > len(self.query_kernels) or any(side % 2 == 0 for side in self.query_kernels):
            raise UserError(
                f"EfficientViT: `query_kernels` (={self.query_kernels}) needs an odd side for each of "
                f"{max(self.num_heads)} heads"
            )
        if min(image_shape_of(self.image_size)) < _STRIDE:
            raise UserError(
                f"EfficientViT: `image_size` (={self.image_size}) must be at least {_STRIDE}, the side of a patch"
            )

    def setup(self) -> None:
        """The parts; those that a fused model lacks are not used."""
        shared = {name: getattr(self, name) for name in _OF_TRUNK}
        self.trunk = EfficientViTTrunk(**shared)
        head = functools.partial(Dense, self.num_classes or 0, kernel_init=nn.initializers.truncated_normal(0.02))
        self.head_norm, self.head = BatchNorm(dtype=self.dtype), head()
        self.distillation_norm, self.distillation_head = BatchNorm(dtype=self.dtype), head()

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the images that the windows are made for."""
        return image_shape_of(self.image_size)

    def describe(self, images: Any) -> str:
        """The attention that runs, in words."""
        sides = window_sides(self.image_size, self.window_size, len(self.widths))
        return f"cascaded group attention in windows of {', '.join(f'{side}x{side}' for side in sides)}"

    def features(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Float[Array, "B _ _ _"]]:
        """The map behind each stage: `stage_1` (stride 16), `stage_2` (32), `stage_3` (64).

        Raises:
            UserError: the images are too small for the windows, or `train` with a fused model.
        """
        if train and self.fused:
            raise UserError("EfficientViT: a fused model cannot be trained, its norms are gone; train before `fuse()`")
        maps = self.trunk(images, train)
        for name, stage in maps.items():
            self.sow("intermediates", name, stage)
        return maps

    def __call__(
        self, images: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B classes"] | Float[Array, "2 B classes"]:
        """Classifies images, normalised as the weights expect.

        Raises:
            UserError: as `features`, or `num_classes` is `None`.
        """
        if self.num_classes is None:
            raise UserError("EfficientViT: `num_classes` is not set; give the number of labels, or 0 for features")
        last = self.features(images, train=train)[f"stage_{len(self.widths)}"]
        pooled = last.mean(axis=(1, 2), dtype=jnp.float32).astype(last.dtype)
        self.sow("intermediates", "pooled", pooled)
        if not self.num_classes:
            return pooled

        def classify(norm: nn.Module, head: nn.Module) -> Array:
            return head(pooled if self.fused else norm(pooled, train))

        logits = classify(self.head_norm, self.head)
        if not self.distilled:
            return logits
        both = jnp.stack([logits, classify(self.distillation_norm, self.distillation_head)])
        return both if train else both.mean(axis=0)

    def fuse(self, variables: Tree) -> "tuple[EfficientViT, Tree]":
        """The same model for inference: norms folded into convolutions and heads (section 3.2), and nothing else left.

        Besides, each residual depthwise convolution becomes a plain one, and the biases of all pairs are gathered.

        Args:
            variables: `{"params": ..., "batch_stats": ...}`.

        Returns:
            The fused module, and its variables, `{"params": ...}`.

        Raises:
            UserError: it is fused already.
        """
        if self.fused:
            raise UserError("EfficientViT: this model is fused already")
        flat = fold_norms(flatten(variables))
        for norm, head in (("head_norm", "head"), ("distillation_norm", "distillation_head")):
            flat = _fold_head(flat, norm, head)
        fused = unflatten(dict(_fuse_variable(path, value) for path, value in flat.items()))
        return self.clone(conv_norm=FoldedConv, fused=True), fused

    def channel_groups(self) -> tuple[Channels, ...]:
        """Queries, keys and values of each head, and the FFNs' hidden channels, for `vitjax.analysis.importance`.

        The output of a norm is what a channel is: its scale and bias stand for all weights in front of it.
        """
        size, place = self.key_size, r"params/(?P<place>.*"
        head, ffn = rf"{place}/attention/windows/qkv_\d+)/norm/(scale|bias)", rf"{place}/ffn_\d)/expand"
        parts = {"query": (0, size), "key": (size, 2 * size), "value": (2 * size, None)}
        return (
            *(Channels(kind, head, part) for kind, part in parts.items()),
            Channels(
                "hidden",
                rf"{ffn}/norm/(scale|bias)",
                unit="hidden",
                makers=r"(params|batch_stats)/(?P<place>.*/ffn_\d)/expand/(conv|norm)/\w+",
                readers=rf"{place}/ffn_\d)/contract/conv/kernel",
            ),
        )


_OF_TRUNK = frozenset(EfficientViTTrunk.__dataclass_fields__) - {"parent", "name"}


def _fuse_variable(path: str, value: Array) -> tuple[str, Array]:
    """The residual's 1 goes to the centre of its kernel; the bias table becomes the biases of all pairs."""
    if path.endswith("/residual/conv/kernel"):
        return path, jnp.asarray(value).at[1, 1].add(1.0)
    if path.endswith("/windows/biases"):
        pairs = jnp.asarray(value)[:, offset_numbers(math.isqrt(value.shape[1]))]
        return f"{path.removesuffix('biases')}gathered_biases", pairs
    return path, value


def _fold_head(flat: Mapping[str, Array], norm: str, head: str) -> dict[str, Array]:
    """The norm in front of a classifier in the classifier: scaled rows, and what it adds through them."""
    left = dict(flat)
    if f"batch_stats/{norm}/mean" not in left:
        return left
    mean, var = (np.asarray(left.pop(f"batch_stats/{norm}/{name}"), np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(left.pop(f"params/{norm}/{name}"), np.float64) for name in ("scale", "bias"))
    factor = scale / np.sqrt(var + 1e-5)
    kernel, added = (np.asarray(left[f"params/{head}/{name}"], np.float64) for name in ("kernel", "bias"))
    left[f"params/{head}/kernel"] = jnp.asarray(kernel * factor[:, None], jnp.float32)
    left[f"params/{head}/bias"] = jnp.asarray((bias - mean * factor) @ kernel + added, jnp.float32)
    return left


# Table 1.
_SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "m0": {"widths": (64, 128, 192), "depths": (1, 2, 3), "num_heads": (4, 4, 4), "query_kernels": (5, 5, 5, 5)},
    "m1": {"widths": (128, 144, 192), "depths": (1, 2, 3), "num_heads": (2, 3, 3), "query_kernels": (7, 5, 3, 3)},
    "m2": {"widths": (128, 192, 224), "depths": (1, 2, 3), "num_heads": (4, 3, 2), "query_kernels": (7, 5, 3, 3)},
    "m3": {"widths": (128, 240, 320), "depths": (1, 2, 3), "num_heads": (4, 3, 4), "query_kernels": (5, 5, 5, 5)},
    "m4": {"widths": (128, 256, 384), "depths": (1, 2, 3), "num_heads": (4, 4, 4), "query_kernels": (7, 5, 3, 3)},
    "m5": {"widths": (192, 288, 384), "depths": (1, 3, 4), "num_heads": (3, 3, 4), "query_kernels": (7, 5, 3, 3)},
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"efficientvit_{size}": {**sizes, "num_classes": 1000} for size, sizes in _SIZES.items()
}
"""Name -> keywords of `EfficientViT`, for `vitjax.create_model`; images of 224 px."""

MODEL = EfficientViT
