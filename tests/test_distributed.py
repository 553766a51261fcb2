"""One device, eight simulated devices and two processes train the same config to the same losses."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
STEPS = 6


def start(workdir, *, devices, flags=()):
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", f"count={devices}")}
    settings = (
        f"workdir={workdir}", f"steps={STEPS}", "log_every=1", f"evaluate_every={STEPS}", "schedule.warmup_steps=2",
        "model.depth=2", "train.rows=16", "train.packers=8",
    )  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "train.py", "--config", "configs/navit.py", *(f"--config.{text}" for text in settings),
         *flags],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output


def figures(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    scores = [row for row in rows if row["kind"] == "evaluation"]
    return np.array(losses), scores[-1]


@pytest.mark.slow
def test_eight_devices_and_two_processes_give_the_losses_of_one_device(tmp_path):
    finish(start(tmp_path / "one", devices=1))
    expected, expected_scores = figures(tmp_path / "one")
    assert len(expected) == STEPS
    assert expected[-1] != expected[0]

    finish(start(tmp_path / "eight", devices=8))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    finish(
        *(
            start(
                tmp_path / "two", devices=1,
                flags=(f"--coordinator={address}", "--num_processes=2", f"--process_id={index}"),
            )
            for index in range(2)
        )
    )  # fmt: skip
    for name in ("eight", "two"):
        losses, scores = figures(tmp_path / name)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=name)
        assert scores["top1"] == expected_scores["top1"]
