"""Batches of images of one shape."""

import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vitjax.data.images import BrokenExample
from vitjax.data.loading import (
    Batch,
    BatchStream,
    Broken,
    BrokenFiles,
    Produced,
    Shards,
    Stream,
    check_reading,
    in_background,
)
from vitjax.data.reading import read_ahead
from vitjax.data.sampling import FixedOrder, ShuffledOrder, example_generator
from vitjax.data.transforms import apply_transforms
from vitjax.errors import UserError

__all__ = ["ImageBatches"]


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

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the source."""
        return self._get_source().labels

    @property
    def num_examples(self) -> int:
        """Examples of the source."""
        return len(self._get_source())

    def without_source(self) -> "ImageBatches":
        """The same preparation without data, to be stored."""
        return replace(self, source=None)

    def with_source(self, source: Any) -> "ImageBatches":
        """The same preparation of other data."""
        return replace(self, source=source)

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
        produce = functools.partial(_produce, self, ShuffledOrder(seed, self.num_examples), shards, None)
        return BatchStream(produce, start, _summarise, self.prefetch)

    def epoch(self, shards: Shards) -> Iterator[Batch]:
        """Each example once, in the source's order; what the last batch lacks is under the mask.

        Raises:
            UserError: see `stream`.
        """
        shards.local_size(self.batch_size, "batch_size")
        produced = _produce(self, FixedOrder(), shards, self.num_examples, {"position": 0})
        for item in in_background(produced, self.prefetch):
            yield item.batch

    def _get_source(self) -> Any:
        if self.source is None:
            raise UserError("ImageBatches: no source was given; call with_source(source) first")
        return self.source


@dataclass(frozen=True)
class _PreparedImage:
    example: int
    label: int
    image: np.ndarray
    seconds: float


@dataclass(frozen=True)
class _Preparation:
    """Makes the image at a position of the stream."""

    batches: ImageBatches
    order: Callable[[int], tuple[int, int]]

    def __call__(self, position: int) -> _PreparedImage | Broken:
        started = time.thread_time()
        seed = self.order.seed  # pyright: ignore[reportFunctionMemberAccess]
        epoch, index = self.order(position)
        generator = example_generator(seed, epoch, index)
        try:
            example = self.batches.source[index]
        except BrokenExample as error:
            return Broken(error.name, error.reason)
        image = apply_transforms(self.batches.transforms, example["image"], generator)
        return _PreparedImage(index, int(example.get("label", 0)), image, time.thread_time() - started)


def _slices(first: int, batch_size: int, offset: int, size: int, batches: int | None) -> Iterator[int]:
    """Positions of this process's slice of every batch from position `first` on; `None` batches go on without end."""
    for batch in itertools.count() if batches is None else range(batches):
        start = first + batch * batch_size + offset
        yield from range(start, start + size)


def _produce(
    settings: ImageBatches,
    order: Callable[[int], tuple[int, int]],
    shards: Shards,
    end: int | None,
    state: dict[str, Any],
) -> Generator[Produced, None, None]:
    """Batches from a state on: without end, or until `end` examples are all in a batch."""
    size = shards.local_size(settings.batch_size, "batch_size")
    first = state["position"]
    batches = None if end is None else -(-(end - first) // settings.batch_size)
    broken = BrokenFiles(str(getattr(settings.source, "name", "the source")), settings.max_broken)
    reader = read_ahead(
        _Preparation(settings, order),
        _slices(first, settings.batch_size, shards.process_index * size, size, batches),
        end=end,
        threads=settings.threads,
        workers=settings.workers,
    )
    shape: tuple[int, ...] | None = None
    made = 0
    try:
        while batches is None or made < batches:
            examples = [example for _, example in (next(reader) for _ in range(size))]
            started = time.perf_counter()
            images = [example if example is not None and broken.passes(example) else None for example in examples]
            shape = _common_shape(settings, shape, images)
            batch = _stack(settings, shape, images)
            if settings.grids:
                side = _draw_grid(settings.grids, order.seed, first // settings.batch_size + made)  # pyright: ignore
                batch["grid"] = np.ones((size, side, side), bool)
            made += 1
            position = first + made * settings.batch_size
            prepared = sum(image.seconds for image in images if image is not None)
            counts = {
                "images": float(batch["image_mask"].sum()),
                "slots": float(size),
                "broken_files": float(broken.taken()),
                "host_seconds": prepared + time.perf_counter() - started,
            }
            yield Produced(batch, state | {"position": position}, counts)
    finally:
        reader.close()


def _draw_grid(grids: tuple[int, ...], seed: int, batch: int) -> int:
    """The side for a batch, the same in every process; the last number keeps it apart from other draws of the seed."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, batch, 0, 2))))
    return grids[int(generator.integers(len(grids)))]


def _common_shape(
    settings: ImageBatches, shape: tuple[int, ...] | None, images: list[_PreparedImage | None]
) -> tuple[int, ...] | None:
    """The shape of every image so far.

    Raises:
        UserError: two images differ, or one is not uint8.
    """
    for image in images:
        if image is None:
            continue
        if image.image.dtype != np.uint8:
            raise UserError(
                f"ImageBatches: example {image.example} is {image.image.dtype} after `transforms` "
                f"(={settings.transforms}), expected uint8; leave out Normalise, the task normalises on the device"
            )
        shape = shape or image.image.shape
        if image.image.shape != shape:
            raise UserError(
                f"ImageBatches: example {image.example} has shape {image.image.shape} after `transforms` "
                f"(={settings.transforms}), others have {shape}; end the transforms with a crop or resize to one size, "
                "or use PackedBatches, which takes images of any size"
            )
    return shape


def _stack(settings: ImageBatches, shape: tuple[int, ...] | None, images: list[_PreparedImage | None]) -> Batch:
    shape = shape or _first_shape(settings)
    batch: Batch = {
        "image": np.zeros((len(images), *shape), np.uint8),
        "label": np.zeros(len(images), np.int32),
        "image_mask": np.zeros(len(images), bool),
        "example": np.full(len(images), -1, np.int32),
    }
    for number, image in enumerate(images):
        if image is not None:
            batch["image"][number] = image.image
            batch["label"][number] = image.label
            batch["image_mask"][number] = True
            batch["example"][number] = image.example
    return batch


def _first_shape(settings: ImageBatches) -> tuple[int, ...]:
    """The shape of the source's first readable image, for a process whose slice of the only batch is empty.

    Raises:
        UserError: no example can be read.
    """
    prepare = _Preparation(settings, FixedOrder())
    for index in range(settings.num_examples):
        image = prepare(index)
        if isinstance(image, _PreparedImage):
            return image.image.shape
    raise UserError(f"ImageBatches: no example of {getattr(settings.source, 'name', settings.source)!r} can be read")


def _summarise(counts: dict[str, float]) -> dict[str, float]:
    """Statistics from summed counts; times are means per batch."""
    return {
        "images": counts["images"],
        "padding_share": 1 - counts["images"] / counts["slots"],
        "broken_files": counts["broken_files"],
        "host_seconds": counts["host_seconds"] / counts["batches"],
        "wait_seconds": counts["wait_seconds"] / counts["batches"],
    }
