"""Batch normalisation with torch's conventions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float
from vitjax.errors import UserError

__all__ = ["BatchNorm"]


class BatchNorm(nn.Module):
    """Normalises each channel of the last axis over all others (Ioffe and Szegedy 2015), as torch does.

    The variance that normalises is the biased one; the one that enters the running average is unbiased. flax's own uses
    the biased one for both, has the opposite meaning of momentum, and takes E[x²] - E[x]². Running statistics are
    `batch_stats/.../mean` and `batch_stats/.../var`. Under `jit` the statistics are those of the global batch, however
    it is sharded; inside `shard_map` or `pmap` give the axis over which the batch is shared out.

    Attributes:
        momentum: share of the new batch in the running statistics; 1 minus flax's.
        epsilon: added to the variance.
        frozen: normalise by the running statistics in training too, and leave them alone.
        axis_name: mapped axis over whose shards the statistics are taken, or `None`.
        scale_init: of the scale.
        dtype: type returned; statistics are float32.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    frozen: bool = False
    axis_name: str | None = None
    scale_init: Callable[..., Array] = nn.initializers.ones_init()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*leading channels"], train: bool) -> Float[Array, "*leading channels"]:
        """Uses, and updates, the batch's statistics in training; the running ones otherwise.

        Raises:
            UserError: in training there is a single value per channel, whose variance is not defined.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        values = jnp.asarray(x, jnp.float32)
        if train and not self.frozen:
            mean, variance, unbiased = self._statistics(values)
            if not self.is_initializing():
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, variance = running_mean.value, running_var.value
        y = (values - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return y.astype(jnp.dtype(self.dtype))

    def _statistics(self, values: Array) -> tuple[Array, Array, Array]:
        """Mean, biased and unbiased variance of each channel.

        A second pass over the deviations from the first mean takes the squares and also corrects that mean, whose sum
        is rounded at every step: where the spread is small beside the mean (maps of attention) the rest would show.
        """
        shards = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)

        def average(of: Array) -> Array:
            mean = of.reshape(-1, of.shape[-1]).mean(axis=0)
            return mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)

        count = values.size // values.shape[-1] * shards
        if count < 2:
            raise UserError("BatchNorm: a training batch has one value per channel; give more images or `frozen=True`")
        rough = jax.lax.stop_gradient(average(values))
        deviations = values - rough
        correction = average(deviations)
        variance = average(jnp.square(deviations)) - jnp.square(correction)
        return rough + correction, variance, variance * (count / (count - 1))
