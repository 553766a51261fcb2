"""SSDLite: boxes and classes of objects from feature maps of several sizes, by separable convolutions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Tree
from vitjax.errors import UserError
from vitjax.layers.conv_norm import ConvNorm, FoldedConv, fold_norms
from vitjax.layers.convolution import Conv
from vitjax.models.mobilevit import VARIANTS as MOBILEVITS
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk
from vitjax.ops.anchors import SSDAnchors
from vitjax.paths import flatten, unflatten

__all__ = ["MODEL", "VARIANTS", "BoxHead", "SSDLite", "SeparableConv"]

_glorot = nn.initializers.xavier_uniform()


class SeparableConv(nn.Module):
    """A depthwise convolution with norm, then a 1x1 convolution with norm and ReLU: `depthwise`, `pointwise`.

    Attributes:
        features: outputs.
        stride: of the first.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W inputs"], train: bool) -> Float[Array, "B h w features"]:
        """Sides become `ceil(side / stride)`."""
        conv = partial(self.conv_norm, kernel_init=_glorot, dtype=self.dtype)
        inputs = x.shape[-1]
        x = conv(inputs, kernel_size=3, stride=self.stride, groups=inputs, name="depthwise")(x, train)
        return conv(self.features, activation=nn.relu, name="pointwise")(x, train)


