"""A convolution and its batch norm, and the one convolution that the two are at inference."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.convolution import Conv

__all__ = ["ConvNorm", "FoldedConv", "fold_norms", "identity"]


def identity(x: Array) -> Array:
    """No activation."""
    return x


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation.

    Variables: `conv/kernel`, `norm/scale`, `norm/bias`, and `batch_stats` `norm/mean`, `norm/var`.

    Attributes:
        features: outputs.
        kernel_size: side of the kernel.
        stride: step along both axes.
        dilation: distance of neighbouring weights in pixels.
        groups: of channels that do not see each other.
        activation: behind the norm.
        norm: factory of the batch norm.
        scale_init: of the norm's scale; zeros make a residual branch start as nothing.
        dtype: compute type.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    activation: Callable[[Array], Array] = identity
    norm: Callable[..., nn.Module] = BatchNorm
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W inputs"], train: bool) -> Float[Array, "B h w features"]:
        """Updates the running statistics in training."""
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.groups,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        return self.activation(self.norm(scale_init=self.scale_init, dtype=self.dtype, name="norm")(x, train))


class FoldedConv(nn.Module):
    """`ConvNorm` with the norm folded into the convolution, for inference: variables `conv/kernel`, `conv/bias`.

    It takes `ConvNorm`'s keywords, so that a model is given the one or the other factory; see `fold_norms`.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    activation: Callable[[Array], Array] = identity
    norm: Callable[..., nn.Module] = BatchNorm
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W inputs"], train: bool) -> Float[Array, "B h w features"]:
        """Convolution with bias, activation. In training it is the same: there are no statistics left."""
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.groups,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        return self.activation(x)


def fold_norms(variables: Mapping[str, Array], *, epsilon: float = 1e-5) -> dict[str, Array]:
    """The variables of the model whose `ConvNorm`s have become `FoldedConv`s (Liu et al. 2023, section 2.2).

    With `g = scale / sqrt(var + epsilon)`, `kernel * g` and `bias - mean * g`; computed in float64.

    Args:
        variables: of the whole model by path, `params/...` and `batch_stats/...`; wherever a `norm` with statistics
            has a `conv` beside it, the two become one. Everything else stays.
        epsilon: of the batch norms.
    """
    norms = [path.removesuffix("/mean") for path in variables if path.endswith("/norm/mean")]
    folded = dict(variables)
    for statistics in norms:
        params = statistics.replace("batch_stats/", "params/", 1)
        conv = f"{params.removesuffix('/norm')}/conv"
        if f"{conv}/kernel" not in folded:
            continue
        mean, var = (np.asarray(folded.pop(f"{statistics}/{name}"), np.float64) for name in ("mean", "var"))
        scale, bias = (np.asarray(folded.pop(f"{params}/{name}"), np.float64) for name in ("scale", "bias"))
        factor = scale / np.sqrt(var + epsilon)
        kernel = folded[f"{conv}/kernel"]
        folded[f"{conv}/kernel"] = jnp.asarray(np.asarray(kernel, np.float64) * factor, kernel.dtype)
        folded[f"{conv}/bias"] = jnp.asarray(bias - mean * factor, kernel.dtype)
    return folded
