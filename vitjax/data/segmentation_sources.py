"""Images with a class map, for semantic segmentation: the digit scenes, and folders of images and masks.

A source has `len(source)`, `labels`, `name` and `source[i]`, a scene without boxes: `image` uint8 `[H, W, 3]`,
`class_map` uint8 `[H, W]` of class numbers, 255 = ignored, and `index`. Class 0 is the background where there is one.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from vitjax.data.digits import DigitScenes
from vitjax.data.folders import find_images
from vitjax.data.images import DEFAULT_MAX_PIXELS, BrokenExample, decode_image, image_size
from vitjax.data.scene_batching import IGNORED
from vitjax.errors import UserError

__all__ = ["DigitClassMaps", "FakeClassMaps", "SegmentationFolder", "open_class_maps"]

_BACKGROUND = "background"
_VALIDATION_FOLDERS = ("val", "validation", "valid", "test")
_VOC_CLASSES = (
    _BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_CHECKED = 500  # masks looked at before a run
_SHOWN = 5  # files that a message names


@dataclass(frozen=True)
class DigitClassMaps:
    """Digit scenes as class maps: 0 is the background, 1...10 are the digits 0...9.

    Attributes:
        scenes: with their masks.
    """

    scenes: DigitScenes

    @property
    def name(self) -> str:
        """Short name for logs."""
        return self.scenes.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return (_BACKGROUND, *self.scenes.labels)

    def __len__(self) -> int:
        return len(self.scenes)

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every scene, without rendering one."""
        return self.scenes.sizes()

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        scene = self.scenes[index]
        class_map = np.zeros(scene["image"].shape[:2], np.uint8)
        for mask, label in zip(scene["masks"], scene["labels"], strict=True):
            class_map[mask] = label + 1
        return {"image": scene["image"], "class_map": class_map, "index": scene["index"]}


@dataclass(frozen=True)
class FakeClassMaps:
    """Noise in stripes of all classes: for tests, at no cost of disk or download.

    Attributes:
        num_examples: length of the source.
        num_classes: classes.
        shapes: (rows, columns) that examples take in turn.
    """

    num_examples: int = 16
    num_classes: int = 4
    shapes: tuple[tuple[int, int], ...] = ((32, 32), (24, 40))

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
        number = _checked_index(index, len(self))
        rows, columns = self.shapes[number % len(self.shapes)]
        class_map = np.tile((np.arange(columns) + number) % self.num_classes, (rows, 1)).astype(np.uint8)
        class_map[0] = IGNORED
        image = np.random.default_rng(number).integers(0, 128, (rows, columns, 3))
        return {
            "image": (image + class_map[:, :, None] % 128).astype(np.uint8),
            "class_map": class_map,
            "index": number,
        }


