"""A folder of pictures with a table of boxes: for people who have no json of COCO's."""

import csv
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Int

from vitjax.data.folders import IMAGE_ENDINGS
from vitjax.data.images import DEFAULT_MAX_PIXELS, BrokenExample, decode_image, image_size
from vitjax.errors import UserError

__all__ = ["BoxFolder"]

logger = logging.getLogger("vitjax")

_TABLES = ("boxes.csv", "boxes.jsonl")
_VALIDATION_FOLDERS = ("val", "validation", "valid", "test")
_COLUMNS = ("file", "label", "left", "top", "right", "bottom")
_SHOWN = 5  # places that a report names


class _Row(NamedTuple):
    """A line of a table.

    Attributes:
        place: file and line, for messages.
        file: path of the picture.
        label: class name; empty for a picture without objects.
        box: (left, top, right, bottom) in pixels; `None` where these are no four numbers.
        crowd: whether it is neither to be learned nor counted.
    """

    place: str
    file: Path
    label: str
    box: tuple[float, ...] | None
    crowd: bool = False


@dataclass(frozen=True)
class BoxFolder:
    """Pictures and the boxes of the objects in them, from a table `boxes.csv` or `boxes.jsonl`, or from VOC's xml.

        file,label,left,top,right,bottom
        images/0001.jpg,cat,12,30,200,180
        images/0002.jpg,,,,,

    A line per box, in pixels; right and bottom are exclusive. A picture without objects has one line with its name
    alone. Names are seen from the table's folder. The lines of `boxes.jsonl` are `{"file": ..., "label": ..., "left":
    ..., ...}`. Layouts, `val` being also `validation`, `valid` or `test`:

    - `path/train/boxes.csv` and `path/val/boxes.csv`;
    - `path/boxes.csv`, of whose pictures a share is held back, those of lowest hash of their names;
    - PASCAL VOC's: `path/Annotations/*.xml`, `path/JPEGImages/`, and `path/ImageSets/Main/train.txt` and `val.txt`, or
      else a share held back. Boxes marked `difficult` become crowds.

    Classes are the different labels of both splits, sorted. Boxes are cut to their picture. Before the run one warning
    says, with numbers and places, what is left out: boxes without area in their picture, without label or numbers,
    pictures that are missing or cannot be read, and pictures in the table's folder that no line names; and which boxes
    were cut by more than a pixel.

    `source[i]` is a dict of `image` uint8 `[H, W, 3]`, `labels` int32 `[n]`, `boxes_xyxy_pixels` float32 `[n, 4]`,
    `crowd` bool `[n]`, `index`. A file that cannot be decoded raises `BrokenExample`.

    Attributes:
        path: the folder.
        split: "train" or "validation".
        validation_share: of the pictures, where there are no folders or lists for it.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        UserError: there is no table, it lacks columns, or nothing can be used.
    """

    path: str
    split: str = "train"
    validation_share: float = 0.1
    max_pixels: int = DEFAULT_MAX_PIXELS
    labels: tuple[str, ...] = field(init=False, repr=False)
    files: tuple[str, ...] = field(init=False, repr=False)
    """Path of each example."""
    objects: Mapping[str, np.ndarray] = field(init=False, repr=False, compare=False)
    """`boxes` [all, 4], `labels`, `crowd` [all] of all pictures, one after another; where each begins, `starts`; and of
    each picture the `sizes` [pictures, 2]."""

    def __post_init__(self):
        if self.split not in ("train", "validation"):
            raise UserError(f"`split`={self.split!r} of {self.path}, expected 'train' or 'validation'")
        if not 0 < self.validation_share < 1:
            raise UserError(f"`validation_share`={self.validation_share} of {self.path}, expected a number in (0, 1)")
        train, validation = _read_splits(Path(self.path).expanduser(), self.validation_share)
        labels = sorted({row.label for row in (*train.rows, *validation.rows) if row.label})
        if not labels:
            raise UserError(f"{self.path}: no line has a label, so there are no classes")
        rows, folder = train if self.split == "train" else validation
        notes: dict[str, list[str]] = {}
        with ThreadPoolExecutor() as pool:
            names = list(dict.fromkeys(row.file for row in rows))
            sizes = dict(zip(names, pool.map(partial(_size_of, max_pixels=self.max_pixels), names), strict=True))
        found: dict[Path, list[tuple[np.ndarray, int, bool]]] = {}
        for name, size in sizes.items():
            if isinstance(size, str):
                notes.setdefault("pictures that cannot be read", []).append(f"{name}: {size}")
            else:
                found[name] = []
        for row in rows:
            size = sizes[row.file]
            if not isinstance(size, str) and (row.label or row.box is not None):
                note, box = _cut_box(row, size)
                if note:
                    notes.setdefault(note, []).append(row.place)
                if box is not None:
                    found[row.file].append((box, labels.index(row.label), row.crowd))
        named = {row.file for row in (*train.rows, *validation.rows)}
        if unnamed := [str(file) for file in _pictures(folder) if file not in named]:
            notes["pictures that no line names"] = unnamed
        _tell(self.name, notes)
        if not found:
            raise UserError(f"{self.name}: no picture can be used, out of {len(names)} that are named")
        boxes = [entry for entries in found.values() for entry in entries]
        objects = {
            "boxes": np.array([box for box, _, _ in boxes], np.float32).reshape(-1, 4),
            "labels": np.array([label for _, label, _ in boxes], np.int32),
            "crowd": np.array([crowd for _, _, crowd in boxes], bool),
            "starts": np.cumsum([0, *map(len, found.values())]),
            "sizes": np.array([sizes[name] for name in found], np.int32).reshape(-1, 2),
        }
        object.__setattr__(self, "labels", tuple(labels))
        object.__setattr__(self, "files", tuple(map(str, found)))
        object.__setattr__(self, "objects", objects)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"folder:{self.path}/{self.split}"

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

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every picture, from the files' heads."""
        return self.objects["sizes"]

    @property
    def most_boxes(self) -> int:
        """The largest number of objects in a picture: what `BoxTargets.max_boxes` must allow."""
        return int(np.diff(self.objects["starts"]).max(initial=0))


