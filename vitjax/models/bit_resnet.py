"""The residual network in front of the Hybrid ViT."""

import functools
from collections.abc import Callable

import flax.linen as nn

from vitjax.arrays import Array, Float
from vitjax.layers.convolution import GroupNorm, StandardisedConv, standardise_by_deviation
from vitjax.ops.fusion import end_fusion

__all__ = ["BitResNet"]


class ResidualUnit(nn.Module):
    """Bottleneck with the activations behind the norms, and the stride in its 3x3 convolution.

    Attributes:
        width: channels of the bottleneck; four times as many come out.
        stride: of the unit.
        conv: factory of a convolution (features, kernel_size, stride).
        norm: factory of a normalisation.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W inputs"]) -> Float[Array, "B h w outputs"]:
        """`relu(shortcut(x) + branch(x))`; the branch's last scale starts at zero, so a new unit is its shortcut."""
        shortcut, outputs = x, 4 * self.width
        if self.stride > 1 or x.shape[-1] != outputs:
            shortcut = self.conv(outputs, 1, self.stride, name="shortcut_conv")(x)
            shortcut = self.norm(name="shortcut_norm")(shortcut)
        y = self.conv(self.width, 1, name="conv_1")(x)
        y = nn.relu(self.norm(name="norm_1")(y))
        y = self.conv(self.width, 3, self.stride, name="conv_2")(y)
        y = nn.relu(self.norm(name="norm_2")(y))
        y = self.conv(outputs, 1, name="conv_3")(y)
        y = self.norm(scale_init=nn.initializers.zeros_init(), name="norm_3")(y)
        return nn.relu(shortcut + y)


class BitResNet(nn.Module):
    """ResNet with group norm and standardised kernels, "ResNet (BiT)" in the ViT paper's table 6; features, no head.

    Big Transfer (BiT): General Visual Representation Learning. Kolesnikov et al., 2020. https://arxiv.org/abs/1912.11370

    Intermediates under `intermediates/`: `root`, `stage_{k}` (`[B, h, w, channels]`).

    Attributes:
        stages: units of each stage; none at all leaves the root alone. The ViT paper's R50 for tokens of 16 px is
            (3, 4, 9) where a ResNet-50 is (3, 4, 6, 3): its last stage is gone, and its units are in the third.
        width: channels of the root; 64 in all papers.
        num_groups: of the norms.
        standardise: of kernels: `standardise_by_deviation` as vit_jax, `standardise_by_variance` as timm.
        norm_epsilon: of the norms: 1e-6 in vit_jax, 1e-5 in timm.
        dtype: compute type; norms and parameters are float32.
    """

    stages: tuple[int, ...] = (3, 4, 9)
    width: int = 64
    num_groups: int = 32
    standardise: Callable[[Array], Array] = standardise_by_deviation
    norm_epsilon: float = 1e-6
    dtype: str = "float32"

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the features, along an axis."""
        return 4 * 2 ** max(len(self.stages) - 1, 0)

    @property
    def features(self) -> int:
        """Channels that come out."""
        return self.width * (2 ** (len(self.stages) + 1) if self.stages else 1)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w features"]:
        """Sides become `ceil(side / 2)` at the root, at its pooling, and at each stage but the first."""
        conv = functools.partial(StandardisedConv, standardise=self.standardise, dtype=self.dtype)
        norm = functools.partial(GroupNorm, num_groups=self.num_groups, epsilon=self.norm_epsilon, dtype=self.dtype)
        x = nn.relu(norm(name="root_norm")(conv(self.width, 7, 2, name="root_conv")(images)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        self.sow("intermediates", "root", x)
        for stage, units in enumerate(self.stages):
            for unit in range(units):
                x = ResidualUnit(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and unit == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage_{stage}_unit_{unit}",
                )(_pinned(x))
            self.sow("intermediates", f"stage_{stage}", x)
        return x


def _pinned(x: Array) -> Array:
    return end_fusion(x.reshape(-1, x.shape[-1])).reshape(x.shape)
