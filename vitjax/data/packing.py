"""Patch n' Pack: images of any size, cut into patches and packed into rows of one length.

NaViT (Dehghani et al., 2023, arXiv:2307.06304). Images keep their aspect ratio, are resized to a size of their own,
lose some of their tokens in training, and share rows as a packer decides. None is split, cut or left out: one that does
not fit waits for a later row.
"""

import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from vitjax.data.buckets import Buckets, plan_buckets
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
from vitjax.data.packed_targets import LabelTargets, PackedTargets, Window
from vitjax.data.reading import LaneReader, read_ahead, read_now
from vitjax.data.rows import (
    BestFit,
    FirstFit,
    ImagePatches,
    PackedImage,
    Packer,
    PackingPolicy,
    PatchCut,
    Piece,
    SubsetFit,
    stack_rows,
)
from vitjax.data.sampling import (
    FixedOrder,
    NoDrop,
    Resolution,
    ShuffledOrder,
    TokenDrop,
    example_generator,
    grid_size,
    keep_tokens,
    within,
)
from vitjax.data.source_access import drop_source, replace_source, source_labels, source_length
from vitjax.data.transforms import INTERPOLATIONS
from vitjax.errors import UserError

__all__ = ["BestFit", "FirstFit", "PackedBatches", "Preparation", "SubsetFit"]

_logger = logging.getLogger("vitjax")

_WHOLE_ROW = 128  # tokens; attention over rows this short costs no more on CPU than gathering their images
_SAMPLE = 512  # examples whose sizes the length buckets are planned from
_DRAWS = 16384  # sizes drawn from these for batches that resemble the run's


