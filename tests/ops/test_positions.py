import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vitjax.errors import UserError
from vitjax.ops import positions


def table(rows=7, columns=6, width=4):
    return np.random.default_rng(0).standard_normal((rows, columns, width)).astype(np.float32)


@pytest.mark.parametrize("grid", [(4, 9), (14, 14)])
def test_corners_are_scipys_zoom(grid):
    zoomed = ndimage.zoom(table(), (grid[0] / 7, grid[1] / 6, 1), order=1)
    np.testing.assert_allclose(positions.resample_corners(table(), grid), zoomed, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in positions.__all__ if name.startswith("resample")])
def test_the_same_size_is_the_identity(name):
    np.testing.assert_allclose(getattr(positions, name)(table(), (7, 6)), table(), atol=1e-6)


def test_sincos_2d_is_the_formula():
    width, grid = 16, (3, 5)
    ours = np.asarray(positions.sincos_2d(grid, width)).reshape(*grid, width)
    frequencies = 10000.0 ** (-np.arange(4) / 3)
    row, column = 2, 4
    expected = [np.sin(column * frequencies), np.cos(column * frequencies)]
    expected += [np.sin(row * frequencies), np.cos(row * frequencies)]
    np.testing.assert_allclose(ours[row, column], np.concatenate(expected), atol=1e-6)


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="divisible by 4"):
        positions.sincos_2d((2, 2), 6)
    with pytest.raises(UserError, match="even and at least 4"):
        positions.sincos_1d(jnp.zeros(3), 5)
