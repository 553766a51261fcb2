"""COCO's three kinds of segmentation, against pycocotools and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.data.coco_masks import compress_segmentation, decode_masks
from vitjax.data.digits import encode_rle


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_run_lengths_come_back(rows, columns, seed):
    from pycocotools import mask as tools

    generator = np.random.default_rng(seed)
    mask = generator.random((rows, columns)) < generator.random()
    counts = {"size": [rows, columns], "counts": encode_rle(mask)}
    compressed = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    for given_form in (counts, {"size": [rows, columns], "counts": compressed.decode()}):
        kept = compress_segmentation(given_form, (rows, columns))
        assert kept is not None
        np.testing.assert_array_equal(decode_masks([kept], (rows, columns))[0], mask)


def test_polygons_are_filled():
    square = [2, 1, 8, 1, 8, 5, 2, 5]
    kept = compress_segmentation(
        [square, [10, 0, 12, 0, 12, 2, 10, 2], [1, 2, 3, 4]], (8, 15)
    )  # the last is no polygon
    assert kept is not None
    masks = decode_masks([kept, kept], (8, 15))
    assert masks.shape == (2, 8, 15)
    expected = np.zeros((8, 15), bool)
    expected[1:5, 2:8] = expected[0:2, 10:12] = True
    np.testing.assert_array_equal(masks[0], expected)
    assert decode_masks([], (8, 15)).shape == (0, 8, 15)


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], [[1, 2, 3, 4]], [["a", 1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, float("nan")]], "11",
        {"size": [4, 5], "counts": [3, 4]}, {"size": [5, 4], "counts": [20]}, {"size": [4, 5], "counts": [-1, 21]},
        {"size": [4, 5], "counts": "zzzz"}, {"size": [4, 5], "counts": "\n"}, {"size": [4, 5]}, {"counts": [20]},
    ],
)  # fmt: skip
def test_anything_else_is_none(segmentation):
    assert compress_segmentation(segmentation, (4, 5)) is None
