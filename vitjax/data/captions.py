"""Images with texts about them: json lines, caption sets of TensorFlow Datasets, and the embedded digits.

`source[i]` is `{"image": uint8 [H, W, 3], "caption": str, "index": i}`, or with `captions`, a tuple of several texts.
`source.captions(i)` are the texts alone, where that is possible without decoding the image.
"""

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from vitjax.data.digits import DigitCaptions
from vitjax.data.images import DEFAULT_MAX_PIXELS, decode_image
from vitjax.data.tfds_images import count_examples, prepared_split, undecoded
from vitjax.errors import UserError

__all__ = ["CaptionLines", "TfdsCaptions", "captions_of", "open_captions", "tfds_captions"]

_SHOWN = 5  # wrong lines that a message names
_EXPECTED = '{"image": PATH, "caption": TEXT}'


def open_captions(
    data: str,
    split: str,
    *,
    num_scenes: int = 1000,
    sides: tuple[int, int] = (96, 224),
    digit_sides: tuple[int, int] = (16, 64),
    min_digits: int = 0,
    max_digits: int = 8,
    seed: int = 0,
    root: str | None = None,
    validation_share: float | int = 0.1,
    data_dir: str | None = None,
    tfds_split: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> "DigitCaptions | CaptionLines | TfdsCaptions":
    """The source of image-text pairs that a short name stands for; the settings of the other kinds have no effect.

    | name | source | settings it takes |
    |---|---|---|
    | `digits` | `DigitCaptions` | `num_scenes`, `sides`, `digit_sides`, `min_digits`, `max_digits`, `seed` |
    | `jsonl:PATH` | `CaptionLines` | `root`, `validation_share`, `max_pixels` |
    | `tfds:NAME[:CONFIG][/VERSION]` | `tfds_captions` | `data_dir`, `tfds_split`, `max_pixels` |

    Args:
        data: the short name.
        split: "train" or "validation".
        num_scenes: how many scenes of digits there are.
        sides: shortest and longest side of a scene, pixels.
        digit_sides: smallest and largest height of a digit, pixels.
        min_digits: digits in a scene, at least.
        max_digits: digits in a scene, at most.
        seed: of the scenes.
        root: folder that the paths of images start from; by default that of the file.
        validation_share: share of the lines that is held back.
        data_dir: where TFDS keeps its data.
        tfds_split: TFDS split expression in place of the usual one.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the name is of no known kind, or what the source raises.
    """
    kind, _, rest = data.partition(":")
    if kind == "digits" and not rest:
        return DigitCaptions(split, num_scenes, seed, sides, max_digits, min_digits, digit_sides)
    if kind == "jsonl" and rest:
        return CaptionLines(rest, split, root=root, validation_share=validation_share, max_pixels=max_pixels)
    if kind == "tfds" and rest:
        return tfds_captions(rest, split, data_dir=data_dir, tfds_split=tfds_split, max_pixels=max_pixels)
    hint = f"; did you mean jsonl:{data}?" if Path(data).expanduser().is_file() else ""
    raise UserError(f"`data`={data!r}, expected digits, jsonl:PATH or tfds:NAME[:CONFIG][/VERSION]{hint}")


def captions_of(example: dict[str, Any], name: str) -> tuple[str, ...]:
    """All texts of an example.

    Raises:
        UserError: it has none; `name` says of which source it is.
    """
    texts = example.get("captions") or (example["caption"],) if example.keys() & {"caption", "captions"} else ()
    if not texts:
        raise UserError(
            f"example {example.get('index')} of {name} has no `caption`, only {', '.join(example)}; images alone are "
            "classified by `vitjax.inference.zero_shot.zero_shot(bundle, class_names)`"
        )
    return tuple(texts)


# ---------------------------------------------------------------------------------------------------- json lines


@dataclass(frozen=True)
class CaptionLines:
    """A file with one JSON object a line: `{"image": "photos/1.jpg", "caption": "a cat on a wall"}`.

    `caption` may be a list of texts about the same image. Other keys are ignored. An image that cannot be decoded
    raises `BrokenExample`; lines that cannot be understood are an error at once.

    Attributes:
        path: of the file, in UTF-8.
        split: "train" or "validation".
        root: folder that the paths of images start from; `None` for that of the file.
        validation_share: share of the *images*, chosen by a hash of their path, that is held back, in [0, 1]; all lines
            of an image are on the same side. With two files of your own give 0 for the one and 1 for the other.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the file cannot be read, lines of it are wrong (the first are named by number), or nothing is left.
    """

    path: str
    split: str
    root: str | None = None
    validation_share: float | int = 0.1
    max_pixels: int = DEFAULT_MAX_PIXELS
    entries: tuple[tuple[str, tuple[str, ...]], ...] = field(init=False, repr=False, compare=False)
    """(path of the image, its texts)."""

    def __post_init__(self):
        if self.split not in ("train", "validation"):
            raise UserError(f"`split`={self.split!r} of {self.path}, expected 'train' or 'validation'")
        if not 0 <= self.validation_share <= 1:
            raise UserError(f"`validation_share`={self.validation_share} of {self.path}, expected a number in [0, 1]")
        entries = _read_lines(Path(self.path).expanduser())
        held_back = self.split == "validation"
        kept = tuple(entry for entry in entries if (_place(entry[0]) < self.validation_share) == held_back)
        if not kept:
            raise UserError(
                f"{self.path}: none of its {len(entries)} lines is for {self.split} with "
                f"`validation_share`={self.validation_share}; change that, or give more lines"
            )
        object.__setattr__(self, "entries", kept)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"jsonl:{self.path}/{self.split}"

    @property
    def labels(self) -> tuple[str, ...]:
        """None: texts are no classes."""
        return ()

    def __len__(self) -> int:
        return len(self.entries)

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """The texts of one image."""
        return self.entries[_checked_index(index, len(self))][1]

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = _checked_index(index, len(self))
        path, texts = self.entries[number]
        root = Path(self.path).expanduser().parent if self.root is None else Path(self.root).expanduser()
        image = decode_image(str(root / path), max_pixels=self.max_pixels)
        return {"image": image, "captions": texts, "index": number}


def _place(path: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:6], "big") / 2**48


