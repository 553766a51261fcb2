"""Weights of a table's rows, token by token: the matrices with which `ops.positions` resizes the whole table."""

import jax
import numpy as np
import pytest

from vitjax.ops import axis_weights, positions

COUNTS = (1, 2, 3, 7, 9, 14, 23)
SIZE = 7


def _whole(count, kernel, reach, *, antialias):
    return positions._matrix(SIZE, count, kernel, reach=reach, antialias=antialias)


WHOLE = {
    "bilinear_antialias": lambda count: _whole(count, positions._triangle, 1, antialias=True),
    "bicubic_antialias": lambda count: _whole(count, lambda x: positions._cubic(x, -0.5), 2, antialias=True),
    "bilinear": lambda count: _whole(count, positions._triangle, 1, antialias=False),
    "bicubic": lambda count: _whole(count, lambda x: positions._cubic(x, -0.75), 2, antialias=False),
    "corners": lambda count: positions._corner_matrix(SIZE, count),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_row_is_that_of_the_whole_tables_matrix(name):
    index = np.concatenate([np.arange(count) for count in COUNTS])
    count = np.concatenate([np.full(count, count) for count in COUNTS])
    weights = jax.jit(getattr(axis_weights, name), static_argnums=2)(index, count, SIZE)
    expected = np.concatenate([WHOLE[name](count) for count in COUNTS])
    np.testing.assert_allclose(weights, expected, atol=5e-7)
    # An image of the table's own size reads its rows themselves.
    np.testing.assert_array_equal(np.asarray(weights)[count == SIZE], np.eye(SIZE))
