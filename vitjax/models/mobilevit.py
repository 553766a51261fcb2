"""MobileViT: a mobile network of convolutions, whose last three stages look at the whole image by a transformer."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.layers.attention import SelfAttention
from vitjax.layers.conv_norm import ConvNorm, FoldedConv, fold_norms
from vitjax.layers.convolution import Conv
from vitjax.layers.dense import Dense
from vitjax.layers.inverted_residual import InvertedResidual
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.transformer import Block
from vitjax.ops.attention import attend_images, attention_report
from vitjax.ops.resizing import resize_bilinear
from vitjax.paths import flatten, unflatten

__all__ = ["MODEL", "VARIANTS", "FeedForward", "MobileViT", "MobileViTBlock", "MobileViTTrunk", "fold", "unfold"]

_PATCH = 2

# Of what the stride of a whole network is -> (stride, dilation) of the inverted residuals of stages 4 and 5.
_DILATIONS = {32: ((2, 1), (2, 1)), 16: ((2, 1), (1, 1)), 8: ((1, 1), (1, 2))}

_CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def unfold(x: Float[Array, "B H W D"]) -> Float[Array, "tokens D"]:
    """Pixels of an even-sided map as tokens in the order (image, place within its 2x2 patch, patch).

    Attention then runs over the patches, among the pixels at the same place within theirs: 4 sequences an image.
    """
    pattern = "b (rows p) (columns q) d -> (b p q rows columns) d"
    return jnp.asarray(einops.rearrange(x, pattern, p=_PATCH, q=_PATCH))


def fold(tokens: Float[Array, "tokens D"], rows: int, columns: int) -> Float[Array, "B H W D"]:
    """The inverse of `unfold`, to maps of `rows` x `columns` pixels."""
    pattern = "(b p q rows columns) d -> b (rows p) (columns q) d"
    sizes = {"rows": rows // _PATCH, "columns": columns // _PATCH, "p": _PATCH, "q": _PATCH}
    return jnp.asarray(einops.rearrange(tokens, pattern, **sizes))


class FeedForward(nn.Module):
    """The transformer's MLP: twice as wide inside, SiLU, dropout behind the second layer only.

    Attributes:
        dropout_rate: of what comes out.
        dtype: compute type.
    """

    dropout_rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "T D"], train: bool) -> Float[Array, "T D"]:
        """Position-wise."""
        width = tokens.shape[-1]
        dense = functools.partial(Dense, kernel_init=nn.initializers.truncated_normal(0.02), dtype=self.dtype)
        hidden = jax.nn.silu(dense(2 * width, name="expand")(tokens))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(dense(width, name="contract")(hidden))


class MobileViTBlock(nn.Module):
    """A 3x3 convolution sees neighbours, a transformer sees the image, and a 3x3 convolution fuses it with the input.

    Section 3.1, figure 1b. A map of odd sides is enlarged to even ones for the transformer, and shrunk behind it.

    Attributes:
        width: D of the transformer; the channels of the map come out again.
        depth: transformer layers.
        num_heads: A.
        dropout_rate: after the attention and after the MLP.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    width: int
    depth: int
    num_heads: int = 4
    dropout_rate: float = 0.0
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """The transformer's tokens are those of `unfold`."""
        batch, height, width, channels = x.shape
        conv = functools.partial(self.conv_norm, channels, activation=jax.nn.silu, dtype=self.dtype)
        y = conv(kernel_size=3, name="local")(x, train)
        y = Conv(self.width, use_bias=False, kernel_init=_CONV_INIT, dtype=self.dtype, name="project_in")(y)
        rows, columns = height + height % _PATCH, width + width % _PATCH
        y = resize_bilinear(y, (rows, columns), align_corners=False)
        y = fold(self._transform(unfold(y), _PATCH**2 * batch, train), rows, columns)
        y = resize_bilinear(y, (height, width), align_corners=False)
        y = conv(name="project_out")(y, train)
        return conv(kernel_size=3, name="fusion")(jnp.concatenate([x, y], axis=-1), train)

    def _transform(self, tokens: Array, sequences: int, train: bool) -> Array:
        """Pre-norm layers and a last norm, on the flat trunk."""
        attend = attend_images(sequences)
        nobody = jnp.zeros(tokens.shape[0], jnp.int32)  # no stochastic depth, which would ask whose a token is
        norm = functools.partial(LayerNorm, epsilon=1e-5, dtype=self.dtype)
        for number in range(self.depth):
            tokens = Block(
                attention=functools.partial(SelfAttention, num_heads=self.num_heads, dtype=self.dtype),
                mlp=functools.partial(FeedForward, dropout_rate=self.dropout_rate, dtype=self.dtype),
                norm=norm,
                dropout_rate=self.dropout_rate,
                name=f"layer_{number}",
            )(tokens, attend, nobody, train)
        return norm(name="final_norm")(tokens)


