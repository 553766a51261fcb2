"""A classifier out of words, with random weights: what it computes, and what is refused."""

import functools

import jax
import numpy as np
import pytest

import vitjax
from tests.data.test_pairs import BATCHES
from vitjax.data.digits import DigitCaptions
from vitjax.data.loading import Shards
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.zero_shot import image_vectors, text_vectors, zero_shot
from vitjax.models.navit import NaViT
from vitjax.models.navit_contrastive import NaViTContrastive, TextTower
from vitjax.tasks.contrastive import Contrastive

TASK = Contrastive()
MODULE = NaViTContrastive(
    vocabulary_size=257,
    image=functools.partial(NaViT, patch_size=4, max_grid=(16, 16), width=16, depth=1, num_heads=2, mlp_width=16),
    text=functools.partial(TextTower, max_tokens=24, width=16, depth=1, num_heads=2, mlp_width=16),
    width=8,
)
PROMPTS = ("a {} here", "one {}")


@pytest.fixture(scope="module")
def bundle():
    batch = next(iter(BATCHES.epoch(Shards())))
    variables = jax.jit(functools.partial(MODULE.init, **TASK.inputs(batch)))(jax.random.key(0))
    return Bundle(MODULE, TASK, BATCHES.without_source(), (), make_variables=lambda: variables)


@pytest.fixture(scope="module")
def classifier(bundle):
    return zero_shot(bundle, ("7", "8"), PROMPTS, words=("seven", "eight"))


def test_vectors_do_not_depend_on_what_is_asked_beside_them(bundle, caplog):
    texts = ["a", "two words", "x" * 40] + [f"text {number}" for number in range(200)]
    vectors = text_vectors(bundle, texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(text_vectors(bundle, texts[1:2])[0], vectors[1], atol=2e-6)
    assert "1 of 203 texts are cut to 24 tokens" in caplog.text
    assert len(np.unique(vectors.round(5), axis=0)) == len(texts)


def test_a_class_is_the_mean_of_its_prompts(bundle, classifier):
    images = [np.full((20, 31, 3), 200, np.uint8), np.arange(20 * 18 * 3, dtype=np.uint8).reshape(20, 18, 3)]
    prompts = text_vectors(bundle, [prompt.replace("{}", word) for word in ("seven", "eight") for prompt in PROMPTS])
    means = prompts.reshape(2, 2, -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    logits = 10 * image_vectors(bundle, images) @ means.T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    results = classifier.predict(images)
    np.testing.assert_allclose([result.scores for result in results], expected, atol=1e-5)
    assert {result.top1.label for result in results} <= {"7", "8"}


def test_it_is_saved_and_opened_like_any_other(classifier, tmp_path):
    classifier.save(tmp_path / "words")
    image = np.full((20, 31, 3), 100, np.uint8)
    again = vitjax.load(tmp_path / "words").predict(image)[0]
    np.testing.assert_allclose(again.scores, classifier.predict(image)[0].scores, atol=1e-6)


def test_pairs_are_evaluated_by_search_and_pictures_alone_are_told_where_to_go(bundle):
    source = DigitCaptions("train", num_scenes=6, sides=(32, 40), digit_sides=(12, 20))
    scores = Bundle(MODULE, TASK, bundle.batches, source.labels, lambda: bundle.variables).evaluate(source)
    assert scores["image_to_text_r10"] == 1  # there are six
    with pytest.raises(UserError, match="zero_shot"):
        bundle.predict(np.full((20, 31, 3), 100, np.uint8))


def test_a_picture_that_cannot_be_read_has_no_vector(bundle, tmp_path, caplog):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    found = image_vectors(bundle, [tmp_path / "broken.jpg", np.full((20, 31, 3), 100, np.uint8)])
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    assert "1 of 2 pictures have no vector, first" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ("a",)}, "1 labels and 1 words"),
        ({"labels": ("a", "a")}, "all different"),
        ({"labels": ("a", "b"), "words": ("a",)}, "2 labels and 1 words"),
        ({"labels": ("a", "b"), "templates": ("no place",)}, r"expected texts with one \{\}"),
        ({"labels": ("a", "b"), "templates": ()}, r"expected texts with one \{\}"),
    ],
)
def test_what_is_refused(bundle, arguments, message):
    with pytest.raises(UserError, match=message):
        zero_shot(bundle, **arguments)


def test_a_model_without_a_text_tower_is_refused(classifier):
    for call in (lambda: zero_shot(classifier, ("a", "b")), lambda: text_vectors(classifier, ["a"])):
        with pytest.raises(UserError, match="ZeroShotNaViT has no text tower"):
            call()
