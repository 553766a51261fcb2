"""Batches of images whose resolution changes from batch to batch, and with it the number of images.

Mehta, Rastegari: "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer", 2022,
arXiv:2110.02178, "Multi-scale sampler for training efficiency".
"""

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitjax.data.batching import ImageBatches, labels_of, prepare_image
from vitjax.data.loading import Batch, BatchStream, Produced, Shards, Stream, check_reading
from vitjax.data.sampling import ShuffledOrder
from vitjax.data.slices import Cut, ExampleReader, ImageStack, Prepared, produce, summarise
from vitjax.data.source_access import drop_source, replace_source, source_labels, source_length
from vitjax.data.transforms import Transform
from vitjax.errors import UserError

__all__ = ["MultiScaleImageBatches", "draw"]


@dataclass(frozen=True)
class MultiScaleImageBatches:
    """Square images of a side drawn anew for each batch, evenly by the seed and the batch's number; for training.

    The sides are `count` numbers from `smallest` to `largest` and `base`, rounded to multiples of `divisor`. A batch of
    side s has `batch_size · (base / s)²` images, rounded down to a multiple of `multiple`, but at least that: the
    same number of pixels, nearly. The step is compiled once for each side. Batches depend on seed and number alone;
    the data shards of the mesh must divide `multiple`, so that they divide every batch.

    A batch is a step, whatever its size: schedules count batches, the loss is a mean over the batch's images.

    Attributes:
        source: what is read, or `None` until `with_source`.
        batch_size: images of a global batch at `base`; a multiple of `multiple`.
        crop: makes the transform that brings images to one size: called with `size`, pixels a side.
        transforms: applied after it.
        base: side, pixels.
        smallest: side, pixels.
        largest: side, pixels.
        count: sides between these two, both included, before rounding makes some alike.
        divisor: of every side.
        multiple: of every batch's images.
        growth: (epoch, smallest, largest) from which epoch on other sides are drawn; epochs ascend.
        threads: threads that read and prepare, where there are no worker processes.
        workers: processes that read and prepare; 0 does it in this one.
        prefetch: batches held ready.
        max_broken: share of the examples that may be unreadable; fewer than 10 files never stop a run.
    """

    source: Any
    batch_size: int
    crop: Callable[..., Transform]
    transforms: tuple[Any, ...] = ()
    base: int = 256
    smallest: int = 160
    largest: int = 320
    count: int = 5
    divisor: int = 32
    multiple: int = 8
    growth: tuple[tuple[int, int, int], ...] = ()
    threads: int = 4
    workers: int = 0
    prefetch: int = 2
    max_broken: float | int = 0.01

    def __post_init__(self) -> None:
        if min(self.batch_size, self.count, self.divisor, self.multiple) < 1 or self.batch_size % self.multiple:
            raise UserError(
                f"MultiScaleImageBatches: `batch_size` (={self.batch_size}), `count` (={self.count}), `divisor` "
                f"(={self.divisor}), `multiple` (={self.multiple}): expected 1 or more, `batch_size` a multiple of "
                "`multiple`"
            )
        if self.base < 1 or self.base % self.divisor:
            raise UserError(
                f"MultiScaleImageBatches: `base` (={self.base}) is not a multiple of `divisor` (={self.divisor})"
            )
        for epoch, smallest, largest in self._limits():
            if epoch < 0 or not 1 <= smallest <= largest:
                raise UserError(
                    f"MultiScaleImageBatches: from epoch {epoch} on sides of {smallest} to {largest} px: expected a "
                    "smallest side of 1 or more and a largest that is not below it"
                )
        epochs = [epoch for epoch, _, _ in self._limits()]
        if sorted(set(epochs)) != epochs:
            raise UserError(f"MultiScaleImageBatches: the epochs of `growth` (={self.growth}) ascend from 1")
        check_reading(
            "MultiScaleImageBatches",
            threads=self.threads, workers=self.workers, prefetch=self.prefetch, max_broken=self.max_broken,
        )  # fmt: skip

    labels = property(source_labels)
    num_examples = property(source_length)
    without_source = drop_source
    with_source = replace_source

    def shapes(self, epoch: int = 0) -> tuple[tuple[int, int], ...]:
        """(side in pixels, images of the global batch) of every batch that can be drawn in an epoch; sides ascend."""
        _, smallest, largest = [limits for limits in self._limits() if limits[0] <= epoch][-1]
        drawn = np.linspace(smallest, largest, self.count).tolist()
        sides = sorted({self.base, *(_round(side, self.divisor) for side in drawn)})
        return tuple((side, self._images(side)) for side in sides)

    def describe(self) -> str:
        """The shapes in words, for the start of a run."""
        stages = {shape: None for epoch, _, _ in self._limits() for shape in self.shapes(epoch)}
        shown = ", ".join(f"{images} of {side} px" for side, images in sorted(stages))
        mean = np.mean([images for _, images in self.shapes()])
        grows = "".join(
            f"; from epoch {epoch} on {smallest} to {largest} px" for epoch, smallest, largest in self.growth
        )
        return (
            f"multi-scale batches: {shown}; {mean:.0f} images a step on average; the training step is compiled "
            f"{len(stages)} times{grows}"
        )

    def stream(self, seed: int, shards: Shards) -> Stream:
        """Endless batches for training, each epoch in a new order.

        An example that cannot be read leaves its place empty, under the mask.

        Raises:
            UserError: `multiple` cannot be divided by the processes and their data shards, or there are no examples.
        """
        shards.local_size(self.multiple, "multiple")
        if not self.num_examples:
            name = getattr(self.source, "name", self.source)
            raise UserError(f"MultiScaleImageBatches: the source {name!r} has no examples")
        start = {"position": {"batch": 0, "example": 0}, "seed": seed, "examples": self.num_examples}
        start |= {"shapes": [[epoch, *map(list, self.shapes(epoch))] for epoch, _, _ in self._limits()]}
        made = functools.partial(_produce, self, ShuffledOrder(seed, self.num_examples), shards)
        return BatchStream(made, start, summarise, self.prefetch)

    def epoch(self, shards: Shards) -> Iterator[Batch]:
        """Each example once, all at the side `base`, in the source's order.

        Raises:
            UserError: see `stream`.
        """
        return self._fixed().epoch(shards)

    def _limits(self) -> tuple[tuple[int, int, int], ...]:
        return ((0, self.smallest, self.largest), *self.growth)

    def _images(self, side: int) -> int:
        return max(1, self.batch_size * self.base**2 // side**2 // self.multiple) * self.multiple

    def _fixed(self) -> ImageBatches:
        """The same batches at one side."""
        return ImageBatches(
            source=self.source,
            batch_size=self.batch_size,
            transforms=self.transforms_at(self.base),
            threads=self.threads,
            workers=self.workers,
            prefetch=self.prefetch,
            max_broken=self.max_broken,
        )

    def transforms_at(self, side: int) -> tuple[Any, ...]:
        """All transforms of an image that is to have this side."""
        return (self.crop(size=side), *self.transforms)


def _round(side: float, divisor: int) -> int:
    """The nearest multiple, halves up, that is not smaller by more than a tenth: MobileNet's rule."""
    rounded = max(divisor, int(side + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * side else rounded


def _produce(
    settings: MultiScaleImageBatches, order: ShuffledOrder, shards: Shards, state: dict[str, Any]
) -> Generator[Produced, None, None]:
    """Endless batches from a state on."""
    read = ExampleReader(settings.source, order, functools.partial(_prepare, settings))
    images = ImageStack("MultiScaleImageBatches", "`crop` must bring all to one size", settings.crop, read)

    def stack(examples: list[Prepared | None], cut: Cut) -> Batch:
        return images(examples, cut) | {"label": labels_of(examples)}

    return produce(settings, _cuts(settings, order, **state["position"]), read, stack, shards=shards, state=state)


def _prepare(
    settings: MultiScaleImageBatches, example: dict[str, Any], generator: np.random.Generator, cut: Cut
) -> tuple[np.ndarray, dict[str, Any]]:
    assert cut.side is not None
    return prepare_image(settings.transforms_at(cut.side), example, generator)


def _cuts(settings: MultiScaleImageBatches, order: ShuffledOrder, batch: int, example: int) -> Iterator[Cut]:
    shapes = functools.cache(settings.shapes)
    while True:
        side, size = draw(shapes(example // order.size), order.seed, batch)
        batch, first, example = batch + 1, example, example + size
        yield Cut(batch - 1, first, size, {"batch": batch, "example": example}, side)


def draw(shapes: tuple[tuple[int, int], ...], seed: int, batch: int) -> tuple[int, int]:
    """The shape of a batch, the same in every process; the last number keeps it apart from other draws of the seed."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, batch, 0, 3))))
    return shapes[int(generator.integers(len(shapes)))]
