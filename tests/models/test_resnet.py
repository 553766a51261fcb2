import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models import create_model, layouts_of, list_models
from vitjax.models.resnet import Bottleneck, ResNet
from vitjax.paths import flatten, unflatten

SETTINGS = {"num_classes": 5, "depths": (1, 2, 1, 1), "width": 4}


def pictures(*sizes):
    return np.random.default_rng(0).standard_normal((2, *sizes, 3)).astype(np.float32)


@functools.cache
def variables():
    """Random ones; no norm is the identity."""
    shapes = jax.eval_shape(ResNet(**SETTINGS).init, jax.random.key(0), pictures(32, 32))
    rng = np.random.default_rng(1)

    def draw(path, shape):
        if path.endswith("kernel"):
            return rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        return rng.uniform(0.5, 1.5, size=shape) if path.endswith(("scale", "var")) else 0.2 * rng.normal(size=shape)

    return unflatten({path: np.float32(draw(path, leaf.shape)) for path, leaf in flatten(dict(shapes)).items()})


def test_features_of_an_image_that_the_strides_do_not_divide():
    model = ResNet(**SETTINGS)
    found = jax.eval_shape(lambda: model.apply(variables(), pictures(70, 97), method="features"))
    expected = {"stage_1": (18, 25, 16), "stage_2": (9, 13, 32), "stage_3": (5, 7, 64), "stage_4": (3, 4, 128)}
    assert {name: value.shape[1:] for name, value in found.items()} == expected
    dilated = model.clone(output_stride=16)
    found = jax.eval_shape(lambda: dilated.apply(variables(), pictures(70, 97), method="features"))
    assert found["stage_4"].shape[1:] == (5, 7, 128)


def test_fused_it_computes_the_same_and_has_no_statistics():
    model = ResNet(**SETTINGS)
    fused, folded = model.fuse(variables())
    assert set(folded) == {"params"}
    images = pictures(40, 33)
    logits = jax.jit(model.apply)(variables(), images)
    np.testing.assert_allclose(jax.jit(fused.apply)(folded, images), logits, atol=1e-5)
    with pytest.raises(UserError, match="cannot be trained"):
        fused.apply(folded, images, train=True)


def test_frozen_norms_leave_their_statistics_alone():
    """In training a frozen network computes what it computes in evaluation; the other one does not."""
    images = pictures(64, 64)

    def train(model):
        return jax.jit(lambda: model.apply(variables(), images, train=True, mutable=["batch_stats"]))()

    model = ResNet(**SETTINGS, norm=functools.partial(BatchNorm, frozen=True))
    logits, changed = train(model)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables(), images), atol=1e-5)
    for path, value in flatten({"batch_stats": changed["batch_stats"]}).items():
        np.testing.assert_array_equal(value, flatten(variables())[path])
    logits, changed = train(ResNet(**SETTINGS))
    assert all(
        np.abs(value - flatten(variables())[path]).max() > 0
        for path, value in flatten({"batch_stats": changed["batch_stats"]}).items()
    )


def test_a_new_block_is_its_shortcut():
    block = Bottleneck(width=2)
    x = pictures(4, 4)[..., [0, 1, 2, 0, 1, 2, 0, 1]]
    fresh = block.init(jax.random.key(0), x, False)
    np.testing.assert_array_equal(block.apply(fresh, x, False), np.maximum(x, 0))


def test_bfloat16():
    model = ResNet(**SETTINGS)
    logits = jax.jit(model.clone(dtype="bfloat16").apply)(variables(), pictures(32, 32))
    exact = jax.jit(model.apply)(variables(), pictures(32, 32))
    np.testing.assert_allclose(jnp.asarray(logits, jnp.float32), exact, atol=0.05 * float(np.abs(exact).max()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_stride": 4}, r"`output_stride` \(=4\) must be 32, 16 or 8"),
        ({"depths": (1, 2, 0, 1)}, r"`depths` \(=\(1, 2, 0, 1\)\) must be 4 numbers"),
        ({"num_classes": None}, "`num_classes` is not set"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        ResNet(**{**SETTINGS, **settings}).init(jax.random.key(0), pictures(32, 32))


def test_images_below_the_stride_are_refused():
    with pytest.raises(UserError, match=r"31x64 px are smaller .* at least 32 px"):
        ResNet(**SETTINGS).init(jax.random.key(0), pictures(31, 64))


def test_models_by_name():
    assert {"resnet50", "resnet101"} <= set(list_models("resnet*"))
    model = create_model("resnet50", num_classes=0)
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0), pictures(32, 32))["params"])
    assert sum(leaf.size for leaf in shapes.values()) == 23_508_032  # torchvision's, less its classifier
    assert [layout.name for layout in layouts_of(ResNet)] == ["timm", "huggingface"]
