"""COCO's panoptic format as a source of scenes: a json of segments, and pictures whose colours are their numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from vitjax.data.coco import FakeBoxes
from vitjax.data.coco_json import Report, class_ids, find_json, read_json, some, unique
from vitjax.data.digit_panoptic import DigitPanoptic
from vitjax.data.images import DEFAULT_MAX_PIXELS, BrokenExample, decode_image, image_size
from vitjax.data.scene_geometry import tight_boxes
from vitjax.errors import UserError

__all__ = ["CocoPanopticFolder", "FakeSegments", "open_panoptic"]

_KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name", "isthing"),
    "annotations": ("image_id", "file_name", "segments_info"),
}
_MOST = 256**3
_UNKNOWN = -1


@dataclass(frozen=True)
class CocoPanopticFolder:
    """Images of which every pixel is of a thing, of stuff, or void (https://cocodataset.org/#format-data, number 4).

    Each annotation of the json names a PNG as large as its image, whose pixels say by their colour of which segment
    they are, R + 256 G + 65536 B, 0 being void; `segments_info` gives each segment its category, and whether it is a
    crowd. Whether a category is a thing stands in `isthing`. Three layouts, `validation` being called `val`, `valid`,
    `validation` or `test`, and the PNGs always in a folder beside the json that has its name:

    - COCO's own: `path/annotations/panoptic_train2017.json`, `path/annotations/panoptic_train2017/`,
      `path/train2017/`;
    - one folder per split: `path/train/NAME.json` and `path/train/NAME/`, the images beside or in `images/`;
    - `path` is a json itself, with the other two likewise: the split is the caller's affair.

    Classes are the json's categories in the order of their ids, whatever gaps these have. Left out are images without
    annotation, annotations of unknown images, all but the first of an image, segments of unknown categories (their
    pixels are void), with an id that is no colour, or with one that the image has already: one warning says how many
    there are of each, and which.

    `source[i]` is a dict of `image` uint8 `[H, W, 3]`, `labels` int32 `[n]`, `masks` bool `[n, H, W]`, the boxes around
    them as `boxes_xyxy_pixels` float32 `[n, 4]`, their pixels as `area` float32 `[n]`, `crowd` bool `[n]`, `index`. A
    file that is missing or cannot be decoded, sizes that differ, a colour that the json does not list and a segment
    without pixels raise `BrokenExample`.

    Attributes:
        path: folder, or json file.
        split: "train" or "validation".
        images: folder of the images, if it is none of those above.
        segments: folder of the PNGs, likewise.
        max_pixels: larger images are refused before they are decoded.
        keep_ids: class numbers are the category ids themselves, and numbers that no category has are called "N/A": COCO
            has 201 so, as facebookresearch's panoptic DETR numbers them.

    Raises:
        UserError: there is no json or more than one, it is not of COCO's panoptic format, or a folder is missing.
    """

    path: str
    split: str = "train"
    images: str | None = None
    segments: str | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    keep_ids: bool = False
    labels: tuple[str, ...] = field(init=False, repr=False)
    stuff: tuple[int, ...] = field(init=False, repr=False)
    """Class numbers of stuff: what `Panoptic.stuff` has to be."""
    category_ids: tuple[int, ...] = field(init=False, repr=False)
    """The json's id of each class, for results in its own numbers."""
    image_ids: tuple[int, ...] = field(init=False, repr=False)
    """The json's id of each example."""
    files: tuple[tuple[str, str], ...] = field(init=False, repr=False)
    """Paths of the image and of the PNG of each example."""
    objects: Mapping[str, np.ndarray] = field(init=False, repr=False, compare=False)
    """`ids`, `labels` (-1 for an unknown category) and `crowd` [all] of all images' segments, one after another; where
    each image begins, `starts`; and of each image the `sizes` [images, 2]."""

    def __post_init__(self):
        file, images = find_json(self.path, self.split, "panoptic_")
        content = read_json(file, _KEYS)
        odd = next((entry for entry in content["annotations"] if not _is_listed(entry["segments_info"])), None)
        if odd is not None:
            raise UserError(f"{file}: `segments_info` must be a list of segments: {odd!r:.120}")
        folders = [
            found if given is None else Path(given).expanduser()
            for given, found in ((self.images, images), (self.segments, file.with_suffix("")))
        ]
        for folder, setting in zip(folders, ("images", "segments"), strict=True):
            if not folder.is_dir():
                raise UserError(f"{file}: no folder {folder} beside it; give `{setting}`, where its pictures lie")
        categories = {entry["id"]: entry for entry in content["categories"]}
        ids = class_ids(file, categories, keep=self.keep_ids)
        report = Report(str(file))
        pairs = _annotated_images(content, report)
        classes = {identity: number for number, identity in enumerate(ids) if identity in categories}
        found = [_segments(annotation, classes, report) for _, annotation in pairs]
        report.tell()
        if not pairs:
            raise UserError(f"{file}: no image has an annotation; expected COCO's panoptic format")
        rows = [row for image in found for row in image]
        self._set(
            labels=tuple(str(categories[n]["name"]) if n in categories else "N/A" for n in ids),
            stuff=tuple(n for n, identity in enumerate(ids) if not categories.get(identity, {"isthing": 1})["isthing"]),
            category_ids=ids,
            image_ids=tuple(image["id"] for image, _ in pairs),
            files=tuple(
                tuple(str(folder / str(entry["file_name"])) for folder, entry in zip(folders, pair, strict=True))
                for pair in pairs
            ),
            objects={
                "ids": np.array([row.identity for row in rows], np.int32),
                "labels": np.array([row.label for row in rows], np.int32),
                "crowd": np.array([row.crowd for row in rows], bool),
                "starts": np.cumsum([0, *map(len, found)]),
                "sizes": np.array([(image["height"], image["width"]) for image, _ in pairs], np.int32),
            },
        )

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"coco panoptic:{self.path}/{self.split}"

    def __len__(self) -> int:
        return len(self.files)

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every image as the json says, without reading one."""
        return self.objects["sizes"]

    @property
    def most_segments(self) -> int:
        """The largest number of segments in an image: what `PanopticTargets.max_segments` must allow."""
        return int(np.diff(self.objects["starts"]).max(initial=0))

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        image_file, segment_file = self.files[number]
        own = slice(*self.objects["starts"][number : number + 2])
        ids, labels = self.objects["ids"][own], self.objects["labels"][own]
        image = decode_image(image_file, max_pixels=self.max_pixels)
        numbers = _read_numbers(segment_file, self.max_pixels)
        for file, made in ((image_file, image), (segment_file, numbers)):
            _check_size(file, made.shape[:2], tuple(self.objects["sizes"][number].tolist()))
        masks = numbers == ids[:, None, None]
        _check_ids(segment_file, numbers, ids, masks)
        known = labels != _UNKNOWN
        return {
            "image": image,
            "labels": labels[known],
            "boxes_xyxy_pixels": tight_boxes(masks[known]),
            "masks": masks[known],
            "crowd": self.objects["crowd"][own][known],
            "area": masks[known].sum(axis=(1, 2)).astype(np.float32),
            "index": number,
        }


def _is_listed(segments: Any) -> bool:
    return isinstance(segments, list) and all(isinstance(entry, dict) for entry in segments)


class _Segment(NamedTuple):
    identity: int
    label: int
    crowd: bool


def _annotated_images(content: Mapping[str, Any], report: Report) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Images in the json's order, each with its annotation."""
    images = {entry["id"]: entry for entry in unique(content["images"], "repeated image ids", report)}
    annotations: dict[Any, dict[str, Any]] = {}
    for entry in unique(content["annotations"], "further annotations of an image", report, key="image_id"):
        if entry["image_id"] in images:
            annotations[entry["image_id"]] = entry
        else:
            report.leave_out("annotations of unknown images", entry["image_id"])
    for identity in (known for known in images if known not in annotations):
        report.leave_out("images without annotation", identity)
    return [(image, annotations[identity]) for identity, image in images.items() if identity in annotations]


def _segments(annotation: dict[str, Any], classes: Mapping[Any, int], report: Report) -> list[_Segment]:
    """The segments of an image; what is reported is named by image and id."""
    found: dict[int, _Segment] = {}
    for entry in annotation["segments_info"]:
        identity, place = entry.get("id"), f"{annotation['image_id']}/{entry.get('id')}"
        if not isinstance(identity, int) or not 0 < identity < _MOST:
            report.leave_out("segments whose id is no colour", place)
        elif identity in found:
            report.leave_out("repeated segments of an image", place)
        else:
            label = classes.get(entry.get("category_id"), _UNKNOWN)
            if label == _UNKNOWN:
                report.leave_out("segments of unknown categories, now void", place)
            found[identity] = _Segment(identity, label, bool(entry.get("iscrowd", 0)))
    return list(found.values())


def _read_numbers(file: str, max_pixels: int) -> Int[np.ndarray, "H W"]:
    """The number that each pixel's colour is."""
    image_size(file, max_pixels=max_pixels)  # refuses what is too large, before it is decoded
    try:
        with Image.open(file) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise BrokenExample(file, f"is a {image.mode} picture; the colours R, G, B are segments' numbers")
            colours = np.asarray(image).astype(np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise BrokenExample(file, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    return colours[:, :, 0] + 256 * colours[:, :, 1] + 65536 * colours[:, :, 2]


def _check_size(file: str, size: tuple[int, ...], told: tuple[int, ...]) -> None:
    if size != told:
        shown, expected = ("{1}x{0}".format(*sides) for sides in (size, told))
        raise BrokenExample(file, f"has {shown} pixels, the json says {expected}: segments would be elsewhere")


def _check_ids(
    file: str, numbers: Int[np.ndarray, "H W"], ids: Int[np.ndarray, "n"], masks: Bool[np.ndarray, "n H W"]
) -> None:
    """Raises `BrokenExample` where colours and json differ."""
    stray = np.unique(numbers[~masks.any(axis=0) & (numbers != 0)])
    if stray.size:
        raise BrokenExample(file, f"has pixels of segments that `segments_info` does not list: {some(stray.tolist())}")
    empty = ids[~masks.any(axis=(1, 2))]
    if empty.size:
        raise BrokenExample(file, f"has no pixel of segments that `segments_info` lists: {some(empty.tolist())}")


def open_panoptic(
    data: str,
    split: str,
    *,
    num_scenes: int = 1000,
    sides: tuple[int, int] = (96, 144),
    digit_sides: tuple[int, int] = (32, 72),
    max_digits: int = 4,
    seed: int = 0,
    keep_ids: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> DigitPanoptic | CocoPanopticFolder:
    """The source that a short name stands for; the settings of the other kind have no effect.

    | name | source | settings it takes |
    |---|---|---|
    | `digits` | `DigitPanoptic` | `num_scenes`, `sides`, `digit_sides`, `max_digits`, `seed` |
    | `coco:PATH` | `CocoPanopticFolder`: a folder, or one json | `keep_ids`, `max_pixels` |

    Args:
        data: the short name.
        split: "train" or "validation".
        num_scenes: how many scenes there are.
        sides: shortest and longest side of a scene, pixels.
        digit_sides: smallest and largest height of a digit, pixels.
        max_digits: digits in a scene.
        seed: of the scenes.
        keep_ids: COCO's category ids as class numbers.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the name is of no known kind, or what the source raises.
    """
    kind, _, rest = data.partition(":")
    if kind == "digits" and not rest:
        return DigitPanoptic(split, num_scenes, seed, sides, digit_sides, max_digits)
    if kind == "coco" and rest:
        return CocoPanopticFolder(rest, split, max_pixels=max_pixels, keep_ids=keep_ids)
    hint = f"; did you mean coco:{data}?" if Path(data).expanduser().exists() else ""
    raise UserError(f"`data`={data!r}, expected digits or coco:PATH{hint}")


@dataclass(frozen=True)
class FakeSegments:
    """Bright rectangles on noise, and the noise around them as stuff: for tests, at no cost of disk or download.

    Attributes:
        num_examples: length of the source.
        num_classes: classes, the last of which is the stuff.
        shapes: (rows, columns) that examples take in turn.
        most_boxes: example i has `i % (most_boxes + 1)` rectangles.
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
        return (*self._boxes().labels, "ground")

    @property
    def stuff(self) -> tuple[int, ...]:
        """The last class number."""
        return (self.num_classes - 1,)

    def _boxes(self) -> FakeBoxes:
        return FakeBoxes(self.num_examples, self.num_classes - 1, self.shapes, self.most_boxes)

    def __len__(self) -> int:
        return self.num_examples

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every picture."""
        return self._boxes().sizes()

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        scene = self._boxes()[index]
        masks = np.zeros((len(scene["labels"]) + 1, *scene["image"].shape[:2]), bool)
        free = np.ones(masks.shape[1:], bool)
        for mask, (left, top, right, bottom) in zip(masks, scene["boxes_xyxy_pixels"].astype(int), strict=False):
            mask[top:bottom, left:right] = free[top:bottom, left:right]
            free &= ~mask
        masks[-1] = free
        seen = masks.any(axis=(1, 2))
        return scene | {
            "labels": np.append(scene["labels"], self.stuff).astype(np.int32)[seen],
            "boxes_xyxy_pixels": tight_boxes(masks[seen]),
            "masks": masks[seen],
        }
