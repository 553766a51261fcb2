"""Two processes on this machine train as one does, and either kind resumes the other's run."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

PROGRAM = Path(__file__).parent / "fake_run.py"


def start(workdir, *settings, process=None, **variables):
    one_device = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
    environment = os.environ | {"XLA_FLAGS": one_device, "TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    if process is not None:
        environment["PROCESS"] = process
    arguments = [sys.executable, str(PROGRAM), str(workdir), "steps=6", "log_every=1", *settings]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_two(workdir, *settings, **variables):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = ('mesh={"data":-1,"fsdp":1,"tensor":1}', *settings)
    return [start(workdir, *both, process=f"{address},2,{number}", **variables) for number in range(2)]


def finish(*processes):
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def losses(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in found]


def test_two_processes_equal_one_and_resume_each_other(tmp_path):
    finish(start(tmp_path / "one"))
    first, second = finish(*start_two(tmp_path / "two"))
    assert "2 x cpu in 2 processes" in first
    assert "step 1" not in second  # one process speaks
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    scores = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    assert scores["images"] == 21

    killed = start(tmp_path / "mixed", KILL_AT="5", KILL_WITH=str(int(signal.SIGTERM)))
    killed.communicate(timeout=240)
    first, _ = finish(*start_two(tmp_path / "mixed"))
    assert "resuming" in first
    np.testing.assert_allclose(losses(tmp_path / "mixed"), losses(tmp_path / "one"), rtol=1e-5)
