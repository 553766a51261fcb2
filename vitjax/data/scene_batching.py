"""Batches of scenes: images of one shape with boxes, or with a class for every pixel.

A scene is a dict: `image` uint8 [H, W, 3]; `labels` int32 [n]; `boxes_xyxy_pixels` float32 [n, 4] (left, top, right,
bottom; the last two exclusive); where the source has them `masks` bool [n, H, W], `crowd` bool [n], `area` float32 [n]
(of the object in pixels of the picture as the source gave it; that of its box if not given) and `class_map` uint8
[H, W], 255 where a pixel does not count; and `index`. Prepared, it also has `image_size`, (rows, columns) of the
picture as the source gave it, and `content_size`, the same of the top left part that is no padding, where batches pad.
"""

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vitjax.data.loading import Batch, BatchStream, Produced, Shards, Stream, check_reading, in_background
from vitjax.data.sampling import FixedOrder, ShuffledOrder
from vitjax.data.scene_geometry import IGNORED
from vitjax.data.slices import Cut, ExampleReader, ImageStack, Prepared, even_cuts, produce, summarise
from vitjax.data.source_access import drop_source, replace_source, source_labels, source_length
from vitjax.errors import UserError

__all__ = [
    "IGNORED",
    "BoxTargets",
    "ClassMapTargets",
    "SceneBatches",
    "ScenePreparation",
    "SceneTargets",
    "check_scene",
]

_ADVICE = "end the transforms with SceneResize, SceneCrop or PadTo"


@runtime_checkable
class SceneTargets(Protocol):
    """Makes what a batch holds beside its images, as arrays whose shapes depend on the image's alone."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys that a scene to be trained on must have."""
        ...

    def __call__(self, scene: dict[str, Any]) -> dict[str, np.ndarray]:
        """One scene's arrays, without a batch axis; those of an image alone stand for an empty place."""
        ...


@dataclass(frozen=True)
class BoxTargets:
    """Boxes as `boxes` float32 [B, S, 4], `labels` int32, `box_mask` and `crowd` bool, `area` float32 [B, S].

    A box is (left, top, right, bottom) in 0...1 of the prepared image: of its `content_size` where it has one,
    otherwise padding included. Areas are in pixels of the picture as the source gave it.

    Attributes:
        max_boxes: S, the slots of a scene; 100 hold any image of COCO, and are what DETR finds.
    """

    max_boxes: int = 100

    def __post_init__(self) -> None:
        if self.max_boxes < 1:
            raise UserError(f"BoxTargets: `max_boxes` (={self.max_boxes}) is at least 1")

    @property
    def needs(self) -> tuple[str, ...]:
        """Labels and boxes."""
        return ("labels", "boxes_xyxy_pixels")

    def __call__(self, scene: dict[str, Any]) -> dict[str, np.ndarray]:
        """The first slots hold the scene's boxes in their order.

        Raises:
            UserError: there are more boxes than slots.
        """
        rows, columns = scene.get("content_size", scene["image"].shape[:2])
        boxes = np.asarray(scene.get("boxes_xyxy_pixels", np.zeros((0, 4))), np.float32)
        count = len(boxes)
        if count > self.max_boxes:
            raise UserError(
                f"BoxTargets: example {scene.get('index')} has {count} boxes, more than `max_boxes` "
                f"(={self.max_boxes}); none is dropped in silence: use max_boxes={count} or more"
            )
        targets = {
            "boxes": np.zeros((self.max_boxes, 4), np.float32),
            "labels": np.zeros(self.max_boxes, np.int32),
            "box_mask": np.arange(self.max_boxes) < count,
            "crowd": np.zeros(self.max_boxes, bool),
            "area": np.zeros(self.max_boxes, np.float32),
        }
        targets["boxes"][:count] = boxes / np.array([columns, rows, columns, rows], np.float32)
        targets["labels"][:count] = scene.get("labels", ())
        targets["crowd"][:count] = scene.get("crowd", False)
        targets["area"][:count] = scene.get("area", 0.0)
        return targets


