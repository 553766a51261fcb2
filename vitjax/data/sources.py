"""Where images come from: one short name for the command line, fakes for tests, lists of anything for prediction.

A source has `len(source)`, `source[i] -> {"image": uint8 [H, W, C], "label": int, "index": int}`, `labels` (class
names) and `name`. Reading is random access and safe from many threads; sources can be pickled.
"""

import glob
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from PIL import Image

from vitjax.data.digits import DigitImages
from vitjax.data.folders import ImageFolder, find_images
from vitjax.data.images import DEFAULT_MAX_PIXELS, BrokenExample, decode_image, image_size
from vitjax.data.tfds_images import TfdsImages, tfds_source
from vitjax.errors import UserError

__all__ = ["FakeImages", "ImageFolder", "ImageList", "TfdsImages", "open_source", "tfds_source"]

_MAX_DOWNLOAD_BYTES = 100 * 2**20
_DOWNLOAD_SECONDS = 30


def open_source(
    data: str,
    split: str,
    *,
    copies: int = 1,
    sides: tuple[int, int] = (16, 64),
    seed: int = 0,
    validation_share: float = 0.1,
    data_dir: str | None = None,
    tfds_split: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> DigitImages | ImageFolder | TfdsImages:
    """The source that a short name stands for.

    | name | source | settings it takes |
    |---|---|---|
    | `digits` | `DigitImages` | `copies`, `sides`, `seed` |
    | `folder:PATH` | `ImageFolder` | `validation_share`, `max_pixels` |
    | `tfds:NAME[:CONFIG][/VERSION]` | `tfds_source` | `data_dir`, `tfds_split`, `max_pixels` |

    The settings of the other kinds have no effect, so that a config can hold them all and `data` alone is changed.

    Args:
        data: the short name.
        split: "train" or "validation".
        copies: renderings of each scanned digit.
        sides: shortest and longest side of the digits, pixels.
        seed: of the digits' looks.
        validation_share: share of a folder that is held back, where it has no folders train/ and val/.
        data_dir: where TFDS keeps its data.
        tfds_split: TFDS split expression in place of the usual one.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the name is of no known kind, or what the source raises.
    """
    kind, _, rest = data.partition(":")
    if kind == "digits" and not rest:
        return DigitImages(split, copies=copies, seed=seed, sides=sides)
    if kind == "folder" and rest:
        return ImageFolder(rest, split, validation_share=validation_share, max_pixels=max_pixels)
    if kind == "tfds" and rest:
        return tfds_source(rest, split, data_dir=data_dir, tfds_split=tfds_split, max_pixels=max_pixels)
    hint = f"; did you mean folder:{data}?" if Path(data).expanduser().is_dir() else ""
    raise UserError(f"`data`={data!r}, expected digits, folder:PATH or tfds:NAME[:CONFIG][/VERSION]{hint}")


@dataclass(frozen=True)
class FakeImages:
    """Noise in a colour that depends on the class: for tests, at no cost of disk or download.

    Attributes:
        num_examples: length of the source.
        num_classes: classes in turn, example i is of class i modulo this.
        shapes: (rows, columns) that examples take at random.
        seed: of shapes and noise.
        broken: numbers of examples that raise `BrokenExample`.
    """

    num_examples: int = 64
    num_classes: int = 4
    shapes: tuple[tuple[int, int], ...] = ((32, 32), (24, 40), (48, 20))
    seed: int = 0
    broken: tuple[int, ...] = ()

    def __post_init__(self):
        if self.num_examples < 1 or self.num_classes < 1 or not self.shapes:
            raise UserError(
                f"`num_examples`={self.num_examples}, `num_classes`={self.num_classes}, `shapes`={self.shapes} of "
                "FakeImages: expected at least one of each"
            )

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
        number = _checked_index(index, len(self))
        if number in self.broken:
            raise BrokenExample(f"fake example {number}", "broken on purpose")
        generator = np.random.default_rng((self.seed, number))
        rows, columns = self.shapes[generator.integers(len(self.shapes))]
        label = number % self.num_classes
        angle = 2 * np.pi * label / self.num_classes + np.array([0, 2, 4]) * np.pi / 3
        image = 128 + 80 * np.cos(angle) + generator.normal(0, 20, (rows, columns, 3))
        return {"image": np.clip(image, 0, 255).astype(np.uint8), "label": label, "index": number}


@dataclass(frozen=True)
class ImageList:
    """Images to predict, in the order given: whatever a person has at hand.

    Folders and patterns are expanded on construction, images are read when asked for. `source[i]` is
    `{"image": uint8 [H, W, 3], "label": 0, "index": i}`: nothing is known of the label, and `labels` is empty. What
    cannot be read or fetched raises `BrokenExample`.

    Attributes:
        images: one or several of: path of a file, folder (all images in it, sorted), pattern such as `photos/*.jpg`,
            `http://` or `https://` address, encoded bytes, PIL image, array (see `decode_image`).
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: a path does not exist, a folder or pattern yields no image, or something else was given.
    """

    images: Any
    max_pixels: int = DEFAULT_MAX_PIXELS
    names: tuple[str, ...] = field(init=False, repr=False)
    """A name per image: its path or address, else its type and place in the list."""
    items: tuple[Any, ...] = field(init=False, repr=False, compare=False)
    _fetched: dict[int, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        # A string or an array is one image although it has a length.
        several = isinstance(self.images, Sequence) and not isinstance(self.images, str | bytes)
        given = list(self.images) if several else [self.images]
        items = [item for entry in given for item in _expand(entry)]
        if not items:
            raise UserError(
                "no images given; pass a path, folder, pattern, address, PIL image or array, or a list of these"
            )
        names = [
            item if isinstance(item, str) else f"{type(item).__name__} {number}" for number, item in enumerate(items)
        ]
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "items", tuple(items))

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "images"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return ()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = _checked_index(index, len(self))
        data = self._fetched.pop(number, None) or self.data(number)
        image = decode_image(data, max_pixels=self.max_pixels, name=self.names[number])
        return {"image": image, "label": 0, "index": number}

    def size(self, index: SupportsIndex) -> tuple[int, int]:
        """(rows, columns) of an image, none of whose pixels is decoded; what is fetched for it is kept for reading.

        Raises:
            BrokenExample: it cannot be read.
            UserError: it is an array of no picture's shape.
        """
        number = _checked_index(index, len(self))
        data = self.data(number)
        if _is_address(self.items[number]):
            self._fetched[number] = data
        return image_size(data, max_pixels=self.max_pixels, name=self.names[number])

    def data(self, number: int) -> Any:
        """What `decode_image` reads: the item itself, or the bytes that lie at its address."""
        item = self.items[number]
        return _download(item) if _is_address(item) else item


def _is_address(item: Any) -> bool:
    return isinstance(item, str) and item.lower().startswith(("http://", "https://"))


def _expand(entry: Any) -> list[Any]:
    if isinstance(entry, bytes | Image.Image | np.ndarray) or _is_address(entry):
        return [entry]
    if not isinstance(entry, str | os.PathLike):
        raise UserError(
            f"images: {type(entry).__name__} cannot be read as an image; pass a path, folder, pattern, address, "
            "bytes, PIL image or numpy array"
        )
    path = os.path.expanduser(os.fspath(entry))
    if os.path.isdir(path):
        found = find_images(path)
        if not found:
            raise UserError(f"{path}: no images in this folder")
        return found
    if os.path.lexists(path):
        return [path]
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        found = [file for match in matches for file in (find_images(match) if os.path.isdir(match) else [match])]
        if found:
            return found
        raise UserError(f"{path}: no file matches this pattern (seen from {os.getcwd()})")
    raise UserError(f"{path}: no such file or folder (seen from {os.getcwd()})")


def _download(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "vitjax"})
    try:
        with urllib.request.urlopen(request, timeout=_DOWNLOAD_SECONDS) as response:
            data = response.read(_MAX_DOWNLOAD_BYTES + 1)
    except (OSError, ValueError) as error:  # no connection, HTTP errors, addresses that cannot be read
        raise BrokenExample(address, f"cannot be fetched: {error}") from error
    if len(data) > _MAX_DOWNLOAD_BYTES:
        raise BrokenExample(address, f"larger than {_MAX_DOWNLOAD_BYTES} bytes")
    return data


def _checked_index(index: SupportsIndex, length: int) -> int:
    number = index.__index__()
    if not 0 <= number < length:
        raise IndexError(f"index {number} of a source with {length} examples")
    return number
