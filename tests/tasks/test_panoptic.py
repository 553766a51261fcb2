"""The panoptic task: which masks are taught, padding, what meter and result make of given outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.tasks.task import Task

CLASSES, SLOTS, QUERIES, SIDE = 4, 3, 5, 16
TASK = Panoptic(stuff=(3,))


def a_batch(seed=0):
    """Two pictures: two quarters of things on one ground, and nothing but ground."""
    masks = np.zeros((2, SLOTS, SIDE, SIDE), bool)
    masks[0, 0, :8, :8] = masks[0, 1, 8:, 8:] = True
    masks[0, 2] = ~masks[0].any(axis=0)
    masks[1, 0] = True
    boxes = np.zeros((2, SLOTS, 4), np.float32)
    boxes[0] = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1]]
    boxes[1, 0] = [0, 0, 1, 1]
    return {
        "image": np.random.default_rng(seed).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8),
        "boxes": boxes,
        "labels": np.array([[0, 1, 3], [3, 0, 0]], np.int32),
        "box_mask": np.array([[True, True, True], [True, False, False]]),
        "crowd": np.zeros((2, SLOTS), bool),
        "area": np.array([[64, 64, 128], [256, 0, 0]], np.float32),
        "masks": masks[:, :, 2::4, 2::4],
        "segment_map": np.where(masks.any(axis=1), masks.argmax(axis=1) + 1, 0).astype(np.int16),
        "image_mask": np.ones(2, bool),
        "image_size": np.full((2, 2), SIDE, np.int32),
        "example": np.arange(2, dtype=np.int32),
    }


def right_outputs(batch, layers=2):
    """Slot s is found by query s + 1, surely; the others say nothing."""
    logits = np.full((layers, 2, QUERIES, CLASSES + 1), -10, np.float32)
    logits[..., -1] = 10
    boxes = np.full((layers, 2, QUERIES, 4), 0.3, np.float32)
    masks = np.full((2, QUERIES, SIDE // 4, SIDE // 4), -20, np.float32)
    for row, slot in np.argwhere(batch["box_mask"]):
        logits[:, row, slot + 1, batch["labels"][row, slot]] = 20
        low, high = batch["boxes"][row, slot, :2], batch["boxes"][row, slot, 2:]
        boxes[:, row, slot + 1] = np.concatenate([(low + high) / 2, high - low])
        masks[row, slot + 1] = np.where(batch["masks"][row, slot], 20, -20)
    return {"logits": logits, "boxes": boxes, "masks": masks}


def in_training(outputs, batch, task=TASK):
    """What the model gives in training: masks of the queries that the task selects."""
    queries = np.asarray(task.inputs(batch)["select"]({name: outputs[name] for name in ("logits", "boxes")}))
    masks = np.take_along_axis(outputs["masks"], np.maximum(queries, 0)[..., None, None], axis=1)
    return {**outputs, "masks": masks, "mask_queries": queries}


def noisy(outputs, seed=1):
    generator = np.random.default_rng(seed)
    return {
        name: np.clip(leaf + 0.1 * generator.normal(size=leaf.shape), *((0.02, 0.98) if name == "boxes" else (-20, 20)))
        .astype(np.float32)
        for name, leaf in outputs.items()
    }  # fmt: skip


def test_it_is_a_task():
    assert isinstance(TASK, Task)


def test_inputs_are_a_tree_and_without_truth_select_nothing():
    batch = a_batch()
    shapes = jax.eval_shape(TASK.inputs, batch)
    assert set(shapes) == {"images", "select"}
    picture = {name: batch[name] for name in ("image", "image_mask")}
    assert set(TASK.inputs(picture)) == {"images"}


def test_the_matched_queries_are_selected():
    batch = a_batch()
    found = in_training(right_outputs(batch), batch)
    np.testing.assert_array_equal(found["mask_queries"], [[1, 2, 3], [1, -1, -1]])


def test_training_and_evaluation_have_one_loss():
    batch = a_batch()
    outputs = noisy(right_outputs(batch))
    loss = jax.jit(TASK.loss)
    whole, metrics = loss(outputs, batch)
    chosen, same = loss(in_training(outputs, batch), batch)
    assert float(chosen) == pytest.approx(float(whole), rel=1e-6)
    assert metrics.keys() == same.keys()
    for name, (total, count) in metrics.items():
        assert float(same[name][0]) == pytest.approx(float(total), rel=1e-5), name
        assert float(same[name][1]) == float(count)
    assert float(metrics["mask_loss"][1]) == 4
    boxes_alone, _ = TASK.detection.loss(outputs, batch)
    means = [float(total / count) for total, count in (metrics["mask_loss"], metrics["dice_loss"])]
    assert float(whole) == pytest.approx(float(boxes_alone) + sum(means), rel=1e-5)
    one_layer = {**outputs, "logits": outputs["logits"][-1:], "boxes": outputs["boxes"][-1:]}
    assert float(TASK.loss(in_training(one_layer, batch), batch)[0]) == pytest.approx(
        float(TASK.loss(one_layer, batch)[0]), rel=1e-6
    )


def test_what_no_object_is_matched_with_has_no_say():
    batch = a_batch()
    outputs = in_training(noisy(right_outputs(batch)), batch)
    spoiled = outputs["masks"].copy()
    spoiled[1, 1:] = np.nan
    loss, _ = TASK.loss(outputs, batch)
    assert float(TASK.loss({**outputs, "masks": spoiled}, batch)[0]) == float(loss)
    gradient = jax.grad(lambda masks: TASK.loss({**outputs, "masks": masks}, batch)[0])(jnp.asarray(spoiled))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[1, 1:].any()
    assert np.asarray(gradient)[1, 0].any()


def test_padding_of_a_frame_has_no_say():
    batch = a_batch()
    batch["content_size"] = np.array([[SIDE, 8], [12, SIDE]], np.int32)
    batch["masks"][0, :, :, 2:] = batch["masks"][1, :, 3:] = False
    outputs = noisy(right_outputs(batch))
    spoiled = outputs["masks"].copy()
    spoiled[0, :, :, 2:], spoiled[1, :, 3:] = 7, 7
    loss, _ = TASK.loss(outputs, batch)
    assert float(TASK.loss({**outputs, "masks": spoiled}, batch)[0]) == float(loss)
    spoiled[0, :, :, 1] = 7
    assert float(TASK.loss({**outputs, "masks": spoiled}, batch)[0]) != float(loss)


def scores_of(outputs, batch, task=TASK):
    meter = task.meter()
    meter.add(task.loss(outputs, batch)[1], jax.device_get(task.predict(outputs, batch)), batch)
    return meter.scores()


def test_right_outputs_have_perfect_scores():
    batch = a_batch()
    scores = scores_of(right_outputs(batch), batch)
    assert [scores[name] for name in ("RQ", "RQ_things", "RQ_stuff", "AP")] == pytest.approx([1, 1, 1, 1])
    assert scores["SQ"] > 0.95  # a few pixels where three segments of a coarse map meet
    assert scores["mask_loss"] < 1e-3


def test_boxes_are_scored_of_things_segments_of_both():
    batch = a_batch()
    outputs = right_outputs(batch)
    outputs["boxes"][-1, :, 3] = outputs["boxes"][-1, 1, 1] = 0.1  # those of stuff
    outputs["masks"][0, 1], outputs["masks"][0, 3, :2, :2] = -30, 0  # the ground takes the pixels of a thing
    scores = scores_of(outputs, batch)
    assert scores["AP"] == pytest.approx(1)
    assert scores["PQ_things"] == pytest.approx(0.5, abs=0.02)
    assert 0.7 < scores["PQ_stuff"] < 0.9


def test_a_picture_under_the_mask_is_not_scored():
    batch = a_batch()
    outputs = right_outputs(batch)
    outputs["logits"][:, 1] = outputs["logits"][:, 1, :1]  # nothing is found
    assert scores_of(outputs, batch)["RQ"] < 0.95
    batch["image_mask"][1] = batch["box_mask"][1] = False
    assert scores_of(outputs, batch)["RQ"] == pytest.approx(1)


def test_without_a_map_there_is_no_quality():
    batch = a_batch()
    del batch["segment_map"]
    scores = scores_of(right_outputs(batch), batch)
    assert "AP" in scores
    assert "PQ" not in scores


def test_a_result_has_segments_of_the_originals_size():
    batch = a_batch()
    predictions = jax.device_get(TASK.predict(right_outputs(batch), batch))
    first = {name: leaf[0] for name, leaf in predictions.items()}
    result = TASK.make_result("a", ("one", "two", "three", "ground"), first, (32, 40), 5)
    assert result.segment_map.shape == (32, 40)
    assert (result.segments[0].label, result.segments[0].is_stuff) == ("ground", True)
    assert {(segment.label, segment.is_stuff) for segment in result.segments[1:]} == {("one", False), ("two", False)}
    assert [segment.area for segment in result.segments] == pytest.approx([0.5, 0.25, 0.25], abs=0.1)
    broken = TASK.make_result("b", (), None, None, 5, error="no picture")
    assert broken.error == "no picture"


def test_settings_are_checked():
    with pytest.raises(UserError, match=r"`threshold` \(=1\.5\)"):
        Panoptic(stuff=(), threshold=1.5)
    assert Panoptic(stuff=(1,), detection=SetPrediction()).detection == SetPrediction()
