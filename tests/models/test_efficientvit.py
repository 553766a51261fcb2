"""EfficientViT: the paper's sizes, windows, the cascade, folding, and what it refuses."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.analysis.attention_maps import attention_maps
from vitjax.errors import UserError
from vitjax.inference.foreign import carry_over
from vitjax.layers.cascaded_attention import CascadedGroupAttention, offset_numbers
from vitjax.models import create_model, list_models
from vitjax.models.efficientvit import EfficientViT
from vitjax.paths import flatten, unflatten

SMALL = {"image_size": 48, "widths": (8, 16), "depths": (1, 1), "num_heads": (1, 2), "query_kernels": (3, 3)}
IMAGES = np.random.default_rng(0).normal(size=(2, 48, 48, 3)).astype(np.float32)


def drawn(module, images=IMAGES):
    """Random variables, running variances positive."""
    shapes = flatten(jax.eval_shape(module.init, jax.random.key(0), images))
    rng = np.random.default_rng(1)
    leaves = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    scale = {path: 1.0 if path.endswith("scale") else 0.3 for path in leaves}
    return unflatten(
        {path: 0.5 + np.abs(leaf) if path.endswith("/var") else scale[path] * leaf for path, leaf in leaves.items()}
    )


@pytest.fixture(scope="module")
def small():
    module = EfficientViT(num_classes=5, distilled=True, **SMALL)
    return module, drawn(module)


def test_variants():
    """Their parameters and multiply-adds are compared with the published tables in tests/analysis/test_cost.py."""
    assert list_models("efficientvit_*") == [f"efficientvit_m{size}" for size in range(6)]
    assert create_model("efficientvit_m5").describe(None) == "cascaded group attention in windows of 7x7, 7x7, 4x4"


@pytest.mark.parametrize("resolution", [1, 2, 7])
def test_offsets_are_numbered_as_they_first_appear(resolution):
    points = [(row, column) for row in range(resolution) for column in range(resolution)]
    seen = {}
    for first in points:
        for second in points:
            seen.setdefault((abs(first[0] - second[0]), abs(first[1] - second[1])), len(seen))
    expected = [[seen[abs(a[0] - b[0]), abs(a[1] - b[1])] for b in points] for a in points]
    np.testing.assert_array_equal(offset_numbers(resolution), expected)


def test_fused_is_the_same_function(small):
    module, variables = small
    fused, less = module.fuse(variables)
    assert list(less) == ["params"]
    assert not any("norm" in path for path in flatten(less))
    # A larger map than the windows: they are filled up.
    images = np.random.default_rng(2).normal(size=(2, 64, 80, 3)).astype(np.float32)
    whole = jax.jit(module.apply)(variables, images)
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(jax.jit(fused.apply)(less, images), whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())
    with pytest.raises(UserError, match="fused model cannot be trained"):
        fused.apply(less, images, train=True)
    with pytest.raises(UserError, match="fused already"):
        fused.fuse(less)


def test_features_maps_and_both_heads(small):
    module, variables = small
    plain, one = (dataclasses.replace(module, **changes) for changes in ({"num_classes": 0}, {"distilled": False}))

    @jax.jit
    def run(variables):
        return (
            *plain.apply(variables, IMAGES, mutable=["intermediates"]),
            plain.apply(variables, IMAGES, method="features"),
            module.apply(variables, IMAGES, train=True, mutable=["batch_stats"])[0],
            module.apply(variables, IMAGES),
            [one.apply(given, IMAGES) for given in (variables, _swapped(variables))],
        )

    pooled, state, maps, trained, logits, heads = run(variables)
    assert {name: stage.shape for name, stage in maps.items()} == {"stage_1": (2, 3, 3, 8), "stage_2": (2, 2, 2, 16)}
    np.testing.assert_array_equal(state["intermediates"]["stage_2"][0], maps["stage_2"])
    np.testing.assert_allclose(maps["stage_2"].mean((1, 2)), pooled, rtol=1e-5)
    assert trained.shape == (2, 2, 5)
    assert not np.allclose(trained[0], trained[1])
    np.testing.assert_allclose(logits, (heads[0] + heads[1]) / 2, rtol=1e-4, atol=1e-5)
    attention = attention_maps(one, variables, images=IMAGES)
    assert [found.shape for found in attention.values()] == [(2, 1, 9, 9), (2, 2, 4, 4)]
    assert all(np.allclose(found.sum(-1), 1, atol=1e-5) for found in attention.values())


def _swapped(variables):
    """The distillation's head in the place of the class head."""
    return {
        kind: {
            name.replace("distillation", "head").replace("head_head", "head"): leaf
            for name, leaf in tree.items()
            if not name.startswith("head")
        }
        for kind, tree in variables.items()
    }


