"""How alike attention maps are: between layers (DeepViT) and between the heads of a layer (EfficientViT)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Float
from vitjax.errors import UserError

__all__ = [
    "column_similarity",
    "cross_head_similarity",
    "head_similarity",
    "layer_similarity",
    "similar_blocks",
    "similar_share",
]


def column_similarity(one: Float[Array, "B A N M"], other: Float[Array, "B A N M"]) -> Float[Array, "B A M"]:
    """Cosine of what a token gives to all tokens in one layer and in another (DeepViT: Zhou et al. 2021).

    Columns of the map, not rows: 1 means that the token plays the same part in both layers.
    """
    return (_unit_columns(one) * _unit_columns(other)).sum(axis=-2)


def _unit_columns(maps: Array) -> jax.Array:
    return _unit(jnp.asarray(maps, jnp.float32), axis=-2)


def _unit(vectors: Array, axis: int) -> jax.Array:
    """Length 1; nothing stays nothing, such as the column of a token that nobody looks at."""
    vectors = jnp.asarray(vectors)
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=axis, keepdims=True), 1e-12)


def _pairs(maps: Sequence[Float[Array, "B A N M"]], measure: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """`measure` of the column similarities of each pair of layers, `[L, L]`."""
    shapes = {layer.shape for layer in maps}
    if len(shapes) != 1:
        raise UserError(f"similarity of layers: the maps must have one shape, not {sorted(shapes) or 'none at all'}")
    columns = [_unit_columns(layer) for layer in maps]
    of_pair = jax.jit(lambda one, other: measure((one * other).sum(axis=-2)))
    found = np.zeros((len(maps), len(maps)), np.float32)
    for p, one in enumerate(columns):
        for q in range(p + 1):
            found[p, q] = found[q, p] = of_pair(one, columns[q])
    return found


def layer_similarity(maps: Sequence[Float[Array, "B A N M"]]) -> np.ndarray:
    """Mean column similarity of each pair of layers, `[L, L]`, -1 to 1.

    Args:
        maps: of the layers, first to last, such as `attention_maps(...).values()`.

    Raises:
        UserError: the maps differ in shape.
    """
    return _pairs(maps, jnp.mean)


def similar_share(maps: Sequence[Float[Array, "B A N M"]], *, threshold: float = 0.9) -> np.ndarray:
    """Share of heads and tokens whose column similarity exceeds `threshold`, for each pair of layers, `[L, L]`.

    DeepViT's measure of attention collapse; its threshold is not known.

    Args:
        maps: of the layers, first to last.
        threshold: of the cosine.

    Raises:
        UserError: the maps differ in shape.
    """
    return _pairs(maps, lambda cosines: (cosines > threshold).mean())


def similar_blocks(share: np.ndarray, *, limit: float = 0.9) -> int:
    """Blocks whose maps are those of the block before: `similar_share` with it exceeds `limit`.

    DeepViT's count, as far as it is known: on ImageNet 5 of 16, 11 of 24 and 15 of 32 plain blocks, none with
    re-attention (table in the authors' README).

    Args:
        share: `[L, L]`.
        limit: 90 % in the paper.
    """
    return int((np.diagonal(share, offset=-1) > limit).sum())


def head_similarity(maps: Float[Array, "B A N M"]) -> Float[Array, "B A A"]:
    """Cosine of each pair of heads, each map as one long vector (EfficientViT: Liu et al. 2023, section 2.2)."""
    batch, heads = maps.shape[:2]
    vectors = _unit(jnp.asarray(maps, jnp.float32).reshape(batch, heads, -1), axis=-1)
    return jnp.einsum("bhv,bgv->bhg", vectors, vectors)


def cross_head_similarity(
    maps: Sequence[Float[Array, "B A N M"]], *, reduce: Callable[..., Array] = jnp.max
) -> np.ndarray:
    """How alike the heads of each layer are, `[L]`: of each head the similarity to the other heads, averaged.

    Args:
        maps: of the layers, first to last; they may differ in shape.
        reduce: over the other heads: `jnp.max`, the most alike (EfficientViT's), or `jnp.mean`.

    Raises:
        UserError: a layer has a single head.
    """
    found = []
    for layer in maps:
        heads = layer.shape[1]
        if heads < 2:
            raise UserError("similarity of heads: a layer has a single head, which has no other to be like")
        pairs = head_similarity(layer)
        others = jnp.stack([jnp.delete(pairs[:, head], head, axis=-1) for head in range(heads)], axis=1)
        found.append(float(reduce(others, axis=-1).mean()))
    return np.asarray(found, np.float32)
