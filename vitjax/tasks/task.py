"""What a batch means: the only thing the trainer knows about a problem."""

from typing import Any, Protocol, runtime_checkable

import jax

from vitjax.arrays import Batch, Tree

__all__ = ["Meter", "Metrics", "Task"]

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name to (sum, count): adding two of them element by element gives the metrics of both batches together."""


@runtime_checkable
class Meter(Protocol):
    """Gathers the predictions of a whole evaluation on the host."""

    def add(self, metrics: dict[str, tuple[float, float]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch's metrics, predictions and targets as numpy arrays, padding included under its mask."""
        ...

    def scores(self) -> dict[str, float]:
        """The scores over all batches added so far."""
        ...


@runtime_checkable
class Task(Protocol):
    """Five pure functions of a batch; `training` calls nothing else.

    A task whose classes are told from a background or from nothing says so by `least_classes = 1`; without that,
    training refuses data of a single class.
    """

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Changes a training batch on the device (mixup, cutmix); the batch itself if there is nothing to change."""
        ...

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Keywords of the model's `__call__`, without `train`."""
        ...

    def loss(self, outputs: Tree, batch: Batch) -> tuple[jax.Array, Metrics]:
        """The scalar to minimise, and metrics as (sum, count), `"loss"` among them."""
        ...

    def predict(self, outputs: Tree, batch: Batch) -> Tree:
        """What a user wants of the outputs, leading axes as in the batch."""
        ...

    def meter(self) -> Meter:
        """A fresh meter for one evaluation."""
        ...
