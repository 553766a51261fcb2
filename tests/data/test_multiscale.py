"""Multi-scale batches: the published shapes, one draw for all processes, exact resumption, one program per shape."""

import json
from dataclasses import replace

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from tests.data.fake_source import FakeSource, assert_same_batch
from vitjax.config import factory, spec
from vitjax.data.batching import ImageBatches
from vitjax.data.loading import Shards
from vitjax.data.multiscale import MultiScaleImageBatches, draw
from vitjax.data.sampling import ShuffledOrder
from vitjax.data.sources import FakeImages
from vitjax.data.transforms import HorizontalFlip, Resize
from vitjax.errors import UserError
from vitjax.tasks.classification import Classification
from vitjax.training.fit import fit
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Constant

BATCHES = MultiScaleImageBatches(
    FakeSource(50), 16, Resize, (HorizontalFlip(),), base=8, smallest=4, largest=12, count=3, divisor=2, multiple=4,
    prefetch=0, threads=1,
)  # fmt: skip


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def shapes_of(batches):
    return [(batch["image"].shape[1], len(batch["image"])) for batch in batches]


def test_shapes_are_the_published_ones():
    """ml-cvnets' defaults with 128 images at 256 px; `multiple=1` because there nothing is rounded."""
    published = MultiScaleImageBatches(None, 128, Resize, multiple=1)
    assert published.shapes() == ((160, 327), (192, 227), (256, 128), (288, 101), (320, 81))
    assert "327 of 160 px" in published.describe()
    assert "compiled 5 times" in published.describe()


@given(
    sides=st.tuples(st.integers(1, 300), st.integers(0, 300), st.integers(1, 9)),
    base=st.tuples(st.integers(1, 48), st.integers(1, 40)),
    images=st.tuples(st.integers(1, 64), st.integers(1, 16)),
)
@settings(max_examples=60, deadline=None)
def test_every_shape_is_divisible_and_holds_no_more_pixels_than_the_base(sides, base, images):
    smallest, extra, count = sides
    (divisor, blocks), (multiple, times) = base, images
    batches = MultiScaleImageBatches(
        None, multiple * times, Resize, base=divisor * blocks, smallest=smallest, largest=smallest + extra,
        count=count, divisor=divisor, multiple=multiple,
    )  # fmt: skip
    pixels = batches.batch_size * batches.base**2
    assert dict(batches.shapes())[batches.base] == batches.batch_size
    for side, number in batches.shapes():
        assert side % divisor == 0
        assert number % multiple == 0
        assert number == multiple or number * side**2 <= pixels
        assert (number + multiple) * side**2 > pixels  # and no whole multiple fewer than would fit


def test_batches_follow_one_another_in_the_stream():
    order, place = ShuffledOrder(3, 50), 0
    batches = take(BATCHES.stream(3, Shards()), 12)
    assert len(set(shapes_of(batches))) > 1
    for batch in batches:
        expected = [order(position)[1] for position in range(place, place + len(batch["example"]))]
        assert batch["example"].tolist() == expected
        assert batch["label"].tolist() == [index % 7 for index in expected]
        assert batch["image_mask"].all()
        place += len(expected)


def test_sides_come_evenly_and_depend_on_the_seed():
    drawn = [[draw(BATCHES.shapes(), seed, number) for number in range(300)] for seed in (0, 1)]
    assert min(drawn[0].count(shape) for shape in BATCHES.shapes()) > 70  # 100 expected, deviation 8
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_slices_of_the_same_batches(processes):
    expected = take(BATCHES.stream(5, Shards()), 6)
    parts = [take(replace(BATCHES, prefetch=2).stream(5, Shards(index, processes)), 6) for index in range(processes)]
    for number, one in enumerate(expected):
        assert_same_batch(one, {name: np.concatenate([part[number][name] for part in parts]) for name in one})


def test_worker_processes_make_the_same_batches():
    expected = take(BATCHES.stream(2, Shards()), 4)
    for one, other in zip(expected, take(replace(BATCHES, workers=1).stream(2, Shards()), 4), strict=True):
        assert_same_batch(one, other)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_going_on_from_any_state_gives_identical_batches(prefetch):
    stream, states, expected = replace(BATCHES, prefetch=prefetch).stream(1, Shards()), [], []
    for _ in range(6):
        states.append(json.loads(json.dumps(stream.state())))
        expected.append(next(stream))
    for cut in range(6):
        stream.restore(states[cut])
        for one in expected[cut:]:
            assert_same_batch(one, next(stream))
    stream.close()
    with pytest.raises(UserError, match="the saved data position has `shapes`"):
        replace(BATCHES, largest=16).stream(1, Shards()).restore(states[3])


