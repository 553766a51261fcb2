"""A run that is killed, at whatever moment, ends with the same bits as one that is not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vitjax.training.interruption import EXIT_INTERRUPTED

PROGRAM = Path(__file__).parents[1] / "training" / "fake_run.py"


def run(cache, workdir, *settings, kill_at=None, kill_with=signal.SIGKILL):
    # One device and a shared compile cache: only the first run compiles.
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if kill_at is not None:
        environment |= {"KILL_AT": str(kill_at), "KILL_WITH": str(int(kill_with))}
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(workdir), "steps=8", "log_every=1", *settings],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def rows(workdir, name):
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def checkpoint(workdir, step):
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints" / str(step)
    position = json.loads((folder / "position" / "metadata").read_text())
    return ocp.PyTreeCheckpointer().restore(folder / "state"), position


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def uninterrupted(cache, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finished = run(cache, workdir, "checkpoint_every=1")
    assert finished.returncode == 0, finished.stderr
    return workdir


def assert_same_run(workdir, reference):
    ours, theirs = checkpoint(workdir, 8), checkpoint(reference, 8)
    assert jax.tree.structure(ours[0]) == jax.tree.structure(theirs[0])
    assert any("ema_params" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(ours[0]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), ours[0], theirs[0])
    assert ours[1] == theirs[1]
    assert rows(workdir, "examples.jsonl") == rows(reference, "examples.jsonl")
    losses = [[row["loss"] for row in rows(folder, "metrics.jsonl")] for folder in (workdir, reference)]
    assert losses[0] == losses[1]


def test_killed_twice_and_resumed(cache, uninterrupted, tmp_path):
    for kill_at in (4, 7):
        killed = run(cache, tmp_path, "checkpoint_every=1", kill_at=kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run(cache, tmp_path, "checkpoint_every=1")
    assert finished.returncode == 0, finished.stderr
    assert "resuming" in finished.stdout
    assert_same_run(tmp_path, uninterrupted)


def test_sigterm_saves_and_exits_with_its_own_code(cache, uninterrupted, tmp_path):
    stopped = run(cache, tmp_path, "checkpoint_every=100", kill_at=5, kill_with=signal.SIGTERM)
    assert stopped.returncode == EXIT_INTERRUPTED, stopped.stderr
    assert "interrupted: step 4 of 8 is saved" in stopped.stdout
    assert (tmp_path / "checkpoints" / "4").is_dir()
    finished = run(cache, tmp_path, "checkpoint_every=100")
    assert "resuming" in finished.stdout
    assert_same_run(tmp_path, uninterrupted)
