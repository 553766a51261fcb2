"""The task of DETR: one to one, under masks, over the whole batch on all devices, and what it predicts.

`tests/parity/test_detr_losses.py` holds losses and gradients to transformers.
"""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax.errors import UserError
from vitjax.inference.detection_results import DetectionResult
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.tasks.task import Task

LAYERS, IMAGES, QUERIES, SLOTS, CLASSES = 2, 8, 6, 4, 3
TASK = SetPrediction(nms_threshold=0.5)
loss_of, predictions_of = jax.jit(TASK.loss), jax.jit(TASK.predict)
gradient_of = jax.jit(jax.grad(lambda outputs, batch: TASK.loss(outputs, batch)[0]))


def draw(seed=0):
    """Outputs and a batch; the last image is padding."""
    generator = np.random.default_rng(seed)
    outputs = {
        "logits": generator.normal(size=(LAYERS, IMAGES, QUERIES, CLASSES + 1)).astype(np.float32),
        "boxes": generator.uniform(0.1, 0.9, (LAYERS, IMAGES, QUERIES, 4)).astype(np.float32),
    }
    corners = np.sort(generator.uniform(0, 1, (IMAGES, SLOTS, 2, 2)), axis=2).astype(np.float32)
    image_mask = np.arange(IMAGES) < IMAGES - 1
    counts = np.arange(IMAGES) % (SLOTS + 1) * image_mask
    return outputs, {
        "image": generator.integers(0, 255, (IMAGES, 8, 6, 3)).astype(np.uint8),
        "image_mask": image_mask,
        "image_size": np.tile(np.int32([40, 80]), (IMAGES, 1)),
        "example": np.where(image_mask, np.arange(IMAGES), -1).astype(np.int32),
        "boxes": corners.reshape(IMAGES, SLOTS, 4),
        "labels": generator.integers(0, CLASSES, (IMAGES, SLOTS)).astype(np.int32),
        "box_mask": np.arange(SLOTS) < counts[:, None],
        "crowd": np.zeros((IMAGES, SLOTS), bool),
    }


def perfect(batch):
    """Outputs that are the truth, in the queries from the last backwards; the others find nothing."""
    logits = np.full((LAYERS, IMAGES, QUERIES, CLASSES + 1), -20, np.float32)
    boxes = np.full((LAYERS, IMAGES, QUERIES, 4), 0.5, np.float32)
    logits[..., CLASSES] = 0
    for image, slot in zip(*np.nonzero(batch["box_mask"]), strict=True):
        low, high = np.split(batch["boxes"][image, slot], 2)
        boxes[:, image, -1 - slot] = np.concatenate([(low + high) / 2, high - low])
        logits[:, image, -1 - slot, CLASSES] = -20
        logits[:, image, -1 - slot, batch["labels"][image, slot]] = 0
    return {"logits": logits, "boxes": boxes}


def means(metrics):
    return {name: float(total) / max(float(count), 1e-9) for name, (total, count) in metrics.items()}


def test_it_is_a_task():
    assert isinstance(TASK, Task)


def test_the_truth_costs_nothing_and_is_found_again():
    _, batch = draw()
    loss, metrics = loss_of(perfect(batch), batch)
    assert float(loss) < 1e-4
    assert set(metrics) == {
        "loss", "auxiliary_loss", "class_loss", "l1_loss", "giou_loss", "cardinality_error", "class_error",
    }  # fmt: skip
    assert all(value < 1e-4 for value in means(metrics).values())
    meter = TASK.meter()
    metrics = {name: (float(total), float(count)) for name, (total, count) in metrics.items()}
    meter.add(metrics, jax.device_get(predictions_of(perfect(batch), batch)), batch)
    scores = meter.scores()
    assert scores["AP"] == pytest.approx(1)
    assert scores["AP_nms"] == pytest.approx(1)


def test_errors_of_class_and_number_are_counted():
    _, batch = draw()
    outputs = perfect(batch)
    objects, images = batch["box_mask"].sum(), batch["image_mask"].sum()
    outputs["logits"][-1, 3, 0] = [0, -20, -20, -20]  # one object too many
    outputs["logits"][-1, 1, -1] = np.roll(outputs["logits"][-1, 1, -1, :CLASSES], 1).tolist() + [-20]
    _, metrics = loss_of(outputs, batch)
    assert means(metrics)["cardinality_error"] == pytest.approx(1 / images)
    assert means(metrics)["class_error"] == pytest.approx(1 / objects)
    assert means(metrics)["auxiliary_loss"] < 1e-4  # the other layer is as it was


