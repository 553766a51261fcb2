"""The comparison of plain and re-attention blocks, end to end at a size for tests; it goes on where it was stopped."""

import json

import numpy as np
import pytest

from vitjax.analysis.attention_maps import attention_of_pictures
from vitjax.config import load_config_file
from vitjax.inference.bundle import load
from vitjax.programs import deepvit
from vitjax.programs.deepvit import compare_reattention
from vitjax.training.fit import RunSummary

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]


def small(tmp_path, *more):
    overrides = ["steps=2", "evaluate_every=2", "checkpoint_every=1", "log_every=1", "schedule.warmup_steps=1"]
    overrides += ["model.depth=2", "model.width=16", "model.mlp_width=16", "train.batch_size=8", "train.workers=0"]
    overrides += [f"workdir={tmp_path / 'run'}", *more]
    return load_config_file("configs/deepvit.py", overrides)


@pytest.mark.long  # tests/test_configs.py runs it as well
def test_it_trains_both_and_says_how_alike_their_blocks_are(tmp_path, capsys):
    # accumulation, mixed precision, a moving average and a sharded batch at once: batch norm has to bear them all
    more = ["accumulate_steps=2", "model.dtype=bfloat16", "ema_decay=0.9", "mesh.data=2"]
    comparison = compare_reattention(small(tmp_path, *more), images=4)
    assert not comparison.interrupted
    assert [run.step for run in comparison.runs.values()] == [2, 2]
    rows = json.loads((tmp_path / "run" / "table.json").read_text())
    assert [row["model"] for row in rows] == ["plain", "re-attention"]
    assert all(row["blocks"] == 2 and 0 <= row["similar_blocks"] <= 1 for row in rows)
    assert "similar blocks" in capsys.readouterr().out
    drawn = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert {"layer_similarity.png", "head_similarity.png", "heads_plain.png", "rollout_re-attention.png"} <= drawn
    plain, mixed = load(tmp_path / "run" / "plain"), load(tmp_path / "run" / "re-attention")
    assert "batch_stats" not in plain.variables
    mean = mixed.variables["batch_stats"]["block_1"]["reattention"]["norm"]["mean"]
    assert np.abs(mean).max() > 0  # the running statistics of training are kept with the best model
    assert attention_of_pictures(mixed, np.full((40, 40, 3), 99, np.uint8))[0].grid == (4, 4)


def test_an_interrupted_run_ends_it(tmp_path, monkeypatch):
    def stopped(config):
        return RunSummary(tmp_path, 1, {}, None, interrupted=True, compilations=1, seconds=0.0)

    monkeypatch.setattr(deepvit, "fit", stopped)
    comparison = compare_reattention(small(tmp_path))
    assert comparison.interrupted
    assert list(comparison.runs) == ["plain"]
