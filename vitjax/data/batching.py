"""Batches of images of one shape."""

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitjax.data.loading import Batch, BatchStream, Produced, Shards, Stream, check_reading, in_background
from vitjax.data.sampling import FixedOrder, ShuffledOrder
from vitjax.data.slices import Cut, ExampleReader, ImageStack, Prepared, even_cuts, produce, summarise
from vitjax.data.source_access import drop_source, replace_source, source_labels, source_length
from vitjax.data.transforms import apply_transforms
from vitjax.errors import UserError

__all__ = ["ImageBatches", "labels_of", "prepare_image"]

_ADVICE = "end the transforms with a crop or resize to one size, or use PackedBatches, which takes images of any size"


@dataclass(frozen=True)
class ImageBatches:
    """Batches of images that the transforms bring to one shape; the keys are in ARCHITECTURE.md.

    Attributes:
        source: what is read, or `None` until `with_source`.
        batch_size: images of a global batch.
        transforms: applied to each example; all images must come out alike in size.
        threads: threads that read and prepare, where there are no worker processes.
        workers: processes that read and prepare; 0 does it in this one.
        prefetch: batches held ready.
        max_broken: share of the examples that may be unreadable; fewer than 10 files never stop a run.
        grids: sides of patch grids, of which each batch gets one as its key `grid`, drawn evenly by the seed and the
            batch's number; without any, batches have no such key.
    """

    source: Any
    batch_size: int
    transforms: tuple[Any, ...] = ()
    threads: int = 4
    workers: int = 0
    prefetch: int = 2
    max_broken: float | int = 0.01
    grids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"ImageBatches: `batch_size` (={self.batch_size}) is at least 1")
        if any(side < 1 for side in self.grids):
            raise UserError(f"ImageBatches: `grids` (={self.grids}) are patches along a side, at least 1")
        check_reading(
            "ImageBatches",
            threads=self.threads, workers=self.workers, prefetch=self.prefetch, max_broken=self.max_broken,
        )  # fmt: skip

    labels = property(source_labels)
    num_examples = property(source_length)
    without_source = drop_source
    with_source = replace_source

    def stream(self, seed: int, shards: Shards) -> Stream:
        """Endless batches for training, each epoch in a new order.

        An example that cannot be read leaves its place empty, under the mask.

        Raises:
            UserError: the batch cannot be divided by the processes and their data shards, or there are no examples.
        """
        shards.local_size(self.batch_size, "batch_size")
        if not self.num_examples:
            raise UserError(f"ImageBatches: the source {getattr(self.source, 'name', self.source)!r} has no examples")
        start = {"position": 0, "seed": seed, "examples": self.num_examples, "batch_size": self.batch_size}
        start |= {"grids": list(self.grids)} if self.grids else {}
        made = functools.partial(_produce, self, ShuffledOrder(seed, self.num_examples), shards, None)
        return BatchStream(made, start, summarise, self.prefetch)

    def epoch(self, shards: Shards) -> Iterator[Batch]:
        """Each example once, in the source's order; what the last batch lacks is under the mask.

        Raises:
            UserError: see `stream`.
        """
        shards.local_size(self.batch_size, "batch_size")
        made = _produce(self, FixedOrder(), shards, self.num_examples, {"position": 0})
        for item in in_background(made, self.prefetch):
            yield item.batch


def _produce(
    settings: ImageBatches,
    order: Callable[[int], tuple[int, int]],
    shards: Shards,
    end: int | None,
    state: dict[str, Any],
) -> Generator[Produced, None, None]:
    """Batches from a state on: without end, or until `end` examples are all in a batch."""
    read = ExampleReader(settings.source, order, functools.partial(_prepare, settings.transforms))
    images = ImageStack("ImageBatches", _ADVICE, settings.transforms, read)

    def stack(examples: list[Prepared | None], cut: Cut) -> Batch:
        batch = images(examples, cut) | {"label": labels_of(examples)}
        if settings.grids:
            side = _draw_grid(settings.grids, order.seed, cut.number)  # pyright: ignore[reportFunctionMemberAccess]
            batch["grid"] = np.ones((len(examples), side, side), bool)
        return batch

    cuts = even_cuts(settings.batch_size, state["position"], end)
    return produce(settings, cuts, read, stack, shards=shards, state=state, end=end)


def _prepare(
    transforms: tuple[Any, ...], example: dict[str, Any], generator: np.random.Generator, cut: Cut
) -> tuple[np.ndarray, dict[str, Any]]:
    del cut
    return prepare_image(transforms, example, generator)


def prepare_image(
    transforms: tuple[Any, ...], example: dict[str, Any], generator: np.random.Generator
) -> tuple[np.ndarray, dict[str, Any]]:
    """The transformed image and its `label`, 0 if unknown; what `labels_of` stacks."""
    return apply_transforms(transforms, example["image"], generator), {"label": int(example.get("label", 0))}


def labels_of(examples: list[Prepared | None]) -> np.ndarray:
    """int32 [B], 0 in empty places."""
    return np.array([0 if example is None else example.content["label"] for example in examples], np.int32)


def _draw_grid(grids: tuple[int, ...], seed: int, batch: int) -> int:
    """The side for a batch, the same in every process; the last number keeps it apart from other draws of the seed."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, batch, 0, 2))))
    return grids[int(generator.integers(len(grids)))]
