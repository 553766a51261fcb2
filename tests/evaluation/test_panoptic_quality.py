"""Panoptic quality against a plain statement of COCO's rules, and what becomes of empty pictures, void and crowds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.evaluation.panoptic_quality import NUMBERS, PanopticQuality

IS_STUFF = np.array([False, False, True])


def draw(seed, side=6, most=5):
    """Two maps that overlap a lot, labels of each, and crowds, at most one of a class: COCO's annotations have one."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, most + 1, (side // 2, side)).repeat(2, axis=0)
    found = np.where(generator.random(truth.shape) < 0.7, truth, generator.integers(0, most + 1, truth.shape))
    labels = generator.integers(0, 3, most)
    found_labels = np.where(generator.random(most) < 0.7, labels, generator.integers(0, 3, most))
    crowd = np.zeros(most, bool)
    for label in range(2):
        if generator.random() < 0.5 and (labels == label).any():
            crowd[np.flatnonzero(labels == label)[0]] = True
    return found, found_labels, truth, labels, crowd


def plain_counts(found, found_labels, truth, labels, crowd):
    """Right overlaps, found in vain and missed, as lists of (class, overlap); pixel sets and loops."""

    def pixels(numbers, count):
        return [set(zip(*np.nonzero(numbers == n), strict=True)) for n in range(1, count + 1)]

    found_sets, true_sets = pixels(found, len(found_labels)), pixels(truth, len(labels))
    void = set(zip(*np.nonzero(truth == 0), strict=True))
    right, in_vain, missed, used, met = [], [], [], set(), set()
    for t, true_set in enumerate(true_sets):
        for f, found_set in enumerate(found_sets):
            union = (true_set | found_set) - (found_set & void)
            if not true_set or not found_set or crowd[t] or labels[t] != found_labels[f]:
                continue
            overlap = len(true_set & found_set) / len(union)
            if overlap > 0.5:
                right.append((labels[t], overlap))
                used.add(f)
                met.add(t)
    for t, true_set in enumerate(true_sets):
        if true_set and t not in met and not crowd[t]:
            missed.append(labels[t])
    for f, found_set in enumerate(found_sets):
        if not found_set or f in used:
            continue
        excused = set(void)
        for t, true_set in enumerate(true_sets):
            excused |= true_set if crowd[t] and labels[t] == found_labels[f] else set()
        if not len(found_set & excused) / len(found_set) > 0.5:
            in_vain.append(found_labels[f])
    return right, in_vain, missed


@settings(deadline=None, max_examples=60)
@given(seeds=st.lists(st.integers(0, 2**20), min_size=1, max_size=4))
def test_it_is_cocos(seeds):
    quality, right, in_vain, missed = PanopticQuality(IS_STUFF), [], [], []
    for seed in seeds:
        drawn = draw(seed)
        quality.add(*drawn)
        for whole, part in zip((right, in_vain, missed), plain_counts(*drawn), strict=True):
            whole.extend(part)
    values = {}
    for label in range(3):
        overlaps = [overlap for number, overlap in right if number == label]
        halves = len(overlaps) + (in_vain.count(label) + missed.count(label)) / 2
        if halves:
            shared = sum(overlaps)
            values[label] = (shared / halves, shared / max(len(overlaps), 1), len(overlaps) / halves)
    expected = {}
    for part, classes in (("", (0, 1, 2)), ("_things", (0, 1)), ("_stuff", (2,))):
        rows = [values[label] for label in classes if label in values]
        for place, name in enumerate(("PQ", "SQ", "RQ")):
            expected[name + part] = np.mean([row[place] for row in rows]) if rows else -1
    numbers = quality.numbers()
    assert numbers.keys() == set(NUMBERS)
    assert numbers == pytest.approx(expected)
    assert len(quality) == len(seeds)


def nothing(side=4):
    return np.zeros((side, side), np.int32), np.zeros(0, np.int32)


def test_a_picture_found_exactly_is_perfect_and_one_missed_is_none():
    truth = np.repeat([[1, 1, 2, 3]], 4, axis=0)
    quality = PanopticQuality(IS_STUFF)
    quality.add(truth, np.array([0, 1, 2]), truth, np.array([0, 1, 2]))
    assert all(value == 1 for value in quality.numbers().values())
    quality.add(*nothing(), truth, np.array([0, 1, 2]))
    assert quality.numbers()["PQ"] == pytest.approx(2 / 3)
    assert quality.numbers()["SQ"] == 1
    np.testing.assert_array_equal(quality.counts, [[1, 1, 1], [0, 0, 0], [1, 1, 1]])


def test_nothing_anywhere_and_all_void_have_no_say():
    quality = PanopticQuality(IS_STUFF)
    quality.add(*nothing(), *nothing())
    quality.add(np.ones((4, 4), np.int32), np.array([1]), *nothing())  # all it found is void
    assert set(quality.numbers().values()) == {-1.0}
    assert not quality.counts.any()


def test_half_in_a_crowd_of_its_class_is_not_forgiven_more_is():
    truth = np.repeat([[1, 1, 2, 2]], 4, axis=0)
    labels, crowd = np.array([0, 1]), np.array([True, False])
    for columns, forgiven in ((slice(0, 3), True), (slice(0, 4), False)):
        found = np.zeros((4, 4), np.int32)
        found[:, columns] = 1
        quality = PanopticQuality(IS_STUFF)
        quality.add(found, np.array([0]), truth, labels, crowd)
        assert quality.counts[1, 0] == (0 if forgiven else 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"found_map": np.zeros((3, 4), np.int32)}, "both maps must be of one picture"),
        ({"found_map": np.full((4, 4), 2)}, r"segments 2\.\.\.2, but there are 1 classes"),
        ({"true_labels": np.array([3])}, r"true segments have classes 3\.\.\.3, expected 0\.\.\.2"),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    given = {"found_map": np.ones((4, 4), np.int32), "true_map": np.ones((4, 4), np.int32)}
    given |= {"found_labels": np.array([0]), "true_labels": np.array([0])}
    with pytest.raises(UserError, match=message):
        PanopticQuality(IS_STUFF).add(**given | change)
