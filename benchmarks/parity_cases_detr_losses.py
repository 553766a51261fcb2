"""DETR's losses of given predictions beside transformers' and beside a statement of the paper in plain loops."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from benchmarks.comparison import Case, Stages
from vitjax.tasks.set_prediction import SetPrediction

__all__ = ["DETR_LOSS_CASES", "draw_batch"]

_LAYERS, _IMAGES, _QUERIES, _SLOTS, _CLASSES = 3, 4, 9, 5, 6


def draw_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Targets of four pictures: some, some with a crowd and a box without area, none, as many as there are slots."""
    generator = np.random.default_rng((seed, 1))
    centres, sizes = generator.uniform(0.3, 0.7, (2, _IMAGES, _SLOTS, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1).astype(np.float32)
    boxes[1, 1, 2] = boxes[1, 1, 0]
    crowd = np.zeros((_IMAGES, _SLOTS), bool)
    crowd[1, 0] = True
    return {
        "boxes": boxes,
        "labels": generator.integers(0, _CLASSES, (_IMAGES, _SLOTS)).astype(np.int32),
        "box_mask": np.arange(_SLOTS) < np.array([2, 4, 0, _SLOTS])[:, None],
        "crowd": crowd,
        "image_mask": np.ones(_IMAGES, bool),
    }


def _draw(layers: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(layers, _IMAGES, _QUERIES, _CLASSES + 1)).astype(np.float32)
    centres, sizes = generator.uniform(0.2, 0.8, (2, layers, _IMAGES, _QUERIES, 2)).astype(np.float32)
    return {"logits": logits, "boxes": np.concatenate([centres, sizes], axis=-1)}


def _targets(dtype: Any) -> list[dict[str, Any]]:
    """What transformers expects: objects alone, `boxes` as centre and size."""
    batch, found = draw_batch(), []
    for row in range(_IMAGES):
        boxes = batch["boxes"][row]
        real = batch["box_mask"][row] & ~batch["crowd"][row] & (boxes[:, 2] > boxes[:, 0])
        low, high = torch.tensor(boxes[real], dtype=dtype).split(2, dim=-1)
        labels = torch.tensor(batch["labels"][row][real]).long()
        found.append({"class_labels": labels, "boxes": torch.cat([(low + high) / 2, high - low], dim=-1)})
    return found


def _our_stages(variables: Any, inputs: dict[str, Any]) -> Stages:
    del variables
    loss, metrics = SetPrediction().loss(inputs, draw_batch())
    mean = {name: total / count for name, (total, count) in metrics.items()}
    terms = [loss, mean["auxiliary_loss"], mean["class_loss"], mean["l1_loss"], mean["giou_loss"]]
    return {"cardinality_error": mean["cardinality_error"], "logits": jnp.stack(terms)}


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    """The reference makes its weights of the classes in torch's default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _transformers_stages(module: Any, inputs: dict[str, Any]) -> Stages:
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    del module
    logits, boxes = inputs["logits"], inputs["boxes"]
    config: Any = SimpleNamespace(
        class_cost=1, bbox_cost=5, giou_cost=2, num_labels=_CLASSES, eos_coefficient=0.1,
        auxiliary_loss=len(logits) > 1, bbox_loss_coefficient=5, giou_loss_coefficient=2, decoder_layers=len(logits),
    )  # fmt: skip
    with _default_dtype(logits.dtype):
        loss, terms, _ = ForObjectDetectionLoss(
            logits[-1], _targets(logits.dtype), logits.device, boxes[-1], config, logits, boxes
        )
    last = terms["loss_ce"] + 5 * terms["loss_bbox"] + 2 * terms["loss_giou"]
    found = [loss, loss - last, *(terms[name] for name in ("loss_ce", "loss_bbox", "loss_giou"))]
    return {"cardinality_error": terms["cardinality_error"], "logits": torch.stack(found)}


def _plain_stages(module: Any, inputs: dict[str, Any]) -> Stages:
    """Section 3.1 and appendix A.2 in loops over layers, images and pairs."""
    del module
    targets = _targets(inputs["logits"].dtype)
    layers = [_plain_layer(*layer, targets) for layer in zip(inputs["logits"], inputs["boxes"], strict=True)]
    totals = [by_class + 5 * distance + 2 * overlap for by_class, distance, overlap in layers]
    counts = (inputs["logits"][-1].argmax(dim=-1) != _CLASSES).sum(dim=-1)
    off = [abs(int(count) - len(target["boxes"])) for count, target in zip(counts, targets, strict=True)]
    auxiliary = torch.stack(totals[:-1]).sum()
    return {
        "cardinality_error": torch.tensor(sum(off) / len(off)),
        "logits": torch.stack([auxiliary + totals[-1], auxiliary, *layers[-1]]),
    }


def _plain_layer(logits: Any, boxes: Any, targets: list[dict[str, Any]]) -> tuple[Any, Any, Any]:
    """Cross-entropy, L1 and GIoU of one layer."""
    zero = logits.sum() * 0
    by_class, weights, distance, overlap, count = zero, 0.0, zero, zero, 0
    for scores, found, target in zip(logits, boxes, targets, strict=True):
        cost = np.zeros((len(found), len(target["boxes"])))
        for query, number in np.ndindex(cost.shape):
            label, box = target["class_labels"][number], target["boxes"][number]
            pair = 5 * _l1(found[query], box) - 2 * _giou(found[query], box) - scores[query].softmax(dim=-1)[label]
            cost[query, number] = float(pair.detach())
        classes = [_CLASSES] * len(found)
        for query, number in zip(*linear_sum_assignment(cost), strict=True):
            classes[query] = int(target["class_labels"][number])
            distance = distance + _l1(found[query], target["boxes"][number])
            overlap = overlap + 1 - _giou(found[query], target["boxes"][number])
            count += 1
        for query, label in enumerate(classes):
            weight = 0.1 if label == _CLASSES else 1.0
            by_class = by_class - weight * scores[query].log_softmax(dim=-1)[label]
            weights += weight
    return by_class / weights, distance / max(count, 1), overlap / max(count, 1)


def _l1(a: Any, b: Any) -> Any:
    return (a - b).abs().sum()


def _giou(a: Any, b: Any) -> Any:
    (a_low, a_high), (b_low, b_high) = ((box[:2] - box[2:] / 2, box[:2] + box[2:] / 2) for box in (a, b))
    shared = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod()
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod()
    union = a[2:].prod() + b[2:].prod() - shared
    return shared / union - (hull - union) / hull


def _case(name: str, stages: Callable[[Any, dict[str, Any]], Stages], layers: int) -> Case:
    return Case(
        name=name,
        reference=nn.Identity(),
        reference_stages=stages,
        inputs=partial(_draw, layers),
        variables={},
        stages=_our_stages,
        table=(),
    )


_CASES: dict[str, Callable[[str], Case]] = {
    "DETR's losses vs transformers, one layer": partial(_case, stages=_transformers_stages, layers=1),
    "DETR's losses vs transformers, with auxiliary layers": partial(_case, stages=_transformers_stages, layers=_LAYERS),
    "DETR's losses vs plain loops, with auxiliary layers": partial(_case, stages=_plain_stages, layers=_LAYERS),
}

DETR_LOSS_CASES = {name: cache(partial(make, name)) for name, make in _CASES.items()}
"""Name -> what makes the case, once."""
