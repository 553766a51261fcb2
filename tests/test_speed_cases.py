"""The rows that `python -m benchmarks speed` and `convolutions` print, without their measurements."""

import numpy as np
import pytest

from benchmarks import convolutions, torch_side, turns
from benchmarks.mobile_speed import mobile_rows
from benchmarks.report import Options


@pytest.fixture
def sides(monkeypatch):
    """The sides that would have been started; each seems to take a second."""
    started = []

    def measure(sides, *, repeats, round_seconds):
        started.extend(sides)
        return [[1.0] * repeats for _ in sides]

    for module in (turns, convolutions):
        monkeypatch.setattr(module, "measure_in_turns", measure)
    return started


def test_the_mobile_family_meets_every_peer(sides):
    cases = [row.case for row in mobile_rows(Options(repeats=1))]
    assert len(cases) == len(set(cases))
    for model in ("efficientvit_m0", "efficientvit_m2", "mobilevit_xxs", "mobilevit_s", "mobilevitv2_100"):
        for work in ("batch 1 fused latency", "batch 16 fused throughput"):
            assert f"{model} {work} vs timm, eager" in cases
            assert f"{model} {work} vs timm, torch.compile" in cases
    assert "resnet50 batch 16 training step vs timm, channels_last" in cases
    assert {side.module for side in sides} == {f"benchmarks.peers.{name}_mobile" for name in ("ours", "timm")}


def test_only_what_is_asked_for_is_started(sides):
    rows = list(mobile_rows(Options(repeats=1, case="mobilevit_s batch 1 *torch.compile")))
    assert [row.case for row in rows] == ["mobilevit_s batch 1 fused latency vs timm, torch.compile"]
    assert len(sides) == 2


def test_each_shape_marks_the_form_that_is_chosen(sides):
    rows = list(convolutions.rows(Options(repeats=1, case="forward")))
    chosen = [row.case for row in rows if "(chosen)" in row.case]
    assert len(chosen) == len({row.case.split(" forward")[0] for row in rows})
    assert "depthwise 3x3 64 at 112 forward, convolve_by_shifts (chosen) vs torch" in chosen


def test_torchs_folded_networks_compute_the_same():
    torch = pytest.importorskip("torch")
    torch_side.import_torch()
    pytest.importorskip("timm")
    from benchmarks.comparison import random_batch_norms
    from benchmarks.parity_cases_mobilevit import small_timm
    from benchmarks.peers.timm_mobile import fold

    model = small_timm().eval()
    random_batch_norms(model, 0)
    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images).numpy()
        folded = fold(model)
        np.testing.assert_allclose(folded(images).numpy(), expected, atol=1e-4)
    assert not any(hasattr(module, "running_var") for module in folded.modules())
