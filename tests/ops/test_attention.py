"""Attention sees one image at a time, in every form, forwards and backwards."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.ops import attention, attention_kernels
from vitjax.ops.attention import dense_attention, packed_attention, select_dense_attention, select_packed_attention

KERNELS = frozenset({"splash", "triton", "cudnn"})


def packed_rows(seed: int, rows: int = 2, length: int = 24, groups: int = 1):
    """Segments of random images with padding between and after them, and buckets that list every image once."""
    rng = np.random.default_rng(seed)
    segments = np.zeros((rows, length), np.int32)
    for row in segments:
        start, image = 0, 1
        while start < length - 3:
            size = min(int(rng.integers(1, 9)), length - 2 - start)
            row[start : start + size] = image
            start, image = start + size, image + 1
    return segments, buckets_of(segments, groups)


def buckets_of(segments: np.ndarray, groups: int = 1, spare: int = 2, lengths: tuple[int, ...] = (3, 8)):
    rows, length = segments.shape
    tokens = rows // groups * length
    listed: list[list[list[np.ndarray]]] = [[[] for _ in range(groups)] for _ in lengths]
    for row in range(rows):
        group = row // (rows // groups)
        for image in range(1, segments[row].max() + 1):
            places = np.flatnonzero(segments[row] == image) + row % (rows // groups) * length
            listed[next(i for i, n in enumerate(lengths) if n >= len(places))][group].append(places)
    buckets = []
    for size, of_groups in zip(lengths, listed, strict=True):
        bucket = np.full((groups, max(map(len, of_groups)) + spare, size), tokens, np.int32)
        for group, images in enumerate(of_groups):
            for slot, places in enumerate(images):
                bucket[group, slot, : len(places)] = places
        buckets.append(bucket)
    return tuple(buckets)


def heads(seed: int, shape: tuple[int, ...]):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(3)]


def reference(query, key, value, scale):
    """float64, `[N, A, K]`."""
    query, key, value = (np.asarray(x, np.float64).transpose(1, 0, 2) for x in (query, key, value))
    logits = query @ key.transpose(0, 2, 1) * scale
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True) @ value).transpose(1, 0, 2)


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
def test_dense_attention_is_the_papers_formula(implementation):
    query, key, value = heads(0, (2, 7, 3, 4))
    ours = dense_attention(query, key, value, implementation=implementation)
    for i in range(2):
        np.testing.assert_allclose(ours[i], reference(query[i], key[i], value[i], 0.5), atol=1e-6)


def test_dense_attention_takes_a_mask_and_a_scale():
    query, key, value = heads(0, (1, 5, 2, 4))
    mask = jnp.arange(5)[None, None, None] < 3
    ours = dense_attention(query, key, value, mask, scale=1.3)
    np.testing.assert_allclose(ours[0], reference(query[0], key[0, :3], value[0, :3], 1.3), atol=1e-6)
    nothing = dense_attention(query, key, value, jnp.zeros_like(mask))
    assert np.isfinite(nothing).all()


def test_dropped_probabilities_keep_the_expectation():
    query, key, value = heads(0, (1, 5, 2, 4))
    keys = jax.random.split(jax.random.key(0), 4000)
    drop = jax.jit(jax.vmap(lambda k: dense_attention(query, key, value, dropout_rate=0.3, dropout_key=k)))(keys)
    assert float(jnp.abs(drop[0] - drop[1]).max()) > 1e-3
    np.testing.assert_allclose(drop.mean(0), dense_attention(query, key, value), atol=0.06)


COMPILED = {
    form: jax.jit(functools.partial(packed_attention, implementation=form)) for form in ("buckets", "segment_mask")
}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.sampled_from([1, 2]), form=st.sampled_from(sorted(COMPILED)))
def test_every_image_gets_what_it_gets_alone(seed, groups, form):
    segments, buckets = packed_rows(seed, rows=2, groups=groups)
    query, key, value = heads(seed, (2, 24, 2, 4))
    ours = np.asarray(COMPILED[form](query, key, value, segments, buckets=buckets))
    expected = np.zeros_like(ours)
    for row in range(2):
        for image in range(1, segments[row].max() + 1):
            at = (row, np.flatnonzero(segments[row] == image))
            expected[at] = reference(query[at], key[at], value[at], 0.5)
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def gradients(form, segments, buckets, arrays, weight):
    def loss(query, key, value):
        out = packed_attention(query, key, value, segments, buckets=buckets, implementation=form)
        return (out * weight).sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)


@pytest.mark.parametrize("groups", [1, 2])
def test_buckets_and_mask_agree_in_gradients_and_padding_has_none(groups):
    segments, buckets = packed_rows(3, rows=4, groups=groups)
    arrays = heads(1, (4, 24, 2, 4))
    weight = heads(2, (4, 24, 2, 4))[0]  # padding's outputs get a cotangent too
    by_mask = gradients("segment_mask", segments, None, arrays, weight)
    by_buckets = gradients("buckets", segments, buckets, arrays, weight)
    for ours, theirs in zip(by_buckets, by_mask, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
        assert not np.asarray(ours)[segments == 0].any()
        assert not np.asarray(theirs)[segments == 0].any()


@pytest.mark.parametrize("form", ["buckets", "segment_mask"])
def test_nothing_leaks_between_images_or_from_padding(form):
    segments, buckets = packed_rows(5)
    arrays = heads(1, (2, 24, 2, 4))
    changed = (segments == 1) | (segments == 0)
    others = [jnp.where(changed[..., None, None], 100.0 - x, x) for x in arrays]
    weight = heads(2, (2, 24, 2, 4))[0]

    def run(arrays):
        out = packed_attention(*arrays, segments, buckets=buckets, implementation=form)
        return out, *gradients(form, segments, buckets, arrays, weight)

    for before, after in zip(run(arrays), run(others), strict=True):
        kept = ~changed[..., None, None]
        assert float(jnp.abs((before - after) * kept).max()) == 0.0


@pytest.mark.parametrize("form", ["buckets", "segment_mask"])
def test_rows_of_padding_are_finite_zeros(form):
    segments = np.zeros((2, 24), np.int32)
    segments[0, :5] = 1
    buckets = buckets_of(segments)
    arrays = heads(0, (2, 24, 2, 4))
    out = packed_attention(*arrays, segments, buckets=buckets, implementation=form)
    assert np.isfinite(out).all()
    assert not np.asarray(out)[segments == 0].any()
    for gradient in gradients(form, segments, buckets, arrays, jnp.ones_like(out)):
        assert np.isfinite(gradient).all()
        assert not np.asarray(gradient)[segments == 0].any()


def test_a_batch_without_any_image_is_finite():
    segments = np.zeros((1, 24), np.int32)
    out = packed_attention(*heads(0, (1, 24, 2, 4)), segments, buckets=buckets_of(segments))
    assert not np.asarray(out).any()


@pytest.mark.parametrize("head_size", [64, 80])
@pytest.mark.parametrize("length", [128, 200])
def test_splash_honours_segments(head_size, length, monkeypatch):
    """The TPU kernel, interpreted: padded to its block and cut again, it equals the mask."""
    segments = np.zeros((2, length), np.int32)
    segments[0, :50], segments[0, 50:190], segments[1, 3:60] = 1, 2, 1
    arrays = heads(0, (2, length, 2, head_size))
    interpreted = {"splash": lambda *a: attention_kernels.splash(*a, interpret=True)}
    monkeypatch.setattr(attention_kernels, "SEGMENT_KERNELS", {**attention_kernels.SEGMENT_KERNELS, **interpreted})
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    ours = packed_attention(*arrays, segments)
    theirs = packed_attention(*arrays, segments, implementation="segment_mask")
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_triton_honours_segments(monkeypatch):
    """The GPU kernel, interpreted."""
    segments = np.zeros((2, 40), np.int32)
    segments[0, :17], segments[0, 17:38], segments[1, 3:25] = 1, 2, 1
    arrays = [x.astype(jnp.bfloat16) for x in heads(0, (2, 40, 2, 64))]
    interpreted = {"triton": lambda *a: attention_kernels.triton(*a, interpret=True)}
    monkeypatch.setattr(attention_kernels, "SEGMENT_KERNELS", {**attention_kernels.SEGMENT_KERNELS, **interpreted})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    ours = packed_attention(*arrays, segments, implementation="triton")
    theirs = packed_attention(*(x.astype(jnp.float32) for x in arrays), segments, implementation="segment_mask")
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.03)


@pytest.mark.parametrize(
    ("backend", "dtype", "head_size", "has_buckets", "expected"),
    [
        ("cpu", "float32", 64, True, "buckets"),
        ("cpu", "bfloat16", 64, False, "segment_mask"),
        ("tpu", "float32", 64, True, "splash"),
        ("tpu", "bfloat16", 80, False, "splash"),
        ("gpu", "bfloat16", 64, False, "triton"),
        ("gpu", "float32", 64, False, "segment_mask"),
        ("gpu", "bfloat16", 192, False, "segment_mask"),
    ],
)
def test_selection(backend, dtype, head_size, has_buckets, expected):
    choice = select_packed_attention(backend, dtype, 256, head_size, has_buckets=has_buckets, available=KERNELS)
    assert choice.implementation == expected
    assert choice.reason


def test_selection_pads_to_what_the_kernel_can_cut():
    choice = select_packed_attention("tpu", "bfloat16", 200, 64, available=KERNELS)
    assert choice.block == 128
    assert select_packed_attention("gpu", "bfloat16", 40, 64, available=KERNELS).block == 64


def test_selection_says_when_a_kernel_is_missing():
    choice = select_packed_attention("gpu", "bfloat16", 256, 64, available=frozenset())
    assert choice.implementation == "segment_mask"
    assert "cannot be imported" in choice.reason


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"implementation": "splash"}, "runs on tpu, not on cpu"),
        ({"implementation": "buckets"}, "needs a batch with `buckets`"),
        ({"implementation": "flash"}, "expected 'auto' or one of"),
        ({"implementation": "triton", "backend": "gpu", "dtype": "float32"}, "lower precision"),
        ({"implementation": "triton", "backend": "gpu", "head_size": 256}, "head sizes"),
        ({"implementation": "tokamax", "backend": "gpu"}, "cannot be imported"),
    ],
)
def test_a_form_that_cannot_do_the_case_is_refused(keywords, message):
    case = {"backend": "cpu", "dtype": "bfloat16", "length": 256, "head_size": 64, "available": KERNELS} | keywords
    with pytest.raises(UserError, match=message):
        select_packed_attention(**case)


def test_dense_selection():
    assert select_dense_attention("cpu").implementation == "explicit"
    assert select_dense_attention("gpu").implementation == "xla"
    assert select_dense_attention("gpu", dropout=True).implementation == "explicit"
    with pytest.raises(UserError, match="cannot drop"):
        select_dense_attention("gpu", dropout=True, implementation="xla")


def test_buckets_of_another_batch_are_refused():
    segments, _ = packed_rows(0, rows=3)
    with pytest.raises(UserError, match="divides the rows"):
        attention.packed_plan(segments, (np.zeros((2, 1, 4), np.int32),))


def test_the_choice_is_logged_once(caplog):
    attention._log_once.cache_clear()
    segments, buckets = packed_rows(0)
    with caplog.at_level(logging.INFO, logger="vitjax"):
        for _ in range(2):
            packed_attention(*heads(0, (2, 24, 2, 4)), segments, buckets=buckets)
    assert [record.message for record in caplog.records] == [
        "packed attention: buckets (each image alone costs the least on CPU)"
    ]


def test_the_report_names_backend_and_form():
    assert attention.attention_report(packed=True, has_buckets=True).startswith("attention: cpu buckets (")
    assert attention.attention_report(packed=False, backend="cpu").startswith("attention: cpu explicit (")


@pytest.mark.parametrize("form", ["buckets", "segment_mask"])
def test_bfloat16_is_close_to_float32(form):
    segments, buckets = packed_rows(0)
    arrays = heads(0, (2, 24, 2, 4))
    exact = packed_attention(*arrays, segments, buckets=buckets, implementation=form)
    short = [x.astype(jnp.bfloat16) for x in arrays]
    ours = packed_attention(*short, segments, buckets=buckets, implementation=form)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, atol=0.06)