def _read_lines(file: Path) -> list[tuple[str, tuple[str, ...]]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; expected a file of lines {_EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is no UTF-8; expected a text file of lines {_EXPECTED}") from error
    if not lines[-1].strip():
        lines.pop()
    entries, wrong = [], []
    for number, line in enumerate(lines, start=1):
        found = _read_line(line)
        if isinstance(found, str):
            wrong.append(f"line {number}: {found}")
        else:
            entries.append(found)
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(f"{file}: {'; '.join(wrong[:_SHOWN])}{more}; expected {_EXPECTED} on each line")
    return entries


def _read_line(line: str) -> tuple[str, tuple[str, ...]] | str:
    """An entry, or what is wrong with the line."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return f"no JSON at column {error.colno}: {error.msg}" if line.strip() else "is empty"
    if not isinstance(value, dict):
        return f"is a {type(value).__name__}, no object"
    image, texts = value.get("image"), value.get("caption")
    if not isinstance(image, str) or not image:
        return f"`image` is {image!r:.40}, no path"
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        return f"`caption` is {value.get('caption')!r:.40}, no text"
    return image, tuple(texts)


# ---------------------------------------------------------------------------------------------------- TFDS


@dataclass(frozen=True)
class TfdsCaptions:
    """One split of a caption set that TFDS has prepared as array_record files, such as `coco_captions`.

    `source[i]` has `captions`, all texts of the image. Made by `tfds_captions`; picklable, each process opens the files
    for itself. The texts are the feature `captions`, `caption` or `text`, or else the only text there is: one, a
    sequence, or a sequence of objects that have one.

    Attributes:
        directory: the prepared version, such as `~/tensorflow_datasets/coco_captions/2014/1.1.0`.
        split: TFDS split, such as "train" or "val[:50%]".
        max_pixels: larger images are refused before they are decoded.
    """

    directory: str
    split: str
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"tfds:{self._builder.info.full_name}/{self.split}"

    @property
    def labels(self) -> tuple[str, ...]:
        """None: texts are no classes."""
        return ()

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.directory)

    @functools.cached_property
    def _keys(self) -> tuple[str, tuple[str, ...]]:
        """Name of the image, and the way to the texts, among the features."""
        import tensorflow_datasets as tfds

        info = self._builder.info
        images = [name for name, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
        texts = [(name, *way) for name, feature in info.features.items() for way in _ways_to_text(feature)]
        preferred = [way for name in ("captions", "caption", "text") for way in texts if name in way]
        way = preferred[0] if preferred else texts[0] if len(texts) == 1 else None
        image = "image" if "image" in images else images[0] if len(images) == 1 else None
        if image is None or way is None:
            raise UserError(
                f"tfds:{info.full_name}: expected one image and texts about it, its features are "
                f"{', '.join(sorted(info.features))}; choose a data set of captions, such as tfds:coco_captions"
            )
        return image, way

    @functools.cached_property
    def _records(self) -> Any:
        return undecoded(self._builder, self.split)

    def __len__(self) -> int:
        return len(self._records)

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """The texts of one image, which is not decoded."""
        return self._texts(self._records[_checked_index(index, len(self))])

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = _checked_index(index, len(self))
        record, name = self._records[number], f"{self.name}, example {number}"
        image = decode_image(record[self._keys[0]], max_pixels=self.max_pixels, name=name)
        return {"image": image, "captions": self._texts(record), "index": number}

    def _texts(self, record: dict[str, Any]) -> tuple[str, ...]:
        value: Any = record
        for part in self._keys[1]:
            value = value[part]
        several = not isinstance(value, bytes | str)
        return tuple(_as_text(text) for text in (list(value) if several else [value]))

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "split": self.split, "max_pixels": self.max_pixels}


def _ways_to_text(feature: Any) -> list[tuple[str, ...]]:
    """Where a feature holds texts: `()` for itself, or inside a sequence of objects."""
    inside: Any = getattr(feature, "feature", None)
    if _is_text(feature) or _is_text(inside):
        return [()]
    items = inside.items() if hasattr(inside, "items") else ()
    return [(name,) for name, part in items if _is_text(part)]


def _is_text(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    # TFDS has no other numpy type for strings; many sets, COCO's captions among them, do not use its `Text`.
    return isinstance(feature, tfds.features.Tensor) and feature.np_dtype == np.object_


def _as_text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def tfds_captions(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    tfds_split: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> TfdsCaptions:
    """Opens a caption set that TFDS has prepared, such as `coco_captions`. Nothing is downloaded.

    Args:
        name: see `tfds_images.tfds_source`, as all others.
        split: "train" or "validation".
        data_dir: where TFDS keeps its data.
        tfds_split: TFDS's own split expression.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the set is not there as array_record files, has no such split, or no texts.
    """
    directory, chosen = prepared_split(name, split, data_dir=data_dir, tfds_split=tfds_split)
    source = TfdsCaptions(directory, chosen, max_pixels)
    count = count_examples(source, name)
    if not count or not source._keys:
        raise UserError(f"tfds:{name}: split {chosen!r} in {directory} has no examples; expected 1 or more")
    return source


def _checked_index(index: SupportsIndex, length: int) -> int:
    number = index.__index__()
    if not 0 <= number < length:
        raise IndexError(f"index {number} of a source with {length} examples")
    return number
