"""The lines that a run says at its start and its end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from vitjax.arrays import Batch, Tree
from vitjax.training.logs import duration
from vitjax.training.run import Parts, Programs
from vitjax.training.run_folder import RunFolder
from vitjax.training.state import count_parameters
from vitjax.training.step import StepResult

__all__ = ["RunSummary", "first_lines", "last_lines", "nonfinite_message", "resume_lines"]


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        workdir: the run folder.
        step: updates made.
        scores: of the last evaluation.
        best_score: of `best_metric`, or `None` before the first evaluation.
        interrupted: whether SIGTERM or Ctrl-C ended it; it can be resumed.
        compilations: shapes that the training step was compiled for in this process.
        seconds: since `fit` was called.
    """

    workdir: Path
    step: int
    scores: dict[str, float]
    best_score: float | None
    interrupted: bool
    compilations: int
    seconds: float


def first_lines(parts: Parts, programs: Programs, batch: Batch) -> Iterator[str]:
    """Device, mesh, shapes, data, folder, and what model and batches `describe` of themselves."""
    from importlib.metadata import version

    devices = parts.mesh.devices.flatten()
    mesh = " x ".join(f"{axis} {size}" for axis, size in parts.mesh.shape.items())
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    describe = getattr(parts.model, "describe", None)
    described = "" if describe is None else f"{describe(**jax.eval_shape(parts.task.inputs, batch))}; "
    shapes = ", ".join(f"{name} {_shape(leaf)}" for name, leaf in batch.items())
    yield (
        f"vitjax {version('vitjax')}: {len(devices)} x {devices[0].device_kind}{processes}, mesh {mesh}; {described}"
        f"{count_parameters(programs.abstract.params):,} parameters; compiles for {shapes}"
    )
    yield (
        f"{parts.train.num_examples} training and {parts.evaluation.num_examples} evaluation examples, "
        f"{parts.settings.steps} steps; run folder {parts.folder.root}"
    )
    describe_batches = getattr(parts.train, "describe", None)
    if describe_batches is not None:
        yield describe_batches()


def _shape(leaf: Tree) -> str:
    return "+".join("x".join(map(str, part.shape)) for part in jax.tree.leaves(leaf))


def resume_lines(parts: Parts, start: int | None) -> list[str]:
    """Where a run goes on that its folder holds a part of."""
    if start is None:
        return []
    if start >= parts.settings.steps:
        return [f"{parts.folder.root} is finished at step {start}; to train on, give --config.steps above that"]
    return [f"resuming {parts.folder.root} at step {start} of {parts.settings.steps}"]


def nonfinite_message(
    folder: RunFolder, step: int, result: StepResult, examples: Sequence[int], kept: int | None
) -> str:
    """Step, figures, examples and what to try."""
    shown = ", ".join(map(str, examples[:32])) + (f" and {len(examples) - 32} more" if len(examples) > 32 else "")
    checkpoint = "none" if kept is None else f"step {kept} in {folder.checkpoints}"
    return (
        f"step {step}: loss {result.loss} and gradient norm {result.gradient_norm} are not both finite; "
        f"the update was not made; examples of the batch: {shown} (all of them in {folder.metrics}); "
        f"last checkpoint: {checkpoint}; look at these examples, lower `optimizer.lr`, or set `clip_norm`"
    )


def last_lines(parts: Parts, summary: RunSummary) -> Iterator[str]:
    """Where to look and what to do next."""
    folder, settings = summary.workdir, parts.settings
    if summary.interrupted:
        yield f"interrupted: step {summary.step} of {settings.steps} is saved in {folder}; the same command resumes it"
        return
    best = "none" if summary.best_score is None else f"{summary.best_score:.4f}"
    yield f"done: {summary.step} steps in {duration(summary.seconds)}, best {settings.best_name} {best}"
    yield f"look at {folder}/plots/*.png, {folder}/metrics.jsonl, or tensorboard --logdir {folder}/tensorboard"
    yield f"use it: vitjax.load('{folder}/best').predict(['picture.jpg', 'folder/'])"
