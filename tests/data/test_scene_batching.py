"""Batches of scenes: what is in them, the same for any processes, and what is refused."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.data.fake_source import assert_same_batch
from vitjax.config import build, describe, spec
from vitjax.data.digits import DigitScenes
from vitjax.data.images import BrokenExample
from vitjax.data.loading import Shards
from vitjax.data.scene_batching import BoxTargets, ClassMapTargets, SceneBatches
from vitjax.data.scene_transforms import SceneHorizontalFlip, SceneResize
from vitjax.data.sources import FakeImages
from vitjax.errors import UserError


@dataclass(frozen=True)
class FakeScenes:
    """Scene i has i % 4 boxes; its class map says the number of the box, 1 ..., and 0 for the ground."""

    size: int = 10
    changes: tuple = ()
    broken: tuple = ()
    name: str = "fake scenes"
    labels: tuple = ("ground", "a", "b", "c")

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenExample(f"scene{index}.png", "truncated")
        rows, columns, count = 12 + index, 20, index % 4
        boxes = np.array([[6 * n, 2, 6 * n + 4, 8] for n in range(count)], np.float32).reshape(-1, 4)
        class_map = np.zeros((rows, columns), np.uint8)
        for number in range(count):
            class_map[2:8, 6 * number : 6 * number + 4] = number + 1
        scene = {
            "image": np.full((rows, columns, 3), index, np.uint8),
            "labels": np.arange(count, dtype=np.int32),
            "boxes_xyxy_pixels": boxes,
            "class_map": class_map,
            "index": index,
        }
        scene |= dict(self.changes)
        return {key: value for key, value in scene.items() if value is not None}


BOXES = SceneBatches(FakeScenes(), 4, BoxTargets(3), (SceneResize((24, 40)),), prefetch=0, threads=1)
MAPS = replace(BOXES, targets=ClassMapTargets())


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def test_boxes_labels_and_sizes_are_those_of_the_source():
    batches = list(BOXES.epoch(Shards()))
    assert [index for batch in batches for index in batch["example"]] == [*range(10), -1, -1]
    for batch in batches:
        assert {name: (leaf.shape, leaf.dtype.name) for name, leaf in batch.items()} == {
            "image": ((4, 24, 40, 3), "uint8"), "image_mask": ((4,), "bool"), "example": ((4,), "int32"),
            "image_size": ((4, 2), "int32"), "boxes": ((4, 3, 4), "float32"), "labels": ((4, 3), "int32"),
            "box_mask": ((4, 3), "bool"), "crowd": ((4, 3), "bool"), "area": ((4, 3), "float32"),
        }  # fmt: skip
        for row, index in enumerate(batch["example"]):
            count = max(index, 0) % 4
            assert batch["image_mask"][row] == (index >= 0)
            assert batch["box_mask"][row].tolist() == [slot < count for slot in range(3)]
            assert batch["labels"][row].tolist() == [*range(count), *[0] * (3 - count)]
            assert not batch["boxes"][row, count:].any()
            assert batch["area"][row].tolist() == [24.0] * count + [0.0] * (3 - count)  # of 4 x 6 pixels of the source
            if index >= 0:
                rows = 12 + index
                assert batch["image_size"][row].tolist() == [rows, 20]
                expected = [[6 * n / 20, 2 / rows, (6 * n + 4) / 20, 8 / rows] for n in range(count)]
                np.testing.assert_allclose(
                    batch["boxes"][row, :count].reshape(-1, 4), expected or np.zeros((0, 4)), 1e-5
                )


def test_class_maps_lie_on_their_images_and_padding_does_not_count():
    batches = list(MAPS.epoch(Shards()))
    assert {batch["class_map"].shape for batch in batches} == {(4, 24, 40)}
    assert batches[0]["class_map"].dtype == np.int32
    for batch in batches:
        for row, index in enumerate(batch["example"]):
            found = set(np.unique(batch["class_map"][row]).tolist())
            assert found == ({255} if index < 0 else set(range(index % 4 + 1)))


def test_crowds_are_marked():
    changes = (("labels", np.array([1, 2])), ("boxes_xyxy_pixels", np.ones((2, 4))), ("crowd", np.array([False, True])))
    batch = next(iter(replace(BOXES, source=FakeScenes(3, changes=changes)).epoch(Shards())))
    assert batch["crowd"].tolist() == [*[[False, True, False]] * 3, [False] * 3]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_slices_of_the_same_batches(processes):
    batches = replace(BOXES, transforms=(SceneHorizontalFlip(), *BOXES.transforms))
    expected = take(batches.stream(5, Shards()), 4)
    parts = [take(replace(batches, prefetch=2).stream(5, Shards(index, processes)), 4) for index in range(processes)]
    for number, one in enumerate(expected):
        assert_same_batch(one, {name: np.concatenate([part[number][name] for part in parts]) for name in one})


def test_going_on_from_any_state_gives_identical_batches():
    stream, states, expected = replace(MAPS, prefetch=2).stream(1, Shards()), [], []
    for _ in range(5):
        states.append(json.loads(json.dumps(stream.state())))
        expected.append(next(stream))
    for cut in range(5):
        stream.restore(states[cut])
        for one in expected[cut:]:
            assert_same_batch(one, next(stream))
    stream.close()


def test_worker_processes_make_the_same_batches():
    expected = take(BOXES.stream(2, Shards()), 3)
    for one, other in zip(expected, take(replace(BOXES, workers=1).stream(2, Shards()), 3), strict=True):
        assert_same_batch(one, other)


def test_a_broken_scene_leaves_its_place_empty():
    batches = list(replace(BOXES, source=FakeScenes(broken=(1,)), max_broken=1).epoch(Shards()))
    assert batches[0]["example"].tolist() == [0, -1, 2, 3]
    assert not batches[0]["box_mask"][1].any()


def test_pictures_alone_can_be_predicted_but_not_trained_on():
    pictures = FakeImages(num_examples=3)
    for batches, key in ((BOXES, "box_mask"), (MAPS, "class_map")):
        batch = next(iter(batches.with_source(pictures).epoch(Shards())))
        assert batch["image_mask"].tolist() == [True, True, True, False]
        assert set(np.unique(batch[key]).tolist()) <= {False, 255}
    with pytest.raises(UserError, match=r"has no labels, boxes_xyxy_pixels, which `targets`|has no boxes_xyxy_pixels"):
        next(BOXES.with_source(pictures).stream(0, Shards()))
    with pytest.raises(UserError, match="has no class_map"):
        next(MAPS.with_source(pictures).stream(0, Shards()))


def test_digit_scenes_fill_the_batches_and_the_description_is_stored():
    written = spec(
        SceneBatches,
        source=spec(DigitScenes, split="train", num_scenes=8),
        batch_size=8,
        targets=spec(BoxTargets, max_boxes=8),
        transforms=(spec(SceneHorizontalFlip), spec(SceneResize, size=64)),
    )
    batches = build(written)
    batch = take(batches.stream(0, Shards()), 1)[0]
    assert batch["box_mask"].any()
    assert batch["boxes"].min() >= 0
    assert batch["boxes"].max() <= 1
    assert build(describe(batches.without_source())) == batches.without_source()
    assert batches.labels == tuple("0123456789")


ONE = (("labels", np.zeros(1, np.int32)), ("boxes_xyxy_pixels", np.ones((1, 4), np.float32)))


@pytest.mark.parametrize(
    ("batches", "changes", "message"),
    [
        (BOXES, (("boxes_xyxy_pixels", np.ones((4, 4), np.float32)), ("labels", np.zeros(4, np.int32))),
         r"example \d+ has 4 boxes, more than `max_boxes` \(=3\).*max_boxes=4"),
        (BOXES, (*ONE, ("labels", np.zeros(2, np.int32))), "2 labels, 1 boxes_xyxy_pixels; expected as many"),
        (BOXES, (*ONE, ("crowd", np.zeros(3, bool))), "3 crowd; expected as many"),
        (BOXES, (*ONE, ("labels", np.array([4], np.int32))), r"unknown classes 4; the source has 4 labels.*0\.\.\.3$"),
        (BOXES, (*ONE, ("masks", np.zeros((1, 3, 3), bool))), "its masks has 3 x 3 pixels, its image"),
        (BOXES, (("labels", None),), "has no labels, which `targets`"),
        (MAPS, (("class_map", np.zeros((5, 20), np.uint8)),), r"its class_map has 5 x 20 pixels, its image \d+ x 20"),
        (MAPS, (("image", np.zeros((5, 9, 3), np.uint8)), ("class_map", np.zeros((5, 9)))), "float64, expected uint8"),
        (MAPS, (("class_map", None),), "has no class_map, which `targets`"),
    ],
)  # fmt: skip
def test_scenes_that_contradict_themselves_are_refused(batches, changes, message):
    with pytest.raises(UserError, match=message):
        next(replace(batches, source=FakeScenes(changes=changes)).stream(0, Shards()))


def test_unknown_classes_in_a_map_are_refused_and_255_is_not():
    class_map = np.full((12, 20), 255, np.uint8)
    source = FakeScenes(1, changes=(("class_map", class_map),))
    assert (next(replace(MAPS, source=source).stream(0, Shards()))["class_map"] == 255).all()
    class_map[3, 4] = 7
    with pytest.raises(UserError, match=r"unknown classes 7; the source has 4 labels.*and 255 for pixels"):
        next(replace(MAPS, source=source).stream(0, Shards()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(BOXES, batch_size=0), r"`batch_size` \(=0\)"),
        (lambda: BoxTargets(0), r"`max_boxes` \(=0\)"),
        (lambda: BOXES.stream(0, Shards(0, 3)), r"`batch_size` \(=4\) is not divisible by 3"),
        (lambda: BOXES.without_source().stream(0, Shards()), "with_source"),
        (lambda: BOXES.with_source(FakeScenes(0)).stream(0, Shards()), "no examples"),
        (lambda: list(replace(BOXES, transforms=()).epoch(Shards())), r"has shape .* others have .*SceneResize"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
