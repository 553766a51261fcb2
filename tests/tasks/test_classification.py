"""The task of one-shape images: padding never counts, mixing is what the loss sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config import build, spec
from vitjax.errors import UserError
from vitjax.ops.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy, softmax_cross_entropy
from vitjax.tasks.classification import Classification

B, CLASSES = 8, 10


def make_batch(seed=0, padding=0):
    generator = np.random.default_rng(seed)
    mask = np.arange(B) < B - padding
    return {
        "image": generator.integers(0, 256, (B, 4, 6, 3), np.uint8),
        "label": generator.integers(0, CLASSES, B).astype(np.int32) * mask,
        "image_mask": mask,
        "example": np.where(mask, np.arange(B), -1).astype(np.int32),
    }


def make_outputs(seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(B, CLASSES)), jnp.float32)


def test_inputs_are_normalised_and_fit_the_model():
    batch = make_batch()
    inputs = Classification(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).inputs(batch)
    assert list(inputs) == ["images"]
    expected = (batch["image"] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(inputs["images"], expected, atol=1e-5)


@pytest.mark.parametrize("criterion", [SoftmaxCrossEntropy(0.1), SigmoidCrossEntropy()])
def test_loss_is_the_mean_over_real_images_whatever_stands_at_padding(criterion):
    task, outputs = Classification(criterion=criterion), make_outputs()
    batch = make_batch(padding=3)
    spoilt = outputs.at[-3:].set(np.nan)
    value, metrics = task.loss(spoilt, batch)
    assert float(value) == pytest.approx(float(criterion(outputs[:5], batch["label"][:5]).mean()), rel=1e-6)
    assert float(metrics["loss"][1]) == 5
    gradient = jax.grad(lambda x: task.loss(x, batch)[0])(spoilt)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[-3:], 0)


def test_metrics_of_two_halves_add_up_to_the_whole():
    task, outputs, batch = Classification(), make_outputs(), make_batch(padding=3)
    whole = task.loss(outputs, batch)[1]
    halves = [task.loss(outputs[part], {k: v[part] for k, v in batch.items()})[1] for part in (slice(4), slice(4, 8))]
    added = jax.tree.map(lambda a, b: a + b, *halves)
    for total, expected in zip(jax.tree.leaves(added), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert float(whole["top1"][0]) == np.sum((np.argmax(outputs, -1) == batch["label"])[:5])


def test_without_mixing_the_batch_is_left_alone():
    batch = make_batch()
    assert Classification().augment(batch, jax.random.key(0)) is batch


@functools.cache
def augment_with(task):
    return jax.jit(task.augment)


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_images_and_mixed_labels_have_the_same_shares(alphas):
    # Each image is all of its own grey and each grey belongs to one class, so the image's mean tells its shares.
    batch = make_batch()
    batch["label"] = np.arange(B, dtype=np.int32)
    batch["image"] = np.broadcast_to(30 * batch["label"][:, None, None, None], (B, 4, 6, 3)).astype(np.uint8)
    task = Classification(mixup_alpha=alphas[0], cutmix_alpha=alphas[1], mix_per_example=True)
    mixed = augment_with(task)(batch, jax.random.key(2))
    share = np.asarray(mixed["label_share"])
    expected = 30 * (share * mixed["label"] + (1 - share) * mixed["partner_label"])
    np.testing.assert_allclose(mixed["image"].mean((1, 2, 3)), expected, rtol=1e-5)
    assert (share < 1).any()

    outputs = make_outputs()
    own, partner = (np.asarray(softmax_cross_entropy(outputs, mixed[name])) for name in ("label", "partner_label"))
    np.testing.assert_allclose(task.loss(outputs, mixed)[0], (share * own + (1 - share) * partner).mean(), rtol=1e-5)


def test_both_kinds_of_mixing_take_turns():
    batch = make_batch()
    batch["image"] = np.broadcast_to(np.uint8(200) * (np.arange(B) % 2)[:, None, None, None], (B, 4, 6, 3))
    batch["image"] = batch["image"].astype(np.uint8)
    augment = augment_with(Classification(mixup_alpha=0.8, cutmix_alpha=1.0, mix_per_example=True))
    # Only mixup makes values between those of the two pictures.
    blended = [
        bool(((image > 1) & (image < 199)).any())
        for image in (np.asarray(augment(batch, jax.random.key(seed))["image"]) for seed in range(12))
    ]
    assert any(blended)
    assert not all(blended)


@pytest.mark.parametrize(("criterion", "total"), [(SoftmaxCrossEntropy(), 1.0), (SigmoidCrossEntropy(), None)])
def test_predictions_are_the_probabilities_of_the_loss(criterion, total):
    outputs = make_outputs()
    predicted = Classification(criterion=criterion).predict(outputs, make_batch())
    np.testing.assert_array_equal(predicted, criterion.probabilities(outputs))
    if total:
        np.testing.assert_allclose(predicted.sum(-1), total, rtol=1e-5)


def test_task_is_built_from_a_spec_with_its_loss():
    task = build(spec(Classification, criterion=spec(SigmoidCrossEntropy, label_smoothing=0.1), mixup_alpha=0.2))
    assert task == Classification(criterion=SigmoidCrossEntropy(label_smoothing=0.1), mixup_alpha=0.2)
    assert hash(task)  # a static argument of jit


def test_negative_alpha_is_refused():
    with pytest.raises(UserError, match=r"`cutmix_alpha` \(=-1.0\) must be 0"):
        Classification(cutmix_alpha=-1.0)
