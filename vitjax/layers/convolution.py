"""Convolutions, plain ones and those with standardised kernels, and group normalisation."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.ops.convolution import (
    convolve_by_columns,
    convolve_by_pairs,
    convolve_by_shifts,
    convolve_directly,
    convolve_points,
    output_side,
)
from vitjax.ops.dense import dense_product

__all__ = [
    "Conv",
    "GroupNorm",
    "StandardisedConv",
    "choose_form",
    "convolve",
    "standardise_by_deviation",
    "standardise_by_variance",
]

Kernel = Float[Array, "rows columns inputs outputs"]


def standardise_by_deviation(kernel: Kernel) -> Kernel:
    """`(w - mean) / (std + 1e-5)` over each output's weights, as the authors' code: vit_jax (Qiao et al. 2019)."""
    centred, variance = _moments(kernel)
    # The root's slope is infinite at a constant kernel, whose gradient would be NaN.
    return centred / (jnp.sqrt(jnp.maximum(variance, 1e-30)) + 1e-5)


def standardise_by_variance(kernel: Kernel) -> Kernel:
    """`(w - mean) / sqrt(var + 1e-8)`, as timm computes it for the same weights."""
    centred, variance = _moments(kernel)
    return centred * jax.lax.rsqrt(variance + 1e-8)


def _moments(kernel: Array) -> tuple[jax.Array, jax.Array]:
    centred = jnp.asarray(kernel) - kernel.mean(axis=(0, 1, 2), keepdims=True)
    return centred, jnp.square(centred).mean(axis=(0, 1, 2), keepdims=True)


class StandardisedConv(nn.Module):
    """A convolution without bias whose kernel is standardised each time it is used; the raw one is stored.

    Padding is "SAME" as TensorFlow's: an odd pixel more at the end than at the start.

    Attributes:
        features: outputs.
        kernel_size: side of the kernel.
        stride: step along both axes.
        standardise: `standardise_by_deviation` or `standardise_by_variance`.
        dtype: compute type.
    """

    features: int
    kernel_size: int
    stride: int = 1
    standardise: Callable[[Array], Array] = standardise_by_deviation
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W inputs"]) -> Float[Array, "B h w features"]:
        """Sides become `ceil(side / stride)`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.standardise(self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32))
        dtype = jnp.dtype(self.dtype)
        if self.kernel_size == 1:
            x = x[:, :: self.stride, :: self.stride]
            y = dense_product(x.reshape(-1, x.shape[-1]), kernel[0, 0], dtype)
            return y.reshape(*x.shape[:-1], self.features)
        strides = (self.stride, self.stride)
        return jax.lax.conv_general_dilated(
            jnp.asarray(x, dtype),
            jnp.asarray(kernel, dtype),
            strides,
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class GroupNorm(nn.Module):
    """Normalises each image over its pixels and a group of neighbouring channels (Wu and He 2018), in float32.

    Attributes:
        num_groups: groups, which divide the channels.
        epsilon: 1e-6 in flax, 1e-5 in torch.
        scale_init: of the scale.
        dtype: type returned.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """The variance is the mean squared deviation; see `layers.normalisation.LayerNorm`.

        Raises:
            UserError: the groups do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise UserError(f"GroupNorm: `num_groups` (={self.num_groups}) must divide the {channels} channels")
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        groups = jnp.asarray(x, jnp.float32).reshape(x.shape[0], -1, self.num_groups, channels // self.num_groups)
        centred = groups - groups.mean(axis=(1, 3), keepdims=True)
        variance = jnp.square(centred).mean(axis=(1, 3), keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape) * scale + bias
        return y.astype(jnp.dtype(self.dtype))


def choose_form(
    backend: str,
    kernel_shape: tuple[int, ...],
    image_shape: tuple[int, ...],
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Callable[..., Array]:
    """The form of a convolution that is fastest, forward and backward together, as measured.

    ===================================================== ======================== ====================
    convolution                                           on CPU                   on GPU and TPU
    ===================================================== ======================== ====================
    kernel of one pixel, one group                        `convolve_points`        `convolve_directly`
    depthwise: as many groups as inputs                   `convolve_by_shifts`     `convolve_directly`
    several groups of several channels                    `convolve_by_columns`    `convolve_directly`
    one group, up to 3x3, at most 4 inputs, stride        `convolve_by_pairs`      `convolve_directly`
    one group, up to 3x3, at most 4 inputs                `convolve_by_columns`    `convolve_directly`
    one group, up to 3x3, 256 inputs, map of at most 7x7  `convolve_by_columns`    `convolve_directly`
    one group, all others                                 `convolve_directly`      `convolve_directly`
    ===================================================== ======================== ====================

    Args:
        backend: as `jax.default_backend()` calls it.
        kernel_shape: `[rows, columns, inputs / groups, outputs]`.
        image_shape: `[B, H, W, inputs]`.
        stride: step along both axes.
        dilation: distance of neighbouring weights in pixels.
        groups: of channels that do not see each other.
    """
    if backend != "cpu":
        return convolve_directly
    rows, columns, inputs, _ = kernel_shape
    if groups > 1:
        return convolve_by_shifts if groups == image_shape[-1] else convolve_by_columns
    if (rows, columns) == (1, 1):
        return convolve_points
    if rows * columns <= 9 and inputs <= 4 and stride > 1 and dilation == 1:
        return convolve_by_pairs
    small_and_deep = inputs >= 256 and image_shape[1] * image_shape[2] <= 49 * stride**2
    return convolve_by_columns if rows * columns <= 9 and (inputs <= 4 or small_and_deep) else convolve_directly


def convolve(
    images: Float[Array, "B H W inputs"],
    kernel: Float[Array, "rows columns _ outputs"],
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> Float[Array, "B h w outputs"]:
    """The convolution of every layer, in the form that is fast on this backend; see `choose_form`.

    Args:
        images: zeros are put around them.
        kernel: `[rows, columns, inputs / groups, outputs]`, in the type of the images.
        stride: step along both axes.
        dilation: distance of neighbouring weights in pixels.
        padding: zeros at each side; by default `(side - 1) // 2 * dilation`, which keeps odd kernels centred.
        groups: of channels that do not see each other.

    Raises:
        UserError: the kernel does not fit into the images and their padding.
    """
    padding = (kernel.shape[0] - 1) // 2 * dilation if padding is None else padding
    steps = {"stride": stride, "dilation": dilation, "padding": padding}
    for side, kernel_side in zip(images.shape[1:3], kernel.shape[:2], strict=True):
        if output_side(side, kernel_side, **steps) < 1:
            raise UserError(
                f"a convolution of {kernel.shape[0]}x{kernel.shape[1]} pixels (dilation {dilation}) does not fit into "
                f"{images.shape[1]}x{images.shape[2]} with a padding of {padding}; give larger images"
            )
    form = choose_form(
        jax.default_backend(), kernel.shape, images.shape, stride=stride, dilation=dilation, groups=groups
    )
    return form(images, kernel, **steps, groups=groups)


class Conv(nn.Module):
    """A convolution with torch's padding: the same number of zeros at all four sides.

    Attributes:
        features: outputs.
        kernel_size: side of the kernel.
        stride: step along both axes.
        dilation: distance of neighbouring weights in pixels.
        groups: of channels that do not see each other; as many as inputs makes a depthwise convolution.
        padding: zeros at each side; by default `(kernel_size - 1) // 2 * dilation`.
        use_bias: adds a bias.
        kernel_init: of the kernel, `[rows, columns, inputs / groups, outputs]`.
        dtype: compute type.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | None = None
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W inputs"]) -> Float[Array, "B h w features"]:
        """Raises UserError where the groups do not divide the channels."""
        inputs = x.shape[-1]
        if inputs % self.groups or self.features % self.groups:
            raise UserError(f"Conv: `groups` (={self.groups}) must divide {inputs} inputs and {self.features} outputs")
        shape = (self.kernel_size, self.kernel_size, inputs // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = jnp.dtype(self.dtype)
        y = convolve(
            jnp.asarray(x, dtype),
            jnp.asarray(kernel, dtype),
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            groups=self.groups,
        )
        if self.use_bias:
            y = y + jnp.asarray(self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32), dtype)
        return y
