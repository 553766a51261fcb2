"""Packed detectors and segmenters answer picture by picture, in order, at each picture's own size; stored or not."""

import functools

import jax
import numpy as np
import pytest

import vitjax
from vitjax.data.packed_scenes import BoxSlots, ClassMapPatches
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import FixedSide
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.detection_weights import backbone_weights
from vitjax.inference.preparation import default_preparation, random_variables, variable_shapes
from vitjax.models.navit import NaViT
from vitjax.models.navit_detr import PackedDETR
from vitjax.models.navit_segmentation import NaViTSegmenter
from vitjax.paths import flatten
from vitjax.tasks.packed_segmentation import PackedSegmentation
from vitjax.tasks.packed_set_prediction import PackedSetPrediction

TRUNK = functools.partial(NaViT, patch_size=4, max_grid=(16, 16), width=16, depth=1, num_heads=2, mlp_width=24)
SIZES = [(40, 24), (12, 60), (30, 30), (21, 35), (64, 64)]


def pictures():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def batches_of(targets):
    return PackedBatches(
        None, 4, length=64, rows=4, packers=1, max_images=4, resolution=FixedSide(20), targets=targets
    )  # fmt: skip


def bundle_of(module, task, targets, labels):
    batches = batches_of(targets)
    made = jax.device_get(random_variables(module, task, batches))
    drawn = jax.tree.map(lambda leaf: leaf + 0.3 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), made)
    return Bundle(module, task, batches, labels, lambda: drawn)


def segmenter():
    module = NaViTSegmenter(num_classes=3, trunk=TRUNK)
    return bundle_of(module, PackedSegmentation(), ClassMapPatches(), ("ground", "a", "b"))


def detector_module():
    return PackedDETR(
        num_classes=2, trunk=TRUNK, num_queries=4, width=16, num_heads=2, mlp_width=24, decoder_depth=1,
        dropout_rate=0.0,
    )  # fmt: skip


def detector():
    return bundle_of(detector_module(), PackedSetPrediction(), BoxSlots(3), ("a", "b"))


def test_class_maps_come_in_order_and_at_the_pictures_sizes(tmp_path):
    bundle = segmenter()
    bundle.save(tmp_path / "made")
    images = pictures()
    *together, broken = vitjax.load(tmp_path / "made").predict([*images, b"no picture"])
    assert [result.class_map.shape for result in together] == SIZES
    assert broken.error is not None
    (alone,) = bundle.predict([images[3]])
    assert np.mean(alone.class_map == together[3].class_map) > 0.999  # but for ties in the last bits
    assert len({result.class_map.tobytes() for result in together}) == 5
    assert together[0].plot(tmp_path / "one.png").is_file()


def test_objects_come_in_order_and_in_the_pictures_pixels():
    bundle, images = detector(), pictures()
    together = bundle.predict(images)
    (alone,) = bundle.predict([images[4]])
    # 7.6e-6 of 57 pixels is what rounding in other row mates' company made of it
    np.testing.assert_allclose(together[4].boxes_xyxy_pixels, alone.boxes_xyxy_pixels, atol=5e-5)
    np.testing.assert_allclose(together[4].scores, alone.scores, atol=1e-5)
    for (rows, columns), result in zip(SIZES, together, strict=True):
        assert len(result) == 4
        middles = result.boxes_xyxy_pixels.reshape(-1, 2, 2).mean(axis=1)
        assert (middles >= 0).all()
        assert (middles <= [columns, rows]).all()
    assert len({result.boxes_xyxy_pixels.tobytes() for result in together}) == 5


def test_a_classifier_s_weights_start_the_trunk(tmp_path):
    classifier = TRUNK(num_classes=10)
    task, batches = default_preparation(classifier)
    drawn = random_variables(classifier, task, batches)
    Bundle(classifier, task, batches, tuple("0123456789"), lambda: drawn).save(tmp_path / "made")
    module = detector_module()
    shapes = variable_shapes(module, PackedSetPrediction(), batches_of(BoxSlots(3)))
    given = backbone_weights(module, shapes, path=str(tmp_path / "made"), trunk="")
    assert {path for path in shapes if path.startswith("params/backbone/")} == set(given)
    known = flatten(jax.device_get(drawn))
    for path, array in given.items():
        np.testing.assert_array_equal(array, known[path.replace("/backbone/", "/")])
    with pytest.raises(UserError, match="NaViT does not fit the backbone of PackedDETR"):
        backbone_weights(module, shapes, path=str(tmp_path / "made"))
