"""Whether each form of attention is exact on this machine, keeps images apart and survives padding, and its time.

Behind `vitjax doctor`. A kernel may come from jax, from a driver's library or from a package that somebody installed:
what held where it was written need not hold here.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.data.buckets import Buckets
from vitjax.errors import UserError
from vitjax.ops.attention import (
    DENSE_FORMS,
    PACKED_FORMS,
    dense_attention,
    packed_attention,
    select_dense_attention,
    select_packed_attention,
)

__all__ = ["Finding", "check_attention", "row_of_images", "tolerance", "work_by_images"]

_ROUNDING = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 2e-2}
_MATRIX_UNITS = 5e-3


def tolerance(dtype: str, backend: str) -> float:
    """Largest difference to float64, as a share of the reference's largest number, that counts as rounding.

    The matrix units of GPU and TPU round float32 as well (to TF32 or bfloat16), unless `jax_default_matmul_precision`
    says otherwise.

    Raises:
        UserError: a type that no model computes in.
    """
    if dtype not in _ROUNDING:
        raise UserError(f"`dtype` (={dtype!r}): expected one of {', '.join(_ROUNDING)}")
    return _ROUNDING[dtype] if backend == "cpu" else max(_ROUNDING[dtype], _MATRIX_UNITS)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one form did at one length and type.

    Attributes:
        kind: "packed" or "dense".
        form: its name, as `implementation` takes it.
        dtype: of query, key and value.
        length: N.
        auto: whether it is what "auto" takes here.
        reason: why auto takes it, or why it cannot run here.
        refused: whether it did not run.
        error: largest difference to float64 of the output and the three gradients, each as a share of its largest
            number.
        allowed: what `error` may be; see `tolerance`.
        leak: largest change of an image's output and gradients when another image of its row changes.
        unsteady: largest difference between two runs on the same numbers; above 0 for kernels that add in any order.
        finite: no output or gradient is infinite or NaN, that of padding included.
        forward_ms: milliseconds of the output.
        both_ms: milliseconds of output and gradients.
    """

    kind: str
    form: str
    dtype: str
    length: int
    auto: bool
    reason: str
    refused: bool = False
    error: float = 0.0
    allowed: float = 0.0
    leak: float = 0.0
    unsteady: float = 0.0
    finite: bool = True
    forward_ms: float = 0.0
    both_ms: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether a model may compute with it: exact, nothing leaks, all is finite."""
        return self.refused or (self.finite and self.error <= self.allowed and self.leak <= self.unsteady)


def check_attention(
    *,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    lengths: Sequence[int] = (64, 128, 192, 320),
    rows: int = 4,
    heads: int = 4,
    head_size: int = 64,
    repeats: int = 3,
) -> Iterator[Finding]:
    """Runs every form of packed and dense attention on this backend, type by type and length by length.

    Packed rows hold images of mixed sizes and some padding; the last row holds padding only.

    Args:
        dtypes: of query, key and value.
        lengths: tokens in a row, or of an image for dense attention.
        rows: B, at least 2.
        heads: A.
        head_size: K.
        repeats: timings, of which the shortest counts.

    Raises:
        UserError: a size is too small, or what `tolerance` raises.
    """
    if rows < 2 or min(heads, head_size, repeats, *lengths) < 1:
        raise UserError(
            f"`rows` (={rows}) must be at least 2, `heads` (={heads}), `head_size` (={head_size}), `repeats` "
            f"(={repeats}) and `lengths` (={tuple(lengths)}) positive"
        )
    for dtype in dtypes:
        allowed = tolerance(dtype, jax.default_backend())
        for length in lengths:
            shape = (rows, length, heads, head_size)
            for form in PACKED_FORMS:
                yield _check_packed(form, dtype, shape, allowed, repeats)
            for form in DENSE_FORMS:
                yield _check_dense(form, dtype, shape, allowed, repeats)


def work_by_images(
    counts: Sequence[int] = (1, 4, 16),
    *,
    dtype: str = "float32",
    length: int = 1024,
    heads: int = 4,
    head_size: int = 64,
    repeats: int = 3,
) -> dict[int, float]:
    """Milliseconds of output and gradients of one row that is as many images of equal size, in the form "auto" takes.

    A form that skips what no image needs takes time by Σ nᵢ², so less the more images there are; others take L².

    Args:
        counts: images in the row.
        dtype: of query, key and value.
        length: L, tokens in the row.
        heads: A.
        head_size: K.
        repeats: timings, of which the shortest counts.
    """
    sizes = {"dtype": dtype, "length": length, "heads": heads, "head_size": head_size}
    return {count: _milliseconds(row_of_images(count, **sizes), [], repeats) for count in counts}


def row_of_images(
    count: int, *, form: str = "auto", dtype: str = "float32", length: int = 1024, heads: int = 4, head_size: int = 64
) -> Callable[[], Any]:
    """A call of output and gradients of one row that is `count` images of equal size.

    Args:
        count: images in the row.
        form: one of `PACKED_FORMS`, or "auto".
        dtype: of query, key and value.
        length: L, tokens in the row.
        heads: A.
        head_size: K.
    """
    segments = (np.arange(length) * count // length + 1).astype(np.int32)[None]
    both = _with_gradients(_packed_form(form, segments))
    arrays = [jnp.asarray(x, dtype) for x in _numbers((1, length, heads, head_size), segments)]
    return lambda: both(*arrays)


def _check_packed(form: str, dtype: str, shape: tuple[int, ...], allowed: float, repeats: int) -> Finding:
    case: Any = {"dtype": dtype, "length": shape[1], "head_size": shape[3], "has_buckets": True}
    auto = select_packed_attention(jax.default_backend(), **case)
    about: dict[str, Any] = {"kind": "packed", "form": form, "dtype": dtype, "length": shape[1]}
    about |= {"auto": form == auto.implementation, "reason": auto.reason if form == auto.implementation else ""}
    try:
        select_packed_attention(jax.default_backend(), **case, implementation=form)
    except UserError as error:
        return Finding(**{**about, "reason": _why(error), "refused": True})
    segments = _mixed_rows(shape[0], shape[1])
    rows: Any = {"segments": segments, "neighbours": (segments == 1, segments > 1)}
    return _measured(about, _packed_form(form, segments), **rows, shape=shape, allowed=allowed, repeats=repeats)


def _check_dense(form: str, dtype: str, shape: tuple[int, ...], allowed: float, repeats: int) -> Finding:
    backend = jax.default_backend()
    auto = select_dense_attention(backend)
    about: dict[str, Any] = {"kind": "dense", "form": form, "dtype": dtype, "length": shape[1]}
    about |= {"auto": form == auto.implementation, "reason": auto.reason if form == auto.implementation else ""}
    if form == "cudnn" and (backend != "gpu" or jnp.dtype(dtype).itemsize != 2):
        return Finding(**{**about, "reason": "16-bit types on gpu only", "refused": True})

    def attend(query: Any, key: Any, value: Any) -> Any:
        return dense_attention(query, key, value, implementation=form)

    # Every row is one image: the first row changes, and the others must not.
    first = np.arange(shape[0])[:, None] == np.zeros((1, shape[1]))
    rows: Any = {"segments": np.ones(shape[:2], np.int32), "neighbours": (first, ~first)}
    return _measured(about, attend, **rows, shape=shape, allowed=allowed, repeats=repeats)


def _why(error: UserError) -> str:
    return str(error).split(") ", 1)[-1].split(";")[0]


def _packed_form(form: str, segments: Int[np.ndarray, "B N"]) -> Callable[..., Any]:
    buckets = _exact_buckets(segments)
    ids = jnp.asarray(segments)
    return lambda q, k, v: packed_attention(q, k, v, ids, buckets=buckets, implementation=form)


def _mixed_rows(rows: int, length: int) -> Int[np.ndarray, "B N"]:
    """Images of an eighth to a half of a row, then padding; the last row is padding only."""
    generator = np.random.default_rng(length)
    segments = np.zeros((rows, length), np.int32)
    for row in segments[:-1]:
        start, image, end = 0, 1, length - int(generator.integers(1, max(length // 8, 2)))
        while start < end:
            size = min(int(generator.integers(max(length // 8, 1), length // 2 + 1)), end - start)
            row[start : start + size] = image
            start, image = start + size, image + 1
    return segments


def _exact_buckets(segments: Int[np.ndarray, "B N"]) -> tuple[Any, ...]:
    """One bucket with a slot for each image, as long as the longest."""
    rows, length = segments.shape
    found = [(row * length + np.flatnonzero(segments[row] == image)) for row in range(rows)
             for image in range(1, segments[row].max() + 1)]  # fmt: skip
    sizes = np.array([len(places) for places in found])
    starts = np.array([places[0] for places in found])
    buckets = Buckets((int(sizes.max()),), (len(found),))
    made = buckets.assign(np.zeros_like(sizes), starts, sizes, num_groups=1, group_tokens=segments.size)
    assert made is not None
    return made


def _numbers(shape: tuple[int, ...], segments: Int[np.ndarray, "B N"]) -> list[Float[np.ndarray, "B N A K"]]:
    """Query, key, value and the gradient of the output, which padding does not have."""
    generator = np.random.default_rng(shape)
    arrays = [generator.standard_normal(shape, np.float32) for _ in range(4)]
    arrays[3] *= (segments > 0)[..., None, None]
    return arrays


def _with_gradients(attend: Callable[..., Any]) -> Callable[..., Any]:
    @jax.jit
    def both(query: Any, key: Any, value: Any, d_out: Any) -> tuple[Any, ...]:
        out, pull = jax.vjp(attend, query, key, value)
        return out, *pull(d_out)

    return both


def _measured(
    about: dict[str, Any],
    attend: Callable[..., Any],
    *,
    segments: Int[np.ndarray, "B N"],
    neighbours: tuple[Bool[np.ndarray, "B N"], Bool[np.ndarray, "B N"]],
    shape: tuple[int, ...],
    allowed: float,
    repeats: int,
) -> Finding:
    """`neighbours`: the tokens that change, and those that must not when the former do."""
    both = _with_gradients(attend)
    # Rounded to the type first, so that the reference sees the numbers that the kernel sees.
    arrays = [np.array(jnp.asarray(x, about["dtype"]), np.float32) for x in _numbers(shape, segments)]

    def run(numbers: list[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(x, np.float32) for x in both(*(jnp.asarray(x, about["dtype"]) for x in numbers))]

    try:
        got, again = run(arrays), run(arrays)
    except Exception as error:  # a kernel of somebody else's, which may fail in any way: that is the finding
        return Finding(**{**about, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:200], "finite": False})
    real = (segments > 0)[..., None, None]
    expected = _reference(arrays, segments, shape[3] ** -0.5)
    errors = [
        np.abs(ours * real - wanted).max() / np.abs(wanted).max() for ours, wanted in zip(got, expected, strict=True)
    ]
    first, others = (tokens[..., None, None] for tokens in neighbours)
    changed = run([np.where(first, 3 - x, x) for x in arrays])
    device = [jnp.asarray(x, about["dtype"]) for x in arrays]
    return Finding(
        **about,
        error=float(np.max(errors)),
        allowed=allowed,
        leak=float(max(np.abs((a - b) * others).max() for a, b in zip(changed, got, strict=True))),
        unsteady=float(max(np.abs(a - b).max() for a, b in zip(again, got, strict=True))),
        finite=all(np.isfinite(x).all() for x in got),
        forward_ms=_milliseconds(jax.jit(attend), device[:3], repeats),
        both_ms=_milliseconds(both, device, repeats),
    )


def _reference(
    arrays: list[Float[np.ndarray, "B N A K"]], segments: Int[np.ndarray, "B N"], scale: float
) -> list[Float[np.ndarray, "B N A K"]]:
    """Output and the gradients of query, key and value in float64, image by image; zeros for padding."""
    results = [np.zeros(arrays[0].shape) for _ in range(4)]
    for row in range(len(segments)):
        for image in range(1, segments[row].max() + 1):
            at = (row, np.flatnonzero(segments[row] == image))
            query, key, value, d_out = (x[at].swapaxes(0, 1).astype(np.float64) for x in arrays)
            logits = query @ key.swapaxes(1, 2) * scale
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            d_weights = d_out @ value.swapaxes(1, 2)
            d_logits = weights * (d_weights - (d_weights * weights).sum(axis=-1, keepdims=True)) * scale
            parts = (weights @ value, d_logits @ key, d_logits.swapaxes(1, 2) @ query, weights.swapaxes(1, 2) @ d_out)
            for result, part in zip(results, parts, strict=True):
                result[at] = part.swapaxes(0, 1)
    return results


def _milliseconds(function: Callable[..., Any], arguments: list[Any], repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, time.perf_counter() - start)
    return best * 1e3
