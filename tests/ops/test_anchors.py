"""SSD's anchors: the numbers of MobileViT's authors, their order, and settings that cannot be."""

import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.ops.anchors import SSDAnchors

MAPS = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]  # of an image of 320 by 320 px


def test_there_are_as_many_as_published():
    anchors = SSDAnchors()
    assert anchors.counts == (6, 6, 6, 6, 6, 4)
    assert anchors(MAPS).shape == (3232, 4)  # config/detection/ssd_coco/mobilevit.yaml of ml-cvnets at 320 px


def test_scales_are_the_published_ones():
    anchors = SSDAnchors()(MAPS)
    first_of_level = np.cumsum([0, *(rows * columns * 6 for rows, columns in MAPS[:-1])])
    np.testing.assert_allclose(anchors[first_of_level, 2], [0.1, 0.25833, 0.41667, 0.575, 0.73333, 0.89167], atol=5e-6)
    larger = anchors[first_of_level + 1, 2:]
    np.testing.assert_allclose(larger[:, 0], [0.16073, 0.32808, 0.48947, 0.64936, 0.80863, 0.9676], atol=5e-6)
    np.testing.assert_array_equal(larger[:, 0], larger[:, 1])


def test_a_cell_has_squares_then_boxes_lying_and_standing():
    anchors = SSDAnchors(((2, 3),), smallest=0.1, largest=0.4)([(2, 4)]).reshape(2, 4, 6, 4)
    np.testing.assert_allclose(anchors[1, 2, :, :2], [[2.5 / 4, 1.5 / 2]] * 6, atol=1e-6)
    widths, heights = anchors[0, 0, :, 2], anchors[0, 0, :, 3]
    np.testing.assert_allclose(widths / heights, [1, 1, 2, 1 / 2, 3, 1 / 3], rtol=1e-5)
    np.testing.assert_allclose(np.delete(widths * heights, 1), 0.01, rtol=1e-5)
    np.testing.assert_allclose(widths[1], 0.2, rtol=1e-6)


def test_no_number_leaves_the_unit_interval():
    anchors = SSDAnchors()(MAPS)
    assert anchors.min() >= 0
    assert anchors.max() == 1


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"smallest": 0.0}, r"`smallest` \(=0.0\) must be positive and below `largest` \(=1.05\)"),
        ({"smallest": 2.0}, r"`smallest` \(=2.0\) must be positive and below"),
        ({"aspect_ratios": ((2, 1), (3,))}, r"`aspect_ratios` .* numbers above 1 for each level"),
        ({"aspect_ratios": ()}, r"`aspect_ratios` .* for each level"),
    ],
)
def test_impossible_settings(keywords, message):
    with pytest.raises(UserError, match=message):
        SSDAnchors(**keywords)


def test_as_many_maps_as_levels():
    with pytest.raises(UserError, match="are of 6 levels, but the detector has 2 feature maps"):
        SSDAnchors()(MAPS[:2])
