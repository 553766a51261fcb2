"""The one place that computes attention: `softmax(q k^T / sqrt(K)) v` within an image (Vaswani et al. 2017, eq. 1).

Which form runs is decided by two pure functions, `select_dense_attention` and `select_packed_attention`, from what is
static: backend, type, lengths. The choice and its reason are logged once. A form asked for by name is taken or refused
with a `UserError`; it is never replaced in silence.
"""

import functools
import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.errors import UserError
from vitjax.ops import attention_kernels as kernels
from vitjax.ops.segments import gather_rows, inverse_rows

__all__ = [
    "DENSE_FORMS",
    "PACKED_FORMS",
    "Attend",
    "Choice",
    "PackedPlan",
    "attend_images",
    "attend_packed",
    "attend_remapped",
    "attention_map",
    "attention_report",
    "dense_attention",
    "packed_attention",
    "packed_plan",
    "reattention",
    "select_dense_attention",
    "select_packed_attention",
]

_log = logging.getLogger("vitjax")

Attend = Callable[[Array, Array, Array, float], Array]
"""(query, key, value, scale) -> output, all `[B*N, A, K]`: who may look at whom is bound inside.

Made by `attend_images` or `attend_packed` as a `jax.tree_util.Partial`, a pytree, so that it passes through
rematerialisation as an argument.
"""


DENSE_FORMS = ("explicit", "xla", "cudnn")
PACKED_FORMS = ("buckets", "segment_mask", "splash", "triton", "cudnn", "tokamax")


class Choice(NamedTuple):
    """The form of attention that runs, and why."""

    implementation: str
    reason: str
    block: int = 1
    """Rows are padded to a multiple of this before the kernel and cut again after it."""


# --- dense: every image alone -------------------------------------------------------------------------------------


def select_dense_attention(backend: str, *, dropout: bool = False, implementation: str = "auto") -> Choice:
    """Chooses the form of `dense_attention`.

    Args:
        backend: "cpu", "gpu" or "tpu".
        dropout: whether attention probabilities are dropped, which only the explicit form does.
        implementation: "auto", or the form itself: "explicit", "xla", "cudnn".

    Raises:
        UserError: there is no such form, or it cannot drop probabilities.
    """
    if implementation != "auto":
        _check_known(implementation, DENSE_FORMS)
        if dropout and implementation != "explicit":
            raise UserError(
                f"`implementation` (={implementation!r}) cannot drop attention probabilities; "
                "set `attention_dropout_rate=0` or `implementation='explicit'`"
            )
        return Choice(implementation, "asked for")
    if dropout:
        return Choice("explicit", "attention probabilities are dropped")
    if backend == "cpu":
        return Choice("explicit", "written out over [B, A, N, K], which XLA on CPU multiplies well")
    return Choice("xla", f"jax.nn.dot_product_attention on {backend}")


def dense_attention(
    query: Float[Array, "B N A K"],
    key: Float[Array, "B M A K"],
    value: Float[Array, "B M A values"],
    mask: Bool[Array, "B #A #N M"] | None = None,
    *,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    implementation: str = "auto",
) -> Float[Array, "B N A values"]:
    """Attention of each batch entry over its own keys; logits and softmax in float32.

    Args:
        query: rows that ask.
        key: rows that are compared.
        value: rows that are averaged; of a pruned model they may be wider or narrower than queries.
        mask: True where a query may look at a key. A query that may look at nothing gets a finite average.
        scale: factor of the logits, `1 / sqrt(K)` if not given.
        dropout_rate: share of attention probabilities set to 0, with `dropout_key`.
        dropout_key: `None` drops nothing.
        implementation: see `select_dense_attention`.
    """
    factor: float = query.shape[-1] ** -0.5 if scale is None else scale
    dropped = dropout_rate > 0 and dropout_key is not None
    if implementation == "auto" and value.shape[-1] != query.shape[-1]:
        implementation = "explicit"  # the others want values as wide as queries
    choice = select_dense_attention(jax.default_backend(), dropout=dropped, implementation=implementation)
    _log_once("dense", choice)
    if choice.implementation == "explicit":
        rate = dropout_rate if dropped else 0.0
        return kernels.explicit(query, key, value, mask, factor, dropout_rate=rate, dropout_key=dropout_key)
    return jax.nn.dot_product_attention(
        jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), mask=mask, scale=factor,
        implementation=choice.implementation,  # type: ignore[arg-type]
    )  # fmt: skip


