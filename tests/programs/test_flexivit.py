"""The whole experiment, tiny: training at random patch sizes, one compilation each, a table and a plot."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitjax.config import load_config_file
from vitjax.training.program import run_config

CONFIG = Path(__file__).parents[2] / "configs" / "flexivit.py"


@pytest.mark.long  # tests/test_configs.py runs it as well
@pytest.mark.usefixtures("quick_compilation")
def test_train_and_evaluate_at_every_grid(tmp_path):
    overrides = [
        f"workdir={tmp_path / 'run'}", "steps=8", "evaluate_every=8", "checkpoint_every=8", "log_every=1", "size=24",
        "model.depth=1", "model.width=32", "model.mlp_width=32", "train.batch_size=16", "train.workers=0",
        "train.grids=(2,3)", "evaluation.batch_size=512", "model.position_grid=3", "schedule.warmup_steps=1",
        "program.grids=(2,3)", "mesh.data=1", "ema_decay=None", "program.fixed_grid=3",
    ]  # fmt: skip
    result = run_config(load_config_file(CONFIG, overrides).unlock())
    assert not result.interrupted
    assert result.runs["flexible"].compilations == 2
    assert result.runs["fixed"].compilations == 1
    assert [(row["model"], row["grid"], row["patch_size"], row["tokens"]) for row in result.rows] == [
        (model, side, 24 / side, side**2) for model in ("flexible", "fixed") for side in (2, 3)
    ]
    assert all(np.isfinite(row["loss"]) and 0 <= row["top1"] <= 1 for row in result.rows)
    assert json.loads((tmp_path / "run" / "table.json").read_text()) == list(result.rows)
    assert (tmp_path / "run" / "plots" / "patch_sizes.png").stat().st_size > 5_000
    # What was evaluated in training is the grid of the default patch, 8 px.
    assert result.rows[1]["top1"] == pytest.approx(result.runs["flexible"].best_score)