@dataclass(frozen=True)
class ClassMapTargets:
    """A class for every pixel as `class_map` int32 [B, H, W]; 255 where a pixel does not count."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The map."""
        return ("class_map",)

    def __call__(self, scene: dict[str, Any]) -> dict[str, np.ndarray]:
        """The scene's map; without one, no pixel counts."""
        size = scene["image"].shape[:2]
        class_map = scene.get("class_map")
        return {"class_map": np.full(size, IGNORED, np.int32) if class_map is None else class_map.astype(np.int32)}


@dataclass(frozen=True)
class SceneBatches:
    """Batches of scenes that the transforms bring to one shape.

    Keys, with a leading axis B: `image` uint8 [H, W, 3], `image_mask` bool, `example` int32 (-1 for padding),
    `image_size` int32 [2] (rows, columns of the picture as the source gave it), and those of `targets`. Same batches
    for any number of processes, threads and workers, as of `ImageBatches`.

    Attributes:
        source: what is read, or `None` until `with_source`.
        batch_size: scenes of a global batch.
        transforms: of `scene_transforms`, applied to each scene; all images must come out alike in size.
        targets: `BoxTargets` or `ClassMapTargets`.
        threads: threads that read and prepare, where there are no worker processes.
        workers: processes that read and prepare; 0 does it in this one.
        prefetch: batches held ready.
        max_broken: share of the examples that may be unreadable; fewer than 10 files never stop a run.
    """

    source: Any
    batch_size: int
    targets: SceneTargets
    transforms: tuple[Any, ...] = ()
    threads: int = 4
    workers: int = 0
    prefetch: int = 2
    max_broken: float | int = 0.01

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"SceneBatches: `batch_size` (={self.batch_size}) is at least 1")
        check_reading(
            "SceneBatches",
            threads=self.threads, workers=self.workers, prefetch=self.prefetch, max_broken=self.max_broken,
        )  # fmt: skip

    labels = property(source_labels)
    num_examples = property(source_length)
    without_source = drop_source
    with_source = replace_source

    def stream(self, seed: int, shards: Shards) -> Stream:
        """Endless batches for training, each epoch in a new order.

        A scene that cannot be read leaves its place empty, under the mask.

        Raises:
            UserError: the batch cannot be divided by the processes and their data shards, or there are no examples;
                later, a scene lacks what `targets` needs or contradicts itself.
        """
        shards.local_size(self.batch_size, "batch_size")
        if not self.num_examples:
            raise UserError(f"SceneBatches: the source {getattr(self.source, 'name', self.source)!r} has no examples")
        start = {"position": 0, "seed": seed, "examples": self.num_examples, "batch_size": self.batch_size}
        made = functools.partial(_produce, self, ShuffledOrder(seed, self.num_examples), shards, None)
        return BatchStream(made, start, summarise, self.prefetch)

    def epoch(self, shards: Shards) -> Iterator[Batch]:
        """Each scene once, in the source's order; what the last batch lacks is under the mask.

        Pictures without boxes or map are taken too, for prediction: their targets are empty.

        Raises:
            UserError: see `stream`.
        """
        shards.local_size(self.batch_size, "batch_size")
        made = _produce(self, FixedOrder(), shards, self.num_examples, {"position": 0})
        for item in in_background(made, self.prefetch):
            yield item.batch


def _produce(
    settings: SceneBatches,
    order: Callable[[int], tuple[int, int]],
    shards: Shards,
    end: int | None,
    state: dict[str, Any],
) -> Generator[Produced, None, None]:
    """Batches from a state on: without end, or until `end` examples are all in a batch."""
    prepare = ScenePreparation(settings.transforms, settings.targets, len(settings.labels or ()), training=end is None)
    read = ExampleReader(settings.source, order, prepare)
    stack_images = ImageStack("SceneBatches", _ADVICE, settings.transforms, read)

    def stack(examples: list[Prepared | None], cut: Cut) -> Batch:
        batch = stack_images(examples, cut)
        nothing = {"image_size": np.zeros(2, np.int32), **settings.targets({"image": batch["image"][0]})}
        scenes = [nothing if example is None else example.content for example in examples]
        return batch | {name: np.stack([scene[name] for scene in scenes]) for name in nothing}

    cuts = even_cuts(settings.batch_size, state["position"], end)
    return produce(settings, cuts, read, stack, shards=shards, state=state, end=end)