def attention_map(
    query: Float[Array, "B N A K"], key: Float[Array, "B M A K"], *, scale: float
) -> Float[Array, "B A N M"]:
    """The map with which `dense_attention` averages the values where nothing is masked, float32; for analysis."""
    return jax.nn.softmax(jnp.einsum("bnak,bmak->banm", query, key, preferred_element_type=jnp.float32) * scale)


def attend_images(
    num_images: int,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    implementation: str = "auto",
) -> Attend:
    """Attention for a flat trunk `[B*N, ...]` of B images with N tokens each, every token seeing its own image."""
    bound = functools.partial(
        _attend_images, num_images=num_images, dropout_rate=dropout_rate, implementation=implementation
    )
    return jax.tree_util.Partial(bound, dropout_key)


def _attend_images(
    dropout_key: Array | None, query: Array, key: Array, value: Array, scale: float, *,
    num_images: int, dropout_rate: float, implementation: str,
) -> Array:  # fmt: skip
    query, key, value = (x.reshape(num_images, -1, *x.shape[1:]) for x in (query, key, value))
    outputs = dense_attention(
        query, key, value, scale=scale, dropout_rate=dropout_rate, dropout_key=dropout_key,
        implementation=implementation,
    )  # fmt: skip
    return outputs.reshape(-1, *outputs.shape[2:])


# --- re-attention: the map itself is changed ------------------------------------------------------------------------


