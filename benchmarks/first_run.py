"""From an empty virtual environment to a trained NaViT: installation, first line, training, accuracy.

    python -m benchmarks first_run

makes an environment in a temporary folder, installs this checkout into it with pip, and runs README's first command
there. What a package index and a network add to the installation is theirs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Options, Row

_ROOT = Path(__file__).resolve().parents[1]
_BOUNDS = {"total": 360.0, "first line": 10.0, "training": 180.0, "top1": 0.97, "padding": 0.02, "data wait": 0.05}


def rows(options: Options) -> Iterator[Row]:
    """One run, whatever the number of repeats: each is minutes long."""
    if not any(options.wants(f"first_run {part}") for part in ("install", *_BOUNDS)):
        return
    with tempfile.TemporaryDirectory(prefix="vitjax-first-run-") as folder:
        began = time.perf_counter()
        python = _install(Path(folder) / "venv")
        installed = time.perf_counter()
        yield Row.alone("first_run install", installed - began, "s")
        workdir = Path(folder) / "run"
        first_line = _train(python, workdir)
        ended = time.perf_counter()
        yield _below("first_run first line (bound 10)", first_line, _BOUNDS["first line"], "s")
        yield _below("first_run training (bound 180)", ended - installed, _BOUNDS["training"], "s")
        yield from _logged_rows(workdir / "metrics.jsonl")
        yield _below("first_run total (bound 360)", ended - began, _BOUNDS["total"], "s")


def _logged_rows(metrics: Path) -> Iterator[Row]:
    """The last evaluation's accuracy, and means over the steps."""
    logged = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    train, evaluation = ([row for row in logged if row["kind"] == kind] for kind in ("train", "evaluation"))
    top1, bound = evaluation[-1]["top1"], _BOUNDS["top1"]
    yield Row("first_run top1 (bound 0.97)", top1, bound, top1 / bound, None, None, "share")
    for part, name in (("padding", "padding_share"), ("data wait", "data_wait")):
        mean = statistics.fmean(row[name] for row in train)
        yield _below(f"first_run {part} (bound {_BOUNDS[part]})", mean, _BOUNDS[part], "share")


def _below(case: str, value: float, bound: float, unit: str) -> Row:
    return Row(case, value, bound, bound / value if value else None, None, None, unit)


def _install(folder: Path) -> Path:
    """An environment with nothing but pip, then this checkout and what it needs."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(_ROOT)], check=True)
    return python


def _train(python: Path, workdir: Path) -> float:
    """Runs README's first command, nothing compiled before; returns the seconds to the line that names the device."""
    command = [str(python), "train.py", "--config", "configs/navit.py", f"--config.workdir={workdir}"]
    began, first = time.perf_counter(), None
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "PYTHONPATH"))}
    environment["XDG_CACHE_HOME"] = str(workdir.parent / "cache")
    with subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if first is None and line.startswith("vitjax "):
                first = time.perf_counter() - began
            print(line, end="", file=sys.stderr)
    if process.returncode or first is None:
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}; its output is above")
    return first
