"""Detection sets of TensorFlow Datasets, COCO and VOC among them, without TensorFlow; see `tfds_images`."""

import functools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.data.images import DEFAULT_MAX_PIXELS, BrokenExample, decode_image, image_size
from vitjax.data.tfds_images import count_examples, prepared_split, undecoded
from vitjax.errors import UserError

__all__ = ["TfdsBoxes", "tfds_boxes"]

logger = logging.getLogger("vitjax")

_SHOWN = 5  # examples that a report names


class _Keys(NamedTuple):
    """Names of features: of the image, of the sequence of objects, and of box and label in it."""

    image: str
    objects: str
    box: str
    label: str


@dataclass(frozen=True)
class TfdsBoxes:
    """One split of a detection set that TFDS has prepared as array_record files. Made by `tfds_boxes`; picklable.

    `source[i]` is a dict of `image` uint8 `[H, W, 3]`, `labels` int32 `[n]`, `boxes_xyxy_pixels` float32 `[n, 4]`,
    `crowd` bool `[n]`, `index`, and for sets that have it `area` float32 `[n]`, in pixels. Crowds are the objects
    marked `is_crowd` (COCO) or `is_difficult` (VOC, which does not count these either). Boxes without area are left
    out, which `sizes` counts and names. Stored bytes that cannot be decoded raise `BrokenExample`.

    Attributes:
        directory: the prepared version, such as `~/tensorflow_datasets/coco/2017/1.1.0`.
        split: TFDS split, such as "train" or "validation[:50%]".
        max_pixels: larger images are refused before they are decoded.
    """

    directory: str
    split: str
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"tfds:{self._builder.info.full_name}/{self.split}"

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        feature = _inside(self._builder.info.features[self._keys.objects])[self._keys.label]
        return tuple(feature.names or map(str, range(feature.num_classes)))

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.directory)

    @functools.cached_property
    def _keys(self) -> _Keys:
        import tensorflow_datasets as tfds

        info = self._builder.info
        images = [name for name, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
        image = "image" if "image" in images else next(iter(images), None)
        for name, feature in info.features.items():
            inside = _inside(feature)
            boxes = [key for key, part in inside.items() if isinstance(part, tfds.features.BBoxFeature)]
            labels = [key for key, part in inside.items() if isinstance(part, tfds.features.ClassLabel)]
            if image and boxes and labels:
                return _Keys(image, name, boxes[0], labels[0])
        raise UserError(
            f"tfds:{info.full_name}: expected an image and a sequence of objects with a box and a class label each, "
            f"its features are {', '.join(sorted(info.features))}; choose a data set for detection, such as tfds:coco"
        )

    @functools.cached_property
    def _records(self) -> Any:
        return undecoded(self._builder, self.split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        record = self._records[number]
        image = decode_image(record[self._keys.image], max_pixels=self.max_pixels, name=self._name_of(number))
        objects = record[self._keys.objects]
        boxes, real = self._boxes(objects, image.shape[:2])
        crowd = objects.get("is_crowd", objects.get("is_difficult", np.zeros(len(boxes), bool)))
        scene = {
            "image": image,
            "labels": np.asarray(objects[self._keys.label], np.int32).reshape(-1)[real],
            "boxes_xyxy_pixels": boxes[real],
            "crowd": np.asarray(crowd, bool).reshape(-1)[real],
            "index": number,
        }
        area = {"area": np.asarray(objects["area"], np.float32).reshape(-1)[real]} if "area" in objects else {}
        return scene | area

    def _boxes(
        self, objects: dict[str, Any], size: tuple[int, int]
    ) -> tuple[Float[np.ndarray, "n 4"], Bool[np.ndarray, "n"]]:
        """(left, top, right, bottom) in pixels, which have an area; TFDS has (top, left, bottom, right) in 0 to 1."""
        boxes = np.asarray(objects[self._keys.box], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
        boxes = np.clip(boxes, 0, 1) * np.array([size[1], size[0], size[1], size[0]], np.float32)
        return boxes, (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

    def _name_of(self, number: int) -> str:
        return f"{self.name}, example {number}"

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every picture; reads each record once, which a line in the log says."""
        return self._sizes

    @functools.cached_property
    def _sizes(self) -> Int[np.ndarray, "examples 2"]:
        logger.info("%s: reading the sizes of %d pictures", self.name, len(self))

        def look(number: int) -> tuple[tuple[int, int], int]:
            record = self._records[number]
            try:
                size = image_size(record[self._keys.image], max_pixels=self.max_pixels)
            except BrokenExample:  # counted when its turn comes
                size = (1, 1)
            return size, int((~self._boxes(record[self._keys.objects], size)[1]).sum())

        with ThreadPoolExecutor() as pool:
            seen = list(pool.map(look, range(len(self))))
        flat = [number for number, (_, count) in enumerate(seen) if count]
        if flat:
            logger.warning(
                "%s: left out %d boxes without area, in examples %s%s",
                self.name, sum(count for _, count in seen), ", ".join(map(str, flat[:_SHOWN])),
                f" and {len(flat) - _SHOWN} more" if len(flat) > _SHOWN else "",
            )  # fmt: skip
        return np.array([size for size, _ in seen], np.int32).reshape(-1, 2)

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "split": self.split, "max_pixels": self.max_pixels}


def _inside(feature: Any) -> dict[str, Any]:
    """Features of what a sequence holds; empty for anything else."""
    inside: Any = getattr(feature, "feature", None)
    return dict(inside.items()) if hasattr(inside, "items") else {}


def tfds_boxes(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    tfds_split: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> TfdsBoxes:
    """Opens a detection set that TFDS has prepared, such as `coco/2017` or `voc/2012`. Nothing is downloaded.

    Args:
        name: see `tfds_images.tfds_source`, as all others.
        split: "train" or "validation".
        data_dir: where TFDS keeps its data.
        tfds_split: TFDS's own split expression.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the set is not there as array_record files, has no such split, or no boxes.
    """
    directory, chosen = prepared_split(name, split, data_dir=data_dir, tfds_split=tfds_split)
    source = TfdsBoxes(directory, chosen, max_pixels)
    count = count_examples(source, name)
    if not count or not source.labels:
        raise UserError(f"tfds:{name}: split {chosen!r} in {directory} has {count} examples; expected 1 or more")
    return source
