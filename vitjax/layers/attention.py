"""Multi-head self-attention over a flat trunk of tokens."""

from collections.abc import Callable

import flax.linen as nn

from vitjax.arrays import Array, Float
from vitjax.layers.dense import Dense
from vitjax.ops.attention import Attend

__all__ = ["MAPS", "SelfAttention"]

MAPS = "attention_maps"
"""The collection into which `analysis.attention_maps` gathers maps. A layer that attends and is no `SelfAttention`
sows its `map`, `[B, A, N, M]`, there itself, where the collection is mutable and nothing is being initialised."""


class SelfAttention(nn.Module):
    """Projects tokens to queries, keys and values, attends within each image, and projects back.

    Three separate projections, each kernel `[D, A*K]` with the heads one after another: measured faster than one fused
    kernel on CPU, and sharded along the heads without a reshuffle.

    Attributes:
        num_heads: A.
        head_size: K; `D / A` if not given.
        value_size: of each head's values, K if not given.
        use_qkv_bias: biases of queries, keys and values.
        use_out_bias: bias of the projection back.
        query_norm: factory of a normalisation over `[B*N, A, K]`, or `None`.
        key_norm: likewise.
        scale: factor of the logits; `1 / sqrt(K)` if not given.
        dtype: compute type.
    """

    num_heads: int
    head_size: int | None = None
    value_size: int | None = None
    use_qkv_bias: bool = True
    use_out_bias: bool = True
    query_norm: Callable[..., nn.Module] | None = None
    key_norm: Callable[..., nn.Module] | None = None
    scale: float | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "T D"], attend: Attend) -> Float[Array, "T D"]:
        """Attends as `attend` says, which knows where the images are."""
        width = tokens.shape[-1]
        size = width // self.num_heads if self.head_size is None else self.head_size
        value_size = size if self.value_size is None else self.value_size

        def project(name: str, size: int) -> Array:
            dense = Dense(self.num_heads * size, use_bias=self.use_qkv_bias, dtype=self.dtype, name=name)
            return dense(tokens).reshape(-1, self.num_heads, size)

        query, key, value = project("query", size), project("key", size), project("value", value_size)
        if self.query_norm is not None:
            query = self.query_norm(dtype=self.dtype, name="query_norm")(query)
        if self.key_norm is not None:
            key = self.key_norm(dtype=self.dtype, name="key_norm")(key)
        scale = size**-0.5 if self.scale is None else self.scale
        outputs = attend(query, key, value, scale).reshape(-1, self.num_heads * value_size)
        return Dense(width, use_bias=self.use_out_bias, dtype=self.dtype, name="out")(outputs)
