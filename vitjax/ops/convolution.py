"""Convolutions of channels-last images, in the forms that are fast on one backend or another."""

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float

__all__ = ["convolve_directly"]

Images = Float[Array, "B H W inputs"]
Kernel = Float[Array, "rows columns _ outputs"]


def convolve_directly(
    images: Images, kernel: Kernel, *, stride: int, dilation: int, padding: int, groups: int
) -> Float[Array, "B h w outputs"]:
    """XLA's own convolution: the right form on GPU and TPU, and the meaning of all others.

    Args:
        images: zeros are put around them.
        kernel: `[rows, columns, inputs / groups, outputs]`.
        stride: step along both axes.
        dilation: distance of neighbouring weights in pixels.
        padding: rows and columns of zeros at each side.
        groups: of channels that do not see each other; as many as inputs makes a depthwise convolution.
    """
    return jax.lax.conv_general_dilated(
        jnp.asarray(images),
        jnp.asarray(kernel),
        (stride, stride),
        ((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
