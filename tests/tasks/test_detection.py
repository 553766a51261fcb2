"""SSD's loss against torch's words for it, its predictions against plain loops, and both under masks."""

import functools

import jax
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.inference.detection_results import DetectionResult
from vitjax.ops.anchor_losses import FocalLoss
from vitjax.ops.anchors import SSDAnchors
from vitjax.ops.boxes import cxcywh_of, xyxy_of
from vitjax.ops.matching import decode_offsets, encode_offsets, match_anchors
from vitjax.ops.nms import suppress_overlaps
from vitjax.tasks.detection import AnchorDetection
from vitjax.tasks.task import Task

ANCHORS = SSDAnchors(((2,), (2,)))([(4, 4), (2, 2)])
TASK = AnchorDetection()
loss_of = jax.jit(TASK.loss)


@jax.jit
def taught(boxes, mask):
    """What the anchors of one image are matched with, and its offsets."""
    box, positive = match_anchors(ANCHORS, boxes, mask)
    return box, positive, encode_offsets(cxcywh_of(boxes[box]), ANCHORS)


@jax.jit
def decoded(outputs):
    return xyxy_of(decode_offsets(outputs["offsets"], ANCHORS)), jax.nn.softmax(outputs["logits"])


suppress = jax.jit(functools.partial(suppress_overlaps, threshold=0.5, max_kept=15))


def draw(seed=0, batch=4, slots=4, classes=3):
    """Outputs and a batch; the last image is padding."""
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.uniform(0, 1, (batch, slots, 2, 2)), axis=2).astype(np.float32)
    outputs = {
        "offsets": generator.normal(size=(batch, len(ANCHORS), 4)).astype(np.float32),
        "logits": 2 * generator.normal(size=(batch, len(ANCHORS), 1 + classes)).astype(np.float32),
        "anchors": ANCHORS,
    }
    image_mask = np.arange(batch) < batch - 1
    return outputs, {
        "image": np.zeros((batch, 8, 8, 3), np.uint8),
        "image_mask": image_mask,
        "image_size": np.tile(np.int32([40, 80]), (batch, 1)),
        "example": np.where(image_mask, np.arange(batch), -1).astype(np.int32),
        "boxes": corners.reshape(batch, slots, 4),
        "labels": generator.integers(0, classes, (batch, slots)).astype(np.int32),
        "box_mask": (np.arange(slots) < slots - 1) & image_mask[:, None],
        "crowd": np.zeros((batch, slots), bool),
    }


def test_it_is_a_task():
    assert isinstance(TASK, Task)


def test_loss_is_ssds_in_torchs_words():
    torch = pytest.importorskip("torch")
    outputs, batch = draw()
    box_loss = class_loss = positives = 0.0
    for image in np.flatnonzero(batch["image_mask"]):
        box, positive, targets = map(np.asarray, taught(batch["boxes"][image], batch["box_mask"][image]))
        labels = torch.tensor(np.where(positive, batch["labels"][image][box] + 1, 0)).long()
        logits, offsets = (torch.tensor(outputs[name][image]) for name in ("logits", "offsets"))
        keep = torch.tensor(positive)
        smooth = torch.nn.functional.smooth_l1_loss(offsets[keep], torch.tensor(targets)[keep], reduction="sum")
        background = -torch.log_softmax(logits, dim=-1)[:, 0]
        background[keep] = -torch.inf
        keep[background.topk(min(3 * int(positive.sum()), int((~keep).sum()))).indices] = True
        box_loss += float(smooth)
        class_loss += float(torch.nn.functional.cross_entropy(logits[keep], labels[keep], reduction="sum"))
        positives += positive.sum()
    loss, metrics = loss_of(outputs, batch)
    np.testing.assert_allclose(loss, (box_loss + class_loss) / positives, rtol=1e-5)
    np.testing.assert_allclose(metrics["box_loss"], (box_loss, positives), rtol=1e-5)
    np.testing.assert_allclose(metrics["class_loss"], (class_loss, positives), rtol=1e-5)
    np.testing.assert_allclose(metrics["positives"], (positives, 3))


def test_rubbish_under_masks_changes_nothing():
    outputs, batch = draw()
    expected = jax.tree.leaves(loss_of(outputs, batch))
    batch["boxes"][~batch["box_mask"]] = np.nan
    batch["labels"][~batch["box_mask"]] = 99
    outputs["logits"][-1] = np.nan
    for found, value in zip(jax.tree.leaves(loss_of(outputs, batch)), expected, strict=True):
        np.testing.assert_array_equal(found, value)


