"""Rows with class and register tokens in front: every image keeps its own tokens, in the mask and in the buckets."""

import jax
import numpy as np
import pytest

from vitjax.ops.prefix_rows import prefix_rows

SLOTS, LENGTH, PREFIX = 3, 6, 2
SEGMENTS = np.array([[1, 1, 2, 3, 3, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [2, 1, 2, 0, 0, 0]], np.int32)


def buckets_of(segments, groups):
    """One bucket of four tokens and a slot to spare in every group."""
    rows = len(segments) // groups
    bucket = np.full((groups, rows * SLOTS + 1, 4), rows * LENGTH, np.int32)
    for group in range(groups):
        flat = [(row, slot) for row in range(rows) for slot in range(1, SLOTS + 1)]
        for place, (row, slot) in enumerate(flat):
            tokens = row * LENGTH + np.flatnonzero(segments[group * rows + row] == slot)
            bucket[group, place, : len(tokens)] = tokens
    return bucket


@pytest.mark.parametrize("groups", [1, 2])
def test_an_image_is_its_prefix_and_its_patches(groups):
    bucket = buckets_of(SEGMENTS, groups)
    longer, (found,) = jax.jit(prefix_rows, static_argnums=(1, 2))(SEGMENTS, SLOTS, PREFIX, (bucket,))
    front, length = SLOTS * PREFIX, SLOTS * PREFIX + LENGTH
    np.testing.assert_array_equal(longer[:, front:], SEGMENTS)
    np.testing.assert_array_equal(longer[0, :front], [1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(longer[1:, :front], [[0] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 2, 2, 0, 0]])
    rows = len(SEGMENTS) // groups
    listed = []
    for group in range(groups):
        for slot in np.asarray(found)[group]:
            tokens = slot[slot < rows * length]
            if len(tokens):
                row, inside = np.divmod(tokens, length)
                assert len(set(row)) == 1
                number = group * rows + row[0]
                (segment,) = set(np.asarray(longer)[number, inside].tolist())
                assert sorted(inside) == np.flatnonzero(np.asarray(longer)[number] == segment).tolist()
                listed.append((number, segment))
    assert sorted(listed) == [(0, 1), (0, 2), (0, 3), (2, 1), (3, 1), (3, 2)]


def test_without_prefix_nothing_changes():
    bucket = buckets_of(SEGMENTS, 1)
    longer, found = prefix_rows(SEGMENTS, SLOTS, 0, (bucket,))
    np.testing.assert_array_equal(longer, SEGMENTS)
    assert found[0] is bucket
