"""Padded batches: few shapes, planned alike everywhere, every example once, nothing but padding outside the content."""

import json
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fake_source import assert_same_batch
from vitjax.config import build, describe
from vitjax.data.digits import DigitScenes
from vitjax.data.images import BrokenExample
from vitjax.data.loading import Shards
from vitjax.data.padded_scenes import PaddedSceneBatches, _Plan, group_by_shape
from vitjax.data.sampling import ShuffledOrder
from vitjax.data.scene_batching import BoxTargets, SceneBatches
from vitjax.data.scene_geometry import fitting_size
from vitjax.data.scene_transforms import (
    SceneHorizontalFlip,
    SceneRandomSizeCrop,
    SceneResizeShorterSide,
    SceneSometimes,
    SSDCrop,
)
from vitjax.errors import UserError


@dataclass(frozen=True)
class Scenes:
    """Example i is of brightness i + 1 and has one box over all of it; sizes vary."""

    size: int = 37
    told: bool = True
    broken: tuple = ()
    name: str = "scenes"
    labels: tuple = ("a", "b")

    def __len__(self):
        return self.size

    def sizes(self):
        return np.random.default_rng(0).integers(20, 61, (self.size, 2))

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenExample(f"scene{index}.png", "truncated")
        rows, columns = (int(side) for side in self.sizes()[index])
        return {
            "image": np.full((rows, columns, 3), index + 1, np.uint8),
            "labels": np.array([index % 2], np.int32),
            "boxes_xyxy_pixels": np.array([[0, 0, columns, rows]], np.float32),
            "area": np.array([index], np.float32),
            "index": index,
        }


@dataclass(frozen=True)
class Untold:
    """The same without sizes."""

    scenes: Scenes
    name: str = "untold"
    labels: tuple = ("a", "b")

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        return self.scenes[index]


SHAPES = ((32, 48), (48, 32), (48, 64), (64, 48))
TRAIN = (
    SceneHorizontalFlip(),
    SceneSometimes((SceneResizeShorterSide((30, 40)), SceneRandomSizeCrop(24, 40))),
    SceneResizeShorterSide((24, 28, 32, 40, 48), 64),
)
BATCHES = PaddedSceneBatches(Scenes(), 4, BoxTargets(2), SHAPES, TRAIN, window=8, prefetch=0, threads=1)
EVALUATION = replace(BATCHES, transforms=(SceneResizeShorterSide(40, 64),))


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def assert_padded(batch):
    """All that is asked of one batch of `Scenes`."""
    assert batch["image"].shape[1:3] in SHAPES
    for row, (index, (rows, columns)) in enumerate(zip(batch["example"], batch["content_size"], strict=True)):
        image = batch["image"][row]
        assert not image[rows:].any()
        assert not image[:, columns:].any()
        assert batch["image_mask"][row] == (index >= 0)
        if index >= 0:
            assert (image[:rows, :columns] == index + 1).all()
            np.testing.assert_allclose(batch["boxes"][row, 0], [0, 0, 1, 1], rtol=0, atol=1e-6)  # of the content
            assert batch["area"][row].tolist() == [index, 0]
            assert batch["image_size"][row].tolist() == Scenes().sizes()[index].tolist()
        else:
            assert (rows, columns) == image.shape[:2]
            assert not batch["box_mask"][row].any()


def test_an_epoch_of_evaluation_has_each_scene_once_and_shrinks_none():
    batches = list(EVALUATION.epoch(Shards()))
    for batch in batches:
        assert_padded(batch)
    examples, native = np.concatenate([batch["example"] for batch in batches]), Scenes().sizes()
    assert sorted(examples[examples >= 0]) == list(range(37))
    for batch in batches:
        for index, content in zip(batch["example"], batch["content_size"], strict=True):
            if index >= 0:
                assert tuple(content) == fitting_size(native[index].tolist(), 40, 64)
    areas = [batch["image"].shape[1] * batch["image"].shape[2] for batch in batches]
    assert areas == sorted(areas, reverse=True)  # what does not fit the memory is told first
    # Two shapes hold no other; each has one batch at most that is not full.
    assert sum(not batch["image_mask"].all() for batch in batches) <= 2


