import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fake_source import FakeSource, assert_same_batch
from vitjax.data.loading import Shards, merge_states
from vitjax.data.packing import BestFit, FirstFit, PackedBatches, SubsetFit
from vitjax.data.sampling import (
    BetaDrop,
    ConstantDrop,
    FixedSide,
    NativeSize,
    TokenBudget,
    TruncatedNormalSide,
    UniformSide,
    example_generator,
)
from vitjax.data.transforms import HorizontalFlip, resize_image
from vitjax.errors import UserError

BATCHES = PackedBatches(
    FakeSource(60), patch_size=4, length=64, rows=8, max_images=6, resolution=TruncatedNormalSide(8, 32),
    token_drop=BetaDrop(0.2, 0.5), transforms=(HorizontalFlip(),), window=6, packers=4, prefetch=0, threads=2,
)  # fmt: skip
DENSE = replace(BATCHES, buckets=False)  # saves planning them
NATIVE = replace(BATCHES, resolution=NativeSize(), token_drop=ConstantDrop(0.0), transforms=())


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def check_invariants(batch, settings):
    used = batch["image_mask"]
    for row in range(len(used)):
        count = used[row].sum()
        assert used[row, :count].all()  # images fill the first slots
        segments = batch["segments"][row]
        assert np.all(np.diff(segments[segments > 0]) >= 0)
        assert set(segments.tolist()) - {0} == set(range(1, count + 1))
        tokens = (segments > 0).sum()
        assert np.all(segments[:tokens] > 0)
        for slot in range(count):
            rows, columns = batch["grid_sizes"][row, slot]
            mine = batch["positions"][row][segments == slot + 1]
            assert 1 <= len(mine) <= rows * columns
            raster = mine[:, 0] * columns + mine[:, 1]
            assert np.all(np.diff(raster) > 0)
            assert mine[:, 1].max() < columns
            assert raster[-1] < rows * columns
        assert np.all(batch["example"][row, count:] == -1)
        assert np.all(batch["label"][row, count:] == 0)
        assert np.all(batch["grid_sizes"][row, count:] == 1)
        assert not batch["patches"][row][segments == 0].any()
        assert not batch["positions"][row][segments == 0].any()
    assert batch["patches"].shape[1:] == (settings.length, settings.patch_size**2 * 3)
    assert used.shape[1] == settings.max_images


@pytest.mark.parametrize("policy", [FirstFit(), BestFit(), SubsetFit()])
def test_batches_keep_the_contract(policy):
    for batch in take(replace(DENSE, policy=policy).stream(0, Shards()), 6):
        check_invariants(batch, BATCHES)
        assert np.all(batch["label"][batch["image_mask"]] == batch["example"][batch["image_mask"]] % 7)


def test_pixels_positions_and_labels_belong_to_the_same_image():
    source = NATIVE.source
    for batch in take(replace(NATIVE, buckets=False).stream(3, Shards()), 4):
        for row, slot in zip(*np.nonzero(batch["image_mask"]), strict=True):
            index = batch["example"][row, slot]
            rows, columns = batch["grid_sizes"][row, slot].tolist()
            image = resize_image(source[index]["image"], (rows * 4, columns * 4), "bilinear")
            mine = batch["segments"][row] == slot + 1
            for patch, (y, x) in zip(batch["patches"][row][mine], batch["positions"][row][mine], strict=True):
                np.testing.assert_array_equal(patch, image[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].reshape(-1))


def test_stream_gives_every_example_once_per_epoch():
    counts = np.zeros(60, int)
    batches = replace(NATIVE, policy=FirstFit(), window=1, buckets=False)
    for batch in take(batches.stream(0, Shards()), 25):
        counts += np.bincount(batch["example"][batch["image_mask"]], minlength=60)
    assert counts.min() >= 1
    # packers run a little apart, and some images are still waiting
    assert counts.max() - counts.min() <= 3


