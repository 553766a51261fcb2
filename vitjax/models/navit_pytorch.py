"""The two NaViTs of vit-pytorch, composed from `NaViT`, so that models trained with them can be used here.

Neither is the paper's: see the differences listed at `NaViT`. Names of the arguments are theirs.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis
from vitjax.layers.pooling import pool_by_probe
from vitjax.models.navit import NaViT

__all__ = ["LengthNorm", "NormedPatchEmbedding", "QueryPooling", "vit_pytorch_nested", "vit_pytorch_packed"]

_EPSILON = 1e-5  # torch's default


class LengthNorm(nn.Module):
    """Scales each head's vector to length `sqrt(K)`, then by a learned factor per head and channel; not centred.

    Attributes:
        dtype: type returned.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*leading A K"]) -> Float[Array, "*leading A K"]:
        """In float32."""
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-2:], jnp.float32)
        values = jnp.asarray(x, jnp.float32)
        squares = jnp.square(values).sum(axis=-1, keepdims=True)
        # torch divides by max(length, 1e-12); under the root the gradient at zero stays finite.
        y = values * jax.lax.rsqrt(jnp.maximum(squares, 1e-24)) * (x.shape[-1] ** 0.5) * scale
        return y.astype(jnp.dtype(self.dtype))


class NormedPatchEmbedding(nn.Module):
    """Layer norms before and behind the projection, which has a bias.

    Attributes:
        use_norm_bias: whether both layer norms have biases.
    """

    use_norm_bias: bool

    @nn.compact
    def __call__(self, patches: Float[Array, "T P"], width: int, dtype: str) -> Float[Array, "T D"]:
        """Position-wise."""
        norm = functools.partial(LayerNorm, epsilon=_EPSILON, use_bias=self.use_norm_bias, dtype=dtype)
        tokens = Dense(width, dtype=dtype, name="projection")(norm(name="patch_norm")(patches))
        return norm(name="token_norm")(tokens)


class QueryPooling(nn.Module):
    """Attention of one learned, layer-normed query over each image's tokens; no MLP.

    Attributes:
        residual: whether the query is added to what it found.
        norm: factory of the norm of queries and keys, over the heads; there even where the blocks have none.
    """

    residual: bool
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], segments: Int[Array, "B N"], num_slots: int, model: NaViT, train: bool
    ) -> Float[Array, "B S D"]:
        """One vector per slot."""
        width, heads = tokens.shape[-1], model.num_heads
        size = width // heads if model.head_size is None else model.head_size
        probe = self.param("probe", nn.initializers.normal(1.0), (1, width), jnp.float32)

        def project(name: str, inputs: Array) -> Array:
            outputs = Dense(heads * size, use_bias=False, dtype=model.dtype, name=name)(inputs)
            return outputs.reshape(*inputs.shape[:-1], heads, size)

        query = project("query", model.norm(dtype=model.dtype, name="probe_norm")(probe))
        key, value = project("key", tokens), project("value", tokens)
        query = self.norm(dtype=model.dtype, name="query_norm")(query)
        key = self.norm(dtype=model.dtype, name="key_norm")(key)
        scale = size**-0.5 if model.attention_scale is None else model.attention_scale
        pooled = pool_by_probe(query[0], key, value, segments, num_slots, scale=scale)
        pooled = pooled.reshape(*pooled.shape[:2], heads * size)
        pooled = Dense(width, use_bias=False, dtype=model.dtype, name="out")(pooled)
        return pooled + probe.astype(pooled.dtype) if self.residual else pooled


def vit_pytorch_packed(
    *,
    image_size: int | tuple[int, int],
    patch_size: int,
    num_classes: int,
    dim: int,
    depth: int,
    heads: int,
    mlp_dim: int,
    dim_head: int = 64,
    **overrides: Any,
) -> NaViT:
    """`vit_pytorch.na_vit.NaViT`: queries and keys scaled to a length, logits not divided by `sqrt(K)`.

    Args:
        image_size: largest side, or (rows, columns), in pixels.
        patch_size: side of a patch.
        num_classes: outputs.
        dim: width.
        depth: blocks.
        heads: attention heads.
        mlp_dim: width of the MLPs.
        dim_head: size of a head.
        **overrides: further keywords of `NaViT`.
    """
    keywords = _keywords(
        image_size, patch_size, query_norm=LengthNorm, pool_norm=LengthNorm, residual=True, norm_bias=False
    )
    keywords |= {"attention_scale": 1.0, **overrides}
    return NaViT(
        num_classes=num_classes, patch_size=patch_size, width=dim, depth=depth, num_heads=heads, mlp_width=mlp_dim,
        head_size=dim_head, **keywords,
    )  # fmt: skip


def vit_pytorch_nested(
    *,
    image_size: int | tuple[int, int],
    patch_size: int,
    num_classes: int,
    dim: int,
    depth: int,
    heads: int,
    mlp_dim: int,
    dim_head: int = 64,
    qk_rmsnorm: bool = True,
    **overrides: Any,
) -> NaViT:
    """`vit_pytorch.na_vit_nested_tensor.NaViT`: layer norms for queries and keys, no residual to the pooling query.

    Args:
        image_size: largest side, or (rows, columns), in pixels.
        patch_size: side of a patch.
        num_classes: outputs.
        dim: width.
        depth: blocks.
        heads: attention heads.
        mlp_dim: width of the MLPs.
        dim_head: size of a head.
        qk_rmsnorm: whether queries and keys of the blocks are normalised (by a layer norm, whatever the name says).
        **overrides: further keywords of `NaViT`.
    """
    norm = functools.partial(LayerNorm, epsilon=_EPSILON, use_bias=False)
    query_norm = norm if qk_rmsnorm else None
    keywords = _keywords(image_size, patch_size, query_norm=query_norm, pool_norm=norm, residual=False, norm_bias=True)
    keywords |= overrides
    return NaViT(
        num_classes=num_classes, patch_size=patch_size, width=dim, depth=depth, num_heads=heads, mlp_width=mlp_dim,
        head_size=dim_head, **keywords,
    )  # fmt: skip


def _keywords(
    image_size: int | tuple[int, int],
    patch_size: int,
    *,
    query_norm: Callable[..., nn.Module] | None,
    pool_norm: Callable[..., nn.Module],
    residual: bool,
    norm_bias: bool,
) -> dict[str, Any]:
    rows, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
    norm = functools.partial(LayerNorm, epsilon=_EPSILON, use_bias=False)
    return {
        "max_grid": (rows // patch_size, columns // patch_size),
        "norm": norm,
        "query_norm": query_norm,
        "key_norm": query_norm,
        "norm_before_head": norm,
        "use_mlp_bias": True,
        "head_bias": None,
        "zero_init_head": False,
        "positions": functools.partial(FactorisedPositions, axis=functools.partial(LearnedAxis, std=1.0)),
        "embed": functools.partial(NormedPatchEmbedding, use_norm_bias=norm_bias),
        "pool": functools.partial(QueryPooling, residual=residual, norm=pool_norm),
    }
