"""MobileViTv2: a mobile network of convolutions and separable self-attention, in seven widths."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.layers.conv_norm import ConvNorm, FoldedConv, fold_norms
from vitjax.layers.convolution import Conv, GroupNorm
from vitjax.layers.dense import Dense
from vitjax.layers.inverted_residual import InvertedResidual
from vitjax.layers.separable_attention import SeparableSelfAttention
from vitjax.ops.channels import make_divisible
from vitjax.ops.fusion import end_fusion
from vitjax.ops.resizing import resize_bilinear
from vitjax.paths import flatten, unflatten

__all__ = ["MODEL", "VARIANTS", "LinearUnit", "MobileViTV2", "MobileViTV2Block", "MobileViTV2Trunk"]

_PATCH = 2

# Pixels of the image per pixel of what leaves the trunk -> (stride, dilation) of the inverted residual, and dilation of
# the block's own convolution, of stages 4 and 5.
_DILATIONS = {
    32: ((2, 1, 1), (2, 1, 1)),
    16: ((2, 1, 1), (1, 1, 2)),
    8: ((1, 1, 2), (1, 2, 4)),
}


_CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class LinearUnit(nn.Module):
    """Pre-norm unit: separable self-attention, then an MLP, each added to its input.

    Attributes:
        mlp_width: size in the middle of the MLP.
        norm: factory of the norms.
        dtype: compute type.
    """

    mlp_width: int
    norm: Callable[..., nn.Module]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """`x` is a map of pixels, whose patches are 2x2."""
        x = end_fusion(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        attention = SeparableSelfAttention(patch_size=_PATCH, dtype=self.dtype, name="attention")
        x = x + attention(self.norm(name="attention_norm")(x))
        dense = functools.partial(Dense, kernel_init=_CONV_INIT, dtype=self.dtype)
        hidden = jax.nn.silu(dense(self.mlp_width, name="expand")(self.norm(name="mlp_norm")(x)))
        return x + dense(x.shape[-1], name="contract")(hidden)


class MobileViTV2Block(nn.Module):
    """A depthwise convolution, then units of separable self-attention; no skip around them and no fusion (section 3.3).

    A map of odd sides is enlarged to even ones first, and stays so.

    Attributes:
        width: D of the units; the channels of the map come out again.
        depth: units.
        dilation: of the depthwise convolution.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    width: int
    depth: int
    dilation: int = 1
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w C"]:
        """`h` and `w` are `H` and `W` rounded up to even numbers."""
        channels = x.shape[-1]
        even = (x.shape[1] + x.shape[1] % _PATCH, x.shape[2] + x.shape[2] % _PATCH)
        x = resize_bilinear(x, even, align_corners=True)
        x = self.conv_norm(
            channels,
            kernel_size=3,
            dilation=self.dilation,
            groups=channels,
            activation=jax.nn.silu,
            dtype=self.dtype,
            name="depthwise",
        )(x, train)
        x = Conv(self.width, use_bias=False, kernel_init=_CONV_INIT, dtype=self.dtype, name="project_in")(x)
        # Over all pixels and channels of an image: not a norm of tokens.
        norm = functools.partial(GroupNorm, num_groups=1, epsilon=1e-5, dtype=self.dtype)
        mlp_width = 2 * self.width // 16 * 16
        for number in range(self.depth):
            x = LinearUnit(mlp_width, norm, dtype=self.dtype, name=f"unit_{number}")(x)
        x = norm(name="final_norm")(x)
        return self.conv_norm(channels, dtype=self.dtype, name="project_out")(x, train)


