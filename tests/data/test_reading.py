import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest

from vitjax.data.reading import LaneReader, read_ahead
from vitjax.errors import UserError

READERS = [{"threads": 1, "workers": 0}, {"threads": 4, "workers": 0}, {"threads": 1, "workers": 2}]


def double(position):
    return {"value": np.full(3, 2 * position)}


def fail_at_seven(position):
    if position == 7:
        raise UserError("no seventh")
    return position


def die_at_seven(position):
    if position == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return position


@pytest.mark.parametrize("readers", READERS)
def test_positions_are_read_in_order(readers):
    found = list(read_ahead(double, range(5, 155, 3), **readers))
    assert [position for position, _ in found] == [5 + 3 * number for number in range(50)]
    for position, example in found:
        assert example["value"].tolist() == [2 * position] * 3


def test_endless_positions_are_read_only_so_far_ahead():
    asked = []
    reader = read_ahead(double, (asked.append(number) or number for number in itertools.count()), threads=2, workers=0)
    assert next(reader)[0] == 0
    assert len(asked) < 200
    reader.close()


@pytest.mark.parametrize("readers", READERS)
def test_lanes_are_consumed_in_any_order(readers):
    reader = LaneReader(double, [4, 9, 2], stride=4, end=None, **readers)
    upcoming = {0: 4, 1: 9, 2: 2}
    generator = np.random.default_rng(0)
    for lane in [0] * 400 + generator.integers(0, 3, 500).tolist():  # one lane far ahead of the others
        position, example = reader.next(lane)
        assert position == upcoming[lane]
        assert example["value"][0] == 2 * position
        upcoming[lane] += 4
    reader.close()


@pytest.mark.parametrize("readers", READERS)
def test_closing_ends_workers_that_have_not_been_read_from(readers):
    reader = read_ahead(double, itertools.count(), **readers)
    next(reader)
    assert len(multiprocessing.active_children()) == readers["workers"]
    reader.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("readers", READERS)
def test_errors_of_the_reading_reach_the_caller(readers):
    with pytest.raises(UserError, match="no seventh"):
        list(read_ahead(fail_at_seven, range(10), **readers))


def test_a_killed_worker_is_said():
    with pytest.raises(UserError, match=r"worker process .* has ended.*`workers=0`"):
        list(read_ahead(die_at_seven, range(1000), threads=1, workers=1))


def test_lanes_end_where_the_stream_ends():
    reader = LaneReader(double, [0, 1, 2], stride=3, end=7, threads=2, workers=0)
    found = {lane: [] for lane in range(3)}
    for lane in (2, 0, 1):
        while (item := reader.next(lane)) is not None:
            found[lane].append(item[0])
    assert found == {0: [0, 3, 6], 1: [1, 4], 2: [2, 5]}
    assert reader.next(0) is None
    reader.close()


def test_a_lane_that_starts_behind_the_end_is_empty():
    reader = LaneReader(double, [0, 1, 2, 3], stride=4, end=2, threads=1, workers=0)
    assert [reader.next(lane) and reader.next(lane) for lane in range(4)] == [None] * 4
    reader.close()
