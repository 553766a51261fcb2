import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fake_source import FakeSource, assert_same_batch
from vitjax.data.batching import ImageBatches
from vitjax.data.loading import Shards, merge_states
from vitjax.data.sampling import ShuffledOrder, example_generator
from vitjax.data.transforms import HorizontalFlip, Normalise, Resize
from vitjax.errors import UserError

BATCHES = ImageBatches(FakeSource(30), 8, (Resize(6), HorizontalFlip()), prefetch=0, threads=2)


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def test_a_batch_is_its_positions_of_the_shuffled_stream():
    order = ShuffledOrder(3, 30)
    for number, batch in enumerate(take(BATCHES.stream(3, Shards()), 6)):
        places = [order(position) for position in range(number * 8, number * 8 + 8)]
        assert batch["example"].tolist() == [index for _, index in places]
        assert batch["label"].tolist() == [index % 7 for _, index in places]
        assert batch["image_mask"].all()
        for image, (epoch, index) in zip(batch["image"], places, strict=True):
            generator = example_generator(3, epoch, index)
            expected = BATCHES.source[index]["image"]
            for transform in BATCHES.transforms:
                expected = transform(expected, generator)
            np.testing.assert_array_equal(image, expected)
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "image": "uint8", "label": "int32", "image_mask": "bool", "example": "int32",
    }  # fmt: skip


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_slices_of_the_same_batch(processes):
    expected = take(BATCHES.stream(5, Shards()), 5)
    parts = [take(replace(BATCHES, prefetch=2).stream(5, Shards(index, processes)), 5) for index in range(processes)]
    for number, one in enumerate(expected):
        assert_same_batch(one, {name: np.concatenate([part[number][name] for part in parts]) for name in one})


@pytest.mark.parametrize("prefetch", [0, 3])
def test_going_on_from_any_state_gives_identical_batches(prefetch):
    batches = replace(BATCHES, prefetch=prefetch)
    stream, states, expected = batches.stream(1, Shards()), [], []
    for _ in range(7):
        states.append(json.loads(json.dumps(merge_states([stream.state()]))))
        expected.append(next(stream))
    for cut in range(7):
        stream.restore(states[cut])
        for one in expected[cut:]:
            assert_same_batch(one, next(stream))
    stream.close()


@given(size=st.integers(0, 40), processes=st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=8)
def test_an_epoch_has_every_example_once_in_as_many_batches_everywhere(size, processes):
    batches = replace(BATCHES, source=FakeSource(size))
    parts = [list(batches.epoch(Shards(index, processes))) for index in range(processes)]
    assert {len(part) for part in parts} == {-(-size // 8)}
    joined = [np.concatenate([part[number]["example"] for part in parts]) for number in range(-(-size // 8))]
    assert [index for batch in joined for index in batch if index >= 0] == list(range(size))
    for part in parts:
        for batch in part:
            np.testing.assert_array_equal(batch["image_mask"], batch["example"] >= 0)
            assert batch["image"].shape == (8 // processes, 6, 6, 3)
            assert not batch["image"][~batch["image_mask"]].any()


def test_a_broken_example_leaves_its_place_empty():
    batches = replace(BATCHES, source=FakeSource(30, broken=frozenset({2, 9})), max_broken=1)
    stream = batches.stream(0, Shards())
    found = [next(stream) for _ in range(4)]
    empty = sum(int((~batch["image_mask"]).sum()) for batch in found)
    assert empty >= 2
    assert stream.statistics()["broken_files"] == empty
    stream.close()
    kept = [index for batch in batches.epoch(Shards()) for index in batch["example"][batch["image_mask"]]]
    assert kept == [index for index in range(30) if index not in (2, 9)]


def test_images_of_several_shapes_are_refused():
    with pytest.raises(UserError, match=r"has shape .* others have .*PackedBatches"):
        next(replace(BATCHES, transforms=()).stream(0, Shards()))


def test_images_that_are_not_uint8_are_refused():
    batches = replace(BATCHES, transforms=(Resize(6), Normalise()))
    with pytest.raises(UserError, match=r"float32.*task normalises"):
        next(batches.stream(0, Shards()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(BATCHES, batch_size=0), r"`batch_size` \(=0\)"),
        (lambda: replace(BATCHES, prefetch=-1), r"`prefetch` \(=-1\)"),
        (lambda: BATCHES.stream(0, Shards(0, 3)), r"`batch_size` \(=8\) is not divisible by 3.*batch_size=9"),
        (lambda: list(BATCHES.epoch(Shards(0, 2, 8))), r"`batch_size` \(=8\) is not divisible by 16"),
        (lambda: BATCHES.with_source(FakeSource(0)).stream(0, Shards()), "no examples"),
        (lambda: BATCHES.without_source().stream(0, Shards()), "with_source"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
