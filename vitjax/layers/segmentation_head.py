"""What segmentation heads share: the auxiliary head, and how logits come to the images' size."""

from collections.abc import Callable

import flax.linen as nn

from vitjax.arrays import Array, Float
from vitjax.layers.conv_norm import ConvNorm
from vitjax.layers.convolution import Conv
from vitjax.ops.resizing import resize_bilinear

__all__ = ["AuxiliaryHead", "as_they_are", "classifier", "to_corners"]


def as_they_are(logits: Float[Array, "B h w classes"], size: tuple[int, int]) -> Float[Array, "B h w classes"]:
    """Logits at the backbone's stride, as transformers returns them: whoever wants more resizes them."""
    del size
    return logits


def to_corners(logits: Float[Array, "B h w classes"], size: tuple[int, int]) -> Float[Array, "B H W classes"]:
    """Logits at the images' size, the centres of the corner pixels kept in their places, as the authors' code."""
    return resize_bilinear(logits, size, align_corners=True)


def classifier(num_classes: int, dtype: str, name: str) -> Conv:
    """1x1 convolution to logits, small at the start: all classes then count alike."""
    return Conv(num_classes, kernel_init=nn.initializers.normal(0.01), dtype=dtype, name=name)


class AuxiliaryHead(nn.Module):
    """A small head on an earlier stage, whose loss helps in training (Zhao et al. 2017, section 3.3).

    Attributes:
        num_classes: outputs.
        min_width: the hidden width is a quarter of the input's, but not less than this.
        dropout_rate: of whole channels, in front of the classifier.
        conv_norm: factory of a convolution and its norm.
        dtype: compute type.
    """

    num_classes: int
    min_width: int = 128
    dropout_rate: float = 0.1
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w classes"]:
        """Logits at the stage's own size."""
        hidden = max(x.shape[-1] // 4, self.min_width)
        x = self.conv_norm(hidden, kernel_size=3, activation=nn.relu, dtype=self.dtype, name="hidden")(x, train)
        x = nn.Dropout(self.dropout_rate, broadcast_dims=(1, 2), name="dropout")(x, deterministic=not train)
        return classifier(self.num_classes, self.dtype, "classifier")(x)
