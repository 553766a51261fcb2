"""Any task on images, for a model that is told at each call into how many patches to cut them."""

from dataclasses import dataclass
from typing import Any

import jax

from vitjax.arrays import Batch, Tree
from vitjax.tasks.task import Meter, Metrics, Task

__all__ = ["PatchGrid"]


@dataclass(frozen=True)
class PatchGrid:
    """The task itself, with the batch's `grid` among the model's inputs where the batch has one.

    Attributes:
        task: what the batch means otherwise.
    """

    task: Task

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """As the task."""
        return self.task.augment(batch, key)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """As the task, and `grid`: bool [B, rows, columns], of which only the shape counts."""
        return self.task.inputs(batch) | {name: batch[name] for name in ("grid",) if name in batch}

    def loss(self, outputs: Tree, batch: Batch) -> tuple[jax.Array, Metrics]:
        """As the task."""
        return self.task.loss(outputs, batch)

    def predict(self, outputs: Tree, batch: Batch) -> Tree:
        """As the task."""
        return self.task.predict(outputs, batch)

    def meter(self) -> Meter:
        """As the task."""
        return self.task.meter()
