"""Batches of scenes of many sizes, padded to one of a few shapes: DETR's batches, with a bounded number of programs.

What is padded is at the bottom and on the right. Pictures of like size meet in a batch: the size that a picture will
have after its transforms follows from its native size and its random numbers (`planned_size`), so batches are planned
before a pixel is read, by every process alike.
"""

import contextlib
import functools
import logging
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vitjax.data.images import BrokenExample
from vitjax.data.loading import Batch, BatchStream, Produced, Shards, Stream, check_reading, in_background
from vitjax.data.sampling import FixedOrder, ShuffledOrder, example_generator
from vitjax.data.scene_batching import ScenePreparation, SceneTargets
from vitjax.data.scene_geometry import pad_scene, resize_scene
from vitjax.data.scene_transforms import planned_size
from vitjax.data.slices import Cut, ExampleReader, Prepared, even_cuts, produce, summarise
from vitjax.data.source_access import drop_source, get_source, replace_source, source_labels, source_length
from vitjax.errors import UserError

__all__ = ["PaddedSceneBatches", "group_by_shape"]

logger = logging.getLogger("vitjax")

Shape = tuple[int, int]


@dataclass(frozen=True)
class PaddedSceneBatches:
    """Batches of scenes, each padded at the bottom and on the right to one of `shapes`; one compilation per shape.

    Keys, with a leading axis B: `image` uint8 [H, W, 3], 0 where padded; `content_size` int32 [2], (rows, columns) of
    the picture in it, at its top left; `image_mask` bool, `example` int32 (-1 for padding), `image_size` int32 [2]
    (rows, columns of the picture as the source gave it), and those of `targets`. An empty place is content all over.

    Training: the shuffled stream is cut into windows of `window` batches. Within one, pictures that fit the same shape
    best fill its batches; those left over go to the next larger shape, and at last to a batch of several kinds, in
    which pictures too large for its shape are shrunk to fit. Then the batches are shuffled. So each example is used
    once per epoch, no place is empty, and a batch is a function of seed and step.

    Evaluation: all examples are one window, ordered from the largest shape to the smallest, and no picture is shrunk
    that fits any shape; batches that are not full have empty places.

    Sources with a method `sizes() -> int [examples, 2]`, (rows, columns) of the pictures, are not read beforehand;
    others are, once, which the log says. What `sizes` has for a picture that cannot be read does not matter.

    Attributes:
        source: what is read, or `None` until `with_source`.
        batch_size: scenes of a global batch, whatever its shape.
        targets: such as `BoxTargets`; called with the padded scene, which has `content_size`.
        shapes: (rows, columns) of the images of a batch.
        transforms: of `scene_transforms`, applied to each scene.
        window: batches among which pictures are sorted: the more, the fewer mixed ones and the less padding.
        threads: threads that read and prepare, where there are no worker processes.
        workers: processes that read and prepare; 0 does it in this one.
        prefetch: batches held ready.
        max_broken: share of the examples that may be unreadable; fewer than 10 files never stop a run.
    """

    source: Any
    batch_size: int
    targets: SceneTargets
    shapes: tuple[Shape, ...]
    transforms: tuple[Any, ...] = ()
    window: int = 64
    threads: int = 4
    workers: int = 0
    prefetch: int = 2
    max_broken: float | int = 0.01

    def __post_init__(self) -> None:
        if min(self.batch_size, self.window) < 1:
            raise UserError(
                f"PaddedSceneBatches: `batch_size` (={self.batch_size}), `window` (={self.window}): expected 1 or more"
            )
        object.__setattr__(self, "shapes", tuple(tuple(shape) for shape in self.shapes))
        if (
            not self.shapes
            or len(set(self.shapes)) < len(self.shapes)
            or any(len(shape) != 2 or min(shape) < 1 for shape in self.shapes)
        ):
            raise UserError(
                f"PaddedSceneBatches: `shapes` (={self.shapes}) are different (rows, columns) in pixels, at least one"
            )
        check_reading(
            "PaddedSceneBatches",
            threads=self.threads, workers=self.workers, prefetch=self.prefetch, max_broken=self.max_broken,
        )  # fmt: skip

    labels = property(source_labels)
    num_examples = property(source_length)
    without_source = drop_source
    with_source = replace_source

    def describe(self) -> str:
        """The shapes in words, for the start of a run."""
        shown = ", ".join(f"{rows}x{columns}" for rows, columns in self.shapes)
        return (
            f"padded batches of {self.batch_size} scenes in {len(self.shapes)} shapes, {shown} px; the training step "
            f"is compiled {len(self.shapes)} times at most"
        )

    def stream(self, seed: int, shards: Shards) -> Stream:
        """Endless batches for training, each epoch in a new order.

        A scene that cannot be read leaves its place empty, under the mask.

        Raises:
            UserError: the batch cannot be divided by the processes and their data shards, or there are no examples;
                later, a scene lacks what `targets` needs or contradicts itself.
        """
        shards.local_size(self.batch_size, "batch_size")
        if not self.num_examples:
            name = getattr(self.source, "name", self.source)
            raise UserError(f"PaddedSceneBatches: the source {name!r} has no examples")
        # Of a small source no more than an epoch, so that its epochs follow one another.
        batches = min(self.window, max(1, self.num_examples // self.batch_size))
        order = ShuffledOrder(seed, self.num_examples)
        plan = _Plan(self, _source_sizes(self), order, batches * self.batch_size)
        start = {"position": 0, "seed": seed, "examples": self.num_examples, "batch_size": self.batch_size}
        start |= {"window": self.window, "shapes": [list(shape) for shape in self.shapes]}
        return BatchStream(functools.partial(_produce, self, plan, shards, None), start, _summarise, self.prefetch)

    def epoch(self, shards: Shards) -> Iterator[Batch]:
        """Each scene once; places that a shape's last batch lacks are under the mask.

        Pictures without boxes are taken too, for prediction: their targets are empty.

        Raises:
            UserError: see `stream`.
        """
        shards.local_size(self.batch_size, "batch_size")
        plan = _Plan(self, _source_sizes(self), FixedOrder(), None)
        plan.warn_of_shrinking()
        made = _produce(self, plan, shards, len(plan.window(0)) * self.batch_size, {"position": 0})
        for item in in_background(made, self.prefetch):
            yield item.batch


# ---------------------------------------------------------------------------------------------------- planning


class _Group(NamedTuple):
    """One batch: its shape, and the number of each of its pictures; `None` for an empty place."""

    shape: Shape
    members: tuple[int | None, ...]


def group_by_shape(
    sizes: Int[np.ndarray, "n 2"], shapes: Sequence[Shape], batch_size: int, *, fill: bool
) -> list[_Group]:
    """Pictures of like shape in batches, the largest shape first.

    Args:
        sizes: (rows, columns) of each picture.
        shapes: of the batches. A picture goes to the smallest that holds it, or that it is shrunk least for; a rest
            that makes no batch goes on to the smallest that holds its own.
        batch_size: pictures of a batch.
        fill: what is left at last is mixed, n being a multiple of `batch_size`; otherwise batches have empty places.

    Returns:
        Shape and picture numbers of every batch.
    """
    shapes = sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))
    scales = np.stack([np.min(np.array(shape) / sizes, axis=1) for shape in shapes], axis=1)  # n shapes; 1 fits
    best = np.where((scales >= 1).any(axis=1), (scales >= 1).argmax(axis=1), scales.argmax(axis=1))
    waiting: list[list[int]] = [np.flatnonzero(best == number).tolist() for number in range(len(shapes))]
    groups, rest = [], []
    for number, (shape, members) in enumerate(zip(shapes, waiting, strict=True)):
        full = len(members) // batch_size * batch_size
        groups += [_Group(shape, tuple(members[at : at + batch_size])) for at in range(0, full, batch_size)]
        following = (other for other in range(number + 1, len(shapes)) if np.less_equal(shape, shapes[other]).all())
        larger = next(following, None)
        if larger is not None:
            waiting[larger] += members[full:]
        elif fill:
            rest += members[full:]
        elif full < len(members):
            groups.append(_Group(shape, (*members[full:], *[None] * (batch_size - len(members) + full))))
    for at in range(0, len(rest), batch_size):
        members = rest[at : at + batch_size]
        least = np.minimum(scales[members].min(axis=0), 1)  # what the worst off is shrunk to, by shape
        groups.append(_Group(shapes[int(least.argmax())], tuple(members)))
    return sorted(groups, key=lambda group: -group.shape[0] * group.shape[1])


