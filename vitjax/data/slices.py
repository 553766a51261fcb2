"""Batches in which every example has one place: which positions a process reads, and how they are stacked.

What `ImageBatches`, `MultiScaleImageBatches` and `SceneBatches` have in common. A global batch is a `Cut` of the
stream; each process makes its slice of it.
"""

import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vitjax.data.images import BrokenExample
from vitjax.data.loading import Batch, Broken, BrokenFiles, Produced, Shards
from vitjax.data.reading import read_ahead
from vitjax.data.sampling import FixedOrder, example_generator
from vitjax.errors import UserError

__all__ = ["Cut", "ExampleReader", "ImageStack", "Prepared", "even_cuts", "produce", "summarise"]


class Cut(NamedTuple):
    """A global batch: positions `first` ... `first + size - 1` of the stream.

    Attributes:
        number: of the batch, from 0.
        first: position of its first example.
        size: its examples, over all processes.
        after: the stream's position after it, as JSON.
        side: pixels a side of its images, where batches differ in that.
        shape: (rows, columns) of its images, where batches differ in that.
    """

    number: int
    first: int
    size: int
    after: Any
    side: int | None = None
    shape: tuple[int, int] | None = None


def even_cuts(batch_size: int, first: int, end: int | None = None) -> Iterator[Cut]:
    """Batches of one size from position `first` on: without end, or until all positions below `end` are in one."""
    for number in itertools.count(first // batch_size):
        if end is not None and number * batch_size >= end:
            return
        yield Cut(number, number * batch_size, batch_size, (number + 1) * batch_size)


@dataclass(frozen=True)
class Prepared:
    """An example on its way into a batch.

    Attributes:
        index: in the source.
        image: uint8 [H, W, C].
        content: what else the batch is made of.
        seconds: that its preparation took.
    """

    index: int
    image: np.ndarray
    content: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class ExampleReader:
    """Reads the example at a position of the stream and prepares it.

    Attributes:
        source: of examples.
        order: from a position to (epoch, index), or `None` for a place that stays empty; has a `seed`.
        prepare: `(example, generator, cut) -> (image, content)`; see `Prepared`.
    """

    source: Any
    order: Callable[[int], tuple[int, int] | None]
    prepare: Callable[[dict[str, Any], np.random.Generator, Cut], tuple[np.ndarray, dict[str, Any]]]

    def __call__(self, position: int, cut: Cut) -> Prepared | Broken | None:
        """The example, or what stands for one that cannot be read."""
        started, place = time.thread_time(), self.order(position)
        if place is None:
            return None
        epoch, index = place
        generator = example_generator(self.order.seed, epoch, index)  # pyright: ignore[reportFunctionMemberAccess]
        try:
            example = self.source[index]
        except BrokenExample as error:
            return Broken(error.name, error.reason)
        image, content = self.prepare(example, generator, cut)
        return Prepared(index, image, content, time.thread_time() - started)


def produce(
    settings: Any,
    cuts: Iterable[Cut],
    read: ExampleReader,
    stack: Callable[[list[Prepared | None], Cut], Batch],
    *,
    shards: Shards,
    state: dict[str, Any],
    end: int | None = None,
) -> Generator[Produced, None, None]:
    """This process's slice of every batch.

    Args:
        settings: has `source`, `threads`, `workers` and `max_broken`.
        cuts: the global batches.
        read: makes an example.
        stack: makes the batch of a slice's examples, `None` where a place stays empty.
        shards: which slice.
        state: whose `position` is replaced after each batch.
        end: positions from here on stay empty.
    """
    broken = BrokenFiles(str(getattr(settings.source, "name", "the source")), settings.max_broken)
    cuts, ahead = itertools.tee(cuts)
    places = ((position, cut) for cut in ahead for position in _slice(cut, shards))
    reader = read_ahead(
        functools.partial(_read_place, read, end), places, threads=settings.threads, workers=settings.workers
    )
    try:
        for cut in cuts:
            examples = [example for _, example in (next(reader) for _ in _slice(cut, shards))]
            started = time.perf_counter()
            examples = [example if example is not None and broken.passes(example) else None for example in examples]
            batch = stack(examples, cut)
            prepared = sum(example.seconds for example in examples if example is not None)
            counts = {
                "images": float(batch["image_mask"].sum()),
                "slots": float(len(examples)),
                "broken_files": float(broken.taken()),
                "host_seconds": prepared + time.perf_counter() - started,
            }
            yield Produced(batch, state | {"position": cut.after}, counts)
    finally:
        reader.close()


def _slice(cut: Cut, shards: Shards) -> range:
    size = shards.local_size(cut.size, "batch_size")
    start = cut.first + shards.process_index * size
    return range(start, start + size)


def _read_place(read: ExampleReader, end: int | None, place: tuple[int, Cut]) -> Prepared | Broken | None:
    position, cut = place
    return None if end is not None and position >= end else read(position, cut)


def summarise(counts: dict[str, float]) -> dict[str, float]:
    """Statistics from summed counts; times are means per batch."""
    return {
        "images": counts["images"],
        "padding_share": 1 - counts["images"] / counts["slots"],
        "broken_files": counts["broken_files"],
        "host_seconds": counts["host_seconds"] / counts["batches"],
        "wait_seconds": counts["wait_seconds"] / counts["batches"],
    }


@dataclass
class ImageStack:
    """Stacks images of one shape under a mask, and refuses those of another.

    Attributes:
        owner: the class of the batches, for messages.
        advice: what to do about images of several shapes.
        transforms: which brought the images there, for messages.
        read: makes examples.
    """

    owner: str
    advice: str
    transforms: Any
    read: ExampleReader
    _shapes: dict[int | None, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, examples: list[Prepared | None], cut: Cut) -> Batch:
        """`image` uint8 [B, H, W, C], `image_mask` bool [B], `example` int32 [B]: -1 where there is none.

        Raises:
            UserError: two images differ in shape, or one is not uint8.
        """
        batch: Batch = {
            "image": np.zeros((len(examples), *self._shape(examples, cut)), np.uint8),
            "image_mask": np.array([example is not None for example in examples]),
            "example": np.array([-1 if example is None else example.index for example in examples], np.int32),
        }
        for number, example in enumerate(examples):
            if example is not None:
                batch["image"][number] = example.image
        return batch

    def _shape(self, examples: list[Prepared | None], cut: Cut) -> tuple[int, ...]:
        shape = self._shapes.get(cut.side)
        for example in examples:
            if example is None:
                continue
            if example.image.dtype != np.uint8:
                raise UserError(
                    f"{self.owner}: example {example.index} is {example.image.dtype} after `transforms` "
                    f"(={self.transforms}), expected uint8; leave out Normalise, the task normalises on the device"
                )
            shape = shape or example.image.shape
            if example.image.shape != shape:
                raise UserError(
                    f"{self.owner}: example {example.index} has shape {example.image.shape} after `transforms` "
                    f"(={self.transforms}), others have {shape}; {self.advice}"
                )
        self._shapes[cut.side] = shape or self._first_shape(cut)
        return self._shapes[cut.side]

    def _first_shape(self, cut: Cut) -> tuple[int, ...]:
        """The shape of the source's first readable image, for a process whose slice of the only batch is empty."""
        read = ExampleReader(self.read.source, FixedOrder(), self.read.prepare)
        for position in range(len(read.source)):
            example = read(position, cut)
            if isinstance(example, Prepared):
                return example.image.shape
        name = getattr(read.source, "name", read.source)
        raise UserError(f"{self.owner}: no example of {name!r} can be read")
