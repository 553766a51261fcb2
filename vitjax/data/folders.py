"""A folder of class folders as a source: `train/cat/1.jpg`, or `cat/1.jpg` with a fixed split."""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from vitjax.data.images import DEFAULT_MAX_PIXELS, decode_image
from vitjax.errors import UserError

__all__ = ["IMAGE_ENDINGS", "ImageFolder", "find_images"]

logger = logging.getLogger("vitjax")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
"""File names that count as images, in either case."""

_VALIDATION_FOLDERS = ("val", "validation", "valid", "test")


@dataclass(frozen=True)
class ImageFolder:
    """Images sorted into one folder per class; the class names are the folder names, in alphabetical order.

    Two layouts:

    - `path/train/CLASS/...` and `path/val/CLASS/...` (or `validation`, `valid`, `test`; the first that exists);
    - `path/CLASS/...`: of each class, the `validation_share` of files whose names hash lowest (at least one) are for
      validation, so the split is the same on every machine and each class appears on both sides.

    Class folders may have folders inside. Symbolic links are followed, each folder once. Hidden files and files with
    other endings than `IMAGE_ENDINGS` are left out and counted in the log.

    `source[i]` is `{"image": uint8 [H, W, 3], "label": int, "index": i}`; a file that cannot be decoded raises
    `BrokenExample`.

    Attributes:
        path: the folder.
        split: "train" or "validation".
        validation_share: share of each class that is held back, in (0, 1); for the second layout.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the folder is missing, unreadable, holds no images, fewer than two classes or an empty class, or the
            classes of training and validation differ.
    """

    path: str
    split: str
    validation_share: float = 0.1
    max_pixels: int = DEFAULT_MAX_PIXELS
    labels: tuple[str, ...] = field(init=False, repr=False)
    files: tuple[str, ...] = field(init=False, repr=False)
    """Paths of the images, grouped by class."""
    file_labels: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.split not in ("train", "validation"):
            raise UserError(f"`split`={self.split!r} of folder {self.path}, expected 'train' or 'validation'")
        if not 0 < self.validation_share < 1:
            raise UserError(
                f"`validation_share`={self.validation_share} of folder {self.path}, expected a number in (0, 1)"
            )
        root = Path(self.path).expanduser()
        train, validation = _layout(root)
        classes = _class_files(train)
        if validation is None:
            classes = {label: _share(label, files, self, train) for label, files in classes.items()}
        else:
            others = _class_files(validation)
            _check_same_classes(train, classes, validation, others)
            classes = others if self.split == "validation" else classes
        numbers = [number for number, files in enumerate(classes.values()) for _ in files]
        object.__setattr__(self, "labels", tuple(classes))
        object.__setattr__(self, "files", tuple(file for files in classes.values() for file in files))
        object.__setattr__(self, "file_labels", np.array(numbers, np.int32))

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"folder:{self.path}/{self.split}"

    def __len__(self) -> int:
        return len(self.files)

    def example_labels(self) -> np.ndarray:
        """The class of every image, without reading one."""
        return self.file_labels

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"index {number} of a source with {len(self)} examples")
        image = decode_image(self.files[number], max_pixels=self.max_pixels)
        return {"image": image, "label": int(self.file_labels[number]), "index": number}


def find_images(folder: str | os.PathLike) -> list[str]:
    """Paths of all images in a folder and the folders inside it, sorted; what is left out is logged with its number.

    Raises:
        UserError: a folder cannot be read.
    """
    found: list[str] = []
    others: list[str] = []
    for path in _walk(os.fspath(folder), set()):
        is_image = path.lower().endswith(IMAGE_ENDINGS) and not os.path.basename(path).startswith(".")
        (found if is_image else others).append(path)
    if others:
        logger.warning("%s: left out %d files that are no images, such as %s", folder, len(others), min(others))
    return sorted(found)


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Files under `folder`. Links are followed, but a folder already seen (a loop) is not entered again."""
    for entry in _entries(folder, seen):
        if entry.is_dir():
            if not entry.name.startswith("."):
                yield from _walk(entry.path, seen)
        else:
            yield entry.path


def _entries(folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry]:
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); mend its permissions or remove it") from error


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in _entries(str(folder), set()) if entry.is_dir() and not entry.name.startswith(".")
    )


def _layout(root: Path) -> tuple[Path, Path | None]:
    """The folders that hold the classes, for training and validation; `None` where the first serves both."""
    if not root.exists():
        raise UserError(
            f"folder:{root}: no such folder (seen from {Path.cwd()}); give the path of a folder of class folders"
        )
    if not root.is_dir():
        raise UserError(f"folder:{root}: is a file; give the path of a folder of class folders, such as {root.parent}")
    names = _subfolders(root)
    held_back = [name for name in _VALIDATION_FOLDERS if name in names]
    if "train" in names and held_back:
        return root / "train", root / held_back[0]
    if names == ["train"]:
        raise UserError(
            f"{root}: has train/ but none of {', '.join(f'{name}/' for name in _VALIDATION_FOLDERS)}; add one, or give "
            f"folder:{root / 'train'}, of which a share is then held back"
        )
    return root, None


def _class_files(folder: Path) -> dict[str, list[str]]:
    """Image paths of each class, classes and paths sorted."""
    labels = _subfolders(folder)
    if not labels:
        raise UserError(f"{folder}: has no class folders; put the images of each class in a folder named after it")
    classes = {label: find_images(folder / label) for label in labels}
    empty = [label for label, files in classes.items() if not files]
    if len(empty) == len(labels):
        raise UserError(
            f"{folder}: no images in its folders {_some(labels)}; expected files ending in {', '.join(IMAGE_ENDINGS)}"
        )
    if empty:
        raise UserError(f"{folder}: no images in class folder {_some(empty)}; add images or remove the folder")
    if len(labels) == 1:
        raise UserError(
            f"{folder}: only one class, {labels[0]!r}; a classifier needs two or more class folders side by side"
        )
    return classes


def _check_same_classes(train: Path, classes: dict, validation: Path, others: dict) -> None:
    for where, extra, missing_from in (
        (train, [label for label in classes if label not in others], validation),
        (validation, [label for label in others if label not in classes], train),
    ):
        if extra:
            raise UserError(
                f"{where} has class {_some(extra)}, which {missing_from} lacks; both need the same class folders"
            )


def _share(label: str, files: list[str], source: ImageFolder, folder: Path) -> list[str]:
    """This split's part of a class: the files of lowest hash are for validation."""
    if len(files) < 2:
        raise UserError(
            f"{folder / label}: one image only, but training and validation need one each; add images, or make folders "
            "train/ and val/"
        )
    start = len(str(folder)) + 1
    ranked = sorted(files, key=lambda file: hashlib.blake2b(Path(file[start:]).as_posix().encode()).digest())
    held_back = min(max(1, round(source.validation_share * len(files))), len(files) - 1)
    return sorted(ranked[:held_back] if source.split == "validation" else ranked[held_back:])


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