@pytest.fixture
def long_rows(monkeypatch):
    """Rows of 64 tokens pass for long ones."""
    monkeypatch.setattr("vitjax.data.packing._WHOLE_ROW", 32)


def test_short_rows_have_no_buckets():
    assert all("buckets" not in batch for batch in take(BATCHES.stream(0, Shards()), 2))


@pytest.mark.usefixtures("long_rows")
def test_buckets_list_the_tokens_of_each_image_per_group():
    dense = 0
    for batch in take(BATCHES.stream(0, Shards(groups=2)), 6):
        if "buckets" not in batch:
            dense += 1
            continue
        found = []
        for block in batch["buckets"]:
            assert block.shape[0] == 2
            for group in range(2):
                segments = batch["segments"][4 * group : 4 * group + 4]
                for slot in block[group]:
                    tokens = slot[slot < segments.size]
                    if len(tokens):
                        row, segment = tokens[0] // 64, segments.reshape(-1)[tokens[0]]
                        assert (segments[row] == segment).sum() == len(tokens)
                        assert np.all(segments.reshape(-1)[tokens] == segment)
                        found.append((group * 4 + row, segment))
        assert len(found) == len(set(found)) == batch["image_mask"].sum()
    assert dense <= 1


@pytest.mark.usefixtures("long_rows")
def test_shapes_of_buckets_never_change_and_can_be_switched_off():
    shapes = {
        tuple(block.shape for block in b["buckets"]) for b in take(BATCHES.stream(0, Shards()), 8) if "buckets" in b
    }
    assert len(shapes) == 1
    assert all("buckets" not in batch for batch in take(replace(BATCHES, buckets=False).stream(0, Shards()), 3))
    # processes could not agree on a batch that does not fit
    assert all("buckets" not in batch for batch in take(BATCHES.stream(0, Shards(0, 2)), 3))


def without_buckets(batch):
    return {name: array for name, array in batch.items() if name != "buckets"}


def test_settings_of_reading_do_not_change_batches():
    expected = take(BATCHES.stream(5, Shards()), 6)
    other = replace(BATCHES, threads=7, prefetch=3)
    for one, two in zip(expected, take(other.stream(5, Shards()), 6), strict=True):
        assert_same_batch(one, two)
    assert not np.array_equal(expected[0]["example"], next(DENSE.stream(6, Shards()))["example"])


@pytest.mark.parametrize("processes", [2, 4])
def test_a_global_batch_does_not_depend_on_the_number_of_processes(processes):
    expected = take(DENSE.stream(5, Shards()), 5)
    parts = [take(BATCHES.stream(5, Shards(index, processes)), 5) for index in range(processes)]
    for number, one in enumerate(expected):
        joined = {name: np.concatenate([part[number][name] for part in parts]) for name in without_buckets(one)}
        assert_same_batch(without_buckets(one), joined)


@pytest.mark.parametrize(("policy", "prefetch"), [(FirstFit(), 0), (SubsetFit(), 2)])
def test_going_on_from_any_state_gives_identical_batches(policy, prefetch):
    batches = replace(BATCHES, policy=policy, prefetch=prefetch, buckets=prefetch > 0)
    stream, states = batches.stream(1, Shards()), []
    expected = []
    for _ in range(9):
        states.append(json.loads(json.dumps(stream.state())))
        expected.append(next(stream))
    stream.close()
    resumed = batches.stream(1, Shards())
    next(resumed)
    for cut in (8, 0, 4, 7):
        resumed.restore(states[cut])
        assert resumed.state() == states[cut]
        for one in expected[cut:]:
            assert_same_batch(one, next(resumed))
    resumed.close()


