"""Digits that move: the class is in the order of the frames, and in no frame."""

import numpy as np
import pytest

from vitjax.data.digit_clips import MOTIONS, DigitClips
from vitjax.errors import UserError


def ink(video):
    """Where ink is, 0...1, from the darkest pixel and the median of all, frame by frame."""
    grey = video.astype(np.float64).mean(axis=-1)
    ground = np.median(grey, axis=(1, 2), keepdims=True)
    return (grey < ground - 0.4 * (ground - grey.min(axis=(1, 2), keepdims=True))).astype(float)


def middles(video):
    """(row, column) of the ink's middle, sides from 0 to 1, its extent, and its contrast in each frame."""
    marks = ink(video)
    rows, columns = np.indices(marks.shape[1:])
    area = marks.sum(axis=(1, 2))
    return np.stack(
        [
            (marks * rows).sum(axis=(1, 2)) / area / marks.shape[1],
            (marks * columns).sum(axis=(1, 2)) / area / marks.shape[2],
            np.sqrt(area) / min(marks.shape[1:]),
            np.ptp(np.quantile(video.mean(axis=-1), (0.01, 0.5), axis=(1, 2)), axis=0) / 255,
        ],
        axis=1,
    )


def test_a_clip_depends_on_seed_and_index_alone():
    source = DigitClips("train", 16)
    assert (source.labels, len(source), source.name) == (MOTIONS, 16, "digit clips/train")
    sizes = source.sizes()
    for index in (3, 0, 15):
        one, other = source[index], DigitClips("train", 16)[index]
        assert one["label"] == source.example_labels()[index] == index % 8
        assert one["index"] == index
        assert one["video"].dtype == np.uint8
        assert one["video"].shape[1:] == (*sizes[index], 3)
        np.testing.assert_array_equal(one["video"], other["video"])
        assert not np.array_equal(one["video"][0], DigitClips("train", 16, seed=1)[index]["video"][0])
        assert not np.array_equal(one["video"][0], DigitClips("validation", 16)[index]["video"][0])


def test_lengths_and_sizes_vary():
    source = DigitClips("train", 200)
    sizes = source.sizes()
    assert sizes.min() >= 32
    assert sizes.max() <= 64
    assert len(np.unique(sizes, axis=0)) > 100
    assert {len(source[index]["video"]) for index in range(0, 200, 5)} == {4, 5, 6, 7, 8}


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("kind", range(4))
def test_a_motion_played_backwards_is_its_opposite_bit_for_bit(index, kind):
    source = DigitClips("train", 8)
    backwards, forwards = (source.render(index, 2 * kind + way) for way in range(2))
    np.testing.assert_array_equal(backwards[::-1], forwards)
    assert not np.array_equal(backwards, forwards)


def test_each_motion_does_what_its_name_says():
    source = DigitClips("train", 400)
    change = {name: [] for name in MOTIONS}
    for index in range(50):
        for motion in range(0, 8, 2):
            seen = middles(source.render(index, motion))
            change[MOTIONS[motion]].append(seen[-1] - seen[0])
    found = {name: np.array(values) for name, values in change.items() if values}
    assert (found["left"][:, 1] < -0.03).mean() > 0.9
    assert (np.abs(found["left"][:, 0]) < 0.03).mean() > 0.9
    assert (found["up"][:, 0] < -0.03).mean() > 0.9
    assert (np.abs(found["up"][:, 1]) < 0.03).mean() > 0.9
    assert (found["shrinks"][:, 2] < -0.02).mean() > 0.9
    assert (found["fades"][:, 3] < 0).mean() > 0.9
    for axis in range(2):
        assert np.median(np.abs(found["fades"][:, axis])) < 0.03


def distance(one, other, axis):
    """Between two distributions, of Kolmogorov and Smirnov."""
    one, other = (np.sort(np.array(values)[:, axis]) for values in (one, other))
    at = np.concatenate([one, other])
    return np.abs(np.searchsorted(one, at, "right") / len(one) - np.searchsorted(other, at, "right") / len(other)).max()


def test_a_frame_taken_out_says_nothing_of_the_class():
    """Of each class the frames, taken at random, have one distribution: of place and size, by Kolmogorov and Smirnov.

    The last frames of the classes, for comparison, are told apart by the same test.
    """
    source = DigitClips("train", 1200)
    generator = np.random.default_rng(0)
    drawn, last = ([[] for _ in MOTIONS] for _ in range(2))
    for index in range(len(source)):
        video = source[index]["video"]
        seen = middles(video[[generator.integers(len(video)), -1]])
        drawn[index % 8].append(seen[0])
        last[index % 8].append(seen[1])
    pairs = [(one, other, axis) for one in range(8) for other in range(one) for axis in range(4)]
    # Two samples of n values each differ by so much once in twenty times, however many pairs are looked at.
    most = np.sqrt(-np.log(0.05 / len(pairs) / 2) / len(drawn[0]))
    assert max(distance(drawn[one], drawn[other], axis) for one, other, axis in pairs) < most
    assert distance(last[0], last[1], 1) > 2 * most


@pytest.mark.parametrize(
    "settings", [{"split": "test"}, {"num_clips": 0}, {"frames": (1, 4)}, {"frames": (6, 4)}, {"sides": (8, 64)}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(UserError):
        DigitClips(**{"split": "train", **settings})