_CUT = "boxes that reach out of their picture by more than a pixel, which are cut and kept"


def _cut_box(row: _Row, size: tuple[int, int]) -> tuple[str, np.ndarray | None]:
    """What is to be said of a box, and the part of it that lies in its picture."""
    if not row.label:
        return "boxes without a label", None
    if row.box is None:
        return "lines without four numbers", None
    whole = np.array(row.box)
    box = np.clip(whole, 0, (size[1], size[0], size[1], size[0]))
    if not (box[2] > box[0] and box[3] > box[1]):
        return "boxes without area in their picture", None
    return _CUT if np.max(np.abs(whole - box)) > 1 else "", box


def _size_of(file: Path, max_pixels: int) -> tuple[int, int] | str:
    try:
        return image_size(file, max_pixels=max_pixels)
    except BrokenExample as error:
        return error.reason


def _pictures(folder: Path | None) -> list[Path]:
    """Those in a folder and the folders in it."""
    found = [] if folder is None else sorted(folder.rglob("*"))
    return [file for file in found if file.name.lower().endswith(IMAGE_ENDINGS) and not file.name.startswith(".")]


def _tell(name: str, notes: Mapping[str, Sequence[str]]) -> None:
    if notes:
        kinds = [f"{len(places)} {kind} ({_some(places)})" for kind, places in notes.items()]
        logger.warning("%s: left out %s", name, "; ".join(kinds))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


# ---------------------------------------------------------------------------------------------------- layouts


class _Split(NamedTuple):
    """Lines, and the folder whose pictures they should name."""

    rows: list[_Row]
    folder: Path | None