def test_sides_grow_at_their_epoch():
    growing = replace(BATCHES, growth=((1, 12, 16), (3, 20, 20)), count=2)
    assert growing.shapes(0) == ((4, 64), (8, 16), (12, 4))
    assert growing.shapes(1) == growing.shapes(2) == ((8, 16), (12, 4), (16, 4))
    assert growing.shapes(3) == ((8, 16), (20, 4))
    position = 0
    for batch in take(growing.stream(0, Shards()), 40):
        assert shapes_of([batch])[0] in growing.shapes(position // 50)
        position += len(batch["example"])
    assert position > 3 * 50
    assert "from epoch 1 on 12 to 16 px" in growing.describe()
    assert "compiled 5 times" in growing.describe()


def test_an_epoch_is_at_the_base():
    batches = list(BATCHES.epoch(Shards()))
    assert {batch["image"].shape for batch in batches} == {(16, 8, 8, 3)}
    assert [index for batch in batches for index in batch["example"] if index >= 0] == list(range(50))


def test_an_unreadable_example_leaves_its_place_empty_at_every_side():
    batches = replace(BATCHES, source=FakeSource(50, broken=frozenset(range(0, 50, 2))), max_broken=1)
    for batch in take(batches.stream(0, Shards()), 8):
        assert (batch["example"][~batch["image_mask"]] == -1).all()
        assert not batch["image"][~batch["image_mask"]].any()
        assert all(index % 2 for index in batch["example"][batch["image_mask"]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(BATCHES, batch_size=18), r"`batch_size` a multiple of"),
        (lambda: replace(BATCHES, base=9), r"`base` \(=9\) is not a multiple of `divisor` \(=2\)"),
        (lambda: replace(BATCHES, smallest=13), "sides of 13 to 12 px"),
        (lambda: replace(BATCHES, growth=((2, 4, 8), (1, 4, 8))), "epochs of `growth`"),
        (lambda: BATCHES.stream(0, Shards(0, 3)), r"`multiple` \(=4\) is not divisible by 3.*multiple=6"),
        (lambda: BATCHES.without_source().stream(0, Shards()), "with_source"),
        (lambda: replace(BATCHES, source=FakeSource(0)).stream(0, Shards()), "no examples"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


class MeanColour(nn.Module):
    """Takes images of any size."""

    num_classes: int | None = None

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.Dense(self.num_classes, name="head")(images.mean(axis=(1, 2)))


def config(workdir):
    source = spec(FakeImages, num_examples=40)
    train = spec(
        MultiScaleImageBatches, source=source, batch_size=16, crop=factory(Resize), base=8, smallest=4, largest=12,
        count=3, divisor=4, multiple=8, threads=1,
    )  # fmt: skip
    evaluation = spec(ImageBatches, source=source, batch_size=8, transforms=(spec(Resize, size=8),))
    settings = {
        "seed": 0, "workdir": str(workdir), "steps": 12, "model": spec(MeanColour), "task": spec(Classification),
        "train": train, "evaluation": evaluation, "optimizer": spec(AdamW, lr=0.01), "schedule": spec(Constant),
        "decay_rules": ((".*", 1.0),), "rate_rules": ((".*", 1.0),), "clip_norm": 1.0, "accumulate_steps": 1,
        "ema_decay": None, "mesh": {"data": 2, "fsdp": 1, "tensor": 1}, "sharding_rules": (), "log_every": 100,
        "log_examples": True, "evaluate_every": 100, "checkpoint_every": 100, "keep_checkpoints": 2,
        "best_metric": "top1",
    }  # fmt: skip
    return ConfigDict(settings)


def test_a_run_compiles_once_for_each_shape_and_counts_every_image(tmp_path, capsys):
    summary = fit(config(tmp_path))
    assert summary.compilations == 3
    assert "multi-scale batches: 64 of 4 px, 16 of 8 px, 8 of 12 px" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = [json.loads(line)["examples"] for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert {len(examples) for examples in seen} == {64, 16, 8}
    assert next(row for row in rows if row["kind"] == "train")["images"] == sum(map(len, seen))
