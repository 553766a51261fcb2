"""The folder of a run: what lies where, and whether this config may go on in it."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitjax.config import to_json
from vitjax.errors import UserError

__all__ = ["RunFolder", "drop_rows_after", "open_run_folder", "read_rows"]

_MAY_CHANGE = (
    "workdir",
    "steps",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "keep_checkpoints",
    "best_metric",
    "log_examples",
    "mesh",
    "sharding_rules",
)
"""Top-level keys that may differ from the config that a run began with; they change no number of a step, save that the
length of the run stretches its schedule."""

_SHOWN = 5  # differing settings that a message names


@dataclass(frozen=True)
class RunFolder:
    """Names inside a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The run's config as JSON."""
        return self.root / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per log or evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def examples(self) -> Path:
        """Ids of the examples of every step, with `log_examples`."""
        return self.root / "examples.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.root / "tensorboard"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.root / "plots"

    @property
    def checkpoints(self) -> Path:
        """Orbax checkpoints, named by step."""
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        """The bundle with the best score."""
        return self.root / "best"


def _has_progress(folder: RunFolder) -> bool:
    saved = folder.checkpoints.iterdir() if folder.checkpoints.exists() else ()
    return folder.best.exists() or any(path.name.isdecimal() for path in saved)


def open_run_folder(config: ConfigDict, *, write: bool = True) -> RunFolder:
    """Makes the folder, or checks that the run in it is this config's, and stores the config.

    A folder whose run was refused or stopped before its first checkpoint holds nothing to go on from, and takes any
    config.

    Args:
        config: of the run.
        write: whether this process writes, which one of many does.

    Raises:
        UserError: the folder holds another config's run, or something that is no run.
    """
    folder = RunFolder(Path(str(config.workdir)))
    if folder.root.exists() and not folder.root.is_dir():
        raise UserError(f"`workdir={config.workdir}` is a file; give a folder with --config.workdir=PATH")
    if folder.config.exists() and _has_progress(folder):
        different = _differences(json.loads(folder.config.read_text()), json.loads(to_json(config)))
        if different:
            raise UserError(
                f"`workdir={config.workdir}` holds a run of another config: {_some(different)}; "
                f"give another folder with --config.workdir=PATH, or delete {config.workdir} to start over"
            )
    elif not folder.config.exists() and folder.checkpoints.exists():
        raise UserError(
            f"`workdir={config.workdir}` holds checkpoints but no config.json to check them against; "
            "give another folder with --config.workdir=PATH"
        )
    if write:
        folder.plots.mkdir(parents=True, exist_ok=True)
        _write_atomically(folder.config, to_json(config))
    return folder


def _some(differences: list[str]) -> str:
    more = len(differences) - _SHOWN
    return "; ".join(differences[:_SHOWN]) + (f"; and {more} more settings" if more > 0 else "")


def _differences(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    before, after = _leaves(stored), _leaves(given)
    absent = "absent"
    return [
        f"`{name}` was {before.get(name, absent)!r} and is {after.get(name, absent)!r}"
        for name in {**before, **after}
        if name.split(".")[0] not in _MAY_CHANGE and before.get(name, absent) != after.get(name, absent)
    ]


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        items = [_leaves(value, f"{prefix}.{name}" if prefix else name) for name, value in node.items()]
        return {name: value for item in items for name, value in item.items()}
    return {prefix: node}


def drop_rows_after(path: Path, step: int) -> None:
    """Removes the rows of steps that a resumed run makes again, and a last row that was cut off."""
    if not path.exists():
        return
    kept = [json.dumps(row) + "\n" for row in read_rows(path) if row.get("step", 0) <= step]
    _write_atomically(path, "".join(kept))


def read_rows(path: Path) -> Iterable[dict[str, Any]]:
    """The objects of a JSON-lines file, up to the first that is cut off."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _write_atomically(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    os.replace(fresh, path)
