"""The benchmark of attention over more and more tokens: its slopes and its picture."""

import pytest

from benchmarks.attention_scaling import TOKENS, draw, layers, slope


def test_the_slope_is_the_exponent():
    assert slope({tokens: 3.0 * tokens**1.5 for tokens in TOKENS}) == pytest.approx(1.5)
    flat_at_first = {tokens: max(1.0, tokens / 256) for tokens in TOKENS}
    assert slope(flat_at_first) == pytest.approx(1.0)


def test_both_layers_run_and_a_picture_is_drawn(tmp_path):
    separable, multi_head = layers(4)
    assert separable().shape == (1, 4, 1, 128)
    assert multi_head().shape == (4, 128)
    draw({"one": {64: 1.0, 128: 2.0}, "other": {64: 1.0, 128: 4.0}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
