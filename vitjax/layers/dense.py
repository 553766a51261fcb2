"""Dense layer shared by all models."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.ops.dense import dense_product

__all__ = ["Dense"]


class Dense(nn.Module):
    """`x @ kernel + bias` over the last axis, whatever the leading axes; parameters float32, arithmetic in `dtype`."""

    features: int
    use_bias: bool = True
    dtype: str = "float32"
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "*leading inputs"]) -> Any:
        """Returns `[*leading, features]`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        y = dense_product(x.reshape(-1, x.shape[-1]), kernel, self.dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y = y + bias.astype(y.dtype)
        return y.reshape(*x.shape[:-1], self.features)
