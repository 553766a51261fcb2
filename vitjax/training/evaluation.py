"""Scores over the whole evaluation set, every example once."""

from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vitjax.arrays import Batch, Tree
from vitjax.tasks.task import Metrics, Task
from vitjax.training.devices import place_batch

__all__ = ["evaluate", "make_evaluation_step"]

EvaluationStep = Callable[[Tree, Batch], tuple[Metrics, Tree]]


def make_evaluation_step(model: nn.Module, task: Task) -> EvaluationStep:
    """The function `(variables, batch) -> (metrics, predictions)`, to be jitted with results on every device."""

    def evaluation_step(variables: Tree, batch: Batch) -> tuple[Metrics, Tree]:
        outputs = model.apply(variables, **task.inputs(batch), train=False)
        _, metrics = task.loss(outputs, batch)
        return metrics, task.predict(outputs, batch)

    return evaluation_step


def evaluate(
    step: EvaluationStep, variables: Tree, batches: Iterable[Batch], task: Task, mesh: Mesh
) -> dict[str, float]:
    """Runs over `batches` once; while the device computes one, the next is made.

    Args:
        step: jitted.
        variables: of the model.
        batches: numpy, this process's rows; each process yields equally many.
        task: makes the meter.
        mesh: of the run.

    Returns:
        The meter's scores, the same in every process.
    """
    meter = task.meter()
    waiting: tuple[Any, Batch] | None = None
    for batch in batches:
        results = step(variables, place_batch(batch, mesh))
        if waiting is not None:
            _add(meter, *waiting)
        waiting = (results, batch)
    if waiting is not None:
        _add(meter, *waiting)
    return {name: float(score) for name, score in meter.scores().items()}


def _add(meter: Any, results: tuple[Metrics, Tree], batch: Batch) -> None:
    metrics, predictions = jax.device_get(results)
    metrics = {name: (float(total), float(count)) for name, (total, count) in metrics.items()}
    meter.add(metrics, predictions, _targets_of_all(batch))


def _targets_of_all(batch: Batch) -> Batch:
    """The rows of all processes, in the order of the predictions; pixels stay where they are."""
    if jax.process_count() == 1:
        return batch
    targets = {name: leaf for name, leaf in batch.items() if isinstance(leaf, np.ndarray) and leaf.dtype != np.uint8}
    return multihost_utils.process_allgather(targets, tiled=True)