def test_neither_the_order_of_queries_nor_of_objects_matters():
    outputs, batch = draw()
    expected = jax.tree.leaves(loss_of(outputs, batch))
    generator = np.random.default_rng(1)
    queries, slots = generator.permutation(QUERIES), generator.permutation(SLOTS)
    mixed = {name: leaf[:, :, queries] for name, leaf in outputs.items()}
    turned = batch | {name: batch[name][:, slots] for name in ("boxes", "labels", "box_mask", "crowd")}
    for found, value in zip(jax.tree.leaves(loss_of(mixed, turned)), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5)


def test_rubbish_under_masks_changes_nothing():
    outputs, batch = draw()
    expected = jax.tree.leaves((loss_of(outputs, batch), gradient_of(outputs, batch)))
    batch["boxes"][~batch["box_mask"]] = np.nan
    batch["labels"][~batch["box_mask"]] = 99
    outputs["logits"][:, -1] = 77
    outputs["boxes"][:, -1] = 0.01
    for found, value in zip(
        jax.tree.leaves((loss_of(outputs, batch), gradient_of(outputs, batch))), expected, strict=True
    ):
        np.testing.assert_array_equal(found, value)


def test_crowds_and_boxes_without_area_are_no_targets():
    outputs, batch = draw()
    without = batch | {"box_mask": batch["box_mask"] & (np.arange(SLOTS) != 1)}
    crowd = batch | {"crowd": np.tile(np.arange(SLOTS) == 1, (IMAGES, 1))}
    flat = batch | {"boxes": batch["boxes"].copy()}
    flat["boxes"][:, 1, 2] = flat["boxes"][:, 1, 0]
    for changed in (crowd, flat):
        for found, value in zip(
            loss_of(outputs, changed)[1].values(), loss_of(outputs, without)[1].values(), strict=True
        ):
            np.testing.assert_allclose(found, value, rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient_of(outputs, flat)))


def test_a_batch_without_objects_teaches_to_find_nothing():
    outputs, batch = draw()
    empty = batch | {"box_mask": np.zeros((IMAGES, SLOTS), bool)}
    loss, metrics = loss_of(outputs, empty)
    assert 0 < float(loss) < np.inf
    assert float(metrics["l1_loss"][1]) == 0
    gradient = gradient_of(outputs, empty)
    assert not gradient["boxes"].any()
    assert (np.asarray(gradient["logits"])[:, :-1, :, CLASSES] < 0).all()


def test_parts_of_a_batch_add_up():
    outputs, batch = draw()
    expected = loss_of(outputs, batch)[1]
    totals = dict.fromkeys(expected, 0.0)
    for rows in (slice(0, 4), slice(4, 8)):
        part = {name: leaf[:, rows] for name, leaf in outputs.items()}
        _, metrics = loss_of(part, {name: leaf[rows] for name, leaf in batch.items()})
        totals = {name: totals[name] + np.array(metrics[name]) for name in metrics}
    counts = {name: float(count) for name, (_, count) in expected.items()}
    assert counts["l1_loss"] == counts["giou_loss"] == counts["class_error"] == batch["box_mask"].sum()
    for name in ("class_loss", "l1_loss", "giou_loss", "cardinality_error", "class_error"):
        np.testing.assert_allclose(totals[name], expected[name], rtol=1e-5)
    # Parts weigh as many objects as they have, which is what the whole is divided by.
    assert totals["loss"][1] == counts["loss"] == counts["l1_loss"]