@dataclass(frozen=True)
class ScenePreparation:
    """From a source's example to what a batch is made of.

    Attributes:
        transforms: of `scene_transforms`.
        targets: made of the scene.
        num_labels: classes of the source; 0 if unknown.
        training: whether the scene must have what the targets need.
    """

    transforms: tuple[Any, ...]
    targets: SceneTargets
    num_labels: int
    training: bool

    def __call__(
        self, example: dict[str, Any], generator: np.random.Generator, cut: Cut
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The image, and the content of `Prepared`."""
        scene = self.scene(example, generator)
        return scene["image"], {"image_size": scene["image_size"], **self.targets(scene)}

    def scene(self, example: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """The scene, checked, with `image_size` and `area`, and transformed.

        Raises:
            UserError: it lacks what the targets need, or contradicts itself.
        """
        missing = [key for key in ("image", *self.targets.needs) if key not in example]
        if missing and self.training:
            raise UserError(
                f"example {example.get('index')} has no {', '.join(missing)}, which `targets` "
                f"(={self.targets}) is made of; it has {', '.join(example)}"
            )
        check_scene(example, dict.fromkeys(self.targets.needs, self.num_labels))
        scene = example | {"image_size": np.array(example["image"].shape[:2], np.int32)}
        if "boxes_xyxy_pixels" in scene and "area" not in scene:
            boxes = np.asarray(scene["boxes_xyxy_pixels"], np.float32).reshape(-1, 4)
            scene["area"] = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        for transform in self.transforms:
            scene = transform(scene, generator)
        return scene


def check_scene(scene: dict[str, Any], num_labels: dict[str, int]) -> None:
    """Checks that what a scene holds fits together.

    Args:
        scene: see the head of this file.
        num_labels: classes that there are, by the keys (`labels`, `class_map`) that hold classes; 0 if unknown.

    Raises:
        UserError: it does not; the example is named.
    """
    size, name = scene["image"].shape[:2], f"example {scene.get('index')}"
    for key in ("class_map", "masks"):
        if key in scene and scene[key].shape[-2:] != size:
            raise UserError(
                f"{name}: its {key} has {_by(scene[key].shape[-2:])} pixels, its image {_by(size)}; "
                "they must lie on one another pixel by pixel: mend the file, or resize it without interpolation"
            )
    if "class_map" in scene and scene["class_map"].dtype != np.uint8:
        raise UserError(f"{name}: its class_map is {scene['class_map'].dtype}, expected uint8, {IGNORED} for no class")
    keys = ("labels", "boxes_xyxy_pixels", "masks", "crowd", "area")
    counts = {key: len(scene[key]) for key in keys if key in scene}
    if "boxes_xyxy_pixels" in scene and len(set(counts.values())) > 1:
        raise UserError(f"{name}: {', '.join(f'{count} {key}' for key, count in counts.items())}; expected as many")
    for key in ("labels", "class_map"):
        if key in scene and num_labels.get(key):
            classes = np.asarray(scene[key])
            if key == "class_map":
                classes = classes[classes != IGNORED]
            if classes.size and not 0 <= classes.min() <= classes.max() < num_labels[key]:
                unknown = sorted({int(number) for number in np.unique(classes)} - set(range(num_labels[key])))
                ignored = f", and {IGNORED} for pixels that do not count" if key == "class_map" else ""
                raise UserError(
                    f"{name}: its {key} has unknown classes {', '.join(map(str, unknown[:8]))}; the source has "
                    f"{num_labels[key]} labels, so expected 0...{num_labels[key] - 1}{ignored}"
                )


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