@dataclass
class _Plan:
    """Which example stands where: from a position to (epoch, index), as the orders of `sampling` do.

    Attributes:
        settings: the batches.
        sizes: (rows, columns) of each example of the source.
        order: of the examples.
        length: positions of a window, a multiple of the batch size; `None` for one window of all examples, in order.
    """

    settings: PaddedSceneBatches
    sizes: Int[np.ndarray, "examples 2"]
    order: Any
    length: int | None
    _windows: dict[int, list[_Group]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A plan travels to worker processes, which have the source already.
        self.settings = self.settings.without_source()

    @property
    def seed(self) -> int:
        return self.order.seed

    def __call__(self, position: int) -> tuple[int, int] | None:
        number, place = divmod(position, self.settings.batch_size)
        return self.batch(number).members[place]  # pyright: ignore[reportReturnType]

    def batch(self, number: int) -> _Group:
        """The members of a batch as (epoch, index)."""
        if self.length is None:
            return self.window(0)[number]
        window, place = divmod(number, self.length // self.settings.batch_size)
        return self.window(window)[place]

    def window(self, number: int) -> list[_Group]:
        """All batches of a window."""
        groups = self._windows.get(number)
        if groups is None:
            groups = self._make_window(number)
            # Readers are behind the planning, by more windows where these are short.
            oldest = number - 1 - 1024 // max(1, len(groups) * self.settings.batch_size)
            self._windows = {known: made for known, made in self._windows.items() if known >= oldest} | {number: groups}
        return groups

    def _make_window(self, number: int) -> list[_Group]:
        settings, length = self.settings, len(self.sizes) if self.length is None else self.length
        places = [self.order(position) for position in range(number * length, (number + 1) * length)]
        sizes = np.array([self.prepared_size(*place) for place in places]).reshape(-1, 2)
        groups = group_by_shape(sizes, settings.shapes, settings.batch_size, fill=self.length is not None)
        if self.length is not None:
            # The last numbers keep these draws apart from others of the seed.
            np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, number, 0, 5)))).shuffle(groups)
        return [
            _Group(shape, tuple(None if member is None else places[member] for member in members))  # pyright: ignore
            for shape, members in groups
        ]

    def prepared_size(self, epoch: int, index: int) -> Shape:
        """What the transforms will make of an example's size."""
        rows, columns = self.sizes[index]
        generator = example_generator(self.seed, epoch, index)
        return planned_size(self.settings.transforms, (int(rows), int(columns)), generator)

    def warn_of_shrinking(self) -> None:
        """Says how many pictures no shape holds."""
        sizes = np.array([self.prepared_size(0, index) for index in range(len(self.sizes))]).reshape(-1, 1, 2)
        holds = np.all(sizes <= np.array(self.settings.shapes), axis=2)  # examples shapes
        large = np.flatnonzero(~np.any(holds, axis=1))
        if large.size:
            rows, columns = sizes[large[0], 0]
            logger.warning(
                "%d of %d pictures are larger than all `shapes` and are shrunk to fit, the first is example %d with "
                "%d x %d pixels after the transforms",
                large.size, len(sizes), large[0], rows, columns,
            )  # fmt: skip


