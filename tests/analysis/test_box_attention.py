"""Where the decoder looks: maps of the queries that found something, on the picture's part of the grid."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.analysis.attention_maps import attention_maps
from vitjax.analysis.box_attention import attention_of_boxes
from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_batching import BoxTargets
from vitjax.errors import UserError
from vitjax.models.detr import DETR
from vitjax.models.resnet import ResNetTrunk
from vitjax.tasks.set_prediction import SetPrediction

LABELS = ("one", "two", "three")


@functools.cache
def a_bundle():
    trunk = functools.partial(ResNetTrunk, depths=(1, 1, 1, 1), width=4)
    module = DETR(
        3, num_queries=5, width=16, num_heads=4, mlp_width=16, encoder_depth=1, decoder_depth=2, backbone=trunk
    )
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64, 96, 3)))
    batches = PaddedSceneBatches(None, 2, BoxTargets(5), ((64, 96),))
    return SimpleNamespace(module=module, variables=variables, task=SetPrediction(), batches=batches, labels=LABELS)


def test_maps_are_those_of_the_queries_that_found_something(tmp_path):
    bundle = a_bundle()
    images = [
        np.random.default_rng(n).integers(0, 256, (64, columns, 3), np.uint8) for n, columns in ((0, 96), (1, 40))
    ]
    found = attention_of_boxes(bundle, images, threshold=0.0)
    assert [len(picture.detections) for picture in found] == [5, 5]
    assert [picture.maps.shape for picture in found] == [(5, 4, 2, 3), (5, 4, 2, 2)]
    assert found[1].image.shape == (64, 40, 3)
    np.testing.assert_array_equal(found[0].image, images[0])
    np.testing.assert_allclose(found[0].maps.sum(axis=(2, 3)), 1, rtol=1e-5)
    inputs = bundle.task.inputs({"image": images[0][None], "content_size": np.array([[64, 96]], np.int32)})
    outputs = jax.jit(bundle.module.apply)(bundle.variables, **inputs)
    scores = np.asarray(jax.nn.softmax(outputs["logits"][-1, 0])[:, :-1])
    order = np.argsort(-scores.max(axis=1), kind="stable")
    maps = attention_maps(bundle.module, bundle.variables, **inputs)["decoder/block_1/cross_attention"]
    np.testing.assert_allclose(found[0].maps.reshape(5, 4, -1), np.asarray(maps)[0].swapaxes(0, 1)[order], atol=1e-5)
    assert [d.score for d in found[0].detections] == pytest.approx(scores.max(axis=1)[order].tolist(), abs=1e-5)
    assert found[0].plot(tmp_path / "a" / "boxes.png").is_file()
    first = attention_of_boxes(bundle, images[0], threshold=0.0, block=0)[0]
    assert not np.allclose(first.maps, found[0].maps)


def test_nothing_found_and_no_such_block(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    (none,) = attention_of_boxes(a_bundle(), image, threshold=1.0)
    assert none.detections == ()
    assert none.plot(tmp_path / "none.png").is_file()
    with pytest.raises(UserError, match="no `decoder/block_2` that attends"):
        attention_of_boxes(a_bundle(), image, block=2)
