"""The segmentation task: torch's loss with ignored pixels, padding, the auxiliary head, scores over a whole set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.tasks.segmentation import Segmentation, pixel_cross_entropy
from vitjax.tasks.task import Task

CLASSES = 4


def a_batch(seed=0, size=3, side=12):
    generator = np.random.default_rng(seed)
    class_map = generator.integers(0, CLASSES, (size, side, side)).astype(np.int32)
    class_map[generator.random(class_map.shape) < 0.2] = 255
    image = generator.integers(0, 256, (size, side, side, 3), np.uint8)
    return {"image": image, "class_map": class_map, "image_mask": np.ones(size, bool), "example": np.arange(size)}


def some_logits(seed=1, size=3, side=3):
    return np.random.default_rng(seed).normal(size=(size, side, side, CLASSES)).astype(np.float32)


def test_it_is_a_task():
    assert isinstance(Segmentation(), Task)


def test_the_loss_is_transformers():
    import torch

    batch, logits = a_batch(), some_logits()
    large = torch.nn.functional.interpolate(
        torch.tensor(logits).permute(0, 3, 1, 2), size=(12, 12), mode="bilinear", align_corners=False
    )
    expected = torch.nn.functional.cross_entropy(large, torch.tensor(batch["class_map"]).long(), ignore_index=255)
    loss, metrics = Segmentation().loss({"logits": logits}, batch)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    counted = batch["class_map"] != 255
    assert float(metrics["loss"][1]) == counted.sum()
    right = (large.argmax(1).numpy() == batch["class_map"]) & counted
    assert float(metrics["pixel_accuracy"][0]) == right.sum()


def test_focusing_weighs_each_pixel_by_how_wrong_it_is():
    batch, logits = a_batch(side=3), some_logits()
    counted = batch["class_map"] != 255
    shares = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True)
    right = np.take_along_axis(shares, np.where(counted, batch["class_map"], 0)[..., None], axis=-1)[..., 0][counted]
    loss, _ = Segmentation(focusing=2.0).loss({"logits": logits}, batch)
    assert float(loss) == pytest.approx(float(np.mean(-np.log(right) * (1 - right) ** 2)), rel=1e-5)


@pytest.mark.parametrize("focusing", [-1.0, 0.5])
def test_focusing_without_a_slope_is_refused(focusing):
    with pytest.raises(UserError, match="0 or at least 1"):
        Segmentation(focusing=focusing)


def test_padding_counts_nowhere_whatever_it_holds():
    task, batch, logits = Segmentation(), a_batch(), some_logits()
    padded = batch | {"image_mask": np.array([True, True, False])}
    spoiled = logits.copy()
    spoiled[2] = np.nan
    real = {name: leaf[:2] for name, leaf in batch.items()}
    expected, metrics = task.loss({"logits": logits[:2]}, real)
    loss, same = task.loss({"logits": spoiled}, padded)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), same, metrics)
    gradient = jax.grad(lambda x: task.loss({"logits": x}, padded)[0])(jnp.asarray(logits))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[2].any()


def test_the_auxiliary_loss_has_its_weight():
    batch, logits, auxiliary = a_batch(), some_logits(), some_logits(2, side=6)
    main, _ = Segmentation().loss({"logits": logits}, batch)
    alone, _ = Segmentation().loss({"logits": auxiliary}, batch)
    both, metrics = Segmentation(auxiliary_weight=0.25).loss({"logits": logits, "auxiliary": auxiliary}, batch)
    assert float(both) == pytest.approx(float(main) + 0.25 * float(alone), rel=1e-6)
    total, count = metrics["loss"]
    assert float(total / count) == pytest.approx(float(main), rel=1e-6)


def test_all_pixels_ignored():
    batch = a_batch()
    batch["class_map"][:] = 255
    loss, _ = Segmentation().loss({"logits": some_logits()}, batch)
    assert float(loss) == 0.0


def test_a_class_that_the_model_lacks_is_not_silent():
    batch = a_batch()
    batch["class_map"][0, 0, 0] = CLASSES
    assert np.isnan(float(Segmentation().loss({"logits": some_logits()}, batch)[0]))
    logits = jnp.zeros((1, 2, 1, CLASSES))
    losses = pixel_cross_entropy(logits, np.array([[[0], [CLASSES]]], np.int32))
    np.testing.assert_allclose(losses[0, :, 0], [np.log(CLASSES), np.nan], rtol=1e-6)


def test_predictions_have_the_images_size():
    batch, logits = a_batch(), some_logits()
    predicted = Segmentation().predict({"logits": logits}, batch)
    assert predicted.shape == (3, 12, 12)
    np.testing.assert_array_equal(np.asarray(predicted)[:, [0, -1], [0, -1]], logits[:, [0, -1], [0, -1]].argmax(-1))


def test_pixels_are_normalised_on_the_device():
    images = Segmentation(mean=(0.5,) * 3, std=(0.25,) * 3).inputs(a_batch())["images"]
    expected = (a_batch()["image"] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_the_meter_scores_the_whole_set():
    task, meter = Segmentation(), Segmentation().meter()
    truths, guesses = [], []
    for seed in (0, 1):
        batch, logits = a_batch(seed), some_logits(seed, side=12)
        batch["image_mask"][-1] = seed == 0
        predicted = np.asarray(task.predict({"logits": logits}, batch))
        meter.add(task.loss({"logits": logits}, batch)[1], predicted, batch)
        truths.append(batch["class_map"][batch["image_mask"]])
        guesses.append(predicted[batch["image_mask"]])
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    kept = truth != 255
    ious = [
        ((truth == n) & (guess == n) & kept).sum() / (((truth == n) | (guess == n)) & kept).sum()
        for n in range(CLASSES)
    ]
    scores = meter.scores()
    assert scores["mean_iou"] == pytest.approx(np.mean(ious))
    assert scores["pixel_accuracy"] == pytest.approx((truth == guess)[kept].mean())
    assert np.trace(meter.matrix) == (truth == guess)[kept].sum()