def reattention(
    query: Float[Array, "B N A K"],
    key: Float[Array, "B M A K"],
    value: Float[Array, "B M A K"],
    change: Callable[[Array], Array],
    *,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Float[Array, "B N A K"]:
    """Attention whose map is changed between softmax and average (DeepViT: Zhou et al. 2021).

    Always the explicit form: no fused kernel gives its map away.

    Args:
        query: rows that ask.
        key: rows that are compared.
        value: rows that are averaged.
        change: from the map, float32 `[B, A, N, M]`, to one of the same shape, which may mix heads.
        scale: factor of the logits, `1 / sqrt(K)` if not given.
        dropout_rate: share of attention probabilities set to 0 in front of `change`, with `dropout_key`.
        dropout_key: `None` drops nothing.
    """
    factor: float = query.shape[-1] ** -0.5 if scale is None else scale
    rate = 0.0 if dropout_key is None else dropout_rate
    return kernels.explicit(query, key, value, None, factor, dropout_rate=rate, dropout_key=dropout_key, change=change)


def attend_remapped(
    num_images: int,
    change: Callable[[Array], Array],
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Attend:
    """`attend_images` with `reattention`; to be made where it is used, for `change` may hold parameters."""

    def attend(query: Array, key: Array, value: Array, scale: float) -> Array:
        query, key, value = (x.reshape(num_images, -1, *x.shape[1:]) for x in (query, key, value))
        outputs = reattention(
            query, key, value, change, scale=scale, dropout_rate=dropout_rate, dropout_key=dropout_key
        )
        return outputs.reshape(-1, *outputs.shape[2:])

    return attend


# --- packed: several images in a row ------------------------------------------------------------------------------


class PackedPlan(NamedTuple):
    """Where the images of a packed batch are, worked out once for all layers."""

    segments: Array
    buckets: tuple[Array, ...] | None
    take: Array | None
    """`[G, slots]`: the token in each place of all buckets, one after another."""
    back: Array | None
    """`[G, B/G * N]`: the place of each token."""


def select_packed_attention(
    backend: str,
    dtype: jnp.dtype | str,
    length: int,
    head_size: int,
    *,
    has_buckets: bool = False,
    implementation: str = "auto",
    available: frozenset[str] | None = None,
) -> Choice:
    """Chooses the form of `packed_attention`; every form is exact.

    ========== ======================================================= ==========================================
    backend    form                                                    when
    ========== ======================================================= ==========================================
    cpu        `buckets`: each image gathered into a slot              the batch brings `buckets`
    cpu        `segment_mask`: `[B, A, N, N]` logits under a mask      otherwise
    tpu        `splash`: Pallas splash attention with segment ids      always; rows padded to a multiple of 128
    gpu        `triton`: Pallas attention with segment ids             16-bit types, head sizes of 16 to 128
    gpu        `segment_mask`                                          otherwise (float32 stays float32)
    ========== ======================================================= ==========================================

    Args:
        backend: "cpu", "gpu" or "tpu".
        dtype: of query, key and value.
        length: N, tokens in a row.
        head_size: K.
        has_buckets: whether the batch says where each image is (ARCHITECTURE.md, `buckets`).
        implementation: "auto", or one of `PACKED_FORMS`.
        available: kernels that can be imported; found out if not given.

    Raises:
        UserError: a form was asked for that does not exist, or cannot do this case.
    """
    available = _available_kernels() if available is None else available
    case: dict[str, Any] = {
        "backend": backend, "dtype": dtype, "head_size": head_size, "has_buckets": has_buckets, "available": available,
    }  # fmt: skip
    if implementation != "auto":
        _check_known(implementation, PACKED_FORMS)
        problem = _unsupported(implementation, **case)
        if problem:
            raise UserError(f"`implementation` (={implementation!r}) {problem}; leave it at 'auto'")
        return Choice(implementation, "asked for", _block(implementation, length))
    if backend == "cpu":
        if has_buckets:
            return Choice("buckets", "each image alone costs the least on CPU")
        return Choice("segment_mask", f"whole rows of {length} tokens under a mask")
    form = {"tpu": "splash", "gpu": "triton"}.get(backend, "segment_mask")
    problem = _unsupported(form, **case)
    if problem:
        return Choice("segment_mask", f"{form} {problem}")
    return Choice(form, f"takes segment ids on {backend}", _block(form, length))


def _unsupported(  # noqa: PLR0911, one line per reason
    form: str, *, backend: str, dtype: jnp.dtype | str, head_size: int, has_buckets: bool, available: frozenset[str]
) -> str:
    """Why a form cannot do a case, or nothing."""
    sixteen_bit = jnp.dtype(dtype).itemsize == 2
    if form == "buckets":
        return "" if has_buckets else "needs a batch with `buckets`"
    if form == "segment_mask":
        return ""
    home = "tpu" if form == "splash" else "gpu"
    if backend != home:
        return f"runs on {home}, not on {backend}"
    if form not in available:
        return f"cannot be imported with jax {jax.__version__}"
    if form in ("triton", "cudnn") and not sixteen_bit:
        return f"computes {jnp.dtype(dtype).name} with lower precision"
    if form == "triton" and not 16 <= head_size <= 128:
        return f"takes head sizes of 16 to 128, not {head_size}"
    if form == "cudnn" and (head_size % 8 or head_size > 128):
        return f"takes head sizes that are multiples of 8 up to 128, not {head_size}"
    return ""


def _block(form: str, length: int) -> int:
    if form == "splash":
        return 128
    if form == "triton":
        return 128 if length >= 128 else max(32, 1 << (length - 1).bit_length())
    return 1


@functools.cache
def _available_kernels() -> frozenset[str]:
    modules = {
        "splash": "jax.experimental.pallas.ops.tpu.splash_attention",
        "triton": "jax.experimental.pallas.ops.gpu.attention",
        "tokamax": "tokamax",
    }
    found = {"cudnn"}
    for name, module in modules.items():
        try:
            present = find_spec(module) is not None
        except ModuleNotFoundError:
            present = False
        if present:
            found.add(name)
    return frozenset(found)


def packed_plan(segments: Int[Array, "B N"], buckets: tuple[Int[Array, "G _ _"], ...] | None = None) -> PackedPlan:
    """Prepares `attend_packed`; see `packed_attention` for the arguments."""
    segments = jnp.asarray(segments)
    if not buckets:
        return PackedPlan(segments, None, None, None)
    buckets = tuple(jnp.asarray(bucket) for bucket in buckets)
    groups = buckets[0].shape[0]
    if any(bucket.shape[0] != groups for bucket in buckets) or segments.shape[0] % groups:
        raise UserError(
            f"`buckets` have leading axes {[bucket.shape[0] for bucket in buckets]} for {segments.shape[0]} rows; "
            "expected one number of groups that divides the rows"
        )
    take = jnp.concatenate([bucket.reshape(groups, -1) for bucket in buckets], axis=1)
    return PackedPlan(segments, buckets, take, inverse_rows(take, segments.size // groups))


def packed_attention(
    query: Float[Array, "B N A K"],
    key: Float[Array, "B N A K"],
    value: Float[Array, "B N A K"],
    segments: Int[Array, "B N"],
    *,
    buckets: tuple[Int[Array, "G _ _"], ...] | None = None,
    scale: float | None = None,
    implementation: str = "auto",
) -> Float[Array, "B N A K"]:
    """Attention of every token over the tokens of its own image only (NaViT, section 2.2; figure 2).

    Padding (segment 0) comes out as zeros, takes part in nothing and gets zero gradients.

    Args:
        query: rows that ask.
        key: rows that are compared.
        value: rows that are averaged.
        segments: the image of each token, 1…S; 0 is padding. An image's tokens may lie anywhere in the row.
        buckets: for CPU: in bucket b, entry `[g, i]` lists the tokens of one image within group g's flattened
            `B/G * N` tokens, filled up with `B/G * N`. Every image is in exactly one slot.
        scale: factor of the logits, `1 / sqrt(K)` if not given.
        implementation: see `select_packed_attention`.
    """
    factor: float = query.shape[-1] ** -0.5 if scale is None else scale
    return _packed(packed_plan(segments, buckets), query, key, value, factor, implementation=implementation)


def attend_packed(plan: PackedPlan, *, implementation: str = "auto") -> Attend:
    """Attention for a flat trunk `[B*N, ...]` of packed rows, every token seeing its own image."""
    return jax.tree_util.Partial(functools.partial(_attend_packed, implementation=implementation), plan)


def _attend_packed(
    plan: PackedPlan, query: Array, key: Array, value: Array, scale: float, *, implementation: str
) -> Array:
    rows = plan.segments.shape
    query, key, value = (x.reshape(*rows, *x.shape[1:]) for x in (query, key, value))
    outputs = _packed(plan, query, key, value, scale, implementation=implementation)
    return outputs.reshape(-1, *outputs.shape[2:])


def _packed(plan: PackedPlan, query: Array, key: Array, value: Array, scale: float, *, implementation: str) -> Array:
    length, _, head_size = query.shape[1:]
    choice = select_packed_attention(
        jax.default_backend(), query.dtype, length, head_size,
        has_buckets=plan.buckets is not None, implementation=implementation,
    )  # fmt: skip
    _log_once("packed", choice)
    if choice.implementation == "buckets":
        return _bucketed(plan, query, key, value, scale)
    segments, padding = plan.segments, -length % choice.block
    if padding:
        widths = ((0, 0), (0, padding), (0, 0), (0, 0))
        query, key, value = (jnp.pad(x, widths) for x in (query, key, value))
        segments = jnp.pad(segments, widths[:2])
    # Here padding sees padding: finite whatever the kernel, and in nobody else's sum.
    outputs = kernels.SEGMENT_KERNELS[choice.implementation](query, key, value, segments, scale)[:, :length]
    return jnp.where((plan.segments > 0)[:, :, None, None], outputs, 0)


def _bucketed(plan: PackedPlan, query: Array, key: Array, value: Array, scale: float) -> Array:
    """Gathers each image into a slot as long as its bucket, attends inside the slots, and puts tokens back."""
    assert plan.buckets is not None and plan.take is not None and plan.back is not None  # noqa: PT018
    take, back = plan.take, plan.back
    groups, num_tokens = back.shape
    heads = query.shape[2:]
    flat = (x.reshape(groups, num_tokens, -1) for x in (query, key, value))
    slots = [gather_rows(x, take, back) for x in flat]  # G slots A*K
    outputs, start = [], 0
    for bucket in plan.buckets:
        _, capacity, length = bucket.shape
        stop = start + capacity * length
        parts = (x[:, start:stop].reshape(groups * capacity, length, *heads) for x in slots)
        mask = (bucket < num_tokens).reshape(groups * capacity, 1, 1, length)
        attended = kernels.explicit(*parts, mask, scale)
        outputs.append(attended.reshape(groups, capacity * length, -1))
        start = stop
    return gather_rows(jnp.concatenate(outputs, axis=1), back, take).reshape(query.shape)


# --- what is said -------------------------------------------------------------------------------------------------


def attention_report(
    *,
    packed: bool,
    dtype: str = "float32",
    length: int = 256,
    head_size: int = 64,
    has_buckets: bool = False,
    implementation: str = "auto",
    backend: str | None = None,
) -> str:
    """One line for people, such as `attention: cpu buckets (each image alone costs the least on CPU)`."""
    backend = jax.default_backend() if backend is None else backend
    if packed:
        choice = select_packed_attention(
            backend, dtype, length, head_size, has_buckets=has_buckets, implementation=implementation
        )
    else:
        choice = select_dense_attention(backend, implementation=implementation)
    return f"attention: {backend} {choice.implementation.replace('_', ' ')} ({choice.reason})"


def _check_known(implementation: str, forms: tuple[str, ...]) -> None:
    if implementation not in forms:
        raise UserError(f"`implementation` (={implementation!r}): expected 'auto' or one of {', '.join(forms)}")


@functools.cache
def _log_once(kind: str, choice: Choice) -> None:
    _log.info("%s attention: %s (%s)", kind, choice.implementation, choice.reason)
