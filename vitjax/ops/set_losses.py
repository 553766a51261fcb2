"""What DETR's predictions cost beside a set of objects: for the matching, and as losses of what was matched.

End-to-End Object Detection with Transformers. Carion et al., 2020. https://arxiv.org/abs/2005.12872, section 3.1 and
appendix A.2. Predictions have an axis of layers in front, each of which is matched and taught by itself. Losses come as
sums, for the caller to divide by what the whole batch holds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.ops.boxes import cxcywh_of, generalised_iou, xyxy_of

__all__ = ["SetTruth", "box_losses", "class_losses", "matched_labels", "matching_cost"]


class SetTruth(NamedTuple):
    """The objects of a batch.

    Attributes:
        labels: classes.
        boxes_xyxy: in 0...1 of the picture.
        mask: which entries are real; the others may hold anything.
    """

    labels: Int[Array, "B T"]
    boxes_xyxy: Float[Array, "B T 4"]
    mask: Bool[Array, "B T"]


def matching_cost(
    logits: Float[Array, "L B Q classes"],
    boxes_cxcywh: Float[Array, "L B Q 4"],
    truth: SetTruth,
    weights: Sequence[float | int] = (1, 5, 2),
) -> Float[Array, "L B Q T"]:
    """`-p(class)`, the L1 distance of the boxes and `-GIoU`, weighted and added up (section 3.1, equations 1 and 9).

    Args:
        logits: the last class is no object.
        boxes_cxcywh: in 0...1 of the picture.
        truth: what the predictions are compared with.
        weights: of class, L1 and GIoU.
    """
    by_class, by_distance, by_overlap = weights
    probability = jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    chosen = jax.nn.one_hot(truth.labels, logits.shape[-1])
    probability = jnp.einsum("lbqc,btc->lbqt", probability, chosen, precision="highest")
    targets = truth.boxes_xyxy[:, None]  # B 1 T 4
    distance = jnp.abs(boxes_cxcywh[..., None, :] - cxcywh_of(targets)).sum(axis=-1)
    overlap = generalised_iou(xyxy_of(boxes_cxcywh)[..., None, :], targets)
    return by_distance * distance - by_class * probability - by_overlap * overlap


def matched_labels(
    assigned: Int[Array, "L B T"], labels: Int[Array, "B T"], num_queries: int, no_object: int
) -> Int[Array, "L B Q"]:
    """What class each query should give: that of its target, or no object.

    Args:
        assigned: the query of each target, -1 for none.
        labels: of the targets.
        num_queries: Q.
        no_object: number of the class of a query without target.
    """
    holds = assigned[..., None, :] == jnp.arange(num_queries)[:, None]  # L B Q T
    found = jnp.max(jnp.where(holds, labels[:, None], -1), axis=-1)
    return jnp.where(found < 0, no_object, found)


def class_losses(
    logits: Float[Array, "L B Q classes"],
    targets: Int[Array, "L B Q"],
    image_mask: Bool[Array, "B"],
    no_object_weight: float = 0.1,
) -> tuple[Float[Array, "L"], Float[Array, "L"]]:
    """The weighted cross-entropies of all queries, summed, and the sum of their weights, by which it is divided.

    Args:
        logits: the last class is no object.
        targets: of `matched_labels`.
        image_mask: images that count.
        no_object_weight: of queries that should find nothing; the others weigh 1.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits, jnp.float32), targets)
    weights = jnp.where(targets == logits.shape[-1] - 1, jnp.float32(no_object_weight), 1.0)
    counts = image_mask[:, None]
    losses = jnp.where(counts, weights * losses, 0.0)
    return losses.sum(axis=(1, 2)), jnp.where(counts, weights, 0.0).sum(axis=(1, 2))


def box_losses(
    boxes_cxcywh: Float[Array, "L B Q 4"], assigned: Int[Array, "L B T"], truth: SetTruth
) -> tuple[Float[Array, "L"], Float[Array, "L"]]:
    """L1 distances (over all four numbers) and `1 - GIoU` of what was matched, summed.

    Args:
        boxes_cxcywh: of the queries, in 0...1 of the picture.
        assigned: the query of each target.
        truth: the targets.
    """
    mask = truth.mask[..., None]
    # Anything may stand under the mask; a box that is not there keeps the gradients finite.
    targets = jnp.where(mask, truth.boxes_xyxy, jnp.array([0.0, 0, 1, 1]))
    found = jnp.take_along_axis(boxes_cxcywh, jnp.maximum(assigned, 0)[..., None], axis=-2)
    found = jnp.where(mask, found, cxcywh_of(targets))
    distance = jnp.abs(found - cxcywh_of(targets)).sum(axis=-1)
    overlap = generalised_iou(xyxy_of(found), targets)
    distances, overlaps = (jnp.where(truth.mask, loss, 0.0).sum(axis=(1, 2)) for loss in (distance, 1 - overlap))
    return distances, overlaps
