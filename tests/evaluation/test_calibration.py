"""Calibration error, bins by hand and by property, and the temperature that repairs it."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.evaluation.calibration import (
    calibration_error,
    draw_reliability,
    equal_mass,
    equal_width,
    fill_bins,
    fit_temperature,
    format_bins,
    top_confidences,
)

BINNINGS = [equal_width, equal_mass]


def softmax(logits):
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def calibrated_logits(images=20000, classes=5, seed=0):
    """Labels drawn from the very probabilities that the logits say."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(images, classes))
    labels = (softmax(logits).cumsum(1) < generator.random((images, 1))).sum(1)
    return logits, np.minimum(labels, classes - 1)


def test_by_hand():
    # (0, 0.5]: 0.3 wrong, 0.5 right: |0.5 - 0.4| = 0.1; (0.5, 1]: 0.7 right, 0.9 right, 0.8 wrong: |2/3 - 0.8|
    confidences = np.array([0.3, 0.5, 0.7, 0.9, 0.8])
    correct = np.array([False, True, True, True, False])
    bins = fill_bins(confidences, correct, num_bins=2)
    assert bins.counts.tolist() == [2, 3]
    np.testing.assert_allclose(bins.confidence, [0.4, 0.8])
    np.testing.assert_allclose(bins.accuracy, [0.5, 2 / 3])
    assert calibration_error(bins) == pytest.approx((2 * 0.1 + 3 * (0.8 - 2 / 3)) / 5)
    # equal mass at two bins: the lower has 0.3 and 0.5 as well
    np.testing.assert_allclose(fill_bins(confidences, correct, num_bins=2, binning=equal_mass).edges, [0, 0.5, 1])


@pytest.mark.parametrize("binning", BINNINGS)
@given(st.lists(st.tuples(st.sampled_from(np.linspace(0, 1, 12)), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_bins_hold_each_image_once_in_any_order(binning, rows):
    confidences, correct = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    bins = fill_bins(confidences, correct, num_bins=7, binning=binning)
    assert bins.counts.sum() == len(rows)
    assert 0 <= calibration_error(bins) <= 1
    for low, high, count in zip(bins.edges[:-1], bins.edges[1:], bins.counts, strict=True):
        assert count == np.sum((confidences > low) & (confidences <= high)) + (low == 0) * np.sum(confidences == 0)
    back = fill_bins(confidences[::-1].copy(), correct[::-1].copy(), num_bins=7, binning=binning)
    np.testing.assert_array_equal(back.counts, bins.counts)
    assert calibration_error(back) == pytest.approx(calibration_error(bins))


@given(st.integers(1, 20), st.integers(0, 10))
@settings(max_examples=20, deadline=None)
def test_equal_mass_is_equal(num_bins, seed):
    confidences = np.random.default_rng(seed).random(300)
    counts = fill_bins(confidences, confidences > 0.5, num_bins=num_bins, binning=equal_mass).counts
    assert len(counts) == num_bins
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("binning", BINNINGS)
def test_calibrated_scores_have_a_small_error_and_sharpened_ones_a_large_one(binning):
    logits, labels = calibrated_logits()
    errors = [
        calibration_error(fill_bins(*top_confidences(softmax(logits / temperature), labels), binning=binning))
        for temperature in (1.0, 0.3, 3.0)
    ]
    # 20,000 images in 15 bins: a bin's share has a deviation of 0.5 / sqrt(1333) = 0.014 at most
    assert errors[0] < 0.014
    assert min(errors[1:]) > 0.1


@pytest.mark.parametrize("temperature", [0.2, 1.0, 7.0])
def test_the_temperature_is_found_again(temperature):
    logits, labels = calibrated_logits()
    found = fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.04)

    def cross_entropy(at):
        return -np.mean(np.log(softmax(logits * temperature / at)[np.arange(len(labels)), labels]))

    assert cross_entropy(found) < min(cross_entropy(found * 1.01), cross_entropy(found / 1.01))


@pytest.mark.parametrize(("labels", "limit"), [([0, 1, 2], 1 / 1000), ([1, 2, 0], 1000)])
def test_labels_without_a_finite_temperature_are_logged(labels, limit, caplog):
    with caplog.at_level(logging.WARNING, "vitjax"):
        found = fit_temperature(np.eye(3), np.array(labels))
    assert found == pytest.approx(limit, rel=1e-6)
    assert "no minimum between 1/1000 and 1000" in caplog.text


def test_probabilities_of_a_sigmoid_need_not_sum_to_one():
    confidences, correct = top_confidences(np.array([[0.9, 0.8], [0.1, 0.2]]), np.array([0, 0]))
    np.testing.assert_allclose(confidences, [0.9, 0.2])
    assert correct.tolist() == [True, False]


def test_table_and_picture(tmp_path):
    bins = fill_bins(np.array([0.95, 0.93, 0.2]), np.array([True, False, True]), num_bins=5)
    lines = format_bins(bins).splitlines()
    assert len(lines) == 7
    assert lines[1].split() == ["0.000", "...", "0.200", "1", "0.200", "1.000"]
    assert lines[2].split()[-3:] == ["0", "-", "-"]
    assert lines[5].split()[-3:] == ["2", "0.940", "0.500"]
    assert lines[6] == f"expected calibration error {(0.8 + 2 * 0.44) / 3:.4f}"
    draw_reliability(bins, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_confidences(np.array([[2.0, -1.0]]), np.array([0])), "expected probabilities in 0...1"),
        (lambda: top_confidences(np.array([[np.nan, 0.5]]), np.array([0])), "expected probabilities in 0...1"),
        (lambda: fill_bins(np.array([0.5]), np.array([True]), num_bins=0), "`num_bins` (=0)"),
        (lambda: fill_bins(np.zeros(0), np.zeros(0, bool)), "0 images"),
        (lambda: fit_temperature(np.array([[np.inf, 0.0]]), np.array([0])), "expected finite logits"),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert message in str(error.value)
