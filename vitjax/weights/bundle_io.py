"""The files of a bundle: a trained model with all that is needed to use it.

A bundle is a folder with `bundle.json` (how to build model, task and preprocessing; labels; where it came from) and
`variables/` (written by orbax). It appears at its place complete or not at all.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitjax.config import from_json, to_json
from vitjax.errors import UserError

__all__ = ["BundleFiles", "read_bundle", "save_bundle"]

_JSON = "bundle.json"
_VARIABLES = "variables"


@dataclass(frozen=True)
class BundleFiles:
    """What a bundle's folder holds.

    Attributes:
        model: spec of the module.
        task: spec of the task.
        batches: spec of the evaluation batches, with `source` set to `None`.
        labels: class names in the order of the model's outputs.
        variables: `{"params": ..., ...}` as numpy arrays.
        step: updates made.
        score: of `metric`, on the evaluation data.
        metric: name of the score.
        version: of vitjax that wrote it.
    """

    model: ConfigDict
    task: ConfigDict
    batches: ConfigDict
    labels: tuple[str, ...]
    variables: dict[str, Any]
    step: int
    score: float | None
    metric: str | None
    version: str


def save_bundle(
    folder: str | Path,
    *,
    model: ConfigDict,
    task: ConfigDict,
    batches: ConfigDict,
    labels: tuple[str, ...],
    variables: dict[str, Any],
    step: int = 0,
    score: float | None = None,
    metric: str | None = None,
) -> None:
    """Writes a bundle beside `folder` and then puts it in its place, whatever was there before.

    Args:
        folder: where the bundle goes.
        model: spec of the module.
        task: spec of the task.
        batches: spec of batches; its `source` is stored as `None`.
        labels: class names.
        variables: numpy arrays, float32 parameters under "params".
        step: updates made.
        score: of `metric`.
        metric: name of the score.
    """
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _checkpointer().save((fresh / _VARIABLES).absolute(), variables)
    stored = ConfigDict(
        {
            "model": model.copy_and_resolve_references(),
            "task": task.copy_and_resolve_references(),
            "batches": {**batches.copy_and_resolve_references(), "source": None},
            "labels": tuple(labels),
            "step": step,
            "score": score,
            "metric": metric,
            "version": _version(),
        }
    )
    (fresh / _JSON).write_text(to_json(stored))
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_bundle(folder: str | Path, *, variables: bool = True) -> BundleFiles:
    """Reads what `save_bundle` wrote; builds nothing.

    Args:
        folder: of the bundle.
        variables: whether to read the arrays, or to leave them an empty dict.

    Raises:
        UserError: the folder holds no bundle, or a damaged one.
    """
    folder = Path(folder)
    if not folder.exists() and _old(folder).exists():
        os.replace(_old(folder), folder)  # killed between the two moves of save_bundle
    if not (folder / _JSON).is_file():
        raise UserError(f"{folder}: expected a bundle, a folder with {_JSON} and {_VARIABLES}/, such as runs/NAME/best")
    try:
        content: Any = from_json((folder / _JSON).read_text())
        return BundleFiles(
            model=content.model,
            task=content.task,
            batches=content.batches,
            labels=tuple(content.labels),
            variables=_checkpointer().restore((folder / _VARIABLES).absolute()) if variables else {},
            step=content.step,
            score=content.score,
            metric=content.metric,
            version=content.version,
        )
    except (json.JSONDecodeError, AttributeError, FileNotFoundError) as error:
        raise UserError(f"{folder}: the bundle is damaged: {error}") from error


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _checkpointer() -> Any:
    """Writes and reads in this process alone, also when it is one of many."""
    import jax
    import orbax.checkpoint as ocp

    options = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        me = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=str(me)
        )
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options
    )


def _version() -> str:
    from importlib.metadata import version

    return version("vitjax")