class MobileViTTrunk(nn.Module):
    """Stem and five stages; `MobileViT` without its classifier, for dense prediction too.

    Intermediates under `intermediates/`: `stem_output`, `stage_1` to `stage_5`.

    Attributes:
        widths: channels of the stem and of each stage.
        transformer_widths: D in the blocks of stages 3, 4 and 5.
        depths: transformer layers of these blocks.
        expansion: of the inverted residuals.
        num_heads: A.
        transformer_dropout_rate: after the transformers' attention and MLP.
        output_stride: pixels of the image per pixel of stage 5: 32, or 16 or 8 with dilated convolutions instead of the
            last strides.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    widths: tuple[int, int, int, int, int, int] = (16, 32, 64, 96, 128, 160)
    transformer_widths: tuple[int, int, int] = (144, 192, 240)
    depths: tuple[int, int, int] = (2, 4, 3)
    expansion: float | int = 4
    num_heads: int = 4
    transformer_dropout_rate: float = 0.1
    output_stride: int = 32
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        for name, count in (("widths", 6), ("transformer_widths", 3), ("depths", 3)):
            if len(getattr(self, name)) != count:
                raise UserError(f"MobileViT: `{name}` (={getattr(self, name)}) must be {count} numbers")
        if any(width % self.num_heads for width in self.transformer_widths):
            raise UserError(
                f"MobileViT: `num_heads` (={self.num_heads}) must divide `transformer_widths` "
                f"(={self.transformer_widths})"
            )
        if self.output_stride not in _DILATIONS:
            raise UserError(f"MobileViT: `output_stride` (={self.output_stride}) must be 32, 16 or 8")

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Float[Array, "B _ _ _"]]:
        """The map that leaves each stage, `stage_1` to `stage_5`, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image.

        Raises:
            UserError: the images are smaller than the stride, or the model is fused and `train`.
        """
        if min(images.shape[1:3]) < self.output_stride:
            raise UserError(
                f"MobileViT: images of {images.shape[1]}x{images.shape[2]} px are smaller than the network's stride; "
                f"both sides must be at least {self.output_stride} px"
            )
        if train and getattr(self.conv_norm, "func", self.conv_norm) is FoldedConv:
            raise UserError("MobileViT: a fused model has no batch statistics and cannot be trained; train, then fuse")
        common: dict[str, Any] = {
            "conv_norm": functools.partial(self.conv_norm, kernel_init=_CONV_INIT),
            "dtype": self.dtype,
        }
        residual = functools.partial(InvertedResidual, expansion=self.expansion, **common)
        stem, *widths = self.widths
        x = jnp.asarray(images, jnp.dtype(self.dtype))
        stem_conv = common["conv_norm"](
            stem, kernel_size=3, stride=2, activation=jax.nn.silu, dtype=self.dtype, name="stem"
        )
        x = stem_conv(x, train)
        self.sow("intermediates", "stem_output", x)
        x = residual(widths[0], name="stage_1_residual_0")(x, train)
        found = {"stage_1": x}
        for number in range(3):
            x = residual(widths[1], stride=1 if number else 2, name=f"stage_2_residual_{number}")(x, train)
        found["stage_2"] = x
        for index, (stride, dilation) in enumerate(((2, 1), *_DILATIONS[self.output_stride])):
            stage = f"stage_{index + 3}"
            x = residual(widths[index + 2], stride=stride, dilation=dilation, name=f"{stage}_residual")(x, train)
            found[stage] = x = MobileViTBlock(
                width=self.transformer_widths[index],
                depth=self.depths[index],
                num_heads=self.num_heads,
                dropout_rate=self.transformer_dropout_rate,
                **common,
                name=f"{stage}_block",
            )(x, train)
        for name, value in found.items():
            self.sow("intermediates", name, value)
        return found


class MobileViT(nn.Module):
    """`MobileViTTrunk`, a 1x1 convolution that widens its last map, the mean of that, and a linear classifier.

    MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer. Mehta and Rastegari, 2022.
    https://arxiv.org/abs/2110.02178; table 4 has the sizes.

    Intermediates under `intermediates/`: those of the trunk under `trunk/`, and `features`, `[B, final_width]`.

    Attributes:
        num_classes: outputs; 0 returns the mean. `None` is filled in by the trainer.
        image_size: side, or (rows, columns), of the images that the weights were made for; others work as well.
        widths: see `MobileViTTrunk`, as all others that are not described here.
        final_width: channels of the last convolution: 4 times the last stage's in the paper.
        dropout_rate: in front of the classifier.
        dtype: compute type, "float32" or "bfloat16"; parameters, norms and softmax are float32.
    """

    num_classes: int | None = None
    image_size: int | tuple[int, int] = 256
    widths: tuple[int, int, int, int, int, int] = (16, 32, 64, 96, 128, 160)
    transformer_widths: tuple[int, int, int] = (144, 192, 240)
    depths: tuple[int, int, int] = (2, 4, 3)
    expansion: float | int = 4
    num_heads: int = 4
    final_width: int = 640
    dropout_rate: float = 0.1
    transformer_dropout_rate: float = 0.1
    output_stride: int = 32
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    def setup(self) -> None:
        """Submodules `trunk`, `final_conv` and `head`."""
        if self.num_classes is None:
            raise UserError("MobileViT: `num_classes` is not set; give the number of labels, or 0 for features")
        self.trunk = MobileViTTrunk(
            widths=self.widths,
            transformer_widths=self.transformer_widths,
            depths=self.depths,
            expansion=self.expansion,
            num_heads=self.num_heads,
            transformer_dropout_rate=self.transformer_dropout_rate,
            output_stride=self.output_stride,
            conv_norm=self.conv_norm,
            dtype=self.dtype,
        )
        self.final_conv = self.conv_norm(
            self.final_width, activation=jax.nn.silu, kernel_init=_CONV_INIT, dtype=self.dtype
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=nn.initializers.truncated_normal(0.02))

    def describe(self, images: Any) -> str:
        """The attention that runs for these inputs, in words; only shapes matter."""
        return attention_report(packed=False, dtype=self.dtype)

    def features(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Float[Array, "B _ _ _"]]:
        """The maps of the stages; see `MobileViTTrunk`."""
        return self.trunk(images, train=train)

    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> Float[Array, "B classes"]:
        """Classifies images, normalised as the weights expect.

        Args:
            images: of any size from the network's stride on.
            train: batch statistics are used and updated, and dropout acts.

        Raises:
            UserError: as `MobileViTTrunk`, or `num_classes` is `None`.
        """
        x = self.final_conv(self.trunk(images, train=train)["stage_5"], train)
        pooled = self.dropout(x.mean(axis=(1, 2), dtype=jnp.float32), deterministic=not train)
        self.sow("intermediates", "features", pooled)
        return self.head(pooled) if self.num_classes else pooled

    def fuse(self, variables: Mapping[str, Any]) -> tuple["MobileViT", dict[str, Any]]:
        """The same function with the batch norms folded into the convolutions, for inference."""
        return self.clone(conv_norm=FoldedConv), unflatten(fold_norms(flatten(dict(variables))))


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    name: {
        "widths": widths,
        "transformer_widths": transformer_widths,
        "expansion": expansion,
        "final_width": 4 * widths[-1],
        "transformer_dropout_rate": dropout_rate,
        "num_classes": 1000,
    }
    for name, widths, transformer_widths, expansion, dropout_rate in (
        ("mobilevit_xxs", (16, 16, 24, 48, 64, 80), (64, 80, 96), 2, 0.05),
        ("mobilevit_xs", (16, 32, 48, 64, 80, 96), (96, 120, 144), 4, 0.1),
        ("mobilevit_s", (16, 32, 64, 96, 128, 160), (144, 192, 240), 4, 0.1),
    )
}
"""Name -> keywords of `MobileViT`; timm's names."""

MODEL = MobileViT
