"""Suppression under jit, exactly as the plain algorithm does it."""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.ops.nms import suppress_overlaps

MAX_KEPT = 12
suppress = jax.jit(functools.partial(suppress_overlaps, threshold=0.5, max_kept=MAX_KEPT))


def draw_candidates(seed, count=30):
    """Grid boxes and few scores, so that equal scores and overlaps of exactly the threshold occur."""
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 8, (count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)
    scores = generator.integers(1, 9, count).astype(np.float32) / 8
    return boxes, scores, generator.integers(0, 2, count), generator.random(count) < 0.8


def plain_iou(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), np.float32(0))
    intersection = sides[0] * sides[1]
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - intersection
    return intersection / union if union else np.float32(0)


def plain(boxes, scores, labels, mask, threshold=0.5):
    kept = []
    for number in np.argsort(-scores, kind="stable"):
        overlaps = any(
            labels[other] == labels[number] and plain_iou(boxes[other], boxes[number]) > threshold for other in kept
        )
        if mask[number] and not overlaps:
            kept.append(int(number))
    return kept[:MAX_KEPT]


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**20))
def test_is_the_plain_algorithm_exactly(seed):
    candidates = draw_candidates(seed)
    index, mask = suppress(*candidates)
    assert np.asarray(index)[np.asarray(mask)].tolist() == plain(*candidates)
    assert not np.asarray(index)[~np.asarray(mask)].any()


def test_a_batch_is_as_one_by_one():
    batch = [np.stack(arrays) for arrays in zip(*map(draw_candidates, range(4)), strict=True)]
    index, mask = jax.jit(jax.vmap(functools.partial(suppress_overlaps, max_kept=MAX_KEPT)))(*batch)
    for seed in range(4):
        assert np.asarray(index[seed])[np.asarray(mask[seed])].tolist() == plain(*draw_candidates(seed))


def test_classes_leave_each_other_alone():
    boxes, scores = np.tile(np.array([0, 0, 1, 1], np.float32), (3, 1)), np.array([0.5, 0.9, 0.7], np.float32)
    mask = np.ones(3, bool)
    index, kept = suppress(boxes, scores, np.array([0, 1, 0]), mask)
    assert np.asarray(index)[np.asarray(kept)].tolist() == [1, 2]
    assert suppress(boxes, scores, np.zeros(3, int), mask).mask.sum() == 1


def test_nothing_comes_of_nothing():
    boxes, scores, labels, _ = draw_candidates(0)
    assert not suppress(boxes, scores, labels, np.zeros(30, bool)).mask.any()
