"""Batches on the device, one ahead of the step, each with the position after it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh

from vitjax.arrays import Batch
from vitjax.training.devices import place_batch

__all__ = ["Batches", "Fed", "Stream", "fed", "feed"]


@runtime_checkable
class Stream(Protocol):
    """Endless batches of this process; see ARCHITECTURE.md."""

    def __next__(self) -> Batch: ...

    def state(self) -> dict[str, Any]:
        """The position after the batch last handed out, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position."""
        ...

    def statistics(self) -> dict[str, float]:
        """Figures since the last call."""
        ...

    def close(self) -> None:
        """Ends threads and workers."""
        ...


@runtime_checkable
class Batches(Protocol):
    """What configs call `train` and `evaluation`."""

    @property
    def labels(self) -> Any:
        """Class names, or `None` where there are none."""
        ...

    @property
    def num_examples(self) -> int:
        """Examples in the source."""
        ...

    def stream(self, seed: int, shards: Any) -> Stream:
        """Endless, shuffled, augmented."""
        ...

    def epoch(self, shards: Any) -> Iterator[Batch]:
        """Each example once."""
        ...


@dataclass(frozen=True)
class Fed:
    """A batch ready for the step.

    Attributes:
        batch: global, on the devices.
        examples: ids of this process's examples, padding left out.
        position: of the stream after this batch.
        seconds: spent waiting for the stream.
    """

    batch: Batch
    examples: np.ndarray
    position: dict[str, Any]
    seconds: float


def feed(stream: Stream, mesh: Mesh) -> Fed:
    """The stream's next batch."""
    began = time.perf_counter()
    batch = next(stream)
    return fed(batch, stream.state(), mesh, time.perf_counter() - began)


def fed(batch: Batch, position: dict[str, Any], mesh: Mesh, seconds: float = 0.0) -> Fed:
    """A batch that was taken from the stream already."""
    examples = np.asarray(batch["example"])
    return Fed(place_batch(batch, mesh), examples[examples >= 0], position, seconds)