def _read_splits(root: Path, share: float) -> tuple[_Split, _Split]:
    """For training, and for validation."""
    if not root.is_dir():
        raise UserError(f"folder:{root}: no such folder (seen from {Path.cwd()})")
    if (root / "Annotations").is_dir():
        return _read_voc(root, share)
    held_back = [root / name for name in _VALIDATION_FOLDERS if _table(root / name)]
    if _table(root / "train") and held_back:
        folders = root / "train", held_back[0]
        return _Split(_read_table(folders[0]), folders[0]), _Split(_read_table(folders[1]), folders[1])
    if _table(root) is None:
        raise UserError(
            f"folder:{root}: has no {' or '.join(_TABLES)}, neither here nor in train/ and val/ (or "
            f"{', '.join(_VALIDATION_FOLDERS[1:])}); a table has the columns {','.join(_COLUMNS)} and a line per box"
        )
    return _share(_read_table(root), root, share, root)


def _share(rows: list[_Row], root: Path, share: float, folder: Path | None) -> tuple[_Split, _Split]:
    """The lines of the pictures that stay for training, and of those held back."""
    names = sorted(
        {row.file for row in rows},
        key=lambda file: hashlib.blake2b(Path(os.path.relpath(file, root)).as_posix().encode()).digest(),
    )
    if len(names) < 2:
        raise UserError(f"{root}: {len(names)} pictures; training and validation need one each")
    held_back = set(names[: min(max(1, round(share * len(names))), len(names) - 1)])
    return (
        _Split([row for row in rows if row.file not in held_back], folder),
        _Split([row for row in rows if row.file in held_back], folder),
    )


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in _TABLES if (folder / name).is_file()), None)


def _read_table(folder: Path) -> list[_Row]:
    table = _table(folder)
    assert table is not None
    rows = []
    for line, entry in _entries(table):
        if not entry.get("file"):
            raise UserError(f"{table}, line {line}: names no file; expected {','.join(_COLUMNS)}")
        label = str(entry.get("label") or "").strip()
        values = [entry.get(name) for name in _COLUMNS[2:]]
        empty = not label and all(value in (None, "") for value in values)
        box = None if empty else _four_numbers(values)
        file = Path(os.path.normpath(folder / str(entry["file"]).strip()))
        rows.append(_Row(f"{table}, line {line}", file, label, box))
    return rows


def _entries(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number and content."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot be read as UTF-8 text: {error}") from error
    if table.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{table}: its head line lacks {', '.join(missing)}; expected {','.join(_COLUMNS)}")
        yield from ((reader.line_num, entry) for entry in reader)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise UserError(f"{table}, line {number}: is no json: {error}") from error
            if not isinstance(entry, dict):
                raise UserError(f"{table}, line {number}: is no json object with {', '.join(_COLUMNS)}")
            yield number, entry


def _four_numbers(values: Sequence[Any]) -> tuple[float, ...] | None:
    try:
        box = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return box if all(map(math.isfinite, box)) else None


def _read_voc(root: Path, share: float) -> tuple[_Split, _Split]:
    """VOC's pixels count from 1, and its right and bottom ones belong to the box."""
    rows: list[_Row] = []
    for file in sorted((root / "Annotations").glob("*.xml")):
        try:
            tree = ElementTree.parse(file).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise UserError(f"{file}: cannot be read as xml: {error}") from error
        picture = root / "JPEGImages" / (tree.findtext("filename") or f"{file.stem}.jpg").strip()
        rows.append(_Row(str(file), picture, "", None))
        for entry in tree.iter("object"):
            box = _four_numbers([entry.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")])
            box = None if box is None else (box[0] - 1, box[1] - 1, box[2], box[3])
            crowd = (entry.findtext("difficult") or "0").strip() == "1"
            rows.append(_Row(str(file), picture, (entry.findtext("name") or "").strip(), box, crowd))
    if not rows:
        raise UserError(f"{root}/Annotations: has no xml files")
    lists = [root / "ImageSets" / "Main" / name for name in ("train.txt", "val.txt")]
    if not all(file.is_file() for file in lists):
        return _share(rows, root, share, None)
    train, validation = (set(file.read_text(encoding="utf-8").split()) for file in lists)
    return (
        _Split([row for row in rows if Path(row.place).stem in train], None),
        _Split([row for row in rows if Path(row.place).stem in validation], None),
    )
