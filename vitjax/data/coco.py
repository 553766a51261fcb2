"""COCO's json of boxes as a source of scenes, whoever wrote it."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from vitjax.data.images import DEFAULT_MAX_PIXELS, decode_image
from vitjax.errors import UserError

__all__ = ["CocoFolder", "FakeBoxes"]

logger = logging.getLogger("vitjax")

_SHOWN = 5  # ids that a report names
_SPLIT_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation", "test")}


@dataclass(frozen=True)
class CocoFolder:
    """Images and the boxes of the objects in them, from a json in COCO's format (https://cocodataset.org/#format-data).

    Three layouts, `validation` being called `val`, `valid`, `validation` or `test`:

    - COCO's own: `path/annotations/instances_train2017.json` and `path/train2017/`;
    - one folder per split: `path/train/*.json` beside the images, or with a folder `images/`;
    - `path` is a json itself, beside the images or with a folder `images/`: the split is the caller's affair.

    Classes are the json's categories in the order of their ids, whatever gaps these have. Boxes are cut to the image.
    Left out are boxes without area (after that), of unknown images or categories, without numbers, and repeated
    annotation ids; images of a repeated id count once. One warning says how many there are of each, and which. Images
    without objects stay, and crowds stay marked as such.

    `source[i]` is a dict of `image` uint8 `[H, W, 3]`, `labels` int32 `[n]`, `boxes_xyxy_pixels` float32 `[n, 4]`,
    `crowd` bool `[n]`, `index`. A file that is missing or cannot be decoded raises `BrokenExample`.

    Attributes:
        path: folder, or json file.
        split: "train" or "validation".
        images: folder of the images, if it is none of those above.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: there is no json or more than one, it is not of COCO's format, or it has no images or no categories.
    """

    path: str
    split: str = "train"
    images: str | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    labels: tuple[str, ...] = field(init=False, repr=False)
    category_ids: tuple[int, ...] = field(init=False, repr=False)
    """The json's id of each class, for results in its own numbers."""
    image_ids: tuple[int, ...] = field(init=False, repr=False)
    """The json's id of each example."""
    files: tuple[str, ...] = field(init=False, repr=False)
    objects: Mapping[str, np.ndarray] = field(init=False, repr=False, compare=False)
    """`boxes` [all, 4], `labels`, `crowd` [all] of all images, one after another, and where each begins, `starts`."""

    def __post_init__(self):
        if self.split not in _SPLIT_NAMES:
            raise UserError(f"`split`={self.split!r} of {self.path}, expected 'train' or 'validation'")
        file, folder = _find(Path(self.path).expanduser(), self.split)
        folder = folder if self.images is None else Path(self.images).expanduser()
        content = _read(file)
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        ids = tuple(sorted(categories))
        report = _Report(str(file))
        images = _unique(content["images"], "repeated image ids", report)
        sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in images}
        found: dict[Any, list[tuple[Any, ...]]] = {image: [] for image in sizes}
        for image, *rest in _boxes(content.get("annotations", ()), sizes, ids, report):
            found[image].append(tuple(rest))
        report.tell()
        rows = [row for image in found for row in found[image]]
        objects = {
            "boxes": np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
            "labels": np.array([row[1] for row in rows], np.int32),
            "crowd": np.array([row[2] for row in rows], bool),
            "starts": np.cumsum([0, *(len(boxes) for boxes in found.values())]),
        }
        object.__setattr__(self, "labels", tuple(categories[number] for number in ids))
        object.__setattr__(self, "category_ids", ids)
        object.__setattr__(self, "image_ids", tuple(sizes))
        object.__setattr__(self, "files", tuple(str(folder / str(entry["file_name"])) for entry in images))
        object.__setattr__(self, "objects", objects)

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
        return {
            "image": decode_image(self.files[number], max_pixels=self.max_pixels),
            "labels": self.objects["labels"][own],
            "boxes_xyxy_pixels": self.objects["boxes"][own],
            "crowd": self.objects["crowd"][own],
            "index": number,
        }

    @property
    def most_boxes(self) -> int:
        """The largest number of objects in an image: what `BoxTargets.max_boxes` must allow."""
        return int(np.diff(self.objects["starts"]).max(initial=0))


class _Report:
    """Gathers what is left out, and says it once."""

    def __init__(self, file: str):
        self._file = file
        self._ids: dict[str, list[Any]] = {}

    def note(self, kind: str, identity: Any) -> None:
        self._ids.setdefault(kind, []).append(identity)

    def tell(self) -> None:
        if self._ids:
            kinds = [f"{len(ids)} {kind} ({_some(ids)})" for kind, ids in self._ids.items()]
            logger.warning("%s: left out %s", self._file, "; ".join(kinds))