def test_biases_are_resampled_for_other_windows(small, caplog):
    torch = pytest.importorskip("torch")
    module, variables = small
    larger, images = dataclasses.replace(module, image_size=96), np.zeros((1, 96, 96, 3), np.float32)
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(variables).items()}
    shapes = {
        path: leaf.shape for path, leaf in flatten(jax.eval_shape(larger.init, jax.random.key(0), images)).items()
    }
    with caplog.at_level(logging.WARNING, logger="vitjax"):
        taken, fresh = carry_over(arrays, module, larger, shapes, "here")
    assert "here: 2 tables of biases resampled, the first from 9 to 36" in caplog.text
    assert not fresh
    assert {path: array.shape for path, array in taken.items()} == shapes
    for path, array in taken.items():
        if path.endswith("/windows/biases"):
            old, new = (round(one.shape[1] ** 0.5) for one in (arrays[path], array))
            table = torch.tensor(arrays[path]).reshape(1, -1, old, old)
            expected = torch.nn.functional.interpolate(table, (new, new), mode="bicubic").reshape(array.shape)
            np.testing.assert_allclose(array, expected, atol=1e-5)
        else:
            np.testing.assert_array_equal(array, arrays[path])


def test_a_head_hears_the_heads_before_it():
    module = CascadedGroupAttention(num_heads=3, query_kernels=(3, 3, 3), key_size=4)
    windows = np.random.default_rng(0).normal(size=(1, 2, 2, 12)).astype(np.float32)
    variables = jax.jit(module.init, static_argnums=2)(jax.random.key(0), windows, False)
    # The projection behind them mixes all; an identity tells them apart, biases keep them away from the ReLU's zero.
    out = {"conv": {"kernel": np.eye(12, dtype=np.float32)[None, None]}, "norm": {"scale": np.ones(12)}}
    out["norm"]["bias"] = np.zeros(12)
    params = {**variables["params"], "out": out}
    for head in range(3):
        params[f"qkv_{head}"]["norm"]["bias"] = 9 * jnp.ones(12)
    run = jax.jit(lambda windows: module.apply({**variables, "params": params}, windows, False))
    for share in range(3):
        moved = windows.copy()
        moved[..., 4 * share : 4 * share + 4] += 1.0
        differs = np.abs(run(moved) - run(windows)).reshape(4, 3, 4).max(axis=(0, 2)) > 1e-3
        assert differs.tolist() == [head >= share for head in range(3)]


def test_half_precision(small):
    module, variables = small
    models = [module, dataclasses.replace(module, dtype="bfloat16")]
    run = jax.jit(lambda variables: [each.apply(variables, IMAGES, method="features")["stage_2"] for each in models])
    whole, half = run(variables)
    assert half.dtype == jnp.bfloat16
    assert np.abs(np.asarray(half, np.float32) - whole).max() < 0.1 * np.abs(whole).max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 15}, r"`image_size` \(=15\) must be at least 16"),
        ({"widths": (8, 16, 32)}, "must have one number for each stage"),
        ({"widths": (8, 15)}, r"width \(=15\) must be divisible by its `num_heads` \(=2\)"),
        ({"widths": (12, 16)}, r"`widths` \(=12\) must be divisible by 8"),
        ({"query_kernels": (3,)}, r"`query_kernels` \(=\(3,\)\) needs an odd side for each of 2 heads"),
        ({"query_kernels": (4, 3)}, "needs an odd side"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        EfficientViT(num_classes=5, **{**SMALL, **changes})


def test_images_that_do_not_fit():
    images = jax.ShapeDtypeStruct((1, 48, 96, 3), jnp.float32)
    module = EfficientViT(num_classes=5, **{**SMALL, "image_size": 96})
    message = r"image of 48x96 px has a map of 3x6 in stage 1, smaller than its windows of 6x6.*`image_size` \(=96\)"
    with pytest.raises(UserError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), images)
    with pytest.raises(UserError, match="`num_classes` is not set"):
        jax.eval_shape(EfficientViT(**SMALL).init, jax.random.key(0), images)