def test_states_of_two_processes_resume_in_four_and_in_one():
    streams = [DENSE.stream(1, Shards(index, 2)) for index in range(2)]
    for stream in streams:
        for _ in range(3):
            next(stream)
    merged = json.loads(json.dumps(merge_states([stream.state() for stream in streams])))
    expected = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*[take(s, 3) for s in streams], strict=True)
    ]
    for processes in (1, 4):
        resumed = [DENSE.stream(1, Shards(index, processes)) for index in range(processes)]
        for stream in resumed:
            stream.restore(merged)
        parts = [take(stream, 3) for stream in resumed]
        for number, one in enumerate(expected):
            joined = {name: np.concatenate([part[number][name] for part in parts]) for name in one}
            assert_same_batch(one, joined)


def test_a_state_of_other_data_or_of_one_process_alone_is_refused():
    state = BATCHES.stream(1, Shards(0, 2)).state()
    with pytest.raises(UserError, match="lacks packers 2, 3"):
        BATCHES.stream(1, Shards(0, 1)).restore(state)
    with pytest.raises(UserError, match="`examples`=60, this run has 59"):
        BATCHES.with_source(FakeSource(59)).stream(1, Shards(0, 2)).restore(state)
    with pytest.raises(UserError, match="`seed`=1, this run has 2"):
        BATCHES.stream(2, Shards(0, 2)).restore(state)


@given(size=st.integers(0, 45), processes=st.sampled_from([1, 2, 4]), policy=st.sampled_from([FirstFit(), SubsetFit()]))
@settings(deadline=None, max_examples=8)
def test_an_epoch_has_every_example_once_in_as_many_batches_everywhere(size, processes, policy):
    broken = frozenset({3, 17})
    batches = replace(NATIVE, source=FakeSource(size, broken=broken), policy=policy, max_broken=1, buckets=False)
    parts = [list(batches.epoch(Shards(index, processes))) for index in range(processes)]
    assert len({len(part) for part in parts}) == 1
    for part in parts:
        for batch in part:
            check_invariants(batch, batches)
    found = [index for part in parts for batch in part for index in batch["example"][batch["image_mask"]]]
    assert sorted(found) == [index for index in range(size) if index not in broken]
    whole = list(batches.epoch(Shards()))
    assert len(whole) == len(parts[0])
    for number, one in enumerate(whole):
        joined = {name: np.concatenate([part[number][name] for part in parts]) for name in without_buckets(one)}
        assert_same_batch(without_buckets(one), joined)


def test_epochs_are_alike_and_do_not_depend_on_the_number_of_threads():
    first, second = list(BATCHES.epoch(Shards())), list(replace(BATCHES, threads=5, prefetch=2).epoch(Shards()))
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert_same_batch(one, two)


def test_an_abandoned_epoch_ends_its_threads():
    import threading

    epoch = replace(BATCHES, prefetch=2).epoch(Shards())
    next(epoch)
    epoch.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "vitjax-batches"]


@pytest.mark.usefixtures("long_rows")
def test_statistics_say_what_the_batches_hold():
    stream = replace(NATIVE, token_drop=ConstantDrop(0.5)).stream(0, Shards())
    batches = [next(stream) for _ in range(5)]
    found = stream.statistics()
    tokens = sum(int((batch["segments"] > 0).sum()) for batch in batches)
    images = sum(int(batch["image_mask"].sum()) for batch in batches)
    grids = sum(int(batch["grid_sizes"].prod(axis=-1)[batch["image_mask"]].sum()) for batch in batches)
    assert found["tokens"] == tokens
    assert found["images"] == images
    assert found["padding_share"] == pytest.approx(1 - tokens / (5 * 8 * 64))
    assert found["images_per_row"] == pytest.approx(images / 40)
    assert found["dropped_token_share"] == pytest.approx(1 - tokens / grids)
    assert found["dense_batches"] == sum("buckets" not in batch for batch in batches)
    assert found["host_seconds"] > 0
    assert found["waiting_images"] > 0
    assert stream.statistics() == {}
    stream.close()