def test_training_has_each_scene_once_an_epoch_in_few_shapes():
    stream, order = BATCHES.stream(3, Shards()), ShuffledOrder(3, 37)
    batches = take(stream, 32)
    assert {batch["image"].shape[1:3] for batch in batches} == set(SHAPES)
    for batch in batches:
        assert_padded(batch)
    for window in range(4):  # of 8 batches: the same examples as in the shuffled stream
        examples = np.concatenate([batch["example"] for batch in batches[8 * window : 8 * window + 8]])
        assert sorted(examples) == sorted(order(position)[1] for position in range(32 * window, 32 * window + 32))
    figures = stream.statistics()
    assert 0 < figures["pixel_padding_share"] < 0.5
    assert 0 <= figures["shrunk_share"] < 0.2


@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=60),
    shapes=st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=5, unique=True),
    batch_size=st.integers(1, 7),
    fill=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_groups(sizes, shapes, batch_size, fill):
    """Each picture is in one batch, in a shape that holds it if any does; the rest of several kinds aside."""
    if fill:
        sizes = sizes[: len(sizes) // batch_size * batch_size]
    groups = group_by_shape(np.array(sizes, int).reshape(-1, 2), shapes, batch_size, fill=fill)
    members = [member for group in groups for member in group.members if member is not None]
    assert sorted(members) == list(range(len(sizes)))
    assert all(len(group.members) == batch_size and group.shape in shapes for group in groups)
    largest = [a for a in shapes if not any(a != b and a[0] <= b[0] and a[1] <= b[1] for b in shapes)]
    mixed = [
        group
        for group in groups
        for member in group.members
        if member is not None
        and not np.less_equal(sizes[member], group.shape).all()
        and any(np.less_equal(sizes[member], shape).all() for shape in shapes)
    ]
    partial = [group for group in groups if None in group.members]
    if fill:
        assert not partial
        assert len({id(group) for group in mixed}) < len(largest)  # fewer pictures are left than this many batches
    else:
        assert not mixed
        assert len(partial) <= len(largest)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("processes", [2])
def test_processes_share_the_same_batches(processes, training):
    batches = BATCHES if training else EVALUATION

    def made(shards):
        return take(batches.stream(5, shards), 7) if training else list(batches.epoch(shards))

    whole = made(Shards())
    parts = [made(Shards(index, processes)) for index in range(processes)]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        joined = {name: np.concatenate([part[number][name] for part in parts]) for name in batch}
        assert_same_batch(joined, batch)


def test_threads_and_workers_change_nothing():
    plain = take(BATCHES.stream(1, Shards()), 6)
    for one, other in zip(plain, take(replace(BATCHES, threads=5, prefetch=3).stream(1, Shards()), 6), strict=True):
        assert_same_batch(one, other)
    plan = _Plan(BATCHES, Scenes().sizes(), ShuffledOrder(1, 37), 32)  # what travels to worker processes
    sent = pickle.loads(pickle.dumps(plan))
    assert [sent(position) for position in (70, 3, 99)] == [plan(position) for position in (70, 3, 99)]


def test_a_saved_position_goes_on():
    stream = BATCHES.stream(2, Shards())
    batches = [next(stream) for _ in range(21)]
    for batches_before in (0, 8, 13):
        earlier = BATCHES.stream(2, Shards())
        take(earlier, batches_before)
        resumed = BATCHES.stream(2, Shards())
        resumed.restore(json.loads(json.dumps(earlier.state())))
        for batch in batches[batches_before : batches_before + 3]:
            assert_same_batch(next(resumed), batch)
        resumed.close()
    stream.close()
    with pytest.raises(UserError, match="`shapes`"):
        replace(BATCHES, shapes=SHAPES[:2]).stream(2, Shards()).restore(earlier.state())


def test_one_window_of_a_source_smaller_than_a_batch():
    batches = take(replace(BATCHES, source=Scenes(3)).stream(0, Shards()), 3)
    assert np.bincount(np.concatenate([batch["example"] for batch in batches])).tolist() == [4, 4, 4]


def test_sizes_that_nobody_tells_are_read(caplog):
    with caplog.at_level("INFO", logger="vitjax"):
        told = list(EVALUATION.epoch(Shards()))
        assert not caplog.text
        read = list(EVALUATION.with_source(Untold(Scenes())).epoch(Shards()))
    assert "reading all 37 pictures of untold for their sizes, once; a method `sizes()`" in caplog.text
    for one, other in zip(told, read, strict=True):
        assert_same_batch(one, other)


def test_a_broken_scene_leaves_its_place_empty():
    source = Scenes(broken=(4, 30))
    for batches in (EVALUATION.with_source(source), EVALUATION.with_source(Untold(source))):
        made = list(batches.epoch(Shards()))
        examples = np.concatenate([batch["example"] for batch in made])
        assert sorted(examples[examples >= 0]) == [number for number in range(37) if number not in (4, 30)]
        for batch in made:
            assert_padded(batch)


def test_pictures_that_no_shape_holds_are_shrunk_and_counted(caplog):
    batches = replace(EVALUATION, shapes=((32, 48), (48, 32)))
    with caplog.at_level("WARNING", logger="vitjax"):
        made = list(batches.epoch(Shards()))
    assert "37 of 37 pictures are larger than all `shapes` and are shrunk to fit" in caplog.text
    for batch in made:
        assert (batch["content_size"] <= batch["image"].shape[1:3]).all()
        assert (batch["content_size"].max(axis=1) >= 31).all()


def test_transforms_that_tell_no_size_still_fit():
    batches = replace(BATCHES, source=DigitScenes("train", 12), targets=BoxTargets(8), shapes=((96, 128), (128, 96)))
    batches = replace(batches, transforms=(SSDCrop(), SceneResizeShorterSide((90, 120), 160)))
    for batch in take(batches.stream(0, Shards()), 4):
        assert (batch["content_size"] <= batch["image"].shape[1:3]).all()
        assert ((batch["boxes"] >= 0) & (batch["boxes"] <= 1)).all()


def test_content_is_what_unpadded_batches_hold():
    """Of one scene at a time; the same random numbers."""
    padded = replace(BATCHES, batch_size=1, window=1)
    alone = SceneBatches(Scenes(), 1, BoxTargets(2), TRAIN, prefetch=0, threads=1)
    for index in range(5):
        one = next(iter(padded.with_source(Untold(Scenes(index + 1))).stream(0, Shards())))
        number = int(one["example"][0])
        assert number <= index
        (rows, columns), image = one["content_size"][0], one["image"][0]
        other = next(alone.with_source(Untold(Scenes(index + 1))).stream(0, Shards()))
        np.testing.assert_array_equal(image[:rows, :columns], other["image"][0])
        np.testing.assert_array_equal(one["boxes"], other["boxes"])


def test_a_run_is_told_its_shapes():
    assert "in 4 shapes, 32x48, 48x32, 48x64, 64x48 px; the training step is compiled 4 times" in BATCHES.describe()
    assert build(describe(BATCHES.without_source())) == BATCHES.without_source()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(BATCHES, shapes=()), "at least one"),
        (lambda: replace(BATCHES, shapes=((32, 0),)), r"`shapes` \(=\(\(32, 0\),\)\)"),
        (lambda: replace(BATCHES, shapes=((32, 32), (32, 32))), "are different"),
        (lambda: replace(BATCHES, window=0), r"`window` \(=0\)"),
        (lambda: replace(BATCHES, threads=0), r"`threads` \(=0\)"),
        (lambda: BATCHES.stream(0, Shards(0, 1, 3)), r"`batch_size` \(=4\) is not divisible by 3"),
        (lambda: next(EVALUATION.epoch(Shards(0, 1, 3))), r"`batch_size` \(=4\) is not divisible by 3"),
        (lambda: BATCHES.without_source().labels, "no source was given"),
        (lambda: BATCHES.with_source(Scenes(0)).stream(0, Shards()), "has no examples"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