def _source_sizes(settings: PaddedSceneBatches) -> Int[np.ndarray, "examples 2"]:
    """(rows, columns) of every example of the source; of one that cannot be read anything."""
    source = get_source(settings)
    sizes = getattr(source, "sizes", None)
    if sizes is not None:
        return np.asarray(sizes(), np.int64).reshape(-1, 2)
    logger.info(
        "PaddedSceneBatches: reading all %d pictures of %s for their sizes, once; a method `sizes()` of the source, "
        "(rows, columns) of each, would do without",
        len(source), getattr(source, "name", source),
    )  # fmt: skip

    def size(index: int) -> Shape:
        try:
            return source[index]["image"].shape[:2]
        except BrokenExample:  # counted when its turn comes
            return settings.shapes[0]

    with ThreadPoolExecutor(settings.threads) as pool:
        return np.array(list(pool.map(size, range(len(source)))), np.int64).reshape(-1, 2)


# ---------------------------------------------------------------------------------------------------- batches


def _produce(
    settings: PaddedSceneBatches, plan: _Plan, shards: Shards, end: int | None, state: dict[str, Any]
) -> Generator[Produced, None, None]:
    """Batches from a state on: without end, or up to position `end`."""
    common = ScenePreparation(settings.transforms, settings.targets, len(settings.labels or ()), training=end is None)
    read = ExampleReader(settings.source, plan, functools.partial(_prepare, common))
    cuts = (
        cut._replace(shape=plan.batch(cut.number).shape)
        for cut in even_cuts(settings.batch_size, state["position"], end)
    )
    shrunk = 0

    def stack(examples: list[Prepared | None], cut: Cut) -> Batch:
        nonlocal shrunk
        shrunk = sum(example.content["shrunk"] for example in examples if example is not None)
        return _stack(examples, cut, settings.targets)

    with contextlib.closing(produce(settings, cuts, read, stack, shards=shards, state=state)) as made:
        for item in made:
            rows, columns = item.batch["image"].shape[1:3]
            content = item.batch["content_size"][item.batch["image_mask"]]
            pixels = {"pixels": float(len(item.batch["image"]) * rows * columns), "shrunk": float(shrunk)}
            item.counts |= pixels | {"content_pixels": float(np.prod(content, axis=1, dtype=np.int64).sum())}
            yield item


