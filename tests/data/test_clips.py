"""Clips as tubelets: cutting, which frames are taken, budgets that count time, transforms, rows with pictures."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.config import build, from_json, spec, to_json
from vitjax.data import sampling
from vitjax.data.augmentation import RandAugment
from vitjax.data.clips import Tubelets, cut_tubelets
from vitjax.data.digit_clips import DigitClips
from vitjax.data.loading import Shards
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import ConstantDrop, FixedSide, SequenceBudget, TokenBudget
from vitjax.data.transforms import HorizontalFlip, InceptionCrop, Resize
from vitjax.errors import UserError

GENERATOR = np.random.default_rng(0)


def noise(frames, rows=16, columns=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, rows, columns, 3), np.uint8)


@dataclass(frozen=True)
class FakeClips:
    """The examples it is given."""

    examples: tuple[dict[str, Any], ...] = field(repr=False)
    name: str = "fake clips"
    labels: tuple[str, ...] = ("a", "b")

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index] | {"label": index % 2, "index": index}


def batches_of(source, **settings):
    settings = {"length": 64, "rows": 2, "max_images": 8, "resolution": FixedSide(16), "cut": Tubelets(8, 2)} | settings
    return PackedBatches(source=source, patch_size=8, packers=1, window=4, threads=1, prefetch=0, **settings)


def clips_in(batch):
    """(example, patches, positions, grid) of every clip of a batch."""
    for row, slot in np.argwhere(batch["image_mask"]):
        tokens = batch["segments"][row] == slot + 1
        yield (
            int(batch["example"][row, slot]),
            batch["patches"][row][tokens],
            batch["positions"][row][tokens],
            tuple(batch["grid_sizes"][row, slot].tolist()),
        )


@given(grid=st.tuples(*[st.integers(1, 3)] * 3), depth=st.integers(1, 3), patch=st.integers(1, 4), data=st.data())
@settings(deadline=None, max_examples=60)
def test_tubelets_put_together_are_the_frames(grid, depth, patch, data):
    times, rows, columns = grid
    video = noise(times * depth, rows * patch, columns * patch)
    count = times * rows * columns
    keep = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    tubelets = cut_tubelets(video, grid, patch, keep)
    assert tubelets.shape == (len(keep), depth * patch * patch * 3)
    joined = video.copy()
    joined[:] = 7
    for values, (time, row, column) in zip(tubelets, np.stack(np.unravel_index(keep, grid), axis=1), strict=True):
        block = np.s_[
            time * depth : (time + 1) * depth, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
        ]
        np.testing.assert_array_equal(values.reshape(depth, patch, patch, 3), video[block])
        joined[block] = values.reshape(depth, patch, patch, 3)
    if len(keep) == count:
        np.testing.assert_array_equal(joined, video)


def test_every_frame_is_resized_as_a_picture_is():
    from PIL import Image

    video = noise(4, 30, 50)
    tubelets = cut_tubelets(video, (2, 2, 3), 4, np.arange(12), "bicubic").reshape(2, 2, 3, 2, 4, 4, 3)
    for number, frame in enumerate(video):
        expected = np.asarray(Image.fromarray(frame).resize((12, 8), Image.Resampling.BICUBIC))
        together = tubelets[number // 2, :, :, number % 2].swapaxes(1, 2).reshape(8, 12, 3)
        np.testing.assert_array_equal(together, expected)


@pytest.mark.parametrize(
    ("count", "taken"),
    [
        (1, [0, 0]),  # less than a tubelet: the last frame again
        (2, [0, 1]),
        (3, [0, 2]),  # a whole number of tubelets, evenly spaced
        (7, [0, 1, 2, 4, 5, 6]),
        (8, list(range(8))),
        (16, list(range(1, 16, 2))),
        (24, list(range(1, 24, 3))),
    ],
)
def test_frames_are_evenly_spaced_and_short_clips_stay_short(count, taken):
    video = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))
    ready = Tubelets(frames=8, depth=2).ready({"video": video}, GENERATOR)
    assert ready["video"][:, 0, 0, 0].tolist() == taken
    assert Tubelets(frames=8, depth=2).layers(ready) == len(taken) // 2


@given(count=st.integers(1, 60), frames=st.integers(1, 6), depth=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_taken_frames_rise_within_the_clip_and_their_gaps_differ_by_one(count, frames, depth):
    cut = Tubelets(frames * depth, depth)
    video = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, 1, 3))
    taken = cut.ready({"video": video}, GENERATOR)["video"][:, 0, 0, 0].astype(int)
    assert len(taken) == max(min(count, frames * depth) // depth, 1) * depth
    assert taken.min() >= 0
    assert taken.max() < count
    gaps = np.diff(taken)
    if count >= depth:
        assert (gaps >= 1).all()
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
    else:
        assert taken.tolist() == [*range(count), *[count - 1] * (depth - count)]


def test_transforms_draw_the_same_for_all_frames_of_a_clip_and_anew_for_the_next():
    still = np.repeat(noise(1, 40, 40), 6, axis=0)
    cut = Tubelets(6, 2, transforms=(InceptionCrop(24), HorizontalFlip(), RandAugment()))
    generator = np.random.default_rng(3)
    first, second = (cut.ready({"video": still}, generator)["video"] for _ in range(2))
    assert first.shape == (6, 24, 24, 3)
    for frame in first:
        np.testing.assert_array_equal(frame, first[0])
    assert not np.array_equal(first, second)


def test_transforms_of_pictures_are_refused_with_the_place_where_they_belong():
    with pytest.raises(UserError, match=r"give them to Tubelets\(transforms="):
        batches_of(DigitClips("train"), transforms=(Resize(16),))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 3}, "up to 4 patches of one place, and there are 3 tokens in a row"),
        ({"resolution": TokenBudget(3)}, "there are 3 tokens for an image"),
        ({"max_grid": (3, 8, 8)}, "there are 3 times"),
        ({"max_grid": (8, 8)}, "have 3; give one for each"),
        ({"resolution": FixedSide(64)}, "has 256 tokens of 8 px, a row only"),
    ],
)
def test_clips_that_cannot_fit_are_refused_before_one_is_read(settings, message):
    with pytest.raises(UserError, match=message):
        batches_of(None, **settings)


@pytest.mark.parametrize("settings", [(8, 3), (0, 1), (4, 0)])
def test_bad_tubelets_are_refused(settings):
    with pytest.raises(UserError, match="multiple of `depth`"):
        Tubelets(*settings)


def test_neither_a_clip_nor_a_picture_is_refused():
    with pytest.raises(UserError, match="the example has label, text"):
        Tubelets(2).ready({"label": 1, "text": "x"}, GENERATOR)


@pytest.mark.parametrize(
    "resolution",
    [TokenBudget(20), SequenceBudget(20), FixedSide(40), sampling.UniformSide(16, 48), sampling.NativeSize()],
)
def test_tokens_of_a_clip_count_its_times(resolution):
    shapes = [(1, 20, 20), (5, 64, 20), (9, 31, 33), (30, 8, 90)]
    source = FakeClips(tuple({"video": noise(*shape)} for shape in shapes))
    limit = resolution.token_limit or 150
    batches = batches_of(source, resolution=resolution, length=150, max_grid=(4, 8, 8))
    found = {
        example: (grid, len(patches))
        for batch in batches.epoch(Shards())
        for example, patches, _, grid in clips_in(batch)
    }
    assert [found[number][0][0] for number in range(4)] == [1, 2, 4, 4]
    for grid, tokens in found.values():
        assert tokens == np.prod(grid) <= limit
        assert max(grid[1:]) <= 8
    if resolution.token_limit:  # as large as fits
        assert min(tokens for _, tokens in found.values()) >= 12


def test_a_clip_longer_than_a_row_is_made_smaller_and_counted():
    source = FakeClips(({"video": noise(8, 40, 40)},) * 4)
    batches = batches_of(source, resolution=sampling.NativeSize(), length=40)
    stream = batches.stream(0, Shards())
    batch = next(stream)
    statistics = stream.statistics()
    stream.close()
    assert {grid for *_, grid in clips_in(batch)} == {(4, 3, 3)}
    assert statistics["shrunk_images"] == statistics["images"] > 0


def test_clips_and_pictures_share_rows_each_with_its_own_pixels_and_places():
    examples = ({"video": noise(8, 16, 16)}, {"image": noise(1, 16, 16, 1)[0]}, {"video": noise(4, 16, 16, 2)})
    (batch,) = batches_of(FakeClips(examples)).epoch(Shards())
    assert batch["image_mask"].sum(axis=1).max() == 3
    for number, patches, positions, grid in clips_in(batch):
        video = examples[number].get("video")
        video = np.repeat(examples[number]["image"][None], 2, axis=0) if video is None else video
        assert grid == (len(video) // 2, 2, 2)
        np.testing.assert_array_equal(patches, cut_tubelets(video, grid, 8, np.arange(np.prod(grid))))
        np.testing.assert_array_equal(positions, np.stack(np.indices(grid), -1).reshape(-1, 3))


def test_dropped_tubelets_are_gone_from_patches_and_places_alike():
    examples = tuple({"video": noise(8, 16, 16, seed)} for seed in range(4))
    stream = batches_of(FakeClips(examples), token_drop=ConstantDrop(0.5)).stream(0, Shards())
    for number, patches, positions, grid in clips_in(next(stream)):
        assert len(patches) == 8
        keep = np.ravel_multi_index(tuple(positions.T), grid)
        assert (np.diff(keep) > 0).all()
        np.testing.assert_array_equal(patches, cut_tubelets(examples[number]["video"], grid, 8, keep))
    stream.close()


def test_a_stream_of_clips_is_the_same_again_and_goes_on_where_it_was():
    node = spec(
        PackedBatches,
        source=spec(DigitClips, split="train", num_clips=40),
        cut=spec(Tubelets, frames=8, transforms=(spec(HorizontalFlip),)),
        resolution=spec(sampling.UniformSide, low=16, high=40),
        token_drop=spec(sampling.BetaDrop, mean=0.2, maximum=0.5),
        patch_size=8, length=128, rows=4, packers=2, max_images=8, threads=1, prefetch=0,
    )  # fmt: skip
    assert to_json(from_json(to_json(node))) == to_json(node)
    batches = build(node)
    first = batches.stream(1, Shards())
    made = [next(first) for _ in range(3)]
    state = first.state()
    later = next(first)
    again = batches.stream(1, Shards())
    for batch in made:
        for name, array in next(again).items():
            np.testing.assert_array_equal(array, batch[name])
    resumed = batches.stream(1, Shards())
    resumed.restore(state)
    for name, array in next(resumed).items():
        np.testing.assert_array_equal(array, later[name])
    for stream in (first, again, resumed):
        stream.close()
