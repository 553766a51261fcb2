"""The patch size of each batch: a function of seed and number, the same everywhere, and after any restart."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.data.fake_source import FakeSource, assert_same_batch
from vitjax.data.batching import ImageBatches
from vitjax.data.loading import Shards
from vitjax.data.transforms import Resize
from vitjax.errors import UserError

GRIDS = (2, 3, 6)
BATCHES = ImageBatches(FakeSource(30), 8, (Resize(6),), prefetch=0, threads=1, grids=GRIDS)


def sides(stream, count):
    found = [next(stream)["grid"].shape for _ in range(count)]
    stream.close()
    assert all(shape[1] == shape[2] for shape in found)
    return [shape[1] for shape in found]


def test_all_sides_come_evenly_and_depend_on_the_seed():
    drawn = sides(replace(BATCHES, source=FakeSource(8)).stream(0, Shards()), 90)
    counts = [drawn.count(side) for side in GRIDS]
    assert sum(counts) == 90
    assert min(counts) > 15
    assert drawn != sides(BATCHES.stream(1, Shards()), 90)


def test_every_process_draws_the_same():
    whole = sides(BATCHES.stream(3, Shards()), 12)
    for process in range(2):
        stream = BATCHES.stream(3, Shards(process, 2))
        assert next(stream)["grid"].shape == (4, whole[0], whole[0])
        stream.close()
        assert sides(BATCHES.stream(3, Shards(process, 2)), 12) == whole


def test_a_resumed_stream_goes_on_with_the_same_sides():
    stream = BATCHES.stream(1, Shards())
    for _ in range(5):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    expected = [next(stream) for _ in range(4)]
    again = BATCHES.stream(1, Shards())
    again.restore(state)
    for one in expected:
        assert_same_batch(one, next(again))
    stream.close()
    again.close()
    with pytest.raises(UserError, match="the saved data position has `grids`"):
        replace(BATCHES, grids=(2, 3)).stream(1, Shards()).restore(state)


def test_evaluation_at_one_grid_and_none_at_all():
    shapes = {batch["grid"].shape for batch in replace(BATCHES, grids=(3,)).epoch(Shards())}
    assert shapes == {(8, 3, 3)}
    assert all("grid" not in batch for batch in replace(BATCHES, grids=()).epoch(Shards()))
    assert all(batch["grid"].dtype == np.bool_ for batch in BATCHES.epoch(Shards()))


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"`grids` \(=\(3, 0\)\)"):
        replace(BATCHES, grids=(3, 0))
