"""COCO's json of boxes as a source of scenes, whoever wrote it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int

from vitjax.data.coco_json import Report, class_ids, find_json, read_json, unique
from vitjax.data.coco_masks import compress_segmentation, decode_masks
from vitjax.data.images import DEFAULT_MAX_PIXELS, BrokenExample, decode_image

__all__ = ["CocoFolder", "FakeBoxes"]

_KEYS = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name"), "annotations": ()}


@dataclass(frozen=True)
class CocoFolder:
    """Images and the boxes of the objects in them, from a json in COCO's format (https://cocodataset.org/#format-data).

    Three layouts, `validation` being called `val`, `valid`, `validation` or `test`:

    - COCO's own: `path/annotations/instances_train2017.json` and `path/train2017/`;
    - one folder per split: `path/train/*.json` beside the images, or with a folder `images/`;
    - `path` is a json itself, beside the images or with a folder `images/`: the split is the caller's affair.

    Classes are the json's categories in the order of their ids, whatever gaps these have: class `n` is the category
    `category_ids[n]`, example `i` the image `image_ids[i]`. Boxes are cut to the image. Left out are boxes without area
    (after that), of unknown images or categories, without numbers, and repeated annotation ids; images of a repeated id
    count once. One warning says how many there are of each, and which, and what was mended: boxes cut by more than a
    pixel, areas that are missing. Images without objects stay, and crowds stay marked as such.

    `source[i]` is a dict of `image` uint8 `[H, W, 3]`, `labels` int32 `[n]`, `boxes_xyxy_pixels` float32 `[n, 4]`,
    `crowd` bool `[n]`, `area` float32 `[n]` (the json's, in pixels; the box's where it has none), `index`, and with
    `masks` also `masks` bool `[n, H, W]`. A file that is missing, cannot be decoded or has another size than the json
    says raises `BrokenExample`.

    Attributes:
        path: folder, or json file.
        split: "train" or "validation".
        images: folder of the images, if it is none of those above.
        max_pixels: larger images are refused before they are decoded.
        masks: read the segmentations too; annotations without one that can be read are then left out. COCO's training
            images take a minute.
        keep_ids: class numbers are the category ids themselves, and numbers that no category has are called "N/A": the
            91 classes of facebookresearch's DETR for COCO's 80.

    Raises:
        UserError: there is no json or more than one, it is not of COCO's format, or it has no images or no categories.
    """

    path: str
    split: str = "train"
    images: str | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    masks: bool = False
    keep_ids: bool = False
    labels: tuple[str, ...] = field(init=False, repr=False)
    category_ids: tuple[int, ...] = field(init=False, repr=False)
    """The json's id of each class, for results in its own numbers."""
    image_ids: tuple[int, ...] = field(init=False, repr=False)
    """The json's id of each example."""
    files: tuple[str, ...] = field(init=False, repr=False)
    objects: Mapping[str, np.ndarray] = field(init=False, repr=False, compare=False)
    """`boxes` [all, 4], `labels`, `crowd`, `area` [all] of all images, one after another; where each begins, `starts`;
    and of each image the `sizes` [images, 2]."""
    segmentations: tuple[bytes | None, ...] = field(init=False, repr=False, compare=False)
    """Compressed run lengths of all objects, if `masks`."""

    def __post_init__(self):
        file, folder = find_json(self.path, self.split, "instances_")
        folder = folder if self.images is None else Path(self.images).expanduser()
        content = read_json(file, _KEYS)
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        ids = class_ids(file, categories, keep=self.keep_ids)
        report = Report(str(file))
        images = unique(content["images"], "repeated image ids", report)
        sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in images}
        found: dict[Any, list[_Object]] = {image: [] for image in sizes}
        classes = {identity: number for number, identity in enumerate(ids) if identity in categories}
        for entry in unique(content.get("annotations") or [], "repeated annotation ids", report):
            made = _object(entry, sizes, classes, report, masks=self.masks)
            if made is not None:
                found[entry["image_id"]].append(made)
        report.tell()
        rows = [row for image in found for row in found[image]]
        objects = {
            "boxes": np.array([row.box for row in rows], np.float32).reshape(-1, 4),
            "labels": np.array([row.label for row in rows], np.int32),
            "crowd": np.array([row.crowd for row in rows], bool),
            "area": np.array([row.area for row in rows], np.float32),
            "starts": np.cumsum([0, *(len(boxes) for boxes in found.values())]),
            "sizes": np.array(list(sizes.values()), np.int32).reshape(-1, 2),
        }
        object.__setattr__(self, "labels", tuple(categories.get(number, "N/A") for number in ids))
        object.__setattr__(self, "category_ids", ids)
        object.__setattr__(self, "image_ids", tuple(sizes))
        object.__setattr__(self, "files", tuple(str(folder / str(entry["file_name"])) for entry in images))
        object.__setattr__(self, "objects", objects)
        object.__setattr__(self, "segmentations", tuple(row.segmentation for row in rows) if self.masks else ())

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"coco:{self.path}/{self.split}"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        own = slice(*self.objects["starts"][number : number + 2])
        image = decode_image(self.files[number], max_pixels=self.max_pixels)
        size = tuple(self.objects["sizes"][number].tolist())
        if image.shape[:2] != size:
            told, shown = ("{1}x{0}".format(*sides) for sides in (size, image.shape))
            raise BrokenExample(
                self.files[number], f"has {shown} pixels, the json says {told}: boxes would be elsewhere"
            )
        scene = {
            "image": image,
            "labels": self.objects["labels"][own],
            "boxes_xyxy_pixels": self.objects["boxes"][own],
            "crowd": self.objects["crowd"][own],
            "area": self.objects["area"][own],
            "index": number,
        }
        return scene | {"masks": decode_masks(self.segmentations[own], size)} if self.masks else scene  # pyright: ignore

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every image as the json says, without reading one."""
        return self.objects["sizes"]

    @property
    def most_boxes(self) -> int:
        """The largest number of objects in an image: what `BoxTargets.max_boxes` must allow."""
        return int(np.diff(self.objects["starts"]).max(initial=0))


class _Object(NamedTuple):
    box: list[float]
    label: int
    crowd: bool
    area: float
    segmentation: bytes | None


def _object(
    entry: dict[str, Any],
    sizes: Mapping[Any, tuple[int, int]],
    classes: Mapping[Any, int],
    report: Report,
    *,
    masks: bool,
) -> _Object | None:
    """An annotation, if it can be used."""
    identity, image, category = entry.get("id"), entry.get("image_id"), entry.get("category_id")
    box = _numbers(entry.get("bbox"), 4)
    if image not in sizes:
        return report.leave_out("annotations of unknown images", identity)
    if category not in classes:
        return report.leave_out("annotations of unknown categories", identity)
    if box is None:
        return report.leave_out("annotations without a box of four numbers", identity)
    rows, columns = sizes[image]
    whole = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    left, top, right, bottom = max(whole[0], 0.0), max(whole[1], 0.0), min(whole[2], columns), min(whole[3], rows)
    if not (right > left and bottom > top):
        return report.leave_out("boxes without area in their image", identity)
    segmentation = compress_segmentation(entry.get("segmentation"), (rows, columns)) if masks else None
    if masks and segmentation is None:
        return report.leave_out("annotations without a mask that can be read", identity)
    if max(abs(edge - cut) for edge, cut in zip(whole, (left, top, right, bottom), strict=True)) > 1:
        report.mend("boxes that reach out of their image by more than a pixel, which are cut", identity)
    area = _numbers([entry.get("area")], 1)
    if area is None or area[0] < 0:
        report.mend("annotations without an area, which get that of their box", identity)
        area = [(right - left) * (bottom - top)]
    crowd = bool(entry.get("iscrowd", 0))
    return _Object([left, top, right, bottom], classes[category], crowd, area[0], segmentation)


def _numbers(values: Any, count: int) -> list[float] | None:
    """As many finite numbers."""
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    return [float(value) for value in values]


@dataclass(frozen=True)
class FakeBoxes:
    """Bright rectangles on noise: for tests, at no cost of disk or download.

    Attributes:
        num_examples: length of the source.
        num_classes: classes.
        shapes: (rows, columns) that examples take in turn.
        most_boxes: example i has `i % (most_boxes + 1)` objects.
    """

    num_examples: int = 16
    num_classes: int = 4
    shapes: tuple[tuple[int, int], ...] = ((32, 32), (24, 40))
    most_boxes: int = 3

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "fake"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return tuple(f"class {number}" for number in range(self.num_classes))

    def __len__(self) -> int:
        return self.num_examples

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every picture."""
        return np.resize(np.array(self.shapes), (len(self), 2))

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        generator = np.random.default_rng(number)
        rows, columns = self.shapes[number % len(self.shapes)]
        image = generator.integers(0, 64, (rows, columns, 3), dtype=np.uint8)
        count = number % (self.most_boxes + 1)
        labels = generator.integers(0, self.num_classes, count).astype(np.int32)
        corners = generator.integers((0, 0), (columns // 2, rows // 2), (count, 2))
        boxes = np.concatenate([corners, corners + (columns // 3, rows // 3)], axis=1)
        for label, (left, top, right, bottom) in zip(labels, boxes, strict=True):
            image[top:bottom, left:right] = 128 + int(127 * (label + 1) / self.num_classes)
        return {
            "image": image, "labels": labels, "boxes_xyxy_pixels": boxes.astype(np.float32), "index": number,
        }  # fmt: skip
