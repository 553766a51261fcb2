"""Every config in `configs/` trains for two steps, is restored from its checkpoint, and its bundle predicts."""

from pathlib import Path

import numpy as np
import pytest

import vitjax
from vitjax.config import from_json, load_config_file, to_json
from vitjax.training.fit import fit

CONFIGS = sorted(Path(__file__).parent.parent.glob("configs/**/*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_then_resume_then_predict(path, tmp_path):
    overrides = ["steps=2", "evaluate_every=2", "checkpoint_every=1", "log_every=1", "model.depth=1"]
    overrides.append("schedule.warmup_steps=1")
    overrides.append(f"workdir={tmp_path / 'run'}")
    config = load_config_file(path, overrides)
    first = fit(config)
    assert first.step == 2
    assert np.isfinite(first.scores["loss"])

    resumed = fit(load_config_file(path, [*overrides, "steps=3"]))
    assert resumed.step == 3
    assert resumed.workdir == first.workdir

    model = vitjax.load(tmp_path / "run")
    results = list(model.predict([np.full((20, 31, 3), 200, np.uint8), np.full((64, 18, 3), 20, np.uint8)]))
    assert len(results) == 2
    assert {result.top1.label for result in results} <= {str(digit) for digit in range(10)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_survives_json(path):
    config = load_config_file(path)
    assert to_json(from_json(to_json(config))) == to_json(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_says_command_cost_and_result(path):
    docstring = path.read_text().split('"""')[1]
    assert f"python train.py --config configs/{path.name}" in docstring
    assert "Cost:" in docstring
    assert "Expected:" in docstring
