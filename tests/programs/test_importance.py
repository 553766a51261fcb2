"""The whole experiment, tiny: training, importance, pruning, training on; a table and a plot."""

import json
from pathlib import Path

import pytest

import vitjax
from vitjax.config import load_config_file
from vitjax.training.program import run_config

CONFIG = Path(__file__).parents[2] / "configs" / "pruning.py"


@pytest.mark.long
def test_train_prune_and_train_on(tmp_path):
    overrides = [
        f"workdir={tmp_path / 'run'}", "steps=2", "evaluate_every=2", "checkpoint_every=2", "log_every=1", "size=16",
        "model.depth=2", "model.width=16", "model.mlp_width=24", "train.batch_size=8", "train.workers=0",
        "evaluation.batch_size=512", "schedule.warmup_steps=1", "program.batches=1", "program.tune_steps=2",
        "mesh.data=1", "ema_decay=None",
    ]  # fmt: skip
    result = run_config(load_config_file(CONFIG, overrides).unlock())
    assert not result.interrupted
    whole, pruned, tuned = result.rows
    sizes = vitjax.load(tmp_path / "run" / "pruned").module.channel_sizes
    hidden, query = (sum(size for place, size in sizes if place.endswith(unit)) for unit in ("hidden", "query"))
    assert hidden == 24  # of twice 24; heads round the queries'
    # A channel of the MLP has two kernels and a bias, one of queries and keys each a kernel and a bias.
    lost = (48 - hidden) * (2 * 16 + 1) + (32 - query) * 2 * (16 + 1)
    assert whole["parameters"] - pruned["parameters"] == lost
    assert pruned["parameters"] == tuned["parameters"]
    assert pruned["macs"] < whole["macs"]
    assert json.loads((tmp_path / "run" / "table.json").read_text()) == list(result.rows)
    assert (tmp_path / "run" / "plots" / "importance.png").stat().st_size > 5_000
    assert vitjax.load(tmp_path / "run" / "tuned").module.channel_sizes == sizes
