"""Panoptic segmentation by set prediction: every query answers for one thing, for all of one stuff, or for nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Batch, Float, Int, Tree
from vitjax.errors import UserError
from vitjax.evaluation.panoptic_quality import PanopticQuality
from vitjax.inference.panoptic_results import PanopticResult
from vitjax.ops.mask_losses import dice_loss, mask_focal_loss
from vitjax.ops.padded_maps import content_mask
from vitjax.ops.panoptic_merge import Segments, merge_masks
from vitjax.ops.resizing import resize_bilinear
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.tasks.task import Metrics

__all__ = ["Panoptic", "PanopticMeter"]

Outputs = dict[str, Array]
"""Those of `DETR`, `masks` [B, P, h, w] and perhaps `mask_queries` [B, P]; see `models.detr_panoptic.PanopticDETR`."""

_OUTSIDE = -100.0
"""A logit of padding: neither loss sees anything of it."""


@dataclass(frozen=True)
class Panoptic:
    """The task of DETR's panoptic head; batches with `PanopticTargets`.

    End-to-End Object Detection with Transformers. Carion et al., 2020. https://arxiv.org/abs/2005.12872, section 4.4
    and appendix A.2. Things and stuff are matched, classified and boxed as objects by `detection`; of those that the
    last layer is matched with, and no others, masks are made and taught. The losses are of the map's resolution, or of
    the masks' where that is finer: logits are resized to the masks, bilinear.

    Attributes:
        stuff: class numbers of what is one segment in a picture; all others are things.
        detection: the task without masks.
        focal_weight: of `mask_focal_loss`, summed over the masks and divided by the number of objects.
        dice_weight: of `dice_loss`, likewise.
        threshold: probability above which a query becomes a segment.
        largest_dropped: pixels of a segment that is too small to be one.
    """

    stuff: tuple[int, ...]
    detection: SetPrediction = field(default_factory=SetPrediction)
    focal_weight: float = 1.0
    dice_weight: float = 1.0
    threshold: float = 0.85
    largest_dropped: int = 4
    least_classes: ClassVar[int] = 1
    """Told from no object."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or self.largest_dropped < 0 or min(self.focal_weight, self.dice_weight) < 0:
            raise UserError(
                f"Panoptic: `threshold` (={self.threshold}) must lie in [0, 1); `largest_dropped` "
                f"(={self.largest_dropped}), `focal_weight` (={self.focal_weight}) and `dice_weight` "
                f"(={self.dice_weight}) be 0 or more"
            )

    @property
    def mean(self) -> tuple[float, ...]:
        """That of `detection`."""
        return self.detection.mean

    @property
    def std(self) -> tuple[float, ...]:
        """That of `detection`."""
        return self.detection.std

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """That of `detection`."""
        return self.detection.augment(batch, key)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Those of `detection`; with masks in the batch also `select`, which names the queries whose masks count."""
        inputs = self.detection.inputs(batch)
        if "masks" not in batch:
            return inputs
        truth = {name: batch[name] for name in ("boxes", "labels", "box_mask", "crowd") if name in batch}
        # A tree of arrays, unlike a closure: it may pass through `jit` and `eval_shape`.
        return {**inputs, "select": jax.tree_util.Partial(self._select, truth)}

    def _select(self, truth: Batch, outputs: Outputs) -> Int[Array, "B T"]:
        return self.detection.match({name: leaf[-1:] for name, leaf in outputs.items()}, truth)[-1]

    def _match(self, outputs: Outputs, batch: Batch) -> Int[Array, "L B T"]:
        """In training the last layer has been matched already."""
        if "mask_queries" not in outputs:
            return self.detection.match(outputs, batch)
        last = outputs["mask_queries"][None]
        earlier = {name: outputs[name][:-1] for name in ("logits", "boxes")}
        return jnp.concatenate([self.detection.match(earlier, batch), last]) if len(earlier["logits"]) else last

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, Metrics]:
        """The losses of `detection`, and those of the masks; all metrics of the masks are means over the objects."""
        assigned = self._match(outputs, batch)
        loss, metrics = self.detection.matched_loss(outputs, batch, assigned)
        found = outputs["masks"]
        if "mask_queries" not in outputs:
            found = jnp.take_along_axis(found, jnp.maximum(assigned[-1], 0)[..., None, None], axis=1)
        logits, truth = _alike(found, batch["masks"]), batch["masks"]
        if "content_size" in batch:
            logits = jnp.where(_content(batch, truth.shape[-2:])[:, None], logits, _OUTSIDE)
        real = assigned[-1] >= 0
        # What stands under the mask keeps the gradients finite.
        logits = jnp.where(real[..., None, None], logits, 0.0)
        focal, dice = (jnp.sum(jnp.where(real, losses(logits, truth), 0.0)) for losses in (mask_focal_loss, dice_loss))
        objects = jnp.sum(real, dtype=jnp.float32)
        count = jnp.maximum(objects, 1.0)
        extra = (self.focal_weight * focal + self.dice_weight * dice) / count
        total, weight = metrics["loss"]
        metrics = {
            **metrics,
            "loss": (total + extra * weight, weight),
            "mask_loss": (focal, objects),
            "dice_loss": (dice, objects),
        }
        return loss + extra, metrics

    def predict(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Those of `detection`, and what `merge_masks` makes segments of, on the host.

        Returns:
            Also `class_logits` float32 [B, Q, classes + 1], `mask_logits` float32 [B, Q, h, w], and `frame_size` and
            `content_size` int32 [B, 2], (rows, columns) of the image and of the picture in it.
        """
        rows, columns = batch["image"].shape[1:3]
        frame = jnp.broadcast_to(jnp.array([rows, columns], jnp.int32), (len(batch["image"]), 2))
        return {
            **self.detection.predict(outputs, batch),
            "class_logits": jnp.asarray(outputs["logits"][-1], jnp.float32),
            "mask_logits": outputs["masks"],
            "frame_size": frame,
            "content_size": batch.get("content_size", frame),
        }

    def segments(self, prediction: Mapping[str, np.ndarray], original_size: tuple[int, int]) -> Segments:
        """The segments of one picture, from its part of what `predict` returns."""
        is_stuff = np.isin(np.arange(prediction["class_logits"].shape[-1] - 1), self.stuff)
        frame, content = ((int(n[0]), int(n[1])) for n in (prediction["frame_size"], prediction["content_size"]))
        return merge_masks(
            np.asarray(prediction["class_logits"]),
            np.asarray(prediction["mask_logits"]),
            is_stuff,
            frame_size=frame,
            content_size=content,
            original_size=original_size,
            threshold=self.threshold,
            largest_dropped=self.largest_dropped,
        )

    def meter(self) -> "PanopticMeter":
        """Means of the losses, COCO's twelve numbers of the things' boxes, and the panoptic quality."""
        return PanopticMeter(self)

    def make_result(
        self,
        name: str,
        labels: tuple[str, ...],
        prediction: dict[str, np.ndarray] | None,
        original_size: tuple[int, int] | None,
        top_k: int,
        *,
        error: str | None = None,
        picture: Callable[[], np.ndarray] | None = None,
    ) -> PanopticResult:
        """What `Bundle.predict` returns for one picture."""
        found = self.detection.make_result(name, labels, prediction, original_size, top_k, error=error, picture=picture)
        if prediction is None or original_size is None:
            return PanopticResult(found, None, np.zeros(0, np.int32), np.zeros(0, np.float32), self.stuff)
        made = self.segments(prediction, original_size)
        return PanopticResult(found, made.segment_map, made.labels, made.scores, self.stuff)


