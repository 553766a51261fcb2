"""The task of packed images: an image counts once, wherever it lies and however long it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification
from vitjax.tasks.packed_classification import PackedClassification

B, S, N, P, CLASSES = 2, 4, 6, 12, 10


def make_batch():
    generator = np.random.default_rng(0)
    mask = np.array([[True, True, True, False], [True, True, False, False]])
    return {
        "patches": generator.integers(0, 256, (B, N, P), np.uint8),
        "segments": np.array([[1, 1, 2, 3, 3, 0], [1, 2, 2, 2, 2, 2]], np.int32),
        "positions": np.zeros((B, N, 2), np.int32),
        "grid_sizes": np.ones((B, S, 2), np.int32),
        "label": (generator.integers(0, CLASSES, (B, S)) * mask).astype(np.int32),
        "image_mask": mask,
        "example": np.where(mask, np.arange(B * S).reshape(B, S), -1).astype(np.int32),
    }


def make_outputs():
    return jnp.asarray(np.random.default_rng(1).normal(size=(B, S, CLASSES)), jnp.float32)


def test_inputs_hold_the_packing_and_buckets_only_if_given():
    task, batch = PackedClassification(), make_batch()
    inputs = task.inputs(batch)
    assert set(inputs) == {"patches", "segments", "positions", "grid_sizes"}
    np.testing.assert_allclose(inputs["patches"], batch["patches"] / 127.5 - 1, atol=1e-6)
    buckets = (np.zeros((1, 2, 3), np.int32),)
    assert task.inputs(batch | {"buckets": buckets})["buckets"] is buckets


@pytest.mark.parametrize("criterion", [SoftmaxCrossEntropy(), SigmoidCrossEntropy(0.1)])
def test_packed_loss_and_scores_are_those_of_the_images_one_by_one(criterion):
    batch, outputs = make_batch(), make_outputs()
    mask = batch["image_mask"]
    value, metrics = jax.jit(PackedClassification(criterion=criterion).loss)(outputs, batch)
    alone = {"label": batch["label"][mask], "image_mask": np.ones(mask.sum(), bool)}
    expected, expected_metrics = jax.jit(Classification(criterion=criterion).loss)(outputs[mask], alone)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), metrics, expected_metrics)


def test_empty_slots_change_neither_loss_nor_gradient():
    batch, task, outputs = make_batch(), PackedClassification(), make_outputs()
    empty = ~batch["image_mask"]
    spoilt = jnp.where(empty[..., None], jnp.inf, outputs)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: task.loss(x, batch)[0]))(spoilt)
    np.testing.assert_array_equal(value, task.loss(outputs, batch)[0])
    np.testing.assert_array_equal(gradient[empty], 0)


def test_augment_is_the_identity_and_predictions_keep_the_slots():
    batch, task, outputs = make_batch(), PackedClassification(), make_outputs()
    assert task.augment(batch, jax.random.key(0)) is batch
    np.testing.assert_array_equal(task.predict(outputs, batch), jax.nn.sigmoid(outputs))
