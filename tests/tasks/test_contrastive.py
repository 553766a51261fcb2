"""The task finds each pair's two vectors, means over real pairs, and its meter searches."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.data.test_pairs import BATCHES, texts_of
from vitjax.data.loading import Shards
from vitjax.data.sampling import NativeSize, NoDrop
from vitjax.errors import UserError
from vitjax.models.navit import NaViT
from vitjax.models.navit_contrastive import NaViTContrastive, TextTower
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


def towers(max_tokens, **keywords):
    sizes = {"width": 16, "depth": 1, "num_heads": 2, "mlp_width": 16}
    image = functools.partial(NaViT, patch_size=4, max_grid=(16, 16), **sizes)
    text = functools.partial(TextTower, max_tokens=max_tokens, **sizes)
    return NaViTContrastive(vocabulary_size=257, image=image, text=text, width=8, **keywords)


def test_images_of_long_rows_are_found_by_their_buckets(monkeypatch):
    monkeypatch.setattr("vitjax.data.packing._WHOLE_ROW", 32)  # rows of 64 tokens pass for long ones
    batch = next(iter(BATCHES.epoch(Shards(groups=2))))
    module, inputs = towers(max_tokens=24), Contrastive().inputs(batch)
    assert module.describe(**inputs).startswith("attention: cpu buckets")
    dense = {name: value for name, value in inputs.items() if name != "buckets"}
    assert module.describe(**dense).startswith("attention: cpu segment mask")

    @jax.jit
    def run(inputs, dense):
        variables = module.init(jax.random.key(0), **dense)
        return [module.apply(variables, **given)["images"] for given in (inputs, dense)]

    by_buckets, by_mask = run(inputs, dense)
    real = batch["image_mask"]
    np.testing.assert_allclose(by_buckets[real], by_mask[real], atol=2e-6)
    assert np.ptp(by_mask[real], axis=0).min() > 1e-3


class Patterns:
    """Pictures that repeat a pattern of their own, with a word of their own."""

    name, labels = "patterns", ()

    def __len__(self):
        return 6

    def __getitem__(self, index):
        pattern = np.random.default_rng(index).integers(0, 256, (4, 4, 3), np.uint8)
        return {"image": np.tile(pattern, (2, 2 + index % 2, 1)), "caption": "abcdef"[index] * 3}


@pytest.mark.parametrize(
    ("criterion", "bias", "start"),
    # Guessing among six; the sigmoid's bias refuses the true pairs like all others, and their cosines are below 1/2.
    [(SoftmaxPairs(), None, np.log(6)), (SigmoidPairs(), -10.0, 5.0)],
)
def test_a_few_steps_learn_the_pairs_of_a_batch(criterion, bias, start):
    images = replace(BATCHES.images, packers=1, length=16, rows=2, resolution=NativeSize(), token_drop=NoDrop())
    few = replace(BATCHES, source=Patterns(), images=images, max_tokens=4, text_length=16, text_rows=2, pairs=8)
    (batch,) = few.epoch(Shards())
    module = towers(max_tokens=4, initial_bias=bias)
    task, optimizer = Contrastive(criterion=criterion), optax.adam(1e-2)
    inputs, arrays = task.inputs(batch), {name: batch[name] for name in ("pairs", "pair_mask")}

    def loss(params):
        outputs = module.apply({"params": params}, **inputs, train=True)
        return task.loss(outputs, arrays)[0], task.predict(outputs, arrays)

    def step(carry, _):
        params, state = carry
        found, gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), state), found

    @jax.jit
    def train(key):
        params = module.init(key, **inputs)["params"]
        return jax.lax.scan(step, (params, optimizer.init(params)), length=60)[1]

    losses, vectors = jax.device_get(train(jax.random.key(0)))
    assert losses[0] > start
    assert losses[-1] < start / 4
    images, texts = (vectors[name][-1][batch["pair_mask"]] for name in ("images", "texts"))
    for similarity in (images @ texts.T, texts @ images.T):
        assert similarity.argmax(axis=1).tolist() == list(range(6))
