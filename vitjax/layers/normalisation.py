"""Layer normalisation shared by all models."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float

__all__ = ["LayerNorm"]


class LayerNorm(nn.Module):
    """Normalises the last axis (Ba et al. 2016), statistics in float32, the variance as the mean squared deviation.

    flax's own takes E[x²] - E[x]² by default, which costs digits that parity with PyTorch needs.
    """

    epsilon: float = 1e-6
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*leading D"]) -> Float[Array, "*leading D"]:
        """Returns `dtype`, whatever the type of `x`."""
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), jnp.float32)
        values = jnp.asarray(x, jnp.float32)
        centred = values - values.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * scale
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],), jnp.float32)
        return y.astype(jnp.dtype(self.dtype))