@dataclass(frozen=True)
class PackedBatches:
    """Batches of packed rows; the keys are in ARCHITECTURE.md.

    Attributes:
        source: what is read, or `None` until `with_source`.
        patch_size: pixels a side.
        length: tokens of a row.
        rows: rows of a global batch.
        max_images: images of a row at most.
        resolution: chooses each image's size.
        token_drop: chooses the share of its tokens to drop.
        max_grid: (rows, columns) of the largest grid that the model has positions for, or `None`. Longer images are
            made smaller, which `statistics()` counts. Of clips (times, rows, columns).
        targets: what a batch holds beside its images: `LabelTargets()`, or those of `packed_scenes`.
        cut: what a patch is: `ImagePatches()`, or `clips.Tubelets`.
        transforms: applied to an example before it is resized; of the kind that `targets` say.
        policy: which images share a row: `SubsetFit()`, `BestFit()` or `FirstFit()`.
        window: what each packer has under construction: waiting images for `SubsetFit`, rows for the others.
        packers: independent packers, each filling `rows / packers` rows of every batch from its own share of the
            examples; the processes of a run share them out. Batches depend on it, not on the number of processes.
        interpolation: as in `transforms.resize_image`.
        buckets: whether to list each image's tokens for attention on CPU, where rows are longer than 128 tokens. Only
            in single-process runs.
        threads: threads that read and prepare, where there are no worker processes.
        workers: processes that read and prepare; 0 does it in this one.
        prefetch: batches held ready.
        max_broken: share of the examples that may be unreadable; fewer than 10 files never stop a run.
    """

    source: Any
    patch_size: int
    length: int
    rows: int
    max_images: int
    resolution: Resolution
    token_drop: TokenDrop = NoDrop()  # noqa: RUF009 - frozen
    max_grid: tuple[int, ...] | None = None
    targets: PackedTargets = LabelTargets()  # noqa: RUF009 - frozen
    cut: PatchCut = ImagePatches()  # noqa: RUF009 - frozen
    transforms: tuple[Any, ...] = ()
    policy: PackingPolicy = SubsetFit()  # noqa: RUF009 - frozen
    window: int = 128
    packers: int = 4
    interpolation: str = "bilinear"
    buckets: bool = True
    threads: int = 4
    workers: int = 0
    prefetch: int = 2
    max_broken: float | int = 0.01

    def __post_init__(self) -> None:
        for setting in ("patch_size", "length", "rows", "max_images", "window", "packers"):
            if getattr(self, setting) < 1:
                raise UserError(f"PackedBatches: `{setting}` (={getattr(self, setting)}) is at least 1")
        check_reading(
            "PackedBatches",
            threads=self.threads, workers=self.workers, prefetch=self.prefetch, max_broken=self.max_broken,
        )  # fmt: skip
        if self.rows % self.packers:
            raise UserError(
                f"PackedBatches: `rows` (={self.rows}) is not divisible by `packers` (={self.packers}), each of which "
                f"fills as many rows; use rows={-(-self.rows // self.packers) * self.packers} or other packers"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"PackedBatches: `interpolation` (={self.interpolation!r}) is one of {', '.join(INTERPOLATIONS)}"
            )
        if self.max_grid is not None and len(self.max_grid) != self.cut.axes:
            raise UserError(
                f"PackedBatches: `max_grid` (={self.max_grid}) has {len(self.max_grid)} numbers, places of the patches "
                f"that `cut` (={self.cut}) makes have {self.cut.axes}; give one for each"
            )
        if self.transforms and self.cut.axes != 2:
            raise UserError(
                f"PackedBatches: `transforms` change pictures, and `cut` takes clips; give them to "
                f"{type(self.cut).__name__}(transforms=...), which changes all frames of a clip alike"
            )
        self._check_layers()
        self._check_largest()

    def _check_layers(self) -> None:
        """A clip of one patch per layer, the smallest there is, must have room."""
        limit, layers = self.resolution.token_limit, self.cut.most_layers
        rooms = [("tokens in a row, `length`", self.length)]
        rooms += [] if limit is None else [(f"tokens for an image, `resolution` (={self.resolution})", limit)]
        rooms += [] if self.max_grid is None or len(self.max_grid) == 2 else [("times, `max_grid`", self.max_grid[0])]
        for what, room in rooms:
            if layers > room:
                raise UserError(
                    f"PackedBatches: `cut` (={self.cut}) makes up to {layers} patches of one place, and there are "
                    f"{room} {what}; allow at least {layers}, or use fewer frames or deeper tubelets"
                )

    def _check_largest(self) -> None:
        largest, limit, layers = self.resolution.largest, self.resolution.token_limit, self.cut.most_layers
        square = None if largest is None else round((largest / self.patch_size) ** 2) * layers
        tokens = square if limit is None else limit
        if tokens is not None and tokens > self.length:
            fits = math.floor(math.sqrt(self.length / layers) * self.patch_size)
            smaller = f"at most {fits} px a side" if limit is None else f"tokens={self.length}"
            raise UserError(
                f"PackedBatches: the largest image that `resolution` (={self.resolution}) makes has {tokens} tokens of "
                f"{self.patch_size} px, a row only `length` (={self.length}); "
                f"use length={tokens} or more, or a resolution of {smaller}"
            )

    labels = property(source_labels)
    num_examples = property(source_length)
    without_source = drop_source
    with_source = replace_source

    def stream(self, seed: int, shards: Shards) -> Stream:
        """Endless batches for training, each epoch in a new order.

        Raises:
            UserError: the rows or packers cannot be divided by the processes and their data shards, or there are no
                examples.
        """
        start = self._start(shards)
        if not self.num_examples:
            raise UserError(f"PackedBatches: the source {getattr(self.source, 'name', self.source)!r} has no examples")
        order = ShuffledOrder(seed, self.num_examples)
        buckets = self.plan_buckets(shards, order)
        start = {"seed": seed, "examples": self.num_examples, "num_packers": self.packers} | start
        produce = functools.partial(_produce, _Plan(self, order, shards.groups, buckets))
        return BatchStream(produce, start, _summarise, self.prefetch)

    def epoch(self, shards: Shards) -> Iterator[Batch]:
        """Each example once, in the source's order; the last batches have rows that are not full, or empty.

        Where there are several processes each first reads all examples once to learn how many batches there will be.

        Raises:
            UserError: see `stream`.
        """
        start = self._start(shards)
        if not self.num_examples:
            return
        buckets = self.plan_buckets(shards)
        batches = self._epoch_batches if shards.process_count > 1 else None
        plan = _Plan(self, FixedOrder(), shards.groups, buckets, end=self.num_examples, batches=batches)
        produced = _produce(plan, start)
        for item in in_background(produced, self.prefetch):
            yield item.batch

    def _start(self, shards: Shards) -> dict[str, Any]:
        """The state of this process's packers before the first example."""
        shards.local_size(self.rows, "rows")
        each, rest = divmod(self.packers, shards.process_count)
        if rest:
            raise UserError(
                f"PackedBatches: `packers` (={self.packers}) is not divisible by the {shards.process_count} processes "
                f"of this run, which share them out; use packers={shards.process_count}, and keep it when resuming"
            )
        lanes = range(shards.process_index * each, (shards.process_index + 1) * each)
        return {"packers": {str(lane): {"next": lane, "open": [], "closed": []} for lane in lanes}}

    def _packer(self, open_rows: Sequence[list[Piece]] = ()) -> Packer:
        return self.policy.packer(
            length=self.length, max_images=self.max_images, window=self.window, open_rows=open_rows
        )

    # ------------------------------------------------------------------------------ plans made before the first batch

    def _sizes(self, order: Callable[[int], tuple[int, int]], count: int) -> list[int | None]:
        """Tokens of the first examples of a stream; `None` for the unreadable ones."""
        measure = Preparation(self, order, measure=True)
        found = read_ahead(measure, range(count), threads=self.threads, workers=self.workers)
        return [None if isinstance(tokens, Broken) else tokens for _, tokens in found]

    @functools.cached_property
    def _epoch_sample(self) -> list[int | None]:
        return self._sizes(ShuffledOrder(0, self.num_examples), min(_SAMPLE, self.num_examples))

    @functools.cached_property
    def _epoch_batches(self) -> int:
        """Batches of an epoch: those of the packer that needs most rows."""
        packers = [self._packer() for _ in range(self.packers)]
        for position, tokens in enumerate(self._sizes(FixedOrder(), self.num_examples)):
            if tokens is not None:
                packers[position % self.packers].add(Piece(tokens, position))
        for packer in packers:
            packer.flush()
        return max(-(-len(packer.closed) // (self.rows // self.packers)) for packer in packers)

    def _wants_buckets(self, shards: Shards) -> bool:
        wanted = self.buckets and shards.buckets and self.length > _WHOLE_ROW
        if wanted and shards.process_count > 1:
            # a batch that does not fit in one process would change the shapes that all of them must agree on
            _logger.info("packing: length buckets need a single process; attention will use the segment mask")
        return wanted and shards.process_count == 1

    def plan_buckets(self, shards: Shards, order: Callable[[int], tuple[int, int]] | None = None) -> Buckets | None:
        """Capacities for the first examples of a stream, or for a sample of an epoch; `None` where none are wanted."""
        if not self._wants_buckets(shards):
            return None
        sample = self._epoch_sample if order is None else self._sizes(order, _SAMPLE)
        sizes = np.array([tokens for tokens in sample if tokens is not None], np.int64)
        if not len(sizes):
            return None
        largest = self.length if self.resolution.token_limit is None else self.resolution.token_limit
        if self.resolution.largest is not None:
            # rounding both sides up adds half of each: 1.25 of the square's for aspect ratios up to 4:1
            side = self.resolution.largest / self.patch_size
            most = math.ceil(side**2 + 1.25 * side + 1) * self.cut.most_layers
            largest = min(self.length, max(most, int(sizes.max())))
        return plan_buckets(self._example_groups(sizes, shards.groups), largest=largest, sample=len(sizes))

    def _example_groups(self, sizes: Int[np.ndarray, "_"], groups: int) -> list[Int[np.ndarray, "_"]]:
        """Tokens of the images in each group of rows, in batches packed from random sizes: from the first batch on."""
        draws = itertools.cycle(np.random.default_rng(0).choice(sizes, _DRAWS).tolist())
        packers = [self._packer() for _ in range(self.packers)]
        wanted = self.rows // self.packers
        found: list[np.ndarray] = []
        drawn = 0
        while drawn < _DRAWS or not found:
            rows = []
            for packer in packers:
                while len(packer.closed) < wanted:
                    packer.add(Piece(next(draws), None))
                    drawn += 1
                rows += [[piece.tokens for piece in packer.closed.popleft()] for _ in range(wanted)]
            each = self.rows // groups
            found += [np.concatenate(rows[number : number + each]) for number in range(0, self.rows, each)]
        return found


# ---------------------------------------------------------------------------------------------------- preparation


@dataclass(frozen=True)
class Preparation:
    """Makes the image at a position of the stream, or only measures it in tokens."""

    batches: PackedBatches
    order: Callable[[int], tuple[int, int]]
    measure: bool = False

    def __call__(self, position: int) -> PackedImage | Broken | int:
        """The image, or what is wrong with it."""
        started = time.thread_time()
        epoch, index = self.order(position)
        generator = example_generator(self.order.seed, epoch, index)  # pyright: ignore[reportFunctionMemberAccess]
        try:
            example = self.batches.source[index]
        except BrokenExample as error:
            return Broken(error.name, error.reason)
        return self.prepare(example, position, index, generator, started=started)

    def prepare(
        self, example: dict[str, Any], position: int, index: int, generator: np.random.Generator, *, started: float
    ) -> PackedImage | int:
        """The image of an example that has been read; `started` is when that began, in this thread's own time."""
        settings = self.batches
        training = not isinstance(self.order, FixedOrder) and not self.measure
        num_labels = len(getattr(settings.source, "labels", None) or ())  # pairs come without a source
        example = settings.targets.arrange(
            example, settings.transforms, generator, training=training, num_labels=num_labels
        )
        example = settings.cut.ready(example, generator)
        layers = settings.cut.layers(example)
        image_grid, shrunk = self._choose(generator, settings.cut.native_size(example), layers)
        grid = settings.cut.full_grid(image_grid, layers)
        tokens = math.prod(grid)
        keep = keep_tokens(generator, tokens, settings.token_drop(generator, tokens, position))
        if self.measure:
            return len(keep)
        size = settings.patch_size
        return PackedImage(
            position=position,
            example=index,
            targets=settings.targets(example, Window(grid, size, keep)),
            patches=settings.cut(example, grid, size, keep, settings.interpolation),
            places=np.stack(np.unravel_index(keep, grid), axis=1).astype(np.int32),
            grid=grid,
            shrunk=shrunk,
            seconds=time.thread_time() - started,
        )

    def _choose(
        self, generator: np.random.Generator, native_size: tuple[int, int], layers: int
    ) -> tuple[tuple[int, int], bool]:
        """The grid of the picture, and whether it had to be made smaller than asked."""
        settings = self.batches
        side = settings.resolution(generator, native_size)
        limit = settings.resolution.token_limit
        own_rule = getattr(settings.resolution, "grid", None)
        grid = (
            grid_size(native_size, side, settings.patch_size, (limit or settings.length) // layers)
            if own_rule is None
            else own_rule(native_size, settings.patch_size, layers)
        )
        if settings.max_grid is not None:
            grid = within(grid, (settings.max_grid[-2], settings.max_grid[-1]))
        return grid, limit is None and grid != grid_size(native_size, side, settings.patch_size, 2**31)


# ---------------------------------------------------------------------------------------------------- production


@dataclass(frozen=True)
class _Plan:
    """What a process makes: endless batches, or `batches` of them (`None`: until nothing is left) of `end` examples."""

    settings: PackedBatches
    order: Callable[[int], tuple[int, int]]
    groups: int
    buckets: Buckets | None
    end: int | None = None
    batches: int | None = None


def _produce(plan: _Plan, state: dict[str, Any]) -> Generator[Produced, None, None]:
    """The batches that follow a state."""
    settings, buckets = plan.settings, plan.buckets
    prepare = Preparation(settings, plan.order)
    broken = BrokenFiles(str(getattr(settings.source, "name", "the source")), settings.max_broken)
    packers = {int(lane): _resume(settings, saved, prepare) for lane, saved in state["packers"].items()}
    upcoming = {int(lane): saved["next"] for lane, saved in state["packers"].items()}
    reader = LaneReader(
        prepare, list(upcoming.values()),
        stride=settings.packers, end=plan.end, threads=settings.threads, workers=settings.workers,
    )  # fmt: skip
    made = 0
    try:
        while plan.batches is None or made < plan.batches:
            started, waited = time.perf_counter(), reader.wait_seconds
            prepared = _fill(settings, packers, upcoming, reader, broken)
            rows = _take(packers, settings.rows // settings.packers)
            if plan.end is not None and plan.batches is None and not any(rows):
                return
            batch = stack_rows(
                rows, length=settings.length, max_images=settings.max_images,
                patch_values=settings.cut.values(settings.patch_size), axes=settings.cut.axes,
                blanks=settings.targets.blanks(settings.patch_size), groups=plan.groups, buckets=buckets,
            )  # fmt: skip
            packing = time.perf_counter() - started - (reader.wait_seconds - waited)
            counts = _count(rows, packers, settings.length) | {
                "dense_batches": float(buckets is not None and "buckets" not in batch),
                "broken_files": float(broken.taken()),
                "host_seconds": packing + prepared,
            }
            made += 1
            yield Produced(batch, state | {"packers": _save(packers, upcoming)}, counts)
    finally:
        reader.close()


def _resume(settings: PackedBatches, saved: dict[str, Any], prepare: Preparation) -> Packer:
    """A packer whose rows are read again from their positions."""
    positions = [position for rows in (saved["open"], saved["closed"]) for row in rows for position in row]
    images = read_now(prepare, positions, settings.threads)
    packer = settings._packer([[_piece(images[position]) for position in row] for row in saved["open"]])
    packer.closed.extend([_piece(images[position]) for position in row] for row in saved["closed"])
    return packer


def _piece(image: PackedImage) -> Piece:
    return Piece(len(image.patches), image)


def _save(packers: dict[int, Packer], upcoming: dict[int, int]) -> dict[str, Any]:
    def positions(rows: Iterable[list[Piece]]) -> list[list[int]]:
        return [[piece.item.position for piece in row] for row in rows]

    return {
        str(lane): {"next": upcoming[lane], "open": positions(packer.open), "closed": positions(packer.closed)}
        for lane, packer in packers.items()
    }


def _fill(
    settings: PackedBatches,
    packers: dict[int, Packer],
    upcoming: dict[int, int],
    reader: LaneReader,
    broken: BrokenFiles,
) -> float:
    """Feeds the packers in turn until each has closed its rows of the next batch; returns the time of preparation."""
    wanted = settings.rows // settings.packers
    seconds = 0.0
    hungry = [lane for lane, packer in packers.items() if len(packer.closed) < wanted]
    while hungry:
        for lane in tuple(hungry):
            found = reader.next(lane)
            if found is None:
                packers[lane].flush()
                hungry.remove(lane)
                continue
            position, image = found
            upcoming[lane] = position + settings.packers
            if broken.passes(image):
                packers[lane].add(_piece(image))
                seconds += image.seconds
                if len(packers[lane].closed) >= wanted:
                    hungry.remove(lane)
    return seconds


def _take(packers: dict[int, Packer], count: int) -> list[list[PackedImage]]:
    """`count` rows of each packer in their order, empty ones where it has no more."""
    return [
        [piece.item for piece in packer.closed.popleft()] if packer.closed else []
        for packer in packers.values()
        for _ in range(count)
    ]


def _count(rows: list[list[PackedImage]], packers: dict[int, Packer], length: int) -> dict[str, float]:
    images = [image for row in rows for image in row]
    unfinished = [row for packer in packers.values() for row in (*packer.open, *packer.closed)]
    return {
        "rows": float(len(rows)),
        "slots": float(len(rows) * length),
        "images": float(len(images)),
        "tokens": float(sum(len(image.patches) for image in images)),
        "grid_tokens": float(sum(math.prod(image.grid) for image in images)),
        "shrunk_images": float(sum(image.shrunk for image in images)),
        "waiting_images": float(sum(map(len, unfinished))),
    }


def _summarise(counts: dict[str, float]) -> dict[str, float]:
    """Statistics from summed counts: totals and shares; seconds and waiting images are means per batch."""
    return {
        "images": counts["images"],
        "tokens": counts["tokens"],
        "padding_share": 1 - counts["tokens"] / counts["slots"],
        "images_per_row": counts["images"] / counts["rows"],
        "dropped_token_share": 1 - counts["tokens"] / max(counts["grid_tokens"], 1.0),
        "shrunk_images": counts["shrunk_images"],
        "waiting_images": counts["waiting_images"] / counts["batches"],
        "broken_files": counts["broken_files"],
        "dense_batches": counts["dense_batches"],
        "host_seconds": counts["host_seconds"] / counts["batches"],
        "wait_seconds": counts["wait_seconds"] / counts["batches"],
    }