class PanopticMeter:
    """Scores boxes of things and, where batches have a `segment_map`, segments of both kinds.

    A batch's mask logits are gone when its segments have been counted; what is kept are the boxes, and four numbers of
    each class. Segments are compared at the pixels of the original pictures.

    Args:
        task: makes the segments.
    """

    def __init__(self, task: Panoptic):
        self._task = task
        self._boxes = task.detection.meter()
        self._quality: PanopticQuality | None = None

    def add(self, metrics: Mapping[str, tuple[Any, Any]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch's metrics and predictions; images under the mask do not count."""
        stuff = self._task.stuff
        only_things = {**predictions, "mask": predictions["mask"] & ~np.isin(predictions["labels"], stuff)}
        true_things = {**batch, "box_mask": batch["box_mask"] & ~np.isin(batch["labels"], stuff)}
        self._boxes.add(metrics, only_things, true_things)
        if "segment_map" not in batch:
            return
        num_classes = predictions["class_logits"].shape[-1] - 1
        if self._quality is None:
            self._quality = PanopticQuality(np.isin(np.arange(num_classes), stuff))
        for row in np.flatnonzero(batch["image_mask"]):
            rows, columns = (int(side) for side in batch["image_size"][row])
            found = self._task.segments({name: leaf[row] for name, leaf in predictions.items()}, (rows, columns))
            real = np.flatnonzero(batch["box_mask"][row])
            crowd = np.asarray(batch["crowd"][row])[real] if "crowd" in batch else None
            truth = np.asarray(batch["segment_map"])[row, :rows, :columns]
            self._quality.add(found.segment_map, found.labels, truth, np.asarray(batch["labels"])[row][real], crowd)

    def scores(self) -> dict[str, float]:
        """The means, the numbers of `CocoBoxes`, and those of `PanopticQuality`.

        Raises:
            UserError: no image was added.
        """
        return self._boxes.scores() | ({} if self._quality is None else self._quality.numbers())


def _alike(logits: Float[Array, "B T h w"], masks: Array) -> Float[Array, "B T H W"]:
    """The logits at the size of the masks."""
    rows, columns = masks.shape[-2:]
    moved = resize_bilinear(jnp.moveaxis(logits, 1, -1), (rows, columns), align_corners=False)
    return jnp.moveaxis(moved, -1, 1)


def _content(batch: Batch, size: tuple[int, int]) -> Array:
    """[B, h, w]: the pixels of the masks that lie in the pictures."""
    places = (np.arange(new) * old // new for old, new in zip(batch["image"].shape[1:3], size, strict=True))
    return content_mask(batch["content_size"], *places)