def test_crowds_and_boxes_without_area_teach_nothing():
    outputs, batch = draw()
    without = dict(batch, box_mask=batch["box_mask"] & (np.arange(4) != 1))
    crowd = dict(batch, crowd=np.tile(np.arange(4) == 1, (4, 1)))
    flat = dict(batch, boxes=batch["boxes"].copy())
    flat["boxes"][:, 1, 2] = flat["boxes"][:, 1, 0]
    for changed in (crowd, flat):
        np.testing.assert_array_equal(loss_of(outputs, changed)[0], loss_of(outputs, without)[0])
    gradient = jax.jit(jax.grad(lambda outputs: TASK.loss(outputs, flat)[0]))(outputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_batch_without_objects_costs_nothing():
    outputs, batch = draw()
    loss, metrics = loss_of(outputs, batch | {"box_mask": np.zeros((4, 4), bool)})
    assert float(loss) == float(metrics["loss"][1]) == 0


def test_focal_loss_is_of_all_anchors_of_real_images():
    outputs, batch = draw()
    empty = batch | {"box_mask": np.zeros((4, 4), bool)}
    loss, _ = jax.jit(AnchorDetection(criterion=FocalLoss()).loss)(outputs, empty)
    background = jax.jit(FocalLoss())(outputs["logits"], np.zeros((4, len(ANCHORS)), int))
    np.testing.assert_allclose(loss, np.asarray(background)[:3].sum(), rtol=1e-5)


def test_predictions_are_those_of_plain_loops():
    task = AnchorDetection(score_threshold=0.2, max_candidates=10, max_detections=15)
    outputs, batch = draw(1)
    found = jax.tree.map(np.asarray, jax.jit(task.predict)(outputs, batch))
    assert found["boxes"].shape == (4, 15, 4)
    for boxes, shares, image in zip(*map(np.asarray, decoded(outputs)), range(4), strict=True):
        candidates = [
            (shares[anchor, label + 1], label, anchor)
            for label in range(3)
            for anchor in np.argsort(-shares[:, label + 1])[:10]
            if shares[anchor, label + 1] > 0.2
        ]
        candidates += [(0.0, 0, 0)] * (30 - len(candidates))  # one shape, one compilation
        scores, labels, anchors = (np.array(column) for column in zip(*candidates, strict=True))
        index, mask = suppress(boxes[anchors], scores.astype(np.float32), labels, scores > 0)
        order = np.asarray(index)[np.asarray(mask)]
        assert found["mask"][image].sum() == len(order) > 0
        real = found["mask"][image]
        np.testing.assert_array_equal(found["labels"][image][real], labels[order])
        np.testing.assert_allclose(found["scores"][image][real], scores[order], rtol=1e-6)
        np.testing.assert_allclose(found["boxes"][image][real], np.clip(boxes[anchors[order]], 0, 1), atol=1e-6)
        assert not found["scores"][image][~real].any()


def test_one_picture_becomes_a_result_in_its_own_pixels():
    prediction = {
        "boxes": np.array([[0, 0.5, 1, 1], [0, 0, 0, 0]], np.float32),
        "scores": np.array([0.75, 0], np.float32),
        "labels": np.array([1, 0], np.int32),
        "mask": np.array([True, False]),
    }
    result = TASK.make_result("a.jpg", ("cat", "dog"), prediction, (40, 80), 5)
    assert isinstance(result, DetectionResult)
    assert str(result) == "a.jpg: dog 0.750 at (0, 20, 80, 40)"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"match_threshold": 1.0}, r"`match_threshold` \(=1.0\) must lie in \(0, 1\)"),
        ({"max_detections": 0}, r"`max_detections` \(=0\) is at least 1"),
    ],
)
def test_impossible_settings(keywords, message):
    with pytest.raises(UserError, match=message):
        AnchorDetection(**keywords)


def test_parts_of_a_batch_add_up():
    outputs, batch = draw(2)
    whole, metrics = loss_of(outputs, batch)
    totals = np.zeros(2)
    for rows in (slice(0, 2), slice(2, 4)):
        cut = {name: leaf if name == "anchors" else leaf[rows] for name, leaf in outputs.items()}
        totals += loss_of(cut, {name: leaf[rows] for name, leaf in batch.items()})[1]["loss"]
    np.testing.assert_allclose(totals[0] / totals[1], whole, rtol=1e-5)
    np.testing.assert_allclose(totals, metrics["loss"], rtol=1e-5)


def test_one_class_is_told_from_the_background():
    outputs, batch = draw(classes=1)
    gradient = jax.jit(jax.grad(lambda outputs: TASK.loss(outputs, batch)[0]))(outputs)["logits"]
    _, positive, _ = taught(batch["boxes"][0], batch["box_mask"][0])
    assert (np.asarray(gradient)[0][np.asarray(positive)] * [1, -1] > 0).all()  # less background, more object
    found = jax.jit(AnchorDetection(max_candidates=10, max_detections=5).predict)(outputs, batch)
    assert not np.asarray(found["labels"]).any()
    assert np.asarray(found["mask"]).any()
