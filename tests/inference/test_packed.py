"""Plain ViTs on packed rows give the answers they give alone; budgets of tokens; what cannot be packed says why."""

import functools
import math

import jax
import numpy as np
import pytest

import vitjax
from vitjax.config import describe, to_json
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import BetaDrop, FixedSide, SequenceBudget, TokenBudget
from vitjax.data.sources import ImageList
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.packed import budgeted
from vitjax.inference.predict import Pictures, small_batches
from vitjax.models.vit import AttentionPooling, AveragePooling, LearnedPositions
from vitjax.ops.positions import resample_bicubic

TINY = {"num_classes": 7, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 32, "zero_init_head": False}
VIT = {**TINY, "patch_size": 8, "image_size": 32}
MODELS = {
    "class token": {},
    "average, norm behind it": {"pool": AveragePooling, "norm_after_pooling": True, "use_class_token": False},
    "attention pooling, other positions, tanh layer": {
        "pool": functools.partial(AttentionPooling, num_heads=2, mlp_width=24),
        "positions": functools.partial(LearnedPositions, embed_class=False, resampling=resample_bicubic),
        "representation_size": 12,
    },
}


def pictures(sizes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def drawn(bundle):
    """The bundle with every variable away from where it starts."""
    variables = jax.tree.map(
        lambda leaf: leaf + 0.2 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), bundle.variables
    )
    return Bundle(bundle.module, bundle.task, bundle.batches, bundle.labels, lambda: variables)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(given, id=name, marks=[pytest.mark.slow] * (name != "class token"))
        for name, given in MODELS.items()
    ],
)
def test_a_plain_vit_answers_the_same_packed_at_its_own_and_at_any_size(settings):
    bundle = drawn(vitjax.create_model("vit_base_patch16_224", **VIT, **settings))
    images = pictures([(40, 50), (33, 90), (64, 32), (20, 20), (48, 48)])
    packed = bundle.packed()
    (batch,) = small_batches(Pictures(ImageList(images), bundle.labels), packed.batches)
    assert batch["image_mask"].sum(axis=1).max() == 4
    for alone, together in zip(bundle.predict(images), packed.predict(images), strict=True):
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-6)

    # Pictures of whole patches are not resized; a ViT alone resamples its positions to each grid.
    images = pictures([(24, 40), (40, 24), (16, 56)], seed=1)
    anything = bundle.packed(tokens=15)
    results = anything.predict(images)
    for image, result in zip(images, results, strict=True):
        inputs = bundle.task.inputs({"image": image[None]})
        expected = bundle.task.predict(bundle.module.apply(bundle.variables, **inputs), {})
        np.testing.assert_allclose(result.scores, expected[0], atol=1e-6)
    assert np.ptp([result.scores for result in results], axis=0).max() > 1e-4


def test_what_was_stored_is_packed_and_what_was_packed_is_stored(tmp_path):
    made = vitjax.create_model(
        "vit_base_patch16_224", **VIT, **MODELS["attention pooling, other positions, tanh layer"]
    )
    made.save(tmp_path / "plain")
    packed = vitjax.load(tmp_path / "plain").packed(tokens=12)
    assert to_json(describe(packed.module)) == to_json(describe(made.packed(tokens=12).module))
    packed.save(tmp_path / "packed")
    opened = vitjax.load(tmp_path / "packed")
    assert (opened.batches, opened.task) == (packed.batches, packed.task)
    assert to_json(describe(opened.module)) == to_json(describe(packed.module))


def refused():
    yield "vit_base_r50_s16_224", {}, "only patches embedded by one linear map"
    yield "deepvit_s", {}, "DeepViT cannot run packed: re-attention mixes the heads' maps"
    yield "memory_vit_base_patch32_224", {}, "MemoryViT cannot run packed: the mask of its memory tokens"
    yield "navit_base_patch16", {}, "NaViT cannot run packed: its rows are packed already"
    yield "naflexvit_base_patch16_gap", {}, "its rows are packed already"
    yield "vit_tiny_patch16_224", {"use_class_token": False}, "`pool` .=ClassTokenPooling. is unknown there"


@pytest.mark.parametrize(
    ("name", "settings", "message"), list(refused()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_be_packed_says_why(name, settings, message):
    created = vitjax.create_model(name, **settings)
    bundle = Bundle(created.module, created.task, created.batches, created.labels, lambda: {"params": {}})
    with pytest.raises(UserError, match=message):
        bundle.packed()


@pytest.fixture(scope="module")
def navit():
    created = vitjax.create_model("navit_base_patch16", **TINY, patch_size=8)
    batches = PackedBatches(
        source=None, patch_size=8, length=64, rows=4, packers=2, max_images=8, resolution=FixedSide(32),
        token_drop=BetaDrop(0.1, 0.4),
    )  # fmt: skip
    return Bundle(created.module, created.task, batches, created.labels, created.make_variables)


@pytest.mark.parametrize("tokens", [1, 12, 100])
def test_a_budget_sets_the_tokens_of_every_picture(navit, tokens):
    images = pictures([(40, 50), (33, 90), (8, 8), (128, 128), (20, 200)])
    batches = budgeted(navit.batches, tokens)
    found = list(small_batches(Pictures(ImageList(images), navit.labels), batches))
    grids = np.concatenate([batch["grid_sizes"][batch["image_mask"]] for batch in found])
    counts = grids.prod(axis=1)
    assert counts.max() <= tokens
    assert counts.min() >= 0.7 * tokens
    assert sum((batch["segments"] > 0).sum() for batch in found) == counts.sum()  # nothing is dropped
    assert found[0]["segments"].shape[1] == 4 * tokens


def test_predict_takes_a_budget(navit):
    images = pictures([(40, 50), (33, 90), (64, 32)])
    small, large = (navit.predict(images, tokens=tokens) for tokens in (6, 30))
    assert max(np.abs(one.scores - other.scores).max() for one, other in zip(small, large, strict=True)) > 1e-4
    fixed = Bundle(navit.module, navit.task, budgeted(navit.batches, 30), navit.labels, lambda: navit.variables)
    for one, other in zip(large, fixed.predict(images), strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)


def test_budgets_that_cannot_be_are_one_line(navit):
    for tokens in (0, -3, True):
        with pytest.raises(UserError, match="must be a whole number of patches"):
            navit.predict(pictures([(8, 8)]), tokens=tokens)
    plain = vitjax.create_model("vit_base_patch16_224", **VIT)
    with pytest.raises(UserError, match=r"ImageBatches makes pictures of one size.*bundle.packed\(\)"):
        plain.predict(pictures([(8, 8)]), tokens=16)
    assert budgeted(plain.packed(tokens=9).batches, 20).resolution == SequenceBudget(20)  # its own rule stays
    assert budgeted(navit.batches, 20).resolution == TokenBudget(20)
    assert math.prod(SequenceBudget(20).grid((480, 640), 16)) <= 20
