"""Which anchor answers for which box of the truth, and boxes as offsets from their anchors."""

from typing import NamedTuple

import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.ops.boxes import iou, xyxy_of

__all__ = ["Matches", "decode_offsets", "encode_offsets", "match_anchors"]


class Matches(NamedTuple):
    """What each anchor of an image is taught.

    Attributes:
        box: number of a box of the truth; without meaning where not positive.
        positive: whether the anchor stands for that box; the others are background.
    """

    box: Int[Array, "anchors"]
    positive: Bool[Array, "anchors"]


def match_anchors(
    anchors_cxcywh: Float[Array, "anchors 4"],
    boxes_xyxy: Float[Array, "T 4"],
    mask: Bool[Array, "T"],
    *,
    threshold: float = 0.5,
) -> Matches:
    """The matching of SSD (Liu et al. 2016, section 2.2): each box gets its best anchor, and all that overlap enough.

    An anchor that is the best one of several boxes goes to the last of them.

    Args:
        anchors_cxcywh: anchors.
        boxes_xyxy: the truth of one image.
        mask: which of them are real.
        threshold: an anchor whose best IoU is below is background, unless it is some box's best anchor.
    """
    # The authors' code (ml-cvnets) adds 1e-5 to the union.
    overlaps = iou(boxes_xyxy[:, None], xyxy_of(anchors_cxcywh), epsilon=1e-5)
    overlaps = jnp.where(mask[:, None], overlaps, -1.0)  # T anchors
    best_anchor = jnp.argmax(overlaps, axis=1)
    numbers = jnp.arange(len(boxes_xyxy))[:, None]
    forces = (jnp.arange(len(anchors_cxcywh)) == best_anchor[:, None]) & mask[:, None]
    forced = jnp.max(jnp.where(forces, numbers, -1), axis=0)
    best_box = jnp.argmax(overlaps, axis=0)
    return Matches(jnp.where(forced >= 0, forced, best_box), (forced >= 0) | (jnp.max(overlaps, axis=0) >= threshold))


def encode_offsets(
    boxes_cxcywh: Float[Array, "*B 4"],
    anchors_cxcywh: Float[Array, "*#B 4"],
    variances: tuple[float, float] = (0.1, 0.2),
) -> Float[Array, "*B 4"]:
    """Boxes as a detector predicts them: centre over the anchor's size, logarithm of the size, each over its variance.

    Args:
        boxes_cxcywh: of positive size.
        anchors_cxcywh: one for each.
        variances: of the centre and of the size.
    """
    centre = (boxes_cxcywh[..., :2] - anchors_cxcywh[..., :2]) / anchors_cxcywh[..., 2:] / variances[0]
    size = jnp.log(boxes_cxcywh[..., 2:] / anchors_cxcywh[..., 2:]) / variances[1]
    return jnp.concatenate([centre, size], axis=-1)


def decode_offsets(
    offsets: Float[Array, "*B 4"],
    anchors_cxcywh: Float[Array, "*#B 4"],
    variances: tuple[float, float] = (0.1, 0.2),
) -> Float[Array, "*B 4"]:
    """The inverse of `encode_offsets`: `boxes_cxcywh`."""
    centre = offsets[..., :2] * variances[0] * anchors_cxcywh[..., 2:] + anchors_cxcywh[..., :2]
    return jnp.concatenate([centre, jnp.exp(offsets[..., 2:] * variances[1]) * anchors_cxcywh[..., 2:]], axis=-1)