class BoxHead(nn.Module):
    """What is predicted at each cell of one feature map.

    Submodules `projection` (absent where the width is that of the map), `depthwise`, `pointwise`.

    Attributes:
        num_anchors: of a cell.
        num_outputs: of an anchor.
        width: channels in front of the separable convolution.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    num_anchors: int
    num_outputs: int
    width: int
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w inputs"], train: bool) -> Float[Array, "B anchors outputs"]:
        """Anchors are ordered by (row, column, kind)."""
        conv = partial(self.conv_norm, self.width, kernel_init=_glorot, dtype=self.dtype)
        if x.shape[-1] != self.width:
            x = conv(activation=nn.relu, name="projection")(x, train)
        x = conv(kernel_size=3, groups=self.width, name="depthwise")(x, train)
        return _predictions(x, self.num_anchors, self.num_outputs, self.dtype, "pointwise")


def _predictions(x: Array, num_anchors: int, num_outputs: int, dtype: str, name: str) -> Array:
    """A 1x1 convolution, a submodule of the caller, whose channels are (kind of anchor, output)."""
    x = Conv(num_anchors * num_outputs, kernel_init=_glorot, dtype=dtype, name=name)(x)
    return jnp.asarray(x.reshape(x.shape[0], -1, num_outputs), jnp.float32)


class SSDLite(nn.Module):
    """A trunk, smaller and smaller feature maps behind it, and a head on each.

    MobileNetV2. Sandler et al., 2018. https://arxiv.org/abs/1801.04381, section 6.2, with the numbers of MobileViT
    (Mehta and Rastegari, 2022, https://arxiv.org/abs/2110.02178, section 4.2.1, and the authors' `ssd.py`). The trunk's
    maps are followed by maps of half the side, and by one of a single pixel, the mean of the last.

    Intermediates: the trunk's below `trunk`, and `level_0` ..., finest first.

    Attributes:
        backbone: factory of a trunk, which takes `conv_norm` and `dtype`, and gives a dict of stages:
            `MobileViTTrunk`, `MobileViTV2Trunk`.
        num_classes: of objects, without the background. `None` is filled in by the trainer.
        image_size: side of the images that the weights were made for; others work as well.
        stages: of the trunk that have a head, finest first.
        extra_widths: channels of each map that is added behind the last of them.
        pooled_width: channels of the map of one pixel; `None` for no such map.
        head_widths: channels inside each head but that of the pooled map, which is a plain 1x1 convolution.
        anchors: from the maps' sizes to all anchors, with their `counts` by level.
        conv_norm: factory of all convolutions with a norm.
        dtype: compute type; what is returned is float32.
    """

    backbone: Callable[..., nn.Module]
    num_classes: int | None = None
    image_size: int | tuple[int, int] = 320
    stages: tuple[str, ...] = ("stage_4", "stage_5")
    extra_widths: tuple[int, ...] = (256, 128, 128)
    pooled_width: int | None = 64
    head_widths: tuple[int, ...] = (512, 256, 256, 128, 128)
    anchors: Callable[..., Array] = SSDAnchors()
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks the numbers of levels."""
        super().__post_init__()
        convolved = len(self.stages) + len(self.extra_widths)
        if len(self.head_widths) != convolved:
            raise UserError(
                f"SSDLite: `head_widths` (={tuple(self.head_widths)}) must have one width for each of the {convolved} "
                "maps of `stages` and `extra_widths`"
            )
        levels, counts = convolved + (self.pooled_width is not None), getattr(self.anchors, "counts", ())
        if len(counts) != levels:
            raise UserError(
                f"SSDLite: `anchors` are of {len(counts)} levels, but there are {levels} feature maps: of `stages`, of "
                "`extra_widths`, and the pooled one"
            )

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Array]:
        """Predicts for each anchor.

        Returns:
            `offsets` `[B, anchors, 4]`, see `ops.matching.decode_offsets`; `logits` `[B, anchors, 1 + num_classes]`,
            the background first; and `anchors` `[anchors, 4]`, `boxes_cxcywh` in shares of the image.

        Raises:
            UserError: `num_classes` is not set, or what the trunk raises, such as for a fused model to be trained.
        """
        if not self.num_classes:
            raise UserError(f"SSDLite: `num_classes` (={self.num_classes}) must be set: classes without the background")
        maps = self._maps(images, train)
        for level, x in enumerate(maps):
            self.sow("intermediates", f"level_{level}", x)
        parts = {"num_outputs": 4 + 1 + self.num_classes, "dtype": self.dtype}
        counts = self.anchors.counts  # pyright: ignore[reportFunctionMemberAccess]
        predictions = [
            BoxHead(count, width=width, conv_norm=self.conv_norm, **parts, name=f"head_{level}")(x, train)
            for level, (x, count, width) in enumerate(zip(maps, counts, self.head_widths, strict=False))
        ]
        if self.pooled_width is not None:
            predictions.append(_predictions(maps[-1], counts[-1], name=f"head_{len(maps) - 1}", **parts))
        outputs = jnp.concatenate(predictions, axis=1)
        anchors = jnp.asarray(self.anchors([x.shape[1:3] for x in maps]))
        return {"offsets": outputs[..., :4], "logits": outputs[..., 4:], "anchors": anchors}

    def _maps(self, images: Array, train: bool) -> list[Array]:
        parts: dict[str, Any] = {"conv_norm": self.conv_norm, "dtype": self.dtype}
        found = self.backbone(**parts, name="trunk")(images, train=train)
        maps = [found[stage] for stage in self.stages]
        for number, width in enumerate(self.extra_widths):
            maps.append(SeparableConv(width, stride=2, **parts, name=f"extra_{number}")(maps[-1], train))
        if self.pooled_width is not None:
            mean = maps[-1].mean(axis=(1, 2), keepdims=True)
            conv = Conv(self.pooled_width, use_bias=False, kernel_init=_glorot, dtype=self.dtype, name="pooled")
            maps.append(nn.relu(conv(mean)))
        return maps

    def fuse(self, variables: Tree) -> "tuple[SSDLite, Tree]":
        """The model for inference: norms folded into convolutions; the same outputs."""
        return self.clone(conv_norm=FoldedConv), unflatten(fold_norms(flatten(dict(variables))))


_TRUNK = ("widths", "transformer_widths", "expansion", "transformer_dropout_rate")
_TRUNKS: dict[str, Callable[..., nn.Module]] = {
    **{
        name: partial(MobileViTTrunk, **{key: keywords[key] for key in _TRUNK}) for name, keywords in MOBILEVITS.items()
    },
    **{
        f"mobilevitv2_{percent:03}": partial(MobileViTV2Trunk, width_multiplier=percent / 100)
        for percent in range(50, 201, 25)
    },
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"ssdlite_{name}": {"backbone": trunk, "num_classes": 80, "image_size": 320} for name, trunk in _TRUNKS.items()
}
"""Name -> keywords of `SSDLite`; the 80 classes of COCO."""

MODEL = SSDLite
