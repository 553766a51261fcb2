"""MobileViT: its sizes, how it unfolds maps, strides, dropout, folding of batch norms, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.config import build, from_json, spec, to_json
from vitjax.errors import UserError
from vitjax.layers.conv_norm import FoldedConv
from vitjax.models import create_model, list_models
from vitjax.models.mobilevit import FeedForward, MobileViT, MobileViTTrunk, fold, unfold
from vitjax.paths import flatten, unflatten

TINY = {
    "widths": (8, 8, 8, 8, 16, 16),
    "transformer_widths": (8, 8, 16),
    "depths": (1, 1, 1),
    "expansion": 1,
    "final_width": 24,
}
SETTINGS = {**TINY, "num_classes": 5}


def pictures(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def shapes(module, *inputs):
    return flatten(jax.eval_shape(module.init, jax.random.key(0), *inputs))


def drawn(module, *inputs):
    """Variables without a special value anywhere; scales and variances are positive."""
    rng = np.random.default_rng(1)
    found = {}
    for path, leaf in shapes(module, *inputs).items():
        positive = path.endswith(("/scale", "/var"))
        fan_in = np.prod(leaf.shape[:-1]) if path.endswith("/kernel") else 25
        draw = rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.standard_normal(leaf.shape) * fan_in**-0.5
        found[path] = draw.astype(np.float32)
    return unflatten(found)


# ----------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("name", "whole", "trunk"),  # ml-cvnets' models, 1000 classes
    [
        ("mobilevit_xxs", 1_272_024, 924_784),
        ("mobilevit_xs", 2_317_848, 1_895_216),
        ("mobilevit_s", 5_578_632, 4_833_952),
    ],
)
def test_parameters_are_the_papers(name, whole, trunk):
    found = shapes(create_model(name), jnp.zeros((1, 32, 32, 3)))
    sizes = {path: leaf.size for path, leaf in found.items() if path.startswith("params/")}
    assert sum(sizes.values()) == whole
    assert sum(size for path, size in sizes.items() if path.startswith("params/trunk/")) == trunk


def test_names():
    assert [name for name in list_models("mobilevit_*") if "v2" not in name] == [
        "mobilevit_s", "mobilevit_xs", "mobilevit_xxs",
    ]  # fmt: skip


@pytest.mark.parametrize(("stride", "sides"), [(8, (4, 4))])
def test_features_and_output_strides(stride, sides):
    model = MobileViT(**SETTINGS, output_stride=stride)
    images = jnp.zeros((2, 32, 48, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    found = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)
    rows = (16, 8, 4, *sides)
    assert {name: leaf.shape for name, leaf in found.items()} == {
        f"stage_{number}": (2, side, -(-48 * side // 32), width)
        for number, side, width in zip(range(1, 6), rows, TINY["widths"][1:], strict=True)
    }
    trunk = MobileViTTrunk(**{name: value for name, value in TINY.items() if name != "final_width"})
    own = {path.replace("/trunk/", "/") for path in flatten(variables) if "/trunk/" in path}
    assert set(shapes(trunk, images)) == own  # a head on the trunk has the same weights, whatever the stride


# --------------------------------------------------------------------------------------------------- folding


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_fold_inverts_unfold(batch, rows, columns):
    x = pictures(batch, 2 * rows, 2 * columns, 3)
    np.testing.assert_array_equal(fold(np.asarray(unfold(x)), 2 * rows, 2 * columns), x)


def test_sequences_are_the_pixels_at_one_place_of_their_patches():
    numbers = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6, 1)
    sequences = np.asarray(unfold(numbers)).reshape(2, 4, 6)
    for image in range(2):
        for place, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            np.testing.assert_array_equal(sequences[image, place], numbers[image, row::2, column::2, 0].ravel())


def test_dropout_is_behind_the_mlp_only():
    module, tokens = FeedForward(dropout_rate=0.5), pictures(64, 6)
    variables = {"params": {name: {"kernel": pictures(*shape), "bias": pictures(shape[1])} for name, shape in
                            (("expand", (6, 12)), ("contract", (12, 6)))}}  # fmt: skip
    exact = np.asarray(module.apply(variables, tokens, False))
    dropped = np.asarray(module.apply(variables, tokens, True, rngs={"dropout": jax.random.key(0)}))
    kept = dropped != 0
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(dropped[kept], 2 * exact[kept], rtol=1e-6)


# --------------------------------------------------------------------------------------------------- fusing


def test_fused_it_is_the_same_function_as_an_nnx_module_too():
    model, images = MobileViT(**SETTINGS), pictures(2, 40, 56, 3)  # maps of 5x7, 3x4 and 2x2 pixels
    variables = drawn(model, images)
    expected = jax.jit(model.apply)(variables, images)
    assert np.abs(expected).max() > 0.1
    fused, folded = model.fuse(variables)
    assert set(folded) == {"params"}
    assert not any("/norm/" in path for path in flatten(folded))
    assert {path: leaf.shape for path, leaf in flatten(folded).items()} == {
        path: leaf.shape for path, leaf in shapes(fused, images).items()
    }
    wrapped = bridge.ToNNX(fused, rngs=nnx.Rngs(0))
    for path, leaf in folded["params"].items():
        setattr(wrapped, path, jax.tree.map(nnx.Param, leaf))
    found = nnx.jit(lambda wrapped, images: wrapped(images))(wrapped, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_fused_model_is_not_trained():
    model = MobileViT(**SETTINGS, conv_norm=FoldedConv)
    with pytest.raises(UserError, match="cannot be trained"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=True))


# --------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("size", "stride", "words"),
    [((31, 64), 32, "at least 32 px"), ((64, 15), 16, "at least 16 px"), ((7, 7), 8, "images of 7x7 px")],
)
def test_images_smaller_than_the_stride(size, stride, words):
    model = MobileViT(**SETTINGS, output_stride=stride)
    with pytest.raises(UserError, match=words):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size, 3))))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"output_stride": 4}, r"`output_stride` \(=4\) must be 32, 16 or 8"),
        ({"num_heads": 3}, r"`num_heads` \(=3\) must divide"),
        ({"num_classes": None}, "`num_classes` is not set"),
    ],
)
def test_wrong_settings(wrong, words):
    with pytest.raises(UserError, match=words):
        jax.eval_shape(lambda: MobileViT(**{**SETTINGS, **wrong}).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def test_a_config_stores_it():
    model = build(from_json(to_json(spec(MobileViT, **SETTINGS))), packages=("vitjax",))
    assert model == MobileViT(**SETTINGS)
    assert "attention: " in model.describe(jnp.zeros((1, 32, 32, 3)))
