"""Box forms, areas and overlaps, by their properties and against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.ops.boxes import box_area, clip_boxes, cxcywh_of, generalised_iou, iou, scale_boxes, xyxy_of

seeds = st.integers(0, 2**16)


def draw_boxes(seed, count=12, side=16):
    """Boxes on a coarse grid: many share edges, some are empty, none is inside out."""
    corners = np.random.default_rng(seed).integers(0, side, (count, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)


def pixels(box, side=16):
    """The box as a mask of unit squares."""
    left, top, right, bottom = box.astype(int)
    mask = np.zeros((side, side), bool)
    mask[top:bottom, left:right] = True
    return mask


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_forms_are_each_others_inverse(seed):
    boxes = draw_boxes(seed)
    np.testing.assert_array_equal(xyxy_of(cxcywh_of(boxes)), boxes)  # halves of small whole numbers are exact
    np.testing.assert_array_equal(box_area(boxes), np.prod(cxcywh_of(boxes)[:, 2:], axis=-1))


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_overlaps_count_pixels(seed):
    boxes = draw_boxes(seed)
    found, generalised = iou(boxes[:, None], boxes), generalised_iou(boxes[:, None], boxes)
    assert found.shape == (12, 12)
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes):
            intersection, union = (pixels(a) & pixels(b)).sum(), (pixels(a) | pixels(b)).sum()
            assert found[i, j] == np.float32(intersection / union if union else 0)
            hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
            expected = (intersection / union if union else 0) - ((hull - union) / hull if hull else 0)
            np.testing.assert_allclose(generalised[i, j], expected, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_generalised_iou_is_symmetric_and_bounded(seed):
    a, b = draw_boxes(seed), draw_boxes(seed + 1)
    found = generalised_iou(a, b)
    np.testing.assert_array_equal(found, generalised_iou(b, a))
    assert ((found >= -1) & (found <= 1) & (found <= iou(a, b) + 1e-6)).all()
    np.testing.assert_allclose(generalised_iou(3 * a + 5, 3 * b + 5), found, atol=1e-6)


def test_gradients_are_finite_at_boxes_without_area():
    boxes = jnp.array([[1.0, 1, 1, 1], [0, 0, 2, 2], [3, 3, 3, 5]])
    for overlap in (iou, generalised_iou):
        gradient = jax.jit(jax.grad(lambda boxes, overlap=overlap: overlap(boxes[:, None], boxes).sum()))(boxes)
        assert np.isfinite(gradient).all()


def test_epsilon_joins_the_union():
    square = np.array([0, 0, 1, 1], np.float32)
    np.testing.assert_allclose(iou(square, square, epsilon=1.0), 0.5)


def test_clipping_and_scaling_know_rows_from_columns():
    boxes = np.array([[-1, -2, 50, 60]], np.float32)
    np.testing.assert_array_equal(clip_boxes(boxes, rows=10, columns=20), [[0, 0, 20, 10]])
    np.testing.assert_array_equal(clip_boxes(boxes), [[0, 0, 1, 1]])
    shares = np.array([[[0.5, 0.5, 1, 1]], [[0, 0, 1, 1]]], np.float32)
    np.testing.assert_array_equal(
        scale_boxes(shares, np.array([[10, 20], [4, 2]])), [[[10, 5, 20, 10]], [[0, 0, 2, 4]]]
    )
