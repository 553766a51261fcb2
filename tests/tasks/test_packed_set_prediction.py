"""DETR's task on packed rows is the same on its images: losses, predictions, scores; empty slots count nowhere."""

import jax
import numpy as np
import pytest

from tests.tasks.test_set_prediction import IMAGES, QUERIES, SLOTS, TASK, draw, loss_of, perfect, predictions_of
from vitjax.config import build, describe, from_json, to_json
from vitjax.errors import UserError
from vitjax.tasks.packed_set_prediction import PackedSetPrediction
from vitjax.tasks.task import Task

PACKED = PackedSetPrediction(images=TASK)
ROWS = 2
packed_loss_of, packed_predictions_of = jax.jit(PACKED.loss), jax.jit(PACKED.predict)


def in_rows(batch):
    """Eight images (the last is padding) as two rows of four slots, with what rows have besides."""
    leaves = {name: leaf.reshape(ROWS, -1, *leaf.shape[1:]) for name, leaf in batch.items() if name != "image"}
    return leaves | {"patches": np.zeros((ROWS, 6, 12), np.uint8), "segments": np.ones((ROWS, 6), np.int32)}


def test_it_is_a_task_and_survives_a_file():
    assert isinstance(PACKED, Task)
    assert PACKED.least_classes == 1
    assert build(from_json(to_json(describe(PACKED)))) == PACKED


def test_losses_and_metrics_are_those_of_the_images():
    outputs, batch = draw()
    spoiled = {name: leaf.copy() for name, leaf in outputs.items()}
    spoiled["logits"][:, -1] = 50.0  # of the empty slot
    expected, metrics = loss_of(outputs, batch)
    loss, ours = packed_loss_of(spoiled, in_rows(batch))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, metrics)


def test_predictions_stand_in_their_slots_and_are_scored_alike():
    _, batch = draw()
    outputs = perfect(batch)
    outputs["logits"][-1, 2, -1] = [0, -9, -9, -9]  # not quite
    found = jax.device_get(packed_predictions_of(outputs, in_rows(batch)))
    plain = jax.device_get(predictions_of(outputs, batch))
    assert found["boxes"].shape == (ROWS, IMAGES // ROWS, QUERIES, 4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.reshape(b.shape), b), found, plain)
    scores = []
    for task, given, predictions in ((PACKED, in_rows(batch), found), (TASK, batch, plain)):
        meter = task.meter()
        meter.add({"loss": (3.0, 2.0)}, predictions, given)
        scores.append(meter.scores())
    assert scores[0] == pytest.approx(scores[1])
    assert 0.5 < scores[0]["AP"] < 1


def test_more_boxes_than_queries_are_told():
    outputs, batch = draw()
    few = {name: leaf[:, :, : SLOTS - 1] for name, leaf in outputs.items()}
    with pytest.raises(UserError, match="num_queries"):
        PACKED.loss(few, in_rows(batch))


def test_patches_are_normalised_and_images_are_not_asked_for():
    _, batch = draw()
    inputs = PackedSetPrediction().inputs(in_rows(batch))
    assert set(inputs) == {"patches", "segments"}
    black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(inputs["patches"][0, 0, :3], black, rtol=1e-6)
