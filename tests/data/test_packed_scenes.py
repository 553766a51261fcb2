"""Scenes in packed rows: their boxes by slot, their classes by token, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_scene_batching import FakeScenes
from vitjax.config import build, describe, from_json, to_json
from vitjax.data.loading import Shards
from vitjax.data.packed_scenes import BoxSlots, ClassMapPatches
from vitjax.data.packed_targets import PackedTargets, Window
from vitjax.data.packing import PackedBatches, Preparation
from vitjax.data.sampling import ConstantDrop, FixedSide, NativeSize, ShuffledOrder, UniformSide
from vitjax.data.scene_batching import BoxTargets
from vitjax.data.scene_geometry import resize_scene
from vitjax.data.scene_transforms import SceneHorizontalFlip, SceneResize
from vitjax.data.sources import FakeImages
from vitjax.errors import UserError

BOXES = PackedBatches(
    FakeScenes(), 4, length=32, rows=2, packers=1, max_images=6, resolution=FixedSide(16), targets=BoxSlots(3),
    threads=1, prefetch=0,
)  # fmt: skip
MAPS = replace(BOXES, targets=ClassMapPatches())


def slots_of(batches):
    for batch in batches.epoch(Shards()):
        for row, slot in np.argwhere(batch["image_mask"]):
            yield batch, row, slot, int(batch["example"][row, slot])


@pytest.mark.parametrize("targets", [BoxSlots(3), ClassMapPatches()])
def test_they_are_targets_and_survive_a_file(targets):
    assert isinstance(targets, PackedTargets)
    assert build(from_json(to_json(describe(targets)))) == targets


def test_every_slot_holds_the_boxes_of_its_image():
    seen = []
    for batch, row, slot, example in slots_of(BOXES):
        scene = FakeScenes()[example]
        expected = BoxTargets(3)(scene | {"area": np.full(len(scene["labels"]), 24.0)})
        for name, value in expected.items():
            np.testing.assert_array_equal(batch[name][row, slot], value)
        assert batch["image_size"][row, slot].tolist() == [12 + example, 20]
        assert "label" not in batch
        empty = ~batch["image_mask"]
        assert not any(batch[name][empty].any() for name in (*expected, "image_size"))
        seen.append(example)
    assert sorted(seen) == list(range(10))


def test_boxes_follow_the_transforms():
    generator = np.random.default_rng(0)
    scene = FakeScenes()[3]
    arranged = BoxSlots(3).arrange(scene, (SceneHorizontalFlip(1.0),), generator, training=True, num_labels=4)
    plain = BoxSlots(3).arrange(scene, (), generator, training=True, num_labels=4)
    window = Window((1, 1), 4, np.arange(1))
    flipped, kept = (BoxSlots(3)(example, window)["boxes"] for example in (arranged, plain))
    np.testing.assert_allclose(flipped[:, [0, 2]], 1 - kept[:, [2, 0]], atol=1e-6)
    np.testing.assert_array_equal(flipped[:, [1, 3]], kept[:, [1, 3]])


def test_class_maps_are_resized_with_their_images_and_cut_alike():
    for batch, row, slot, example in slots_of(MAPS):
        tokens = batch["segments"][row] == slot + 1
        rows, columns = batch["grid_sizes"][row, slot].tolist()
        resized = resize_scene(FakeScenes()[example], (4 * rows, 4 * columns), "nearest")["class_map"]
        places = batch["positions"][row, tokens]
        assert len(places) == rows * columns
        for (down, across), pixels in zip(places, batch["class_map"][row, tokens], strict=True):
            expected = resized[4 * down : 4 * down + 4, 4 * across : 4 * across + 4]
            np.testing.assert_array_equal(pixels.reshape(4, 4), expected)
        padding = batch["segments"] == 0
        assert (batch["class_map"][padding] == 255).all()
        assert batch["class_map"].dtype == np.int32


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.3, 0.7]))
def test_a_training_batch_of_fewer_tokens_keeps_pixels_and_classes_together(seed, rate):
    # The pictures say their class map again: 40 times the class, resized without interpolation.
    scenes = tuple({"image": np.repeat(FakeScenes()[n]["class_map"][:, :, None] * 40, 3, 2)} for n in range(10))

    class Painted(FakeScenes):
        def __getitem__(self, index):
            return super().__getitem__(index) | scenes[index]

    drawn = replace(
        MAPS, source=Painted(), resolution=UniformSide(8, 20), token_drop=ConstantDrop(rate), interpolation="nearest",
        transforms=(SceneHorizontalFlip(0.5),),
    )  # fmt: skip
    stream = drawn.stream(seed, Shards())
    batch = next(stream)
    stream.close()
    real = batch["segments"] > 0
    red = batch["patches"].reshape(*real.shape, 16, 3)[..., 0]
    np.testing.assert_array_equal(red[real], 40 * batch["class_map"][real])
    assert real.sum() < batch["grid_sizes"].prod(axis=-1)[batch["image_mask"]].sum()


def test_an_evaluation_keeps_all_tokens_of_a_map():
    with pytest.raises(UserError, match="of example 0 were dropped outside of training"):
        list(replace(MAPS, token_drop=ConstantDrop(0.5)).epoch(Shards()))


@pytest.mark.parametrize("batches", [BOXES, MAPS])
def test_pictures_alone_can_be_predicted_but_not_trained_on(batches):
    source = FakeImages(num_examples=5, shapes=((12, 20), (20, 12)))
    pictures = replace(batches, source=source, rows=3)
    (batch,) = pictures.epoch(Shards())
    assert Preparation(pictures, ShuffledOrder(0, 5), measure=True)(0) in range(8, 25)  # as for length buckets
    assert batch["image_mask"].sum() == 5
    assert "box_mask" not in batch or not batch["box_mask"].any()
    assert "class_map" not in batch or (batch["class_map"] == 255).all()
    with pytest.raises(UserError, match="which `targets`"):
        next(pictures.stream(0, Shards()))


def fault(batches, *, resolution=None, **changes):
    changed = replace(batches, source=FakeScenes(changes=tuple(changes.items())))
    with pytest.raises(UserError) as caught:
        list(changed.epoch(Shards()))
    return str(caught.value)


def test_what_does_not_fit_together_is_named():
    few = replace(BOXES, targets=BoxSlots(2))
    with pytest.raises(UserError, match=r"example 3 has 3 boxes, more than `max_boxes` \(=2\)"):
        list(few.epoch(Shards()))
    assert "its class_map has 5 x 6 pixels, its image 12 x 20" in fault(MAPS, class_map=np.zeros((5, 6), np.uint8))
    assert "unknown classes 9" in fault(
        replace(MAPS, resolution=NativeSize()), class_map=np.full((12, 20), 9, np.uint8)
    )
    assert "unknown classes 7" in fault(BOXES, labels=np.int32([7]), boxes_xyxy_pixels=np.float32([[0, 0, 2, 2]]))
    with pytest.raises(UserError, match="at least 1"):
        BoxSlots(0)


def test_transforms_of_scenes_are_taken():
    resized = replace(BOXES, transforms=(SceneResize((8, 24)),), resolution=NativeSize())
    grids = {tuple(batch["grid_sizes"][row, slot]) for batch, row, slot, _ in slots_of(resized)}
    assert grids == {(2, 6)}


@pytest.mark.parametrize("targets", [BoxSlots(3), ClassMapPatches()])
def test_a_clip_is_no_scene(targets):
    clip = {"video": np.zeros((2, 8, 8, 3), np.uint8), "index": 7}
    with pytest.raises(UserError, match=r"example 7 has no image, .*it has video, index"):
        targets.arrange(clip, (), np.random.default_rng(0), training=True, num_labels=10)
