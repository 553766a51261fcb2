"""Self-attention whose cost is linear in the number of tokens, by one context vector (MobileViTv2)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError
from vitjax.layers.dense import Dense

__all__ = ["SeparableSelfAttention"]


class SeparableSelfAttention(nn.Module):
    """`out(relu(value(x)) * context)`, `context` the mean of `key(x)` weighted by a softmax over `query(x)`.

    Section 3.2, eq. 1 of Separable Self-attention for Mobile Vision Transformers. Mehta and Rastegari, 2022.
    https://arxiv.org/abs/2206.02680. A query is one number per token (its product with the latent token L); there are
    no heads and nothing is scaled. The pixels at the same place of every patch attend to one another: `patch_size` 2
    makes 4 independent attentions per image.

    The weights of the softmax sum to 1 and the key is affine: the mean of the keys is the key of the mean. So the key
    is computed of one vector per attention instead of every token, which saves a third of the multiplications; it is
    the same up to rounding.

    Submodules `query`, `key`, `value`, `out`, and the parameter `query_bias`.

    Attributes:
        patch_size: side of a patch in pixels; with 1 all pixels attend to one another.
        dtype: compute type; the softmax is float32.
    """

    patch_size: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Nothing is cut out or moved: a patch's pixels stay where the image has them.

        Raises:
            UserError: the patch does not divide the map.
        """
        batch, height, width, channels = x.shape
        side = self.patch_size
        if height % side or width % side:
            raise UserError(
                f"SeparableSelfAttention: `patch_size` (={side}) must divide the map of {height}x{width} pixels"
            )
        places = (batch, height // side, side, width // side, side)  # axes 1 and 3 count the patches
        # The authors initialise the three as one convolution with 1 + 2 D outputs (He et al. 2015, fan-out).
        dense = functools.partial(Dense, kernel_init=nn.initializers.normal((channels + 0.5) ** -0.5), dtype=self.dtype)
        # A query's bias moves all scores alike, so the softmax does not see it. It is kept for the files that have one.
        self.param("query_bias", nn.initializers.zeros_init(), (1,), jnp.float32)
        query = dense(1, use_bias=False, name="query")(x)
        scores = jax.nn.softmax(query.astype(jnp.float32).reshape(places), axis=(1, 3))
        scores = scores.astype(query.dtype)[..., None]
        mean = jnp.sum(scores * x.reshape(*places, channels), axis=(1, 3), keepdims=True)
        context = dense(channels, name="key")(mean)
        value = jax.nn.relu(dense(channels, name="value")(x))
        y = (value.reshape(*places, channels) * context).reshape(x.shape)
        out_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        return Dense(channels, kernel_init=out_init, dtype=self.dtype, name="out")(y)