def _some(ids: list[Any]) -> str:
    shown = ", ".join(map(str, ids[:_SHOWN]))
    return shown if len(ids) <= _SHOWN else f"{shown} and {len(ids) - _SHOWN} more"


def _unique(entries: list[dict[str, Any]], kind: str, report: _Report) -> list[dict[str, Any]]:
    seen: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        if entry["id"] in seen:
            report.note(kind, entry["id"])
        seen.setdefault(entry["id"], entry)
    return list(seen.values())


def _boxes(
    annotations: Any, sizes: Mapping[Any, tuple[int, int]], ids: tuple[int, ...], report: _Report
) -> Iterator[tuple[Any, list[float], int, bool]]:
    """(image id, box_xyxy_pixels, class, crowd) of each annotation that can be used."""
    classes, seen = {identity: number for number, identity in enumerate(ids)}, set()
    for entry in annotations:
        identity = entry.get("id")
        if identity is not None and identity in seen:
            report.note("repeated annotation ids", identity)
            continue
        seen.add(identity)
        image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        if image not in sizes:
            report.note("annotations of unknown images", identity)
        elif category not in classes:
            report.note("annotations of unknown categories", identity)
        elif not isinstance(box, list) or len(box) != 4 or not np.isfinite(np.array(box, float)).all():
            report.note("annotations without a box of four numbers", identity)
        else:
            rows, columns = sizes[image]
            left, top, width, height = map(float, box)
            right, bottom = min(left + width, columns), min(top + height, rows)
            left, top = max(left, 0.0), max(top, 0.0)
            if right > left and bottom > top:
                yield image, [left, top, right, bottom], classes[category], bool(entry.get("iscrowd", 0))
            else:
                report.note("boxes without area in their image", identity)


def _read(file: Path) -> dict[str, Any]:
    """The json, checked as far as it is read here."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as json: {error}") from error
    for name, keys in (("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name"))):
        entries = content.get(name) if isinstance(content, dict) else None
        if not entries or not isinstance(entries, list):
            raise UserError(f"{file}: has no `{name}`; expected COCO's format, with images, annotations and categories")
        lacking = next(((entry, key) for entry in entries for key in keys if key not in entry), None)
        if lacking is not None:
            raise UserError(f"{file}: an entry of `{name}` has no `{lacking[1]}`: {lacking[0]!r:.120}")
    numbers = [entry["id"] for entry in content["categories"]]
    if len(set(numbers)) != len(numbers):
        raise UserError(f"{file}: two categories have the same id; ids of `categories` must differ")
    return content


def _find(path: Path, split: str) -> tuple[Path, Path]:
    """The json of a split, and the folder of its images."""
    if path.is_file():
        return path, _images_beside(path)
    if not path.is_dir():
        raise UserError(f"coco:{path}: no such file or folder (seen from {Path.cwd()})")
    names = _SPLIT_NAMES[split]
    for name in names:
        found = sorted((path / "annotations").glob(f"instances_{name}*.json"))
        if found:
            file = _only(found)
            return file, path / file.stem.removeprefix("instances_")
    for name in names:
        found = sorted((path / name).glob("*.json"))
        if found:
            file = _only(found)
            return file, _images_beside(file)
    raise UserError(
        f"coco:{path}: no json for split {split!r}; expected annotations/instances_{names[0]}*.json, or a json in "
        f"{' or '.join(f'{name}/' for name in names)}; or give the json's own path"
    )


def _images_beside(file: Path) -> Path:
    return file.parent / "images" if (file.parent / "images").is_dir() else file.parent


def _only(files: list[Path]) -> Path:
    if len(files) > 1:
        raise UserError(
            f"{files[0].parent}: several json files, {_some([file.name for file in files])}; give one's path"
        )
    return files[0]


@dataclass(frozen=True)
class FakeBoxes:
    """Bright rectangles on noise: for tests, at no cost of disk or download.

    Attributes:
        num_examples: length of the source.
        num_classes: classes.
        sizes: (rows, columns) that examples take in turn.
        most_boxes: example i has `i % (most_boxes + 1)` objects.
    """

    num_examples: int = 16
    num_classes: int = 4
    sizes: tuple[tuple[int, int], ...] = ((32, 32), (24, 40))
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

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        generator = np.random.default_rng(number)
        rows, columns = self.sizes[number % len(self.sizes)]
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
