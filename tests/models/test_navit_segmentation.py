"""Segmenter's linear decoder on packed rows: each token's logits, and classes of pixels that stay in their image."""

import functools

import jax
import numpy as np
import pytest

from tests.models.packed_rows import ALONE, EMPTY, SHUFFLED, SIDE, SLOTS, TOGETHER, TRUNK, pack, pictures, places
from vitjax.errors import UserError
from vitjax.models.navit import NaViT
from vitjax.models.navit_segmentation import NaViTSegmenter
from vitjax.tasks.packed_segmentation import PackedSegmentation
from vitjax.tasks.segmentation import Segmentation

CLASSES = 4
TASK = PackedSegmentation(pixels=Segmentation(focusing=2.0))


def tiny(**changes):
    return NaViTSegmenter(**{"num_classes": CLASSES, "trunk": functools.partial(NaViT, **TRUNK), **changes})


@functools.cache
def variables():
    made = jax.device_get(jax.jit(tiny().init)(jax.random.key(0), **pack(TOGETHER, pictures())))
    return jax.tree.map(lambda leaf: leaf + 0.3 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), made)


def with_truth(rows, images, **keywords):
    """A batch with class maps, a function of the image's number, 255 in padding."""
    batch = pack(rows, images, **keywords)
    class_map = np.full((*batch["segments"].shape, SIDE**2), 255, np.int32)
    for number, (row, slot) in places(rows).items():
        mine = batch["segments"][row] == slot + 1
        drawn = np.random.default_rng(number).integers(0, CLASSES, (int(mine.sum()), SIDE**2))
        class_map[row, mine] = drawn
    used = np.array([[slot < len(members) for slot in range(SLOTS)] for members in rows])
    return batch, {"class_map": class_map, "image_mask": used}


def by_image(leaf, rows, batch):
    return {n: np.asarray(leaf)[row][batch["segments"][row] == slot + 1] for n, (row, slot) in places(rows).items()}


@functools.partial(jax.jit, static_argnums=3)
def run(variables, batch, truth, with_gradient=False):
    def loss_of(patches):
        outputs = tiny().apply(variables, **batch | {"patches": patches})
        return TASK.loss(outputs, batch | truth)[0], (outputs["logits"], TASK.predict(outputs, batch | truth))

    if not with_gradient:
        return loss_of(batch["patches"])[1]
    (loss, _), gradient = jax.value_and_grad(loss_of, has_aux=True)(batch["patches"])
    return loss, gradient


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_logits_and_classes_are_the_same_alone_and_in_any_company(keep):
    images = pictures(keep)
    batch, truth = with_truth(ALONE, images)
    expected = [by_image(leaf, ALONE, batch) for leaf in run(variables(), batch, truth)]
    assert np.ptp(expected[0][1], axis=0).min() > 0.1
    for rows, padding in ((TOGETHER, 0.0), (SHUFFLED, 30.0)):
        batch, truth = with_truth(rows, images, padding=padding)
        logits, classes = (by_image(leaf, rows, batch) for leaf in run(variables(), batch, truth))
        for number in range(4):
            np.testing.assert_allclose(logits[number], expected[0][number], atol=1e-5)
            np.testing.assert_array_equal(classes[number], expected[1][number])


def test_the_loss_of_one_image_has_no_gradient_at_another():
    batch, truth = with_truth(TOGETHER, pictures())
    mine = batch["segments"] == 2
    truth["class_map"][~mine] = 255
    loss, gradient = run(variables(), batch, truth, True)
    assert float(loss) > 0
    assert np.abs(np.asarray(gradient)[mine]).max() > 1e-5
    assert not np.asarray(gradient)[~mine].any()


def test_rows_of_padding_are_finite():
    batch, truth = with_truth(EMPTY, pictures())
    loss, gradient = run(variables(), batch, truth, True)
    assert float(loss) == 0
    assert not np.asarray(gradient).any()


def test_no_classes():
    with pytest.raises(UserError, match="`num_classes`"):
        tiny(num_classes=None).init(jax.random.key(0), **pack(ALONE, pictures()))


def test_it_says_its_attention():
    assert tiny().describe(**pack(ALONE, pictures())).startswith("attention: cpu segment mask")
