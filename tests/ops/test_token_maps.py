"""Packed tokens find their neighbours, and pixels between patches are those of each image's own resized map."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.ops.token_maps import neighbours, upsample_tokens

FACTOR = 3
GRIDS = [(3, 4), (1, 5), (2, 2), (1, 1)]
LENGTH = 26
_neighbours = jax.jit(neighbours)
_upsampled = jax.jit(lambda values, *where: upsample_tokens(values, neighbours(*where), 2))


def packed(grids, length, generator=None, keep=1.0):
    """(segments, positions) of one row, tokens in any order, some of them dropped if there is a generator."""
    places = [(slot + 1, row, column) for slot, (r, c) in enumerate(grids) for row in range(r) for column in range(c)]
    if generator is not None:
        order = generator.permutation(len(places))[: round(keep * len(places))]
        places = [places[number] for number in order]
    table = np.zeros((1, length, 3), np.int32)
    table[0, : len(places)] = np.reshape(places, (-1, 3))
    return table[..., 0], table[..., 1:]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=3),
    st.integers(0, 99),
    st.sampled_from([1.0, 0.6]),
)
def test_neighbours_are_found_wherever_they_lie(grids, seed, keep):
    segments, positions = packed(grids, 50, np.random.default_rng(seed), keep)
    found = np.asarray(_neighbours(segments, positions))
    where = {(s, *p): n for n, (s, p) in enumerate(zip(segments[0], positions[0].tolist(), strict=True)) if s}
    for number, (segment, (row, column)) in enumerate(zip(segments[0], positions[0].tolist(), strict=True)):
        steps = [(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
        expected = [where.get((segment, *place), 50) if segment else 50 for place in steps]
        assert found[0, number].tolist() == expected


def test_whole_images_are_resized_as_alone():
    generator = np.random.default_rng(0)
    segments, positions = packed(GRIDS, LENGTH, generator)
    values = generator.normal(size=(1, LENGTH, 2)).astype(np.float32)
    values[segments == 0] = np.nan  # padding may hold anything
    found = np.asarray(jax.jit(lambda v: upsample_tokens(v, neighbours(segments, positions), FACTOR))(values))
    assert not found[segments == 0].any()
    for slot, (rows, columns) in enumerate(GRIDS):
        mine = np.flatnonzero(segments[0] == slot + 1)
        grid = np.zeros((rows, columns, 2), np.float32)
        pixels = np.zeros((rows, columns, FACTOR, FACTOR, 2), np.float32)
        for number in mine:
            grid[tuple(positions[0, number])] = values[0, number]
            pixels[tuple(positions[0, number])] = found[0, number].reshape(FACTOR, FACTOR, 2)
        expected = jax.image.resize(grid, (rows * FACTOR, columns * FACTOR, 2), "bilinear")
        np.testing.assert_allclose(pixels.swapaxes(1, 2).reshape(expected.shape), expected, atol=2e-6)


def test_what_is_left_makes_up_for_dropped_neighbours():
    # Of a 1 x 3 image the middle token is gone: to either side there is only the token itself.
    segments, positions = np.int32([[1, 1]]), np.int32([[[0, 0], [0, 2]]])
    found = _upsampled(np.float32([[[4.0], [8.0]]]), segments, positions)
    np.testing.assert_allclose(found[0, :, :, 0], [[4.0] * 4, [8.0] * 4], rtol=1e-6)
    # Beside it a diagonal neighbour still counts, with its weight of all that are there: 1/16 of 10/16.
    segments, positions = np.int32([[1, 1]]), np.int32([[[0, 0], [1, 1]]])
    found = _upsampled(np.float32([[[0.0], [1.0]]]), segments, positions)
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 0, 0, 1 / 10], rtol=1e-6)


def test_gradients_are_the_transposed_map_and_stay_in_their_image():
    generator = np.random.default_rng(2)
    segments, positions = packed(GRIDS, LENGTH, generator, 0.7)
    values, upstream = (generator.normal(size=(1, LENGTH, *more)).astype(np.float32) for more in ((2,), (4, 2)))
    near = _neighbours(segments, positions)

    def of_one_token(unit):
        return upsample_tokens(unit[None, :, None], near, 2)[0, :, :, 0]

    matrix = np.asarray(jax.jit(jax.vmap(of_one_token))(np.eye(LENGTH, dtype=np.float32)))  # token in, out, pixel
    gradient = jax.jit(jax.grad(lambda v: (upsample_tokens(v, near, 2) * upstream).sum()))(values)
    np.testing.assert_allclose(gradient[0], np.einsum("inp,npd->id", matrix, upstream[0]), atol=1e-5)
    assert not matrix[segments[0][:, None] != segments[0][None]].any()


def test_no_factor():
    with pytest.raises(UserError, match="at least 1"):
        upsample_tokens(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 9), np.int32), 0)
