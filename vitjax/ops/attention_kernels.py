"""Kernels behind `vitjax.ops.attention`, one function each; all take `[B, N, A, K]`.

Those in `SEGMENT_KERNELS` have the signature (query, key, value, segments, scale) and let padding (segment 0) attend
to padding; the caller sets its output to zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array
from vitjax.ops.segments import MASKED

__all__ = ["SEGMENT_KERNELS", "cudnn", "explicit", "segment_mask", "splash", "tokamax", "triton"]


def explicit(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    scale: float,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    change: Callable[[Array], Array] | None = None,
) -> Array:
    """Logits, softmax and average written out over `[B, A, N, K]`, a layout that XLA on CPU multiplies well.

    `change` acts on the map `[B, A, N, M]` between softmax, with its dropout, and average.
    """
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    logits = jnp.einsum("bank,bamk->banm", query * scale, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1)
    if dropout_rate > 0:
        assert dropout_key is not None
        kept = jax.random.bernoulli(dropout_key, 1 - dropout_rate, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout_rate), 0)
    if change is not None:
        weights = change(weights)
    outputs = jnp.einsum("banm,bamk->bank", weights.astype(value.dtype), value)
    return jnp.swapaxes(outputs, 1, 2)


def segment_mask(query: Array, key: Array, value: Array, segments: Array, scale: float) -> Array:
    """The explicit form under a dense mask `[B, 1, N, N]`."""
    return explicit(query, key, value, _same(segments), scale)


def _same(segments: Array) -> Array:
    return (segments[:, :, None] == segments[:, None, :])[:, None]


def splash(query: Array, key: Array, value: Array, segments: Array, scale: float, *, interpret: bool = False) -> Array:
    """Pallas splash attention on TPU; N must be a multiple of 128."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_masks

    _, length, heads, _ = query.shape
    block = next(size for size in (512, 384, 256, 128) if length % size == 0)
    sizes = splash_kernel.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    mask = splash_masks.MultiHeadMask([splash_masks.FullMask((length, length))] * heads)
    kernel = splash_kernel.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret)
    rows = (jnp.swapaxes(x, 1, 2) for x in (query * scale, key, value))  # B A N K
    ids: Any = splash_kernel.SegmentIds(jnp.asarray(segments), jnp.asarray(segments))
    outputs: Any = jax.vmap(kernel)(*rows, ids)
    return jnp.swapaxes(outputs, 1, 2).astype(query.dtype)


def triton(query: Array, key: Array, value: Array, segments: Array, scale: float, *, interpret: bool = False) -> Array:
    """Pallas attention on GPU (jax's own, through Triton); N must be a multiple of 128, or a power of 2 below."""
    from jax.experimental.pallas.ops.gpu import attention as gpu_attention

    return gpu_attention.mha(query, key, value, segments, scale, False, interpret=interpret)


def cudnn(query: Array, key: Array, value: Array, segments: Array, scale: float) -> Array:
    """CuDNN's fused attention under a dense mask."""
    mask = jnp.broadcast_to(_same(segments), (query.shape[0], query.shape[2], query.shape[1], query.shape[1]))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale, implementation="cudnn")


def tokamax(query: Array, key: Array, value: Array, segments: Array, scale: float) -> Array:
    """Tokamax's attention under a boolean mask."""
    import tokamax as library  # type: ignore[import-not-found]

    return library.dot_product_attention(query, key, value, mask=_same(segments), scale=scale)


SEGMENT_KERNELS = {function.__name__: function for function in (segment_mask, splash, triton, cudnn, tokamax)}
