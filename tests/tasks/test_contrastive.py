"""The task finds each pair's two vectors, means over real pairs, and its meter searches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.data.test_pairs import BATCHES, texts_of
from vitjax.data.loading import Shards
from vitjax.errors import UserError
from vitjax.ops.contrastive import softmax_pair_losses
from vitjax.ops.contrastive_chunks import SigmoidPairs, SoftmaxPairs
from vitjax.tasks.contrastive import Contrastive
from vitjax.tasks.task import Meter, Task
from vitjax.training.step import split_batch

WIDTH = 8


def loss_of(task, outputs, batch):
    arrays = {name: batch[name] for name in ("pairs", "pair_mask")}
    return jax.jit(task.loss)(outputs, arrays)


@pytest.fixture(scope="module")
def batch():
    return next(iter(BATCHES.epoch(Shards(groups=4))))


def outputs_of(batch, seed=0):
    """Each image's vector says which example it is; so do the texts', which have it from the pairs."""
    table = np.random.default_rng(seed).normal(size=(60, WIDTH)).astype(np.float32)
    images = np.where(batch["image_mask"][..., None], table[batch["example"]], 99.0)
    texts = np.full((*batch["text_mask"].shape, WIDTH), -99.0, np.float32)
    for lane, (slots, real) in enumerate(zip(batch["pairs"], batch["pair_mask"], strict=True)):
        for image, text in slots[real]:
            row, slot = divmod(int(text), texts.shape[1])
            example = batch["example"].reshape(len(batch["pairs"]), -1)[lane, image]
            texts[row + lane * len(texts) // len(batch["pairs"]), slot] = table[example] + 0.1
    return {"images": images, "texts": texts, "scale": np.array(2.0, np.float32)}, table


def test_the_loss_is_the_mean_over_the_real_pairs_of_all_rows(batch):
    task = Contrastive(criterion=SoftmaxPairs(chunk=7))
    outputs, table = outputs_of(batch)
    examples = [index for index, _ in texts_of(batch, BATCHES)]
    vectors, scale = table[examples], np.array(2.0, np.float32)
    expected = softmax_pair_losses(vectors, vectors + np.float32(0.1), np.ones(len(examples), bool), scale)
    loss, metrics = loss_of(task, outputs, batch)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (np.sum(expected), len(examples)), rtol=1e-5)
    assert float(metrics["scale"][0] / metrics["scale"][1]) == 2
    predicted = task.predict(outputs, batch)
    images, texts = (np.asarray(predicted[name])[batch["pair_mask"]] for name in ("images", "texts"))
    np.testing.assert_array_equal(images, vectors)
    np.testing.assert_array_equal(texts, vectors + np.float32(0.1))
    assert isinstance(task, Task)


def test_across_devices_it_is_the_same_and_gathers_nothing(batch):
    outputs, _ = outputs_of(batch)
    task = Contrastive(criterion=SoftmaxPairs(chunk=3))
    expected, _ = loss_of(task, outputs, batch)
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2, 1), ("data", "fsdp", "tensor"))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    kept = {name: batch[name] for name in ("pairs", "pair_mask")}
    placed = jax.device_put({name: outputs[name] for name in ("images", "texts")} | kept, rows)

    def loss(arrays):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # as the trainer does
            return task.loss(arrays | {"scale": jnp.float32(2.0)}, arrays)[0]

    program = jax.jit(loss).lower(placed).compile()
    np.testing.assert_allclose(program(placed), expected, rtol=1e-6)
    text = program.as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text


def test_parts_of_an_accumulated_batch_keep_their_pairs(batch):
    outputs, table = outputs_of(batch)
    leaves = {name: batch[name] for name in ("pairs", "pair_mask", "example", "image_mask")}
    parts = split_batch(leaves | {"images": outputs["images"], "texts": outputs["texts"]}, 2, 2)
    count = 0
    for number in range(2):
        part = {name: np.asarray(leaf[number]) for name, leaf in parts.items()}
        found = Contrastive().predict(part, part)
        images, texts = (np.asarray(found[name])[part["pair_mask"]] for name in ("images", "texts"))
        np.testing.assert_allclose(texts, images + 0.1, rtol=1e-5)
        assert all(np.any(np.all(image == table, axis=1)) for image in images)
        count += len(images)
    assert count == batch["pair_mask"].sum()


def test_a_batch_without_pairs_costs_nothing(batch):
    outputs, _ = outputs_of(batch)
    empty = batch | {"pair_mask": np.zeros_like(batch["pair_mask"])}
    loss, metrics = loss_of(Contrastive(), outputs, empty)
    assert float(loss) == 0
    assert [float(number) for number in metrics["loss"]] == [0, 0]


def test_a_loss_and_a_model_that_do_not_fit_are_refused(batch):
    outputs, _ = outputs_of(batch)
    with pytest.raises(UserError, match=r"`initial_bias=-10\.0`"):
        Contrastive(criterion=SigmoidPairs()).loss(outputs, batch)
    with pytest.raises(UserError, match="a bias changes no softmax"):
        Contrastive().loss(outputs | {"bias": np.array(1.0, np.float32)}, batch)
    loss, _ = loss_of(Contrastive(criterion=SigmoidPairs()), outputs | {"bias": np.array(-1.0, np.float32)}, batch)
    assert np.isfinite(loss)


def test_the_meter_searches_among_all_pairs_and_lets_equal_texts_answer_for_one_another():
    task, meter = Contrastive(), Contrastive().meter()
    step = jax.jit(lambda outputs, arrays: (task.loss(outputs, arrays)[1], task.predict(outputs, arrays)))
    assert isinstance(meter, Meter)
    total = 0
    for batch in BATCHES.epoch(Shards(groups=4)):
        outputs, _ = outputs_of(batch)
        results = step(outputs, {name: batch[name] for name in ("pairs", "pair_mask")})
        meter.add(*jax.device_get(results), batch)
        total += int(batch["pair_mask"].sum())
    scores = meter.scores()
    assert total == 60
    # The first captions of 60 examples; some are cut to the same few letters.
    texts = [text for batch in BATCHES.epoch(Shards()) for _, text in texts_of(batch, BATCHES)]
    assert scores["r1_chance"] == pytest.approx(np.mean([texts.count(text) for text in texts]) / 60)
    assert scores["image_to_text_r10"] >= scores["image_to_text_r5"] >= scores["image_to_text_r1"] > 0.5
    assert scores["r1"] == (scores["image_to_text_r1"] + scores["text_to_image_r1"]) / 2
    assert scores["scale"] == 2
    with pytest.raises(UserError, match="saw no image"):
        Contrastive().meter().scores()
