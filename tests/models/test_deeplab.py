"""DeepLabv3's head on a trunk of two convolutions: shapes, the auxiliary head, folding; the published sizes."""

import functools
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config import build, describe
from vitjax.errors import UserError
from vitjax.layers.conv_norm import ConvNorm
from vitjax.layers.segmentation_head import AuxiliaryHead, to_corners
from vitjax.models import create_model, layouts_of, list_models
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.paths import flatten, unflatten

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 48, 3)).astype(np.float32)


class TinyTrunk(nn.Module):
    output_stride: int = 32
    conv_norm: Callable[..., nn.Module] = ConvNorm
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, *, train=False):
        x = self.conv_norm(6, kernel_size=3, stride=self.output_stride, name="first")(images, train)
        return {"stage_4": x, "stage_5": self.conv_norm(8, activation=nn.relu, name="second")(x, train)}


def a_model(**settings):
    keywords = {"num_classes": 4, "aspp_width": 6, "rates": (1, 2), "output_stride": 8, "dropout_rate": 0.0}
    return DeepLabV3(backbone=TinyTrunk, **{**keywords, **settings})


@functools.cache
def with_auxiliary():
    """A model, and its variables with statistics and biases that are not 0 and 1."""
    model = a_model(auxiliary=partial(AuxiliaryHead, min_width=5, dropout_rate=0.0))
    shapes = flatten(dict(jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES))))
    generator = np.random.default_rng(1)
    return model, unflatten(
        {
            path: 0.2 + 0.5 * generator.random(leaf.shape, np.float32)
            for path, leaf in shapes.items()
            if not path.startswith("intermediates")
        }
    )


def run(model, variables, images=IMAGES):
    return np.asarray(jax.jit(model.apply)(variables, images)["logits"])


@pytest.mark.parametrize("stride", [16, 8])
def test_logits_are_at_the_output_stride(stride):
    model = a_model(output_stride=stride)
    shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), IMAGES))[0]
    assert {name: leaf.shape for name, leaf in shapes.items()} == {"logits": (3, 32 // stride, 48 // stride, 4)}


def test_the_model_may_enlarge_them_itself():
    model, variables = with_auxiliary()
    small, large = run(model, variables), run(model.clone(upsample=to_corners), variables)
    assert large.shape == (3, 32, 48, 4)
    np.testing.assert_allclose(large[:, [0, -1], [0, -1]], small[:, [0, -1], [0, -1]], rtol=1e-5)


def test_the_pooled_branch_sees_the_whole_image():
    model, variables = with_auxiliary()
    changed = IMAGES.copy()
    changed[:, -7:, -7:] += 5  # the dilated convolutions do not reach from there to the first pixel
    both = run(model, variables, np.concatenate([IMAGES, changed]))
    assert np.abs(both[:3] - both[3:])[:, 0, 0].min() > 1e-4


def test_the_auxiliary_head_is_for_training_only():
    model, variables = with_auxiliary()
    assert variables["params"]["auxiliary_head"]["hidden"]["conv"]["kernel"].shape == (3, 3, 6, 5)
    assert set(jax.eval_shape(model.apply, variables, IMAGES)) == {"logits"}
    trained = partial(model.apply, train=True, mutable=["batch_stats"])
    outputs, changed = jax.eval_shape(trained, variables, IMAGES)
    assert {name: leaf.shape for name, leaf in outputs.items()} == dict.fromkeys(("logits", "auxiliary"), (3, 4, 6, 4))
    assert set(changed["batch_stats"]) == {"trunk", "aspp", "auxiliary_head"}


def test_fused_it_computes_the_same():
    model, variables = with_auxiliary()
    fused, folded = model.fuse(variables)
    assert set(folded) == {"params"}
    assert set(folded["params"]) == {"trunk", "aspp", "head"}
    assert not [path for path in flatten(folded) if "norm" in path]
    before, after = run(model, variables), run(fused, folded)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_a_fused_model_is_not_trained():
    model = DeepLabV3(backbone=MobileViTTrunk, num_classes=4)
    fused, _ = model.fuse({"params": {"head": {"bias": jnp.zeros(4)}}})
    with pytest.raises(UserError, match="fused model"):
        jax.eval_shape(lambda: fused.init(jax.random.key(0), IMAGES, train=True))


def test_classes_must_be_set():
    with pytest.raises(UserError, match=r"`num_classes` \(=None\)"):
        a_model(num_classes=None).init(jax.random.key(0), IMAGES)


def test_it_survives_its_config():
    model = create_model("deeplabv3_mobilevitv2_050", auxiliary=partial(AuxiliaryHead, min_width=64))
    again = build(describe(model))
    assert again.backbone.keywords == model.backbone.keywords
    assert describe(again).to_json() == describe(model).to_json()
    assert "authors" in {layout.name for layout in layouts_of(again)}


# MobileViT-S: section 7 of the paper's configuration; MobileViTv2: ml-cvnets' model zoo, in millions.
@pytest.mark.parametrize(
    ("name", "published", "digits"),
    [("deeplabv3_mobilevit_s", 6.357941, 6), ("deeplabv3_mobilevitv2_100", 13.3, 1)],
)
def test_sizes_are_the_published_ones(name, published, digits):
    module = create_model(name)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) / 1e6, digits) == published


def test_every_size_has_a_name():
    names = list_models("deeplabv3_*")
    assert len(names) == 3 + 7
    assert create_model("deeplabv3_mobilevitv2_200").num_classes == 21
