"""Detection by anchors: a box and a class for every object."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Array, Batch, Bool, Float
from vitjax.errors import UserError
from vitjax.inference.detection_results import detection_result
from vitjax.ops.anchor_losses import AnchorLoss, HardNegativeCrossEntropy
from vitjax.ops.boxes import box_area, clip_boxes, cxcywh_of, xyxy_of
from vitjax.ops.matching import decode_offsets, encode_offsets, match_anchors
from vitjax.ops.nms import suppress_overlaps
from vitjax.ops.normalisation import normalise_images
from vitjax.tasks.detection_meter import DetectionMeter
from vitjax.tasks.task import Metrics

__all__ = ["AnchorDetection", "real_boxes"]

Outputs = dict[str, Array]
"""`offsets` [B, N, 4], `logits` [B, N, 1 + classes], `anchors` [N, 4]; see `models.ssdlite.SSDLite`."""


@dataclass(frozen=True)
class AnchorDetection:
    """The task of a single-shot detector; batches of `SceneBatches` with `BoxTargets`.

    SSD: Single Shot MultiBox Detector. Liu et al., 2016. https://arxiv.org/abs/1512.02325, sections 2.2 and 2.3;
    numbers as in MobileViT's configuration. Labels are classes without the background, which is channel 0 of the
    logits.

    Attributes:
        mean: per channel, in units of the brightest value (0 to 1).
        std: per channel, in the same units. MobileViT's papers have neither: pixels are 0 to 1.
        criterion: loss of the classes, `HardNegativeCrossEntropy` or `FocalLoss`.
        match_threshold: IoU from which on an anchor stands for a box.
        variances: of the centres and of the sizes that the model predicts.
        score_threshold: a prediction needs a higher score.
        max_candidates: predictions of each class that enter the suppression, the best ones.
        nms_threshold: IoU above which the worse of two predictions of a class is dropped.
        max_detections: of an image, the best ones.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    criterion: AnchorLoss = field(default_factory=HardNegativeCrossEntropy)
    match_threshold: float = 0.5
    variances: tuple[float, float] = (0.1, 0.2)
    score_threshold: float = 0.01
    max_candidates: int = 400
    nms_threshold: float = 0.5
    max_detections: int = 200
    least_classes: ClassVar[int] = 1
    """Told from the background."""

    def __post_init__(self):
        for name in ("match_threshold", "nms_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"AnchorDetection: `{name}` (={getattr(self, name)}) must lie in (0, 1)")
        for name in ("max_candidates", "max_detections"):
            if getattr(self, name) < 1:
                raise UserError(f"AnchorDetection: `{name}` (={getattr(self, name)}) is at least 1")

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch itself: images and boxes are changed together, on the host."""
        del key
        return batch

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """`images`: float32 [B, H, W, C], normalised."""
        return {"images": normalise_images(batch["image"], self.mean, self.std)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Smooth L1 of the offsets and the criterion of the classes, both over the positive anchors of the whole batch.

        All losses count positive anchors, so that parts of a batch add up to the whole; `positives` is their number
        per image.
        """
        anchors = outputs["anchors"]
        match = partial(match_anchors, anchors, threshold=self.match_threshold)
        matches = jax.vmap(match)(batch["boxes"], real_boxes(batch))
        boxes = jnp.take_along_axis(batch["boxes"], matches.box[..., None], axis=1)
        positive = matches.positive[..., None]
        # An anchor without a box is taught nothing; its own place keeps the logarithms finite.
        targets = encode_offsets(jnp.where(positive, cxcywh_of(boxes), anchors), anchors, self.variances)
        box_losses = jnp.where(positive, optax.huber_loss(outputs["offsets"], targets), 0.0)
        labels = jnp.take_along_axis(batch["labels"], matches.box, axis=1)
        class_losses = self.criterion(outputs["logits"], jnp.where(matches.positive, labels + 1, 0))
        class_losses = jnp.where(batch["image_mask"][:, None], class_losses, 0.0)
        box_loss, class_loss = jnp.sum(box_losses), jnp.sum(class_losses)
        count = jnp.sum(matches.positive, dtype=jnp.float32)
        metrics = {
            "loss": (box_loss + class_loss, count),
            "box_loss": (box_loss, count),
            "class_loss": (class_loss, count),
            "positives": (count, jnp.sum(batch["image_mask"], dtype=jnp.float32)),
        }
        return (box_loss + class_loss) / jnp.maximum(count, 1.0), metrics

    def predict(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """The objects of each image, best first, behind the last of them zeros.

        Returns:
            `boxes` float32 [B, max_detections, 4], xyxy in 0...1 of the prepared image; `scores` float32 and `labels`
            int32 [B, max_detections]; `mask` bool, True = real.
        """
        del batch
        boxes_xyxy = xyxy_of(decode_offsets(outputs["offsets"], outputs["anchors"], self.variances))
        return jax.vmap(self._detect)(boxes_xyxy, self.criterion.probabilities(outputs["logits"]))

    def _detect(self, boxes_xyxy: Float[Array, "N 4"], scores: Float[Array, "N classes"]) -> dict[str, Array]:
        num_anchors, num_classes = scores.shape
        best, anchor = jax.lax.top_k(scores.T, min(self.max_candidates, num_anchors))  # classes candidates
        labels = jnp.broadcast_to(jnp.arange(num_classes, dtype=jnp.int32)[:, None], best.shape).reshape(-1)
        best, boxes = best.reshape(-1), boxes_xyxy[anchor.reshape(-1)]
        kept = suppress_overlaps(
            boxes,
            best,
            labels,
            best > self.score_threshold,
            threshold=self.nms_threshold,
            max_kept=self.max_detections,
        )
        found = {"boxes": clip_boxes(boxes), "scores": best, "labels": labels}
        found = {name: _masked(leaf[kept.index], kept.mask) for name, leaf in found.items()}
        return found | {"mask": kept.mask}

    def meter(self) -> DetectionMeter:
        """Means of the losses, and COCO's twelve numbers."""
        return DetectionMeter()

    make_result = staticmethod(detection_result)
    """What `Bundle.predict` returns for one picture."""


def real_boxes(batch: Batch) -> Bool[Array, "B S"]:
    """Which slots hold a box that a model can learn: an object, no crowd, with an area."""
    real = batch["box_mask"] & (box_area(batch["boxes"]) > 0)
    return real & ~batch["crowd"] if "crowd" in batch else real


def _masked(values: Array, mask: Bool[Array, "kept"]) -> Array:
    return jnp.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.zeros((), values.dtype))
