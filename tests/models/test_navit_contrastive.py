"""Both towers see only an image's, or a text's, own tokens; the rest is NaViT's, tested there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.models.navit import NaViT
from vitjax.models.navit_contrastive import NaViTContrastive, TextTower, ZeroShotNaViT

IMAGE = functools.partial(NaViT, patch_size=2, max_grid=(4, 4), width=16, depth=1, num_heads=2, mlp_width=32)
MODEL = NaViTContrastive(
    vocabulary_size=300,
    image=IMAGE,
    text=functools.partial(TextTower, max_tokens=8, width=16, depth=1, num_heads=2, mlp_width=32),
    width=12,
    initial_bias=-10.0,
)


def texts(rows, length=16, slots=4):
    """Arrays of rows of texts, each a list of ids."""
    arrays = {name: np.zeros((len(rows), length), np.int32) for name in ("tokens", "segments", "positions")}
    for number, row in enumerate(rows):
        start = 0
        for slot, text in enumerate(row):
            part = slice(start, start + len(text))
            arrays["tokens"][number, part] = text
            arrays["segments"][number, part] = slot + 1
            arrays["positions"][number, part] = np.arange(len(text))
            start += len(text)
    return {f"text_{name}": array for name, array in arrays.items()} | {"text_mask": np.zeros((len(rows), slots), bool)}


def images(grids, length=24, slots=3, seed=0):
    """One row of images, noise that depends on the grid."""
    patches, segments = np.zeros((1, length, 12), np.float32), np.zeros((1, length), np.int32)
    positions, sizes = np.zeros((1, length, 2), np.int32), np.ones((1, slots, 2), np.int32)
    start = 0
    for slot, (rows, columns) in enumerate(grids):
        part = slice(start, start + rows * columns)
        patches[0, part] = np.random.default_rng((rows, columns)).normal(size=(rows * columns, 12))
        segments[0, part] = slot + 1
        positions[0, part] = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
        sizes[0, slot] = rows, columns
        start += rows * columns
    return {"patches": patches, "segments": segments, "positions": positions, "grid_sizes": sizes}


TEXTS = [[1, 2, 3, 256], [7, 256], [1, 2, 4, 4, 4, 256]]
INPUTS = images([(2, 3), (3, 2), (1, 4)]) | texts([TEXTS[:2], TEXTS[2:]])


@pytest.fixture(scope="module")
def variables():
    return jax.jit(functools.partial(MODEL.init, **INPUTS))(jax.random.key(0))


@functools.partial(jax.jit, static_argnames="method")
def apply(variables, inputs, method=None):
    return MODEL.apply(variables, **inputs, method=method)


def test_vectors_have_length_one_and_scale_and_bias_their_starts(variables):
    outputs = apply(variables, INPUTS)
    assert outputs["images"].shape == (1, 3, 12)
    assert outputs["texts"].shape == (2, 4, 12)
    for vectors in (outputs["images"][0], outputs["texts"][0, :2], outputs["texts"][1, :1]):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    assert np.isfinite(outputs["texts"]).all()  # empty slots too
    assert float(outputs["scale"]) == pytest.approx(10)
    assert float(outputs["bias"]) == -10
    names = {"image_tower", "text_tower", "image_projection", "text_projection", "log_scale", "logit_bias"}
    assert set(variables["params"]) == names


def test_a_text_has_the_same_vector_in_any_row_beside_any_other(variables):
    one = apply(variables, texts([TEXTS[:2], TEXTS[2:]]), method="encode_texts")
    other = apply(variables, texts([[TEXTS[2], TEXTS[0]], [TEXTS[1]]]), method="encode_texts")
    for first, second in (((0, 0), (0, 1)), ((0, 1), (1, 0)), ((1, 0), (0, 0))):
        np.testing.assert_allclose(one[first], other[second], atol=2e-6)
    assert np.abs(one[0, 0] - one[1, 0]).max() > 1e-3  # the order and the words count
    turned = apply(variables, texts([[TEXTS[0][::-1]], []]), method="encode_texts")
    assert np.abs(one[0, 0] - turned[0, 0]).max() > 1e-4


def test_no_gradient_leaks_into_another_text(variables):
    table = variables["params"]["text_tower"]["token_embedding"]

    def first_text(table):
        params = variables["params"] | {"text_tower": variables["params"]["text_tower"] | {"token_embedding": table}}
        vectors = MODEL.apply({"params": params}, **texts([[[1, 2], [5, 6]]]), method="encode_texts")
        return jnp.sum(vectors[0, 0] * jnp.arange(12.0))

    used = np.flatnonzero(np.abs(jax.jit(jax.grad(first_text))(table)).sum(axis=1))
    assert used.tolist() == [1, 2]


def test_an_unknown_id_and_a_text_too_long_give_no_number(variables):
    for text in ([1, 300], list(range(9))):
        vectors = apply(variables, texts([[text], [[3, 4]]]), method="encode_texts")
        assert np.isnan(vectors[0, 0]).all()
        assert np.isfinite(vectors[1, 0]).all()


def test_the_scale_ends_at_its_bound(variables):
    params = variables["params"] | {"log_scale": jnp.array(7.0)}
    assert float(MODEL.apply({"params": params}, method="scale")) == 100


def test_the_classifier_is_the_similarity_with_its_class_vectors(variables):
    outputs = apply(variables, INPUTS)
    params = {name: variables["params"][name] for name in ("image_tower", "image_projection", "log_scale")}
    classes = np.asarray(outputs["texts"])[0, :2]
    classifier = ZeroShotNaViT(num_classes=2, image=IMAGE, width=12)
    run = jax.jit(functools.partial(classifier.apply, **images([(2, 3), (3, 2), (1, 4)])))
    found = run({"params": params | {"class_vectors": 3 * classes}})
    np.testing.assert_allclose(found[0], 10 * np.asarray(outputs["images"])[0] @ classes.T, atol=1e-4)


def test_what_is_missing_is_said():
    with pytest.raises(UserError, match="`vocabulary_size` is not set"):
        jax.eval_shape(functools.partial(NaViTContrastive(image=IMAGE).init, **INPUTS), jax.random.key(0))
    assert MODEL.describe(**INPUTS).startswith("attention: cpu segment mask")
