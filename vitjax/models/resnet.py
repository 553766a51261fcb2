"""ResNet with bottlenecks: four stages of residual blocks of convolutions; the backbone of DETR."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.conv_norm import ConvNorm, FoldedConv, fold_norms
from vitjax.layers.dense import Dense
from vitjax.ops.max_pooling import max_pool
from vitjax.ops.padded_maps import clear_padding, halved_size
from vitjax.paths import flatten, unflatten

__all__ = ["MODEL", "VARIANTS", "Bottleneck", "ResNet", "ResNetTrunk"]

_EXPANSION = 4
_CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Of what the stride of the whole network is -> stride of each stage's first block.
_STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut ("Deeper Bottleneck Architectures"; figure 5, right).

    The stride is in the 3x3 convolution, which is the "v1.5" that everybody trains; the paper has it in the first.

    Attributes:
        width: of the 3x3 convolution; four times as many channels come out.
        stride: of the block; the shortcut is a 1x1 convolution where the shape changes.
        dilation: of the 3x3 convolution.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    width: int
    stride: int = 1
    dilation: int = 1
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W inputs"], train: bool, content_size: Int[Array, "B 2"] | None = None
    ) -> Float[Array, "B h w outputs"]:
        """The last norm's scale starts at zero, so that the block starts as its shortcut (Goyal et al. 2017).

        Args:
            x: a map.
            train: see `ResNetTrunk`.
            content_size: rows and columns of `x` that are the picture, where the rest is padding.
        """
        features = _EXPANSION * self.width
        conv = functools.partial(self.conv_norm, dtype=self.dtype)
        y = conv(self.width, activation=jax.nn.relu, name="reduce")(x, train)
        steps = {"stride": self.stride, "dilation": self.dilation}
        y = clear_padding(y, content_size)
        y = conv(self.width, kernel_size=3, **steps, activation=jax.nn.relu, name="spatial")(y, train)
        y = conv(features, scale_init=nn.initializers.zeros_init(), name="expand")(y, train)
        if self.stride != 1 or x.shape[-1] != features:
            x = conv(features, stride=self.stride, name="shortcut")(x, train)
        return jax.nn.relu(x + y)


class ResNetTrunk(nn.Module):
    """Stem and four stages; `ResNet` without its classifier, for dense prediction too.

    Intermediates under `intermediates/`: `stem_output` (behind the pooling), `stage_1` to `stage_4`.

    Attributes:
        depths: blocks of each stage.
        width: of the stem and of the first stage's 3x3 convolutions; it doubles at each stage.
        output_stride: pixels of the image per pixel of stage 4: 32, or 16 ("DC5") or 8 with dilated convolutions
            instead of the last strides. The first block of a stage still has the dilation of the stage before.
        conv_norm: factory of a convolution and its norm.
        norm: factory of the batch norm; `partial(BatchNorm, frozen=True)` leaves the statistics alone in training.
        dtype: compute type.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    output_stride: int = 32
    conv_norm: Callable[..., nn.Module] = ConvNorm
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise UserError(f"ResNet: `depths` (={self.depths}) must be 4 numbers of blocks, each at least 1")
        if self.output_stride not in _STRIDES:
            raise UserError(f"ResNet: `output_stride` (={self.output_stride}) must be 32, 16 or 8")

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the last map."""
        return self.output_stride

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], content_size: Int[Array, "B 2"] | None = None, *, train: bool = False
    ) -> dict[str, Float[Array, "B _ _ _"]]:
        """The map that leaves each stage, `stage_1` to `stage_4`, at 1/4, 1/8, 1/16 and 1/32 of the image.

        Args:
            images: of any size from the network's stride on.
            content_size: rows and columns of each picture, at the top left of its image. What is outside is kept at
                zero wherever a kernel could reach it, and a picture's pixels are those that it has alone; the
                maps outside mean nothing. `None` takes the whole image for content. Batch statistics
                that are not frozen see the padding all the same.
            train: batch statistics are used and updated, unless they are frozen.

        Raises:
            UserError: the images are smaller than the stride, or the model is fused and `train`.
        """
        if min(images.shape[1:3]) < self.output_stride:
            raise UserError(
                f"ResNet: images of {images.shape[1]}x{images.shape[2]} px are smaller than the network's stride; "
                f"both sides must be at least {self.output_stride} px"
            )
        if train and getattr(self.conv_norm, "func", self.conv_norm) is FoldedConv:
            raise UserError("ResNet: a fused model has no batch statistics and cannot be trained; train, then fuse")
        conv_norm = functools.partial(self.conv_norm, norm=self.norm, kernel_init=_CONV_INIT)
        x = jnp.asarray(images, jnp.dtype(self.dtype))
        stem = conv_norm(self.width, kernel_size=7, stride=2, activation=jax.nn.relu, dtype=self.dtype, name="stem")
        x = stem(clear_padding(x, content_size), train)
        size = halved_size(content_size, 2)
        # The picture's pixels are behind a ReLU: to their largest a zero outside is what torch's -inf around is.
        x = max_pool(clear_padding(x, size))
        size = halved_size(size, 2)
        self.sow("intermediates", "stem_output", x)
        found, dilation = {}, 1
        for stage, (depth, stride) in enumerate(zip(self.depths, _STRIDES[self.output_stride], strict=True), start=1):
            following = dilation if stage == 1 or stride == 2 else 2 * dilation
            for number in range(depth):
                x = Bottleneck(
                    width=self.width * 2 ** (stage - 1),
                    stride=1 if number else stride,
                    dilation=following if number else dilation,
                    conv_norm=conv_norm,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{number}",
                )(x, train, size)
                size = size if number else halved_size(size, stride)
            dilation = following
            found[f"stage_{stage}"] = x
            self.sow("intermediates", f"stage_{stage}", x)
        return found


class ResNet(nn.Module):
    """`ResNetTrunk`, the mean of its last map, and a linear classifier.

    Deep Residual Learning for Image Recognition. He et al., 2016. https://arxiv.org/abs/1512.03385; table 1 has the
    sizes. In the form that is called v1.5, see `Bottleneck`.

    Intermediates under `intermediates/`: those of the trunk under `trunk/`, and `features`, `[B, 32 width]`.

    Attributes:
        num_classes: outputs; 0 returns the mean. `None` is filled in by the trainer.
        image_size: side, or (rows, columns), of the images that the weights were made for; others work as well.
        depths: see `ResNetTrunk`, as all others that are not described here.
        dtype: compute type, "float32" or "bfloat16"; parameters and norms are float32.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = 224
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    output_stride: int = 32
    conv_norm: Callable[..., nn.Module] = ConvNorm
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: str = "float32"

    def setup(self) -> None:
        """Submodules `trunk` and `head`."""
        if self.num_classes is None:
            raise UserError("ResNet: `num_classes` is not set; give the number of labels, or 0 for features")
        self.trunk = ResNetTrunk(
            depths=self.depths,
            width=self.width,
            output_stride=self.output_stride,
            conv_norm=self.conv_norm,
            norm=self.norm,
            dtype=self.dtype,
        )
        if self.num_classes:
            self.head = Dense(self.num_classes)

    def describe(self, images: Any) -> str:
        """What attention runs, in words: none."""
        return f"no attention: a network of convolutions, {self.dtype}"

    def features(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Float[Array, "B _ _ _"]]:
        """The maps of the stages; see `ResNetTrunk`."""
        return self.trunk(images, train=train)

    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> Float[Array, "B classes"]:
        """Classifies images, normalised as the weights expect.

        Args:
            images: of any size from the network's stride on.
            train: batch statistics are used and updated, unless they are frozen.

        Raises:
            UserError: as `ResNetTrunk`, or `num_classes` is `None`.
        """
        pooled = self.trunk(images, train=train)["stage_4"].mean(axis=(1, 2), dtype=jnp.float32)
        self.sow("intermediates", "features", pooled)
        return self.head(pooled) if self.num_classes else pooled

    def fuse(self, variables: Mapping[str, Any]) -> tuple["ResNet", dict[str, Any]]:
        """The same function with the batch norms folded into the convolutions, for inference."""
        return self.clone(conv_norm=FoldedConv), unflatten(fold_norms(flatten(dict(variables))))


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    name: {"depths": depths, "num_classes": 1000}
    for name, depths in (("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3)))
}
"""Name -> keywords of `ResNet`; timm's names."""

MODEL = ResNet
