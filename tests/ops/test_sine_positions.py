"""DETR's sinusoids: the formula, and that padding plays no part."""

import jax
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.ops.sine_positions import grid_sine_positions, masked_sine_positions


def test_the_formula():
    found = np.asarray(jax.jit(masked_sine_positions, static_argnums=1)(np.ones((1, 3, 5), bool), 16))
    row, column, half = 1, 3, 8
    for offset, place, total in ((0, row, 3), (half, column, 5)):
        coordinate = 2 * np.pi * (place + 1) / (total + 1e-6)
        for channel in range(half):
            angle = coordinate / 10000 ** (2 * (channel // 2) / half)
            expected = np.cos(angle) if channel % 2 else np.sin(angle)
            assert found[0, row, column, offset + channel] == pytest.approx(expected, abs=1e-6)


def test_a_padded_picture_has_the_positions_that_it_has_alone():
    positions = jax.jit(masked_sine_positions, static_argnums=1)
    sizes = ((2, 5), (4, 1))
    mask = np.zeros((2, 6, 6), bool)
    for picture, (rows, columns) in enumerate(sizes):
        mask[picture, :rows, :columns] = True
    found = np.asarray(positions(mask, 8))
    assert np.isfinite(found).all()
    for picture, (rows, columns) in enumerate(sizes):
        alone = np.asarray(positions(np.ones((1, rows, columns), bool), 8))
        np.testing.assert_allclose(found[picture, :rows, :columns], alone[0], atol=2e-6)


def test_the_width_must_hold_two_axes_of_pairs():
    with pytest.raises(UserError, match="`width` \\(=6\\) must be divisible by 4"):
        masked_sine_positions(np.ones((1, 2, 2), bool), 6)


def test_single_patches_have_the_positions_of_their_place_in_the_map():
    mask = np.zeros((1, 5, 7), bool)
    mask[:, :3, :4] = True
    places = np.int32([[0, 0], [2, 3], [1, 2]])
    found = grid_sine_positions(places, np.full((3, 2), [3, 4], np.int32), 16)
    expected = np.asarray(masked_sine_positions(mask, 16))[0, places[:, 0], places[:, 1]]
    np.testing.assert_allclose(found, expected, atol=2e-5)
