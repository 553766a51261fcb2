"""`train.py` as a person calls it: in its own process, on the data they point it at."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vitjax
from tests.data.folder_fixture import write_jpeg_folder
from tests.data.tfds_fixture import write_tiny_tfds

ROOT = Path(__file__).parent.parent
SHORT = [
    "--config.steps=4",
    "--config.evaluate_every=4",
    "--config.checkpoint_every=2",
    "--config.log_every=1",
    "--config.schedule.warmup_steps=1",
    "--config.model.depth=1",
]


def train(*arguments, timeout=240):
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1")}
    return subprocess.run(
        [sys.executable, "train.py", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


README_SETTINGS = re.findall(r"--config\.(?:model|train|evaluation)\.\S+", (ROOT / "README.md").read_text())
"""What the README sets for a folder of pictures."""


def losses(workdir):
    rows = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row.get("kind") == "train"]


@pytest.mark.slow
def test_the_same_config_trains_on_a_folder_of_jpegs(tmp_path):
    write_jpeg_folder(tmp_path / "shapes", classes=3, per_class=20)
    done = train(
        "--config", "configs/navit.py", f"--config.data=folder:{tmp_path / 'shapes'}",
        f"--config.workdir={tmp_path / 'run'}", *README_SETTINGS, *SHORT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.isfinite(losses(tmp_path / "run")).all()
    model = vitjax.load(tmp_path / "run" / "best")
    pictures = sorted((tmp_path / "shapes").rglob("*.jpg"))[:3]
    names = {result.top1.label for result in model.predict(pictures)}
    assert names <= {folder.name for folder in (tmp_path / "shapes").iterdir() if folder.is_dir()}


@pytest.mark.slow
def test_the_same_config_trains_on_a_tfds_data_set(tmp_path):
    write_tiny_tfds(tmp_path / "tfds", name="tiny_shapes", num_train=48, num_validation=12)
    done = train(
        "--config", "configs/navit.py", "--config.data=tfds:tiny_shapes",
        f"--config.data_dir={tmp_path / 'tfds'}", f"--config.workdir={tmp_path / 'run'}", *SHORT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.isfinite(losses(tmp_path / "run")).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["usage", "configs/navit.py"]),
        (("--config", "configs/absent.py"), ["absent.py", "configs/navit.py"]),
        (("--config", "configs/navit.py", "--config.optimiser.lr=1"), ["optimiser", "optimizer"]),
        (("--config", "configs/navit.py", "--config.steps=many"), ["steps", "many"]),
        (("--config", "configs/navit.py", "--config.data=folder:/no/such/place"), ["/no/such/place"]),
        (("--config", "configs/navit.py", "--config.train.rows=15"), ["rows", "packers"]),
        (("--config", "configs/navit.py", "--config.train.length=16"), ["length", "resolution"]),
        (("--config", "configs/vit.py", "--config.size=50"), ["image_size", "patch_size"]),
    ],
)
def test_a_mistake_gets_one_line_and_no_traceback(arguments, words, tmp_path):
    if arguments:
        arguments = (*arguments, f"--config.workdir={tmp_path / 'run'}")
    done = train(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = done.stderr + done.stdout
    assert all(word in said for word in words), said
    if arguments:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
