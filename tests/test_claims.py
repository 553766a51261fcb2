"""The arithmetic of `benchmarks.claims`, and the configs of its runs."""

import numpy as np
import pytest

from benchmarks.claims.navit import MODELS, compute_for, ratios, run_settings
from vitjax.config import build
from vitjax.data.loading import Shards


def test_compute_is_read_on_a_line_over_log_compute_and_log_error():
    # error falls from 0.4 to 0.1 over a factor of 4 in compute: it is 0.2 at a factor of 2
    assert compute_for(0.8, [1.0, 4.0], [0.6, 0.9]) == (pytest.approx(2.0), 0)
    assert compute_for(0.9, [1.0, 4.0], [0.6, 0.9]) == (pytest.approx(4.0), 0)
    assert compute_for(0.6, [1.0, 4.0], [0.6, 0.9]) == (1.0, 0)


@pytest.mark.parametrize(("accuracy", "expected"), [(0.5, (1.0, -1)), (0.95, (4.0, 1))])
def test_beyond_the_curve_compute_is_a_bound(accuracy, expected):
    assert compute_for(accuracy, [1.0, 4.0], [0.6, 0.9]) == expected


def test_a_curve_that_sinks_is_read_where_it_first_reaches_the_accuracy():
    assert compute_for(0.8, [1.0, 2.0, 4.0], [0.8, 0.7, 0.9]).compute == 1.0


def test_the_ratio_of_a_model_that_needs_twice_the_compute():
    ours = np.array([[0.5, 0.75, 0.875]] * 3)
    ratio, low, high, side = ratios(ours, np.array([0.75] * 3), 4.0, [1.0, 2.0, 4.0])
    assert (ratio, side) == (pytest.approx(2.0), 0)
    assert low == pytest.approx(2.0) == high  # seeds that agree leave nothing to draw


def test_seeds_that_differ_widen_the_range():
    ours = np.array([[0.5, 0.7, 0.9], [0.6, 0.8, 0.92], [0.55, 0.7, 0.95]])
    ratio, low, high, _ = ratios(ours, np.array([0.7, 0.8, 0.75]), 4.0, [1.0, 2.0, 4.0])
    assert low < ratio < high


@pytest.mark.parametrize("model", MODELS)
def test_models_see_as_many_tokens_a_step_of_the_same_trunk(model):
    config, other = run_settings(model, 64, 1), run_settings("NaViT", 64, 1)
    train = build(config.train)
    assert train.rows * train.length == pytest.approx(2048, rel=0.02)
    assert (config.model, config.task, config.schedule) == (other.model, other.task, other.schedule)
    stream = train.stream(0, Shards())
    batch = next(stream)
    stream.close()
    share = (batch["segments"] > 0).mean()
    assert share > 0.97, "padding would be paid for"
