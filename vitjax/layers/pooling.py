"""Attention pooling: one vector per image."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.layers.dense import Dense
from vitjax.ops.segments import segment_softmax

__all__ = ["AttentionPooling", "pool_by_probe"]


def pool_by_probe(
    query: Float[Array, "A K"],
    key: Float[Array, "B N A K"],
    value: Float[Array, "B N A K"],
    segments: Int[Array, "B N"],
    num_slots: int,
    *,
    scale: float,
) -> Float[Array, "B S A K"]:
    """Attention of one shared query over each image's own tokens; zeros for empty slots.

    All images ask the same question, so a token has one logit and only its normalisation is per image.
    """
    logits = jnp.einsum("ak,bnak->ban", query * scale, key, preferred_element_type=jnp.float32)
    weights = segment_softmax(logits, segments, num_slots)
    return jnp.einsum("basn,bnak->bsak", weights.astype(value.dtype), value)


class AttentionPooling(nn.Module):
    """Multi-head attention pooling, "MAP" (Zhai et al. 2022, Scaling Vision Transformers, section 2.3).

    A learned probe attends to the image's tokens (no normalisation before, no residual to the probe); the result goes
    through a pre-norm MLP with a residual.

    Attributes:
        num_heads: A.
        mlp: factory, called with `name`.
        norm: factory, called with `name`.
        head_size: K; `D / A` if not given.
        use_bias: biases of the four projections.
        query_norm: factory of a normalisation over the heads' axis K, or `None`.
        key_norm: likewise.
        dtype: compute type.
    """

    num_heads: int
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    head_size: int | None = None
    use_bias: bool = True
    query_norm: Callable[..., nn.Module] | None = None
    key_norm: Callable[..., nn.Module] | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], segments: Int[Array, "B N"], num_slots: int, train: bool
    ) -> Float[Array, "B S D"]:
        """One vector for each of the row's S slots; what an empty slot holds is finite and means nothing."""
        width = tokens.shape[-1]
        size = width // self.num_heads if self.head_size is None else self.head_size
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, width), jnp.float32)

        def project(name: str, inputs: Array, features: int) -> Array:
            return Dense(features, use_bias=self.use_bias, dtype=self.dtype, name=name)(inputs)

        inner = self.num_heads * size
        query = project("query", probe, inner).reshape(self.num_heads, size)
        key, value = (
            project(name, tokens, inner).reshape(*tokens.shape[:2], self.num_heads, size) for name in ("key", "value")
        )
        if self.query_norm is not None:
            query = self.query_norm(dtype=self.dtype, name="query_norm")(query)
        if self.key_norm is not None:
            key = self.key_norm(dtype=self.dtype, name="key_norm")(key)
        pooled = pool_by_probe(query, key, value, segments, num_slots, scale=size**-0.5)
        pooled = project("out", pooled.reshape(*pooled.shape[:2], inner), width)
        return pooled + self.mlp(name="mlp")(self.norm(name="norm")(pooled), train)
