import itertools
import logging
import threading
from dataclasses import replace

import pytest

from tests.data.fake_source import FakeSource, assert_same_batch
from vitjax.data.batching import ImageBatches
from vitjax.data.loading import (
    BatchStream,
    Broken,
    BrokenFiles,
    Produced,
    Shards,
    in_background,
    merge_states,
)
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import UniformSide
from vitjax.data.transforms import Resize
from vitjax.errors import UserError

# ---------------------------------------------------------------------------------------------------- worker processes

PACKED = PackedBatches(
    FakeSource(40, broken=frozenset({5})), patch_size=4, length=64, rows=4, max_images=6,
    resolution=UniformSide(8, 32), window=4, packers=2, threads=2, max_broken=1, buckets=False,
)  # fmt: skip
IMAGES = ImageBatches(PACKED.source, 8, (Resize(6),), max_broken=1)


@pytest.mark.parametrize("batches", [PACKED, IMAGES], ids=["packed", "images"])
def test_worker_processes_do_not_change_batches(batches):
    expected, found = (replace(batches, workers=workers).stream(0, Shards()) for workers in (0, 2))
    for _ in range(5):
        assert_same_batch(next(expected), next(found))
    assert expected.state() == found.state()
    assert found.statistics()["broken_files"] == expected.statistics()["broken_files"]
    expected.close()
    found.close()


# ---------------------------------------------------------------------------------------------------- broken files


def test_broken_files_are_named_a_few_times_and_always_counted(caplog):
    broken = BrokenFiles("photos", max_broken=1.0)
    with caplog.at_level(logging.WARNING, "vitjax"):
        for number in range(100):
            assert not broken.passes(Broken(f"{number}.jpg", "truncated"))
            assert broken.passes("an example")
    assert broken.taken() == 100
    assert broken.taken() == 0
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 9  # 1 to 5, then 8, 16, 32 and 64
    assert "photos: skipped 0.jpg: truncated (1 broken files so far, 1 of 1 reads)" in messages[0]
    assert "64 broken files so far" in messages[-1]


def test_a_file_met_again_is_counted_but_not_named_again(caplog):
    broken = BrokenFiles("photos", max_broken=1.0)
    with caplog.at_level(logging.WARNING, "vitjax"):
        for _ in range(30):
            broken.passes(Broken("a.jpg", "truncated"))
    assert broken.taken() == 30
    assert len(caplog.records) == 1


def test_too_many_broken_files_stop_the_run_and_name_the_first():
    broken = BrokenFiles("photos", max_broken=0.05)
    for number in range(9):
        broken.passes(Broken(f"{number}.jpg", "truncated"))
    with pytest.raises(UserError, match=r"photos: 10 of 10 .*`max_broken` \(=0.05\).*first: 0.jpg: truncated; 1.jpg"):
        broken.passes(Broken("9.jpg", "truncated"))


def test_a_few_broken_files_among_many_do_not_stop_the_run():
    broken = BrokenFiles("photos", max_broken=0.05)
    for number in range(2000):
        broken.passes(Broken(f"{number}.jpg", "truncated") if number % 40 == 39 else "an example")
    assert broken.taken() == 50


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_source_full_of_broken_files_stops_the_stream(prefetch):
    source = FakeSource(60, broken=frozenset(range(0, 60, 2)))
    for batches in (replace(PACKED, source=source), replace(IMAGES, source=source)):
        stream = replace(batches, max_broken=0.01, prefetch=prefetch).stream(0, Shards())
        with pytest.raises(UserError, match="more than `max_broken`"):
            list(itertools.islice(stream, 20))
        stream.close()


# ---------------------------------------------------------------------------------------------------- streams


def counting(state):
    for number in range(state["position"], 10**6):
        yield Produced({"x": number}, {"position": number + 1}, {"images": 1.0})


def test_the_state_is_that_of_the_batch_last_handed_out():
    stream = BatchStream(counting, {"position": 0}, lambda counts: counts, prefetch=5)
    assert stream.state() == {"position": 0}
    assert [next(stream)["x"] for _ in range(3)] == [0, 1, 2]
    assert stream.state() == {"position": 3}
    found = stream.statistics()
    assert (found["images"], found["batches"]) == (3, 3)
    stream.restore({"position": 40})
    assert next(stream)["x"] == 40
    stream.close()
    assert next(stream)["x"] == 41  # closing forgets nothing
    stream.close()


def test_an_error_comes_out_where_its_batch_would_have():
    def failing(state):
        yield from (Produced({"x": number}, state) for number in range(3))
        raise OSError("disk gone")

    stream = BatchStream(failing, {}, lambda counts: counts, prefetch=2)
    assert [next(stream)["x"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(stream)
    stream.close()


def test_background_items_are_those_of_the_iterator_and_its_thread_ends():
    closed = threading.Event()

    def items():
        try:
            yield from range(1000)
        finally:
            closed.set()

    assert list(in_background((number for number in range(7)), 3)) == list(range(7))
    background = in_background(items(), 3)
    assert next(background) == 0
    background.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "vitjax-batches"]


def test_merged_states_hold_the_packers_of_all_processes():
    states = [{"seed": 1, "packers": {"0": "a"}}, {"seed": 1, "packers": {"1": "b"}}]
    assert merge_states(states) == {"seed": 1, "packers": {"0": "a", "1": "b"}}
    assert merge_states([{"position": 8}, {"position": 8}]) == {"position": 8}


@pytest.mark.parametrize(("index", "count", "groups"), [(2, 2, 1), (-1, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_impossible_shards_are_refused(index, count, groups):
    with pytest.raises(UserError):
        Shards(index, count, groups)
