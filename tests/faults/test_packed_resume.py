"""`configs/navit.py` killed from outside, half-filled rows, worker processes and all, ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 8


def start(workdir):
    settings = (
        f"workdir={workdir}", f"steps={STEPS}", "log_every=1", f"evaluate_every={STEPS}", "checkpoint_every=1",
        "log_examples=true", "model.depth=1", "model.dropout_rate=0.1", "schedule.warmup_steps=2",
    )  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "train.py", "--config", "configs/navit.py", *(f"--config.{text}" for text in settings)],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def examples(workdir):
    file = workdir / "examples.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kill_after(process, workdir, steps):
    limit = time.monotonic() + 200
    while len(examples(workdir)) < steps and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)  # worker processes hold the output open: they end with their parent
    assert process.returncode == -signal.SIGKILL


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def final_state(workdir):
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints" / str(STEPS)
    position = json.loads((folder / "position" / "metadata").read_text())
    return ocp.PyTreeCheckpointer().restore(folder / "state"), position


@pytest.mark.slow
def test_killed_twice_and_resumed(tmp_path):
    finish(start(tmp_path / "whole"))
    for steps in (2, 5):
        kill_after(start(tmp_path / "killed"), tmp_path / "killed", steps)
    assert "resuming" in finish(start(tmp_path / "killed"))

    (state, position), (expected, expected_position) = (final_state(tmp_path / name) for name in ("killed", "whole"))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), state, expected)
    assert position == expected_position
    assert any(packer["open"] for packer in position["packers"].values())  # half-filled rows were saved
    assert [row["step"] for row in examples(tmp_path / "killed")] == list(range(1, STEPS + 1))
    assert examples(tmp_path / "killed") == examples(tmp_path / "whole")
