"""Which pixels of a map are a picture's."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.ops.convolution import output_side
from vitjax.ops.padded_maps import clear_padding, content_mask, halved_size, nearest_pixels


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 200))
def test_nearest_pixels_are_inside_and_in_order(frame, cells):
    found = nearest_pixels(frame, cells)
    assert found[0] == 0
    assert found[-1] < frame
    assert (np.diff(found) >= 0).all()
    # Exactly, but where float32 rounds a nearly whole quotient.
    exact = np.arange(cells) * frame / cells
    whole = np.abs(exact - np.round(exact)) < 1e-3
    np.testing.assert_array_equal(found[~whole], np.floor(exact[~whole]))


def test_a_mask_is_the_top_left():
    mask = np.asarray(content_mask(np.array([[33, 64], [64, 1]]), np.arange(2) * 32, np.arange(3) * 32))
    np.testing.assert_array_equal(mask[0], [[True, True, False]] * 2)
    np.testing.assert_array_equal(mask[1], [[True, False, False]] * 2)


@settings(deadline=None)
@given(st.integers(1, 300), st.sampled_from([1, 2]))
def test_sizes_are_those_behind_a_convolution(side, stride):
    found = np.asarray(halved_size(np.array([[side, side]], np.int32), stride))
    for kernel in (1, 3, 7):
        assert (found == output_side(side, kernel, stride=stride, dilation=1, padding=kernel // 2)).all()
    assert halved_size(None, stride) is None


def test_clearing():
    maps = jnp.ones((2, 3, 4, 1))
    np.testing.assert_array_equal(clear_padding(maps, None), maps)
    cleared = np.asarray(clear_padding(maps, np.array([[2, 1], [3, 4]])))[..., 0]
    np.testing.assert_array_equal(cleared[0], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(cleared[1], 1)
