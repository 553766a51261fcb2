"""Detection by set prediction: every query answers for one object or for none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Batch, Int
from vitjax.errors import UserError
from vitjax.inference.detection_results import detection_result
from vitjax.ops.assignment import assign
from vitjax.ops.boxes import xyxy_of
from vitjax.ops.normalisation import normalise_images
from vitjax.ops.padded_maps import clear_padding
from vitjax.ops.set_losses import SetTruth, box_losses, class_losses, matched_labels, matching_cost
from vitjax.tasks.detection import real_boxes
from vitjax.tasks.detection_meter import DetectionMeter
from vitjax.tasks.task import Metrics

__all__ = ["SetPrediction"]

Outputs = dict[str, Array]
"""`logits` [L, B, Q, classes + 1], `boxes` [L, B, Q, 4]; see `models.detr.DETR`."""

Matcher = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class SetPrediction:
    """The task of DETR; batches of `PaddedSceneBatches` or `SceneBatches` with `BoxTargets`.

    End-to-End Object Detection with Transformers. Carion et al., 2020. https://arxiv.org/abs/2005.12872, section 3.1
    and appendix A.2. Every layer of the decoder is matched with the objects by itself and pays the same losses; the
    last one's are logged under their names, those of all others together as `auxiliary_loss`.

    Losses are of the whole global batch, on however many devices it lies: cross-entropies over the sum of their
    weights, boxes over the number of objects (at least 1). The authors divide cross-entropies on each device by that
    device's weights, and average.
    With gradient accumulation each part is divided by its own counts and weighs as many objects as it has (at least
    1): boxes then add up to those of the whole batch, cross-entropies become the mean of the parts', weighted so.

    Attributes:
        mean: per channel, in units of the brightest value (0 to 1); ImageNet's.
        std: per channel, in the same units.
        no_object_weight: of queries without object in the cross-entropy.
        costs: weights of class, L1 and GIoU in the matching.
        losses: weights of cross-entropy, L1 and GIoU in the loss.
        matcher: `(cost [*B, Q, T], mask [*B, T]) -> [*B, T]`, the query of each real target and -1 for the others.
        nms_threshold: IoU above which the worse of two detections of a class counts as a duplicate: evaluations then
            report as `AP_nms` what AP would be without duplicates. `None` leaves that out.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    no_object_weight: float | int = 0.1
    costs: tuple[float | int, ...] = (1, 5, 2)
    losses: tuple[float | int, ...] = (1, 5, 2)
    matcher: Matcher = assign
    nms_threshold: float | None = None
    least_classes: ClassVar[int] = 1
    """Told from no object."""

    def __post_init__(self):
        if not self.no_object_weight > 0:
            raise UserError(f"SetPrediction: `no_object_weight` (={self.no_object_weight}) must be positive")
        for name in ("costs", "losses"):
            weights = getattr(self, name)
            if len(weights) != 3 or min(weights) < 0 or not max(weights):
                raise UserError(
                    f"SetPrediction: `{name}` (={weights}) are three weights, of class, L1 and GIoU: each of 0 or "
                    "more, not all 0"
                )

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch itself: images and boxes are changed together, on the host."""
        del key
        return batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """`images`: float32 [B, H, W, C], normalised, 0 outside the pictures; `content_size` where there is one."""
        images = normalise_images(batch["image"], self.mean, self.std)
        if "content_size" not in batch:
            return {"images": images}
        return {"images": clear_padding(images, batch["content_size"]), "content_size": batch["content_size"]}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Cross-entropy of all queries, L1 and GIoU of those with an object, summed over the layers.

        Of the last layer are logged, beside its losses: `cardinality_error`, by how many objects an image's number
        of queries with a class is off, and `class_error`, the share of matched queries with another class than theirs.
        """
        return self.matched_loss(outputs, batch, self.match(outputs, batch))

    def match(self, outputs: Outputs, batch: Batch) -> Int[Array, "L B T"]:
        """The query of each object in each layer; -1 for empty slots, crowds and boxes without area.

        Raises:
            UserError: there are more slots for objects than queries.
        """
        queries, slots = outputs["logits"].shape[-2], batch["boxes"].shape[-2]
        if slots > queries:
            raise UserError(
                f"SetPrediction: batches have room for {slots} objects (`max_boxes`), the model has {queries} queries "
                f"(`num_queries`), each of which finds one: set num_queries={slots} or more, or max_boxes={queries}"
            )
        truth, outputs = _truth(batch), jax.lax.stop_gradient(outputs)
        cost = matching_cost(outputs["logits"], outputs["boxes"], truth, self.costs)
        return self.matcher(cost, jnp.broadcast_to(truth.mask, (len(cost), *truth.mask.shape)))

    def matched_loss(self, outputs: Outputs, batch: Batch, assigned: Int[Array, "L B T"]) -> tuple[jax.Array, Metrics]:
        """`loss` of a given matching."""
        logits, truth = outputs["logits"], _truth(batch)
        no_object = logits.shape[-1] - 1
        targets = matched_labels(assigned, truth.labels, logits.shape[-2], no_object)
        classes, weights = class_losses(logits, targets, batch["image_mask"], self.no_object_weight)
        distances, overlaps = box_losses(outputs["boxes"], assigned, truth)
        objects = jnp.sum(truth.mask, dtype=jnp.float32)
        count = jnp.maximum(objects, 1.0)
        by_class, by_distance, by_overlap = self.losses
        layers = (
            by_class * classes / jnp.maximum(weights, 1e-6) + (by_distance * distances + by_overlap * overlaps) / count
        )
        found = jnp.argmax(logits[-1], axis=-1)
        off = jnp.abs(jnp.sum(found != no_object, axis=-1) - truth.mask.sum(axis=-1))
        wrong = (found != targets[-1]) & (targets[-1] != no_object)
        images = batch["image_mask"]
        loss = jnp.sum(layers)
        metrics = {
            "loss": (loss * count, count),
            "auxiliary_loss": (jnp.sum(layers[:-1]) * count, count),
            "class_loss": (classes[-1], weights[-1]),
            "l1_loss": (distances[-1], objects),
            "giou_loss": (overlaps[-1], objects),
            "cardinality_error": (
                jnp.sum(jnp.where(images, off, 0), dtype=jnp.float32),
                jnp.sum(images, dtype=jnp.float32),
            ),
            "class_error": (jnp.sum(wrong & images[:, None], dtype=jnp.float32), objects),
        }
        return loss, metrics

    def predict(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """What each query of the last layer has found, best first: its best class that is an object, however unlikely.

        Nothing is dropped, and boxes may reach a little beyond the picture, as in the authors' evaluation.

        Returns:
            `boxes` float32 [B, Q, 4], xyxy in 0...1 of the picture; `scores` float32 and `labels` int32 [B, Q]; `mask`
            bool, all True.
        """
        del batch
        probability = jax.nn.softmax(jnp.asarray(outputs["logits"][-1], jnp.float32), axis=-1)[..., :-1]
        scores, order = jax.lax.top_k(jnp.max(probability, axis=-1), probability.shape[1])
        labels = jnp.argmax(probability, axis=-1).astype(jnp.int32)
        return {
            "boxes": jnp.take_along_axis(xyxy_of(outputs["boxes"][-1]), order[..., None], axis=1),
            "scores": scores,
            "labels": jnp.take_along_axis(labels, order, axis=1),
            "mask": jnp.ones(scores.shape, bool),
        }

    def meter(self) -> DetectionMeter:
        """Means of the losses, and COCO's twelve numbers."""
        return DetectionMeter(self.nms_threshold)

    make_result = staticmethod(detection_result)
    """What `Bundle.predict` returns for one picture."""


def _truth(batch: Batch) -> SetTruth:
    return SetTruth(batch["labels"], batch["boxes"], real_boxes(batch))
