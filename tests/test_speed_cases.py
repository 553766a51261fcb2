"""The rows that `python -m benchmarks speed` and some others print, without their measurements."""

import numpy as np
import pytest

from benchmarks import convolutions, packed_attention, packed_throughput, packing, torch_side, turns
from benchmarks.chips import PEAKS, peak_of, training_flops
from benchmarks.mobile_speed import mobile_rows
from benchmarks.peers.ours_tokens import build
from benchmarks.report import Options


@pytest.fixture
def sides(monkeypatch):
    """The sides that would have been started; each seems to take a second."""
    started = []

    def measure(sides, *, repeats, round_seconds):
        started.extend(sides)
        return [[1.0] * repeats for _ in sides]

    for module in (turns, convolutions, packed_throughput):
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


def test_packed_rows_meet_the_plain_vit(sides):
    cases = [row.case for row in packed_throughput.rows(Options(repeats=1))]
    assert len(cases) == len(set(cases))
    for work in ("forward", "training step"):
        for images in ("8 images a row", "16 images a row", "mixed images"):
            assert {f"NaViT-S/16{note} {work}, {images} vs ViT" for note in ("", " light")} <= set(cases)
    assert len(sides) == 3 * 6
    assert all(side.settings["model"]["width"] == 384 for side in sides)


def test_only_one_packed_form_is_started(sides):
    assert len(list(packed_throughput.rows(Options(repeats=1, case="light training step, 8 images")))) == 1
    assert [side.settings["form"] for side in sides] == ["packed_light", "plain"]


@pytest.mark.parametrize("form", ["plain", "packed", "packed_light"])
def test_both_sides_count_the_same_tokens(form):
    square = {"low": [8, 8], "high": [8, 8], "grid": [8, 8], "max_images": 4, "rows": 1, "length": 256}
    model = {"width": 16, "depth": 1, "num_heads": 2, "mlp_width": 16}
    assert build(square | {"form": form, "train": False, "model": model})() == 256


def test_attention_is_timed_by_images_and_by_length(sides):
    rows = list(packed_attention.rows(Options(repeats=1)))
    assert [row.case for row in rows[:3]] == [
        f"buckets, row of 1024, {images} vs segment_mask"
        for images in ("1 image of 1024", "4 images of 256", "16 images of 64")
    ]
    assert {side.settings["length"] for side in sides} == {1024, 2048, 4096}
    assert rows[-1].ours == pytest.approx(0, abs=1e-9)  # the sides took a second each, whatever the length


@pytest.fixture
def few_images(monkeypatch):
    """Enough for a steady state."""
    monkeypatch.setattr(packing, "_COUNT", 3000)


@pytest.mark.usefixtures("few_images")
def test_the_papers_stream_is_padded_by_less_than_a_per_cent():
    (row,) = packing.rows(Options(case="padding, B.1, 256: SubsetFit*"))
    assert row.max < 1
    assert row.peer > row.ours


@pytest.mark.usefixtures("few_images")
def test_what_a_core_packs_is_held_against_accelerators():
    _, tokens, *chips = packing.rows(Options(repeats=1, case="*, ready patches,*"))
    assert [row.ours for row in chips] == [16 * tokens.ours] * 2
    assert chips[1].peer / chips[0].peer == pytest.approx(PEAKS["NVIDIA H200"] / PEAKS["TPU v5 lite"])
    # 85.7 million weights in the blocks and the patch embedding, 6 operations for each; attention and pooling besides
    assert 1 < training_flops("navit_base_patch16", (112, 112)) / (6 * 85.5e6) < 1.1
    assert peak_of("NVIDIA H200 141GB") == PEAKS["NVIDIA H200"]
    assert peak_of("cpu") is None


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
