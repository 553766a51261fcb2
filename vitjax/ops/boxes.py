"""Boxes: two forms, areas, overlaps. Whatever broadcasts may be compared: `iou(a[:, None], b)` has all pairs.

`boxes_xyxy` are (left, top, right, bottom), right and bottom exclusive; `boxes_cxcywh` are (centre, size), x before y.
The unit is any, pixels or shares of the image, unless a name says which.
"""

import jax.numpy as jnp

from vitjax.arrays import Array, Float, Int

__all__ = ["box_area", "clip_boxes", "cxcywh_of", "generalised_iou", "iou", "scale_boxes", "xyxy_of"]

Boxes = Float[Array, "*#B 4"]


def xyxy_of(boxes_cxcywh: Float[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """Corners of boxes given by centre and size."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def cxcywh_of(boxes_xyxy: Float[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """Centre and size of boxes given by corners."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def box_area(boxes_xyxy: Float[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Width times height; 0 where a corner is on the wrong side."""
    return _area(boxes_xyxy[..., :2], boxes_xyxy[..., 2:])


def clip_boxes(
    boxes_xyxy: Float[Array, "*B 4"], rows: float | int = 1, columns: float | int = 1
) -> Float[Array, "*B 4"]:
    """The parts of boxes that lie in an image of this size; by default of the unit square."""
    return jnp.clip(boxes_xyxy, 0, jnp.asarray([columns, rows, columns, rows], boxes_xyxy.dtype))


def scale_boxes(
    boxes: Float[Array, "*B n 4"], sizes: Int[Array, "*B 2"] | Float[Array, "*B 2"]
) -> Float[Array, "*B n 4"]:
    """Shares of an image to its pixels, in either form.

    Args:
        boxes: n of each image.
        sizes: (rows, columns) of each image.
    """
    factors = jnp.asarray(sizes, boxes.dtype)[..., jnp.array([1, 0, 1, 0])]
    return boxes * factors[..., None, :]


def iou(a_xyxy: Boxes, b_xyxy: Boxes, *, epsilon: float = 0.0) -> Float[Array, "*B"]:
    """Intersection over union in `[0, 1]`; 0 for two boxes without area.

    Args:
        a_xyxy: boxes.
        b_xyxy: boxes of a shape that broadcasts with it.
        epsilon: added to the union.
    """
    intersection, union = _overlap(a_xyxy, b_xyxy)
    return _ratio(intersection, union + epsilon)


def generalised_iou(a_xyxy: Boxes, b_xyxy: Boxes) -> Float[Array, "*B"]:
    """`IoU - (hull - union) / hull` in `[-1, 1]`, the hull being the smallest box around both.

    Generalized Intersection over Union. Rezatofighi et al., 2019. https://arxiv.org/abs/1902.09630, algorithm 1. Boxes
    must not be inside out. Two boxes at the same point have 0.
    """
    intersection, union = _overlap(a_xyxy, b_xyxy)
    low, high = (pick(a_xyxy[..., part], b_xyxy[..., part]) for pick, part in _HULL)
    hull = _area(low, high)
    return _ratio(intersection, union) - _ratio(hull - union, hull)


_LOW, _HIGH = slice(None, 2), slice(2, None)
_HULL = ((jnp.minimum, _LOW), (jnp.maximum, _HIGH))


def _overlap(a: Array, b: Array) -> tuple[Array, Array]:
    low, high = jnp.maximum(a[..., _LOW], b[..., _LOW]), jnp.minimum(a[..., _HIGH], b[..., _HIGH])
    intersection = _area(low, high)
    return intersection, box_area(a) + box_area(b) - intersection


def _area(low: Array, high: Array) -> Array:
    sides = jnp.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]


def _ratio(part: Array, whole: Array) -> Array:
    """0 for nothing of nothing, whose gradient is 0 as well."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
