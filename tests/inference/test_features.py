"""A bundle's features are what its head reads."""

import jax
import numpy as np
import pytest

import vitjax
from vitjax.data.loading import Shards
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import FixedSide
from vitjax.data.sources import FakeImages
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.features import feature_function, source_features

TINY = {"num_classes": 7, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 32, "zero_init_head": False}
SOURCE = FakeImages(num_examples=9, num_classes=3)


@pytest.fixture(scope="module")
def vit():
    return vitjax.create_model("vit_base_patch16_224", **TINY, patch_size=8, image_size=32)


@pytest.fixture(scope="module")
def navit():
    created = vitjax.create_model("navit_base_patch16", **TINY, patch_size=8)
    batches = PackedBatches(
        source=None, patch_size=8, length=64, rows=4, packers=2, max_images=8, resolution=FixedSide(32)
    )
    return Bundle(created.module, created.task, batches, created.labels, created.make_variables)


@pytest.mark.parametrize("name", ["vit", "navit"])
def test_the_head_turns_them_into_logits(name, request):
    bundle = request.getfixturevalue(name)
    found = source_features(bundle, SOURCE)
    assert found.features.shape == (9, 16)
    assert sorted(found.examples.tolist()) == list(range(9))
    np.testing.assert_array_equal(found.labels, found.examples % 3)  # the source's classes, not the bundle's
    head = jax.device_get(bundle.variables["params"]["head"])
    logits = found.features @ head["kernel"] + head.get("bias", 0)
    (batch,) = bundle.batches.with_source(SOURCE).epoch(Shards())
    apply = jax.jit(lambda variables, batch: bundle.module.apply(variables, **bundle.task.inputs(batch), train=False))
    expected = np.asarray(apply(bundle.variables, batch))
    np.testing.assert_allclose(logits, expected[batch["image_mask"]], atol=1e-5)


def test_a_model_without_a_head_gives_the_same(vit):
    (batch,) = vit.batches.with_source(SOURCE).epoch(Shards())
    headless = vit.module.clone(num_classes=0)
    expected = jax.jit(lambda batch: headless.apply(vit.variables, **vit.task.inputs(batch), train=False))(batch)
    np.testing.assert_allclose(feature_function(vit)(batch), expected, atol=1e-6)


def test_another_name_is_answered_by_those_there_are(vit):
    (batch,) = vit.batches.with_source(SOURCE).epoch(Shards())
    assert feature_function(vit, "pooled")(batch).shape == (16, 16)
    with pytest.raises(UserError, match="ViT sows no intermediate `pre_logits`; it sows block_0_output, embedded, fea"):
        feature_function(vit, "pre_logits")(batch)
    with pytest.raises(UserError, match=r"`normed` of ViT has shape \(16, 17, 16\), expected one vector for each"):
        feature_function(vit, "normed")(batch)