def _prepare(
    common: ScenePreparation, example: dict[str, Any], generator: np.random.Generator, cut: Cut
) -> tuple[np.ndarray, dict[str, Any]]:
    assert cut.shape is not None
    scene = common.scene(example, generator)
    image = scene["image"]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"PaddedSceneBatches: example {example.get('index')} is {image.dtype} {image.shape} after `transforms` "
            f"(={common.transforms}), expected uint8 [rows, columns, 3]; the task normalises, on the device"
        )
    size = _fitting(image.shape[:2], cut.shape)
    shrunk = size != image.shape[:2]
    scene = resize_scene(scene, size, "bilinear") | {"content_size": np.array(size, np.int32)}
    scene = pad_scene(scene, cut.shape)
    content = {name: scene[name] for name in ("image_size", "content_size")}
    return scene["image"], {**content, **common.targets(scene), "shrunk": shrunk}


def _fitting(size: Shape, shape: Shape) -> Shape:
    """The size itself, or the largest of its aspect ratio that fits."""
    rows, columns = size
    if rows > shape[0] or columns > shape[1]:
        if rows * shape[1] > columns * shape[0]:
            return shape[0], max(1, columns * shape[0] // rows)
        return max(1, rows * shape[1] // columns), shape[1]
    return rows, columns


def _stack(examples: list[Prepared | None], cut: Cut, targets: SceneTargets) -> Batch:
    assert cut.shape is not None
    image = np.zeros((*cut.shape, 3), np.uint8)
    whole = np.array(cut.shape, np.int32)
    nothing = {"image_size": np.zeros(2, np.int32), "content_size": whole, **targets({"image": image})}
    scenes = [nothing if example is None else example.content for example in examples]
    return {
        "image": np.stack([image if example is None else example.image for example in examples]),
        "image_mask": np.array([example is not None for example in examples]),
        "example": np.array([-1 if example is None else example.index for example in examples], np.int32),
    } | {name: np.stack([scene[name] for scene in scenes]) for name in nothing}


def _summarise(counts: dict[str, float]) -> dict[str, float]:
    """As of other batches; and which share of the pixels is padding, which share of the pictures was shrunk to fit."""
    return summarise(counts) | {
        "pixel_padding_share": 1 - counts["content_pixels"] / counts["pixels"],
        "shrunk_share": counts["shrunk"] / max(counts["images"], 1.0),
    }
