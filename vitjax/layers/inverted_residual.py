"""MobileNetV2's block."""

from collections.abc import Callable

import flax.linen as nn
import jax

from vitjax.arrays import Array, Float
from vitjax.layers.conv_norm import ConvNorm, identity
from vitjax.ops.channels import make_divisible

__all__ = ["InvertedResidual"]


class InvertedResidual(nn.Module):
    """Widens by a 1x1 convolution, filters each channel by a 3x3 one, narrows by another 1x1 (Sandler et al. 2018).

    The input is added where the shape stays the same. The hidden width is a multiple of 8. Submodules `expand` (absent
    where `expansion` is 1), `depthwise` and `reduce`, the last without activation.

    Attributes:
        features: outputs.
        stride: of the depthwise convolution.
        expansion: hidden over input width.
        dilation: of the depthwise convolution.
        conv_norm: factory of a convolution and its norm, such as `ConvNorm` or `FoldedConv`.
        activation: behind the first two.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    expansion: float | int = 4
    dilation: int = 1
    conv_norm: Callable[..., nn.Module] = ConvNorm
    activation: Callable[[Array], Array] = jax.nn.silu
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W inputs"], train: bool) -> Float[Array, "B h w features"]:
        """Sides become `ceil(side / stride)`."""
        inputs = x.shape[-1]
        hidden = make_divisible(round(inputs * self.expansion))
        y = x
        if self.expansion != 1:
            y = self.conv_norm(hidden, activation=self.activation, dtype=self.dtype, name="expand")(y, train)
        y = self.conv_norm(
            hidden,
            kernel_size=3,
            stride=self.stride,
            dilation=self.dilation,
            groups=hidden,
            activation=self.activation,
            dtype=self.dtype,
            name="depthwise",
        )(y, train)
        y = self.conv_norm(self.features, activation=identity, dtype=self.dtype, name="reduce")(y, train)
        return x + y if self.stride == 1 and inputs == self.features else y