class MobileViTV2Trunk(nn.Module):
    """Stem and five stages; `MobileViTV2` without its classifier, for dense prediction too.

    Intermediates under `intermediates/`: `stem_output`, `stage_1` to `stage_5`.

    Attributes:
        width_multiplier: of all widths; 0.5 to 2 in the paper.
        depths: units of the blocks of stages 3, 4 and 5.
        output_stride: pixels of the image per pixel of stage 5: 32, or 16 or 8 with dilated convolutions instead of the
            last strides.
        dilate_blocks: dilate the blocks' own convolutions as well, as the authors do; transformers does not.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    width_multiplier: float = 1.0
    depths: tuple[int, ...] = (2, 4, 3)
    output_stride: int = 32
    dilate_blocks: bool = True
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        if self.width_multiplier <= 0:
            raise UserError(f"MobileViTV2: `width_multiplier` (={self.width_multiplier}) must be positive")
        if len(self.depths) != 3:
            raise UserError(f"MobileViTV2: `depths` (={self.depths}) must be 3 numbers")
        if self.output_stride not in _DILATIONS:
            raise UserError(f"MobileViTV2: `output_stride` (={self.output_stride}) must be 32, 16 or 8")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stem and of each stage."""
        scale = self.width_multiplier
        stem = make_divisible(min(max(32 * scale, 16), 64), 8, 16)
        return stem, make_divisible(64 * scale, 16), *(make_divisible(width * scale) for width in (128, 256, 384, 512))

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Float[Array, "B _ _ _"]]:
        """The map that leaves each stage, `stage_1` to `stage_5`, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image.

        Raises:
            UserError: the images are smaller than the stride, or the model is fused and `train`.
        """
        if min(images.shape[1:3]) < self.output_stride:
            raise UserError(
                f"MobileViTV2: images of {images.shape[1]}x{images.shape[2]} px are smaller than the network's stride; "
                f"both sides must be at least {self.output_stride} px"
            )
        if train and getattr(self.conv_norm, "func", self.conv_norm) is FoldedConv:
            raise UserError(
                "MobileViTV2: a fused model has no batch statistics and cannot be trained; train, then fuse"
            )
        stem, *widths = self.widths
        common: dict[str, Any] = {
            "conv_norm": functools.partial(self.conv_norm, kernel_init=_CONV_INIT),
            "dtype": self.dtype,
        }
        residual = functools.partial(InvertedResidual, expansion=2, **common)
        x = jnp.asarray(images, jnp.dtype(self.dtype))
        stem_conv = common["conv_norm"](
            stem, kernel_size=3, stride=2, activation=jax.nn.silu, dtype=self.dtype, name="stem"
        )
        x = stem_conv(x, train)
        self.sow("intermediates", "stem_output", x)
        found = {"stage_1": residual(widths[0], name="stage_1_residual_0")(x, train)}
        x = residual(widths[1], stride=2, name="stage_2_residual_0")(found["stage_1"], train)
        found["stage_2"] = x = residual(widths[1], name="stage_2_residual_1")(x, train)
        plans = ((2, 1, 1), *_DILATIONS[self.output_stride])
        for stage, (stride, dilation, block_dilation) in enumerate(plans, start=3):
            width = widths[stage - 1]
            x = residual(width, stride=stride, dilation=dilation, name=f"stage_{stage}_residual")(x, train)
            found[f"stage_{stage}"] = x = MobileViTV2Block(
                width=make_divisible((stage - 1) * 64 * self.width_multiplier),  # half the channels
                depth=self.depths[stage - 3],
                dilation=block_dilation if self.dilate_blocks else 1,
                **common,
                name=f"stage_{stage}_block",
            )(x, train)
        for name, value in found.items():
            self.sow("intermediates", name, value)
        return found


class MobileViTV2(nn.Module):
    """`MobileViTV2Trunk`, the mean of its last map, and a linear classifier.

    Separable Self-attention for Mobile Vision Transformers. Mehta and Rastegari, 2022. https://arxiv.org/abs/2206.02680

    Attributes:
        num_classes: outputs; 0 returns the mean. `None` is filled in by the trainer.
        image_size: side of the images that the weights were made for; others work as well, from 32 px.
        width_multiplier: see `MobileViTV2Trunk`.
        depths: see `MobileViTV2Trunk`.
        output_stride: see `MobileViTV2Trunk`.
        dilate_blocks: see `MobileViTV2Trunk`.
        conv_norm: see `MobileViTV2Trunk`.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax are float32.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = 256
    width_multiplier: float = 1.0
    depths: tuple[int, ...] = (2, 4, 3)
    output_stride: int = 32
    dilate_blocks: bool = True
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    def setup(self) -> None:
        """Submodules `trunk` and `head`."""
        if self.num_classes is None:
            raise UserError("MobileViTV2: `num_classes` is not set; give the number of labels, or 0 for features")
        self.trunk = MobileViTV2Trunk(
            width_multiplier=self.width_multiplier,
            depths=self.depths,
            output_stride=self.output_stride,
            dilate_blocks=self.dilate_blocks,
            conv_norm=self.conv_norm,
            dtype=self.dtype,
        )
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(0.02))

    def describe(self, images: Any) -> str:
        """The attention that runs for these inputs, in words; only shapes matter."""
        return "separable self-attention, linear in the number of tokens, in plain XLA on every backend"

    def features(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Float[Array, "B _ _ _"]]:
        """The maps of the stages; see `MobileViTV2Trunk`."""
        return self.trunk(images, train=train)

    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> Float[Array, "B classes"]:
        """Classifies images, normalised as the weights expect.

        Raises:
            UserError: as `MobileViTV2Trunk`, or `num_classes` is `None`.
        """
        last = self.trunk(images, train=train)["stage_5"]
        pooled = last.mean(axis=(1, 2), dtype=jnp.float32)
        self.sow("intermediates", "features", pooled)
        return self.head(pooled) if self.num_classes else pooled

    def fuse(self, variables: Mapping[str, Any]) -> tuple["MobileViTV2", dict[str, Any]]:
        """The same function with the batch norms folded into the convolutions, for inference."""
        return self.clone(conv_norm=FoldedConv), unflatten(fold_norms(flatten(dict(variables))))


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"mobilevitv2_{percent:03}{suffix}": {"width_multiplier": percent / 100, "image_size": side, "num_classes": 1000}
    for percent in (50, 75, 100, 125, 150, 175, 200)
    for suffix, side in (("", 256), ("_384", 384))
}
"""Name -> keywords of `MobileViTV2`; timm's names."""

MODEL = MobileViTV2
