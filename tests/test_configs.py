"""Every config in `configs/` trains for two steps, is restored from its checkpoint, and its bundle predicts.

`tests/test_published.py` does this for the papers' own recipes, on fakes.
"""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import vitjax
from vitjax.config import from_json, load_config_file, to_json
from vitjax.data.digit_clips import MOTIONS
from vitjax.training.program import run_config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
RUNS = [path for path in CONFIGS if load_config_file(path).get("program") is None]
PROGRAMS = [path for path in CONFIGS if path not in RUNS]


def short(path, workdir, steps=2):
    """The config with two steps of everything and one block; a program's own `..._steps` count as well."""
    config = load_config_file(path)
    counts = [name for name in config if name.endswith("steps") and name != "accumulate_steps"]
    for part in ("program", "pretraining"):
        counts += [f"{part}.{name}" for name in config.get(part) or () if name.endswith("steps")]
    overrides = [*(f"{name}=2" for name in counts), f"steps={steps}", "checkpoint_every=1", "evaluate_every=2"]
    overrides += ["log_every=1", "schedule.warmup_steps=1", f"workdir={workdir}", "mesh.data=1"]
    overrides += ["model.depth=1"] if "depth" in config.model else []
    config = load_config_file(path, overrides)
    render_few_held_back_pictures(config)
    return config


def render_few_held_back_pictures(node):
    """To draw and score all of them would take longer than all else."""
    if node.get("split") == "validation":
        for name, most in (("copies", 1), ("num_scenes", 20), ("num_clips", 20)):
            if name in node:
                node[name] = min(node[name], most)
    for child in node.values():
        if isinstance(child, ConfigDict):
            render_few_held_back_pictures(child)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_two_steps_then_resume_then_predict(path, tmp_path):
    first = run_config(short(path, tmp_path / "run"))
    assert first.step == 2
    assert np.isfinite(first.scores["loss"])

    resumed = run_config(short(path, tmp_path / "run", steps=3))
    assert resumed.step == 3
    assert resumed.workdir == first.workdir

    model = vitjax.load(tmp_path / "run")
    results = list(model.predict([np.full((20, 31, 3), 200, np.uint8), np.full((64, 18, 3), 20, np.uint8)]))
    assert len(results) == 2
    assert {result.top1.label for result in results} <= {*map(str, range(10)), *MOTIONS}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_runs_to_its_end_and_leaves_pictures(path, tmp_path):
    summary = run_config(short(path, tmp_path / "run"))
    assert not summary.interrupted
    assert list((tmp_path / "run" / "plots").glob("*.png"))


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