def test_eight_devices_share_one_batch():
    outputs, batch = draw()
    expected = jax.tree.leaves((loss_of(outputs, batch), gradient_of(outputs, batch)))
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    rows, behind = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), (None, "data")))
    placed = jax.device_put(outputs, behind), jax.device_put(batch, rows)

    def both(outputs, batch):
        (loss, metrics), gradient = jax.value_and_grad(TASK.loss, has_aux=True)(outputs, batch)
        return (loss, metrics), gradient

    program = jax.jit(both).lower(*placed).compile()
    assert "all-gather" not in program.as_text()
    for found, value in zip(jax.tree.leaves(program(*placed)), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_run_that_has_diverged_ends_and_is_told(value):
    outputs, batch = draw()
    broken = {name: np.full_like(leaf, value) for name, leaf in outputs.items()}
    assert not np.isfinite(loss_of(broken, batch)[0])
    outputs["logits"][0, 0, 0, 0] = value
    assert not np.isfinite(loss_of(outputs, batch)[0])


def test_predictions_are_the_best_class_of_each_query():
    outputs, batch = draw(1)
    outputs["logits"][..., CLASSES] += 5  # nobody believes in an object, and yet each has its best guess
    found = jax.device_get(predictions_of(outputs, batch))
    assert found["mask"].all()
    for image in range(IMAGES):
        shares = np.asarray(jax.nn.softmax(outputs["logits"][-1, image]))[:, :CLASSES]
        order = np.argsort(-shares.max(axis=-1))
        np.testing.assert_allclose(found["scores"][image], shares.max(axis=-1)[order], rtol=1e-5)
        np.testing.assert_array_equal(found["labels"][image], shares.argmax(axis=-1)[order])
        centre, size = np.split(outputs["boxes"][-1, image, order], 2, axis=-1)
        expected = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
        np.testing.assert_allclose(found["boxes"][image], expected, atol=1e-6)


def test_ap_without_duplicates_is_told_beside_ap():
    batch = {
        "boxes": np.float32([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]]),
        "labels": np.int32([[0, 0]]),
        "box_mask": np.ones((1, 2), bool),
        "image_mask": np.ones(1, bool),
        "image_size": np.int32([[100, 100]]),
        "example": np.int32([0]),
    }
    first, second = batch["boxes"][0]
    found = {
        # Two of one object, one of another class in the same place, and the second object last.
        "boxes": np.stack([first, first + np.float32([0, 0, 0.01, 0]), first, second])[None],
        "scores": np.float32([[0.9, 0.8, 0.7, 0.6]]),
        "labels": np.int32([[0, 0, 1, 0]]),
        "mask": np.ones((1, 4), bool),
    }
    meter = TASK.meter()
    meter.add({}, found, batch)
    scores = meter.scores()
    assert scores["AP_nms"] == pytest.approx(1)
    assert 0.5 < scores["AP"] < 0.9


def test_padding_is_zero_behind_normalisation():
    _, batch = draw()
    assert set(TASK.inputs(batch)) == {"images"}
    sizes = np.tile(np.int32([5, 4]), (IMAGES, 1))
    sizes[0] = 8, 6
    inputs = TASK.inputs(batch | {"content_size": sizes})
    np.testing.assert_array_equal(inputs["content_size"], sizes)
    whole = np.asarray(TASK.inputs(batch)["images"])
    images = np.asarray(inputs["images"])
    np.testing.assert_array_equal(images[0], whole[0])
    np.testing.assert_array_equal(images[1:, :5, :4], whole[1:, :5, :4])
    assert not images[1:, 5:].any()
    assert not images[1:, :, 4:].any()


def test_one_picture_becomes_a_result_in_its_own_pixels():
    prediction = {
        "boxes": np.array([[0, 0.5, 1, 1], [0, 0, 0.5, 0.5]], np.float32),
        "scores": np.array([0.75, 0.1], np.float32),
        "labels": np.array([1, 0], np.int32),
        "mask": np.array([True, True]),
    }
    result = TASK.make_result("a.jpg", ("cat", "dog"), prediction, (40, 80), 1)
    assert isinstance(result, DetectionResult)
    assert str(result) == "a.jpg: dog 0.750 at (0, 20, 80, 40) and 1 more"


def test_more_slots_than_queries():
    outputs, batch = draw()
    few = {name: leaf[:, :, :3] for name, leaf in outputs.items()}
    with pytest.raises(UserError, match=r"room for 4 objects \(`max_boxes`\), the model has 3 queries"):
        jax.eval_shape(TASK.loss, few, batch)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"no_object_weight": 0.0}, r"`no_object_weight` \(=0.0\) must be positive"),
        ({"costs": (1, 5)}, r"`costs` \(=\(1, 5\)\) are three weights"),
        ({"costs": (0, 0, 0)}, "`costs`.*each of 0 or more, not all 0"),
        ({"losses": (1.0, -5.0, 2.0)}, r"`losses` \(=\(1.0, -5.0, 2.0\)\) are three weights"),
    ],
)
def test_impossible_settings(keywords, message):
    with pytest.raises(UserError, match=message):
        SetPrediction(**keywords)


def test_one_class_is_told_from_no_object():
    outputs, batch = draw()
    outputs["logits"] = outputs["logits"][..., :2]
    batch["labels"] = np.zeros_like(batch["labels"])
    gradient = np.asarray(gradient_of(outputs, batch)["logits"])
    assert (np.abs(gradient[:, batch["image_mask"]]) > 1e-7).all()
    found = predictions_of(outputs, batch)
    assert not np.asarray(found["labels"]).any()
    assert np.ptp(found["scores"]) > 0.1