@dataclass(frozen=True)
class SegmentationFolder:
    """A folder of images and a folder of masks with the same file names, endings aside.

    A mask is a palette or greyscale PNG whose *stored* numbers are the classes, as in PASCAL VOC, Cityscapes
    (`labelTrainIds`) and ADE20k; the colours of the palette mean nothing.

    What can be known before the first step is reported at once: images and masks without partner, files of different
    sizes, and unknown classes in 500 masks spread over all. An image or mask that cannot be read raises
    `BrokenExample`.

    Attributes:
        images: the folder of images, folders in it included.
        masks: the folder of masks.
        classes: class names, by class number.
        first_value: number in the masks that stands for class 0; smaller ones are ignored. ADE20k has 1.
        stems: a text file with one file name per line, without ending: which pairs to take (VOC's `ImageSets`); all
            of them by default.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: see above; also a folder or file that does not exist, fewer than two classes, or more than 255.
    """

    images: str
    masks: str
    classes: tuple[str, ...]
    first_value: int = 0
    stems: str | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    pairs: tuple[tuple[str, str], ...] = field(init=False, repr=False)
    """Paths of each image and its mask, sorted by name."""

    def __post_init__(self):
        if not 2 <= len(self.classes) <= IGNORED:
            raise UserError(f"{self.name}: {len(self.classes)} `classes`, expected 2 to {IGNORED}")
        object.__setattr__(self, "pairs", _pairs(self))
        _check_pairs(self)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"folder:{self.images}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return self.classes

    def __len__(self) -> int:
        return len(self.pairs)

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every picture, from the files' heads; of one that cannot be read (1, 1)."""

        def size(pair: tuple[str, str]) -> tuple[int, int]:
            try:
                return image_size(pair[0], max_pixels=self.max_pixels)
            except BrokenExample:  # counted when its turn comes
                return 1, 1

        with ThreadPoolExecutor() as pool:
            return np.array(list(pool.map(size, self.pairs)), np.int64)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = _checked_index(index, len(self))
        image_file, mask_file = self.pairs[number]
        image = decode_image(image_file, max_pixels=self.max_pixels)
        class_map = self.read_mask(mask_file)
        if class_map.shape != image.shape[:2]:
            raise UserError(_other_size(image_file, image.shape[:2], mask_file, class_map.shape))
        return {"image": image, "class_map": class_map, "index": number}

    def read_mask(self, file: str) -> UInt8[np.ndarray, "H W"]:
        """Class numbers of a mask, 255 = ignored.

        Raises:
            BrokenExample: the file cannot be read, or is a picture in colour.
            UserError: a number in it is neither a class nor ignored.
        """
        image_size(file, max_pixels=self.max_pixels)  # refuses what is too large, before it is decoded
        try:
            with Image.open(file) as image:
                if image.mode not in ("1", "L", "P", "I;16", "I"):
                    raise BrokenExample(file, f"is a {image.mode} picture, a mask is a palette or greyscale PNG")
                values = np.asarray(image).astype(np.int64)
        except (OSError, SyntaxError, ValueError) as error:
            raise BrokenExample(file, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        numbers = np.where(values == IGNORED, IGNORED, values - self.first_value)
        numbers[values < self.first_value] = IGNORED
        unknown = np.unique(numbers[(numbers >= len(self.classes)) & (numbers != IGNORED)])
        if unknown.size:
            shown = ", ".join(str(value + self.first_value) for value in unknown[:_SHOWN])
            raise UserError(
                f"{file}: unknown class {shown} in the mask; the {len(self.classes)} `classes` are "
                f"{self.first_value} to {self.first_value + len(self.classes) - 1}, and {IGNORED} is ignored"
            )
        return numbers.astype(np.uint8)


def open_class_maps(
    data: str,
    split: str,
    *,
    num_scenes: int = 1000,
    sides: tuple[int, int] = (96, 224),
    digit_sides: tuple[int, int] = (16, 64),
    max_digits: int = 8,
    seed: int = 0,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> DigitClassMaps | SegmentationFolder:
    """The source that a short name stands for; the settings of the other kinds have no effect.

    | name | source | settings it takes |
    |---|---|---|
    | `digits` | `DigitClassMaps` of `DigitScenes` | `num_scenes`, `sides`, `digit_sides`, `max_digits`, `seed` |
    | `folder:PATH` | `SegmentationFolder`, see below | `max_pixels` |
    | `voc:PATH` | PASCAL VOC 2012, PATH being `VOCdevkit/VOC2012` | `max_pixels` |
    | `ade20k:PATH` | ADE20k, PATH being `ADEChallengeData2016` | `max_pixels` |

    A folder holds `classes.txt`, a name per line from class 0 on, or Hugging Face's `id2label.json`, and `train/` and
    `val/` (or `validation`, `valid`, `test`), each with `images/` and `masks/`. VOC is taken with the extra annotations
    of Hariharan et al. (2011) where they are: masks in `SegmentationClassAug/`, names in
    `ImageSets/Segmentation/trainaug.txt`.

    Args:
        data: the short name.
        split: "train" or "validation".
        num_scenes: how many scenes there are.
        sides: shortest and longest side of a scene, pixels.
        digit_sides: smallest and largest height of a digit, pixels.
        max_digits: digits in a scene.
        seed: of the scenes.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        UserError: the name is of no known kind, or what the source raises.
    """
    kind, _, rest = data.partition(":")
    if kind == "digits" and not rest:
        return DigitClassMaps(DigitScenes(split, num_scenes, seed, sides, digit_sides, max_digits))
    if kind in _KINDS and rest:
        if split not in ("train", "validation"):
            raise UserError(f"`split`={split!r} of {data}, expected 'train' or 'validation'")
        return SegmentationFolder(**_KINDS[kind](Path(rest).expanduser(), split), max_pixels=max_pixels)
    hint = f"; did you mean folder:{data}?" if Path(data).expanduser().is_dir() else ""
    raise UserError(f"`data`={data!r}, expected digits, {', '.join(f'{kind}:PATH' for kind in _KINDS)}{hint}")


def _folder(root: Path, split: str) -> dict[str, Any]:
    part = _first_of(root, ("train",) if split == "train" else _VALIDATION_FOLDERS)
    return {"images": str(part / "images"), "masks": str(part / "masks"), "classes": _class_names(root)}


def _class_names(root: Path) -> tuple[str, ...]:
    """Those of `classes.txt`, or of `id2label.json` where only that is there."""
    file = root / "id2label.json"
    if (root / "classes.txt").exists() or not file.exists():
        return tuple(_lines(root / "classes.txt", "one class name per line, from class 0 on"))
    try:
        names = {int(number): str(name) for number, name in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); expected an object of class numbers and names") from error
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{file}: names the classes {sorted(names)[:8]}, expected 0 to {len(names) - 1}, each once")
    return tuple(names[number] for number in range(len(names)))


def _voc(root: Path, split: str) -> dict[str, Any]:
    masks = _first_of(root, ("SegmentationClassAug", "SegmentationClass"))
    lists = ("trainaug.txt", "train_aug.txt", "train.txt") if masks.name.endswith("Aug") else ("train.txt",)
    names = _first_of(root / "ImageSets" / "Segmentation", lists if split == "train" else ("val.txt",))
    return {"images": str(root / "JPEGImages"), "masks": str(masks), "classes": _VOC_CLASSES, "stems": str(names)}


def _ade20k(root: Path, split: str) -> dict[str, Any]:
    part = "training" if split == "train" else "validation"
    table = _lines(root / "objectInfo150.txt", "a head line and a line per class, whose last column is its name")
    classes = tuple(line.split("\t")[-1] for line in table[1:])
    folders = {"images": str(root / "images" / part), "masks": str(root / "annotations" / part)}
    return {**folders, "classes": classes, "first_value": 1}


_KINDS: Mapping[str, Callable[[Path, str], dict[str, Any]]] = {"folder": _folder, "voc": _voc, "ade20k": _ade20k}
"""Short name -> settings of `SegmentationFolder` from a folder and a split."""


def _first_of(root: Path, names: Sequence[str]) -> Path:
    found = [root / name for name in names if (root / name).exists()]
    if not found:
        raise UserError(f"{root}: has none of {', '.join(names)}; check the path, or add one")
    return found[0]


def _lines(file: Path, content: str) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); expected a text file, {content}") from error
    return [line for line in lines if line]


def _pairs(source: SegmentationFolder) -> tuple[tuple[str, str], ...]:
    """Images and masks of the same name below their folders.

    Raises:
        UserError: a folder is missing, a file has no partner, or two files differ in nothing but their endings.
    """
    found = []
    for folder in (source.images, source.masks):
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise UserError(f"{folder}: no such folder (seen from {Path.cwd()})")
        files = find_images(root)
        by_stem = {str(Path(file).relative_to(root).with_suffix("")): file for file in files}
        if len(by_stem) < len(files):
            twice = sorted(set(files) - set(by_stem.values()))
            raise UserError(f"{folder}: {_some(twice)}: another file has the same name but for its ending; remove one")
        found.append(by_stem)
    images, masks = found
    if source.stems is not None:
        wanted = dict.fromkeys(_lines(Path(source.stems).expanduser(), "one file name per line, without ending"))
        without = [stem for stem in wanted if stem not in images or stem not in masks]
        stems = sorted(wanted)
    else:
        without = sorted(set(images) ^ set(masks))
        stems = sorted(images)
    if without:
        raise UserError(
            f"{source.images} and {source.masks}: {len(without)} files lack their image or mask: {_some(without)}; "
            "both folders need the same names, endings aside"
        )
    if not stems:
        raise UserError(f"{source.images}: no images in this folder, or none in `stems` (={source.stems})")
    return tuple((images[stem], masks[stem]) for stem in stems)


def _check_pairs(source: SegmentationFolder) -> None:
    """One report of all that can be seen now. Files that cannot be read are left to the loader, which counts them.

    Raises:
        UserError: sizes differ, or masks have unknown classes.
    """
    step = -(-len(source.pairs) // _CHECKED)
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(_unless_broken(lambda pair: _size_misfit(pair, source.max_pixels)), source.pairs)
        classes = pool.map(_unless_broken(lambda pair: _class_misfit(source, pair[1])), source.pairs[::step])
        misfits = [line for line in (*sizes, *classes) if line]
    if misfits:
        more = f"; and {len(misfits) - _SHOWN} more like these" if len(misfits) > _SHOWN else ""
        raise UserError("; ".join(misfits[:_SHOWN]) + more)


def _unless_broken(look: Callable[[tuple[str, str]], str | None]) -> Callable[[tuple[str, str]], str | None]:
    def looked(pair: tuple[str, str]) -> str | None:
        try:
            return look(pair)
        except BrokenExample:
            return None

    return looked


def _size_misfit(pair: tuple[str, str], max_pixels: int) -> str | None:
    image, mask = (image_size(file, max_pixels=max_pixels) for file in pair)
    return None if image == mask else _other_size(pair[0], image, pair[1], mask)


def _class_misfit(source: SegmentationFolder, mask: str) -> str | None:
    try:
        source.read_mask(mask)
    except UserError as error:
        return str(error)
    return None


def _other_size(image: str, image_size: tuple[int, ...], mask: str, mask_size: tuple[int, ...]) -> str:
    (rows, columns), (mask_rows, mask_columns) = image_size, mask_size
    return f"{mask}: a mask of {mask_rows}x{mask_columns} px for {image} of {rows}x{columns} px; both must be one size"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _checked_index(index: SupportsIndex, length: int) -> int:
    number = index.__index__()
    if not 0 <= number < length:
        raise IndexError(f"index {number} of a source with {length} examples")
    return number