def test_images_larger_than_a_row_are_shrunk_and_counted():
    batches = replace(NATIVE, source=FakeSource(30, largest=80, square=True), max_images=2, buckets=False)
    stream = batches.stream(0, Shards())
    batch = next(stream)
    assert np.all(batch["grid_sizes"][batch["image_mask"]] == 8)  # 20 x 20 asked for, 64 tokens a row
    assert stream.statistics()["shrunk_images"] == batch["image_mask"].sum()
    stream.close()


def test_a_token_budget_is_used_and_counts_as_nothing_shrunk():
    stream = replace(NATIVE, resolution=TokenBudget(30), buckets=False).stream(0, Shards())
    batch = next(stream)
    tokens = batch["grid_sizes"].prod(axis=-1)[batch["image_mask"]]
    assert tokens.max() <= 30
    assert np.median(tokens) >= 27
    assert stream.statistics()["shrunk_images"] == 0
    stream.close()


def test_transforms_run_before_the_resize_with_the_examples_own_generator():
    flipped = replace(NATIVE, transforms=(HorizontalFlip(),), resolution=FixedSide(4))
    plain = replace(flipped, transforms=())
    (one, *_), (two, *_) = list(flipped.epoch(Shards())), list(plain.epoch(Shards()))
    for row, slot in zip(*np.nonzero(one["image_mask"]), strict=True):
        image = NATIVE.source[one["example"][row, slot]]["image"]
        turned = HorizontalFlip()(image, example_generator(0, 0, int(one["example"][row, slot])))
        same = np.array_equal(image, turned)
        segment = one["segments"][row] == slot + 1
        assert same == np.array_equal(one["patches"][row][segment], two["patches"][row][segment])


def test_the_source_can_be_taken_out_and_put_back():
    bare = BATCHES.without_source()
    assert bare.source is None
    assert bare.with_source(BATCHES.source) == BATCHES
    assert BATCHES.labels == tuple("abcdefg")
    assert BATCHES.num_examples == 60
    with pytest.raises(UserError, match="with_source"):
        bare.stream(0, Shards())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_images": 0}, r"`max_images` \(=0\)"),
        ({"patch_size": 0}, r"`patch_size` \(=0\)"),
        ({"rows": 6}, r"`rows` \(=6\) is not divisible by `packers` \(=4\).*rows=8"),
        ({"window": 0}, r"`window` \(=0\)"),
        ({"threads": 0}, r"`threads` \(=0\)"),
        ({"workers": -1}, r"`workers` \(=-1\)"),
        ({"max_broken": 2}, r"`max_broken` \(=2\)"),
        ({"interpolation": "area"}, r"`interpolation` \(='area'\)"),
        (
            {"resolution": UniformSide(8, 40)},
            r"has 100 tokens of 4 px, a row only `length` \(=64\); use length=100.*32 px",
        ),
        ({"resolution": TokenBudget(65)}, r"has 65 tokens.*`length` \(=64\)"),
    ],
)
def test_impossible_settings_are_refused_at_once(change, message):
    with pytest.raises(UserError, match=message):
        replace(BATCHES, **change)


@pytest.mark.parametrize(
    ("batches", "shards", "message"),
    [
        (BATCHES, Shards(0, 8), r"`packers` \(=4\) is not divisible by the 8 processes"),
        (BATCHES, Shards(groups=3), r"`rows` \(=8\) is not divisible by 3.*rows=9"),
        (BATCHES.with_source(FakeSource(0)), Shards(), "'fake' has no examples"),
    ],
)
def test_a_stream_that_cannot_be_shared_out_is_refused(batches, shards, message):
    with pytest.raises(UserError, match=message):
        batches.stream(0, shards)


def test_padding_is_small_in_the_steady_state():
    batches = replace(DENSE, window=64, transforms=())
    stream = batches.stream(0, Shards())
    for _ in range(10):
        next(stream)
    assert stream.statistics()["padding_share"] < 0.02
    stream.close()
    assert math.isfinite(stream.state()["packers"]["0"]["next"])
