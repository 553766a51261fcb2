"""Packed segmentation: the loss and scores of each image alone, padding nowhere, class maps put together again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.models.packed_rows import GRIDS, SHUFFLED, SIDE, SLOTS, TOGETHER, pack, pictures, places
from vitjax.config import build, describe, from_json, to_json
from vitjax.errors import UserError
from vitjax.ops.patches import bilinear_matrix
from vitjax.tasks.packed_segmentation import PackedSegmentation
from vitjax.tasks.segmentation import Segmentation
from vitjax.tasks.task import Task

CLASSES = 4
TASK = PackedSegmentation(pixels=Segmentation(focusing=2.0))
loss_of, classes_of = jax.jit(TASK.loss), jax.jit(TASK.predict)


def truth_and_logits(number):
    """Of one image: a class per pixel, some of them ignored, and the logits of its patches."""
    generator, (rows, columns) = np.random.default_rng(number), GRIDS[number]
    truth = generator.integers(0, CLASSES, (rows * SIDE, columns * SIDE)).astype(np.int32)
    truth[generator.random(truth.shape) < 0.2] = 255
    return truth, generator.normal(size=(rows, columns, CLASSES)).astype(np.float32)


def packed(rows, *, spoiled=0.0):
    """Outputs and a batch; `spoiled` stands where there is no token."""
    batch = pack(rows, pictures())
    tokens = batch["segments"].shape
    batch |= {"class_map": np.full((*tokens, SIDE**2), 255, np.int32), "image_mask": np.zeros((len(rows), SLOTS), bool)}
    logits = np.full((*tokens, CLASSES), spoiled, np.float32)
    for number, (row, slot) in places(rows).items():
        truth, own = truth_and_logits(number)
        mine = batch["segments"][row] == slot + 1
        cut = truth.reshape(own.shape[0], SIDE, own.shape[1], SIDE).swapaxes(1, 2)
        batch["class_map"][row, mine] = cut.reshape(-1, SIDE**2)
        logits[row, mine] = own.reshape(-1, CLASSES)
        batch["image_mask"][row, slot] = True
    return {"logits": logits}, batch


def alone(number):
    """Its (summed loss, right pixels, pixels that count), true and predicted class map, from its own resized logits."""
    truth, logits = truth_and_logits(number)
    down, across = (bilinear_matrix(side, SIDE * side) for side in logits.shape[:2])
    logits = np.einsum("hr,wc,rcd->hwd", down, across, logits)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    counted, found = truth != 255, logits.argmax(axis=-1)
    right = np.take_along_axis(shares, np.where(counted, truth, 0)[..., None], axis=-1)[..., 0][counted]
    sums = np.array([(-np.log(right) * (1 - right) ** 2).sum(), (found == truth)[counted].sum(), counted.sum()])
    return sums, truth, found


def test_it_is_a_task_and_survives_a_file():
    assert isinstance(TASK, Task)
    assert build(from_json(to_json(describe(TASK)))) == TASK


@pytest.mark.parametrize("rows", [TOGETHER, SHUFFLED])
def test_loss_and_metrics_are_those_of_the_images_alone(rows):
    loss, metrics = loss_of(*packed(rows, spoiled=np.nan))
    total, right, count = sum(alone(number)[0] for number in range(4))
    assert float(loss) == pytest.approx(total / count, rel=1e-5)
    assert {name: tuple(map(float, pair)) for name, pair in metrics.items()} == {
        "loss": pytest.approx((total, count), rel=1e-5),
        "pixel_accuracy": (right, count),
    }


def test_padding_gets_no_gradient_whatever_it_holds():
    outputs, batch = packed(TOGETHER, spoiled=np.nan)
    gradient = jax.jit(jax.grad(lambda logits: TASK.loss({"logits": logits}, batch)[0]))(jnp.asarray(outputs["logits"]))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[batch["segments"] == 0].any()


@pytest.mark.parametrize("rows", [TOGETHER, SHUFFLED])
def test_class_maps_are_put_together_again(rows):
    outputs, batch = packed(rows)
    maps = TASK.unpack(np.asarray(classes_of(outputs, batch)), batch)
    assert maps.shape == (3, SLOTS)
    assert [found is not None for found in maps.flat] == batch["image_mask"].reshape(-1).tolist()
    for number, place in places(rows).items():
        np.testing.assert_array_equal(maps[place], alone(number)[2])


def test_the_meter_counts_each_pixel_once():
    meter, expected = TASK.meter(), TASK.pixels.meter()
    for rows in ([[0], [3], []], [[1, 2], [], []]):
        outputs, batch = packed(rows)
        meter.add(loss_of(outputs, batch)[1], np.asarray(classes_of(outputs, batch)), batch)
    for number in range(4):
        (total, right, count), truth, found = alone(number)
        real = {"class_map": truth[None], "image_mask": np.ones(1, bool)}
        expected.add({"loss": (total, count), "pixel_accuracy": (right, count)}, found[None], real)
    assert meter.scores() == pytest.approx(expected.scores(), rel=1e-5)
    assert expected.scores()["mean_iou"] > 0


def test_an_evaluation_without_pixels_is_told():
    with pytest.raises(UserError):
        TASK.meter().scores()


def test_the_loss_is_the_same_on_two_devices():
    rows = NamedSharding(Mesh(np.array(jax.devices()[:2]), "data"), PartitionSpec("data"))
    outputs, batch = packed([[0, 1], [2, 3]])
    expected, _ = loss_of(outputs, batch)
    placed = jax.device_put((outputs, batch), rows)
    assert float(loss_of(*placed)[0]) == pytest.approx(float(expected), rel=1e-6)
