"""Real scanned digits that come with scikit-learn: single images, scenes with boxes and masks, and captions.

The data are the 1,797 handwritten digits of `sklearn.datasets.load_digits`, 8x8 pixels with 17 grey levels
(E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).
scikit-learn has only the *test* part of the UCI set, without the writers' numbers, so a writer-disjoint split cannot
be kept: `train` and `validation` are a fixed stratified 80/20 split by image (1,438 and 359 scans), and a writer may
appear in both.

Everything is a function of (seed, index): no state, nothing on disk, cheap to send to worker processes.
"""

import functools
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from vitjax.errors import UserError

__all__ = ["DigitCaptions", "DigitImages", "DigitScenes", "decode_rle", "encode_rle"]

_LABELS = tuple("0123456789")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SPLITS = ("train", "validation")
_VALIDATION_SHARE = 0.2
_MAX_ASPECT = 2.0
_NUM_GRAINS = 2**16  # length of the table of pixel noise


@dataclass(frozen=True)
class DigitImages:
    """One digit per image on a textured ground, at sizes and aspect ratios that differ from image to image.

    `source[i]` is `{"image": uint8 [H, W, 3], "label": 0...9, "index": i}`. The digit fills 75 to 100 % of either side;
    it is ink on paper, at least 90 of 255 darker than the ground.

    Attributes:
        split: "train" (1,438 scans) or "validation" (359).
        copies: how many times each scan is rendered, differently each time; image `copy * scans + scan`.
        seed: of sizes, colours and places; the split of the scans does not depend on it.
        sides: shortest and longest side in pixels. Aspect ratios (rows to columns) are log-uniform within 1:2 and 2:1,
            less where the sides leave no room; equal sides give squares of one size.
    """

    split: str
    copies: int = 1
    seed: int = 0
    sides: tuple[int, int] = (16, 64)

    def __post_init__(self):
        _check_split(self.split)
        _check_sides(self.sides, smallest=8)
        if self.copies < 1:
            raise UserError(f"`copies`={self.copies} of DigitImages, expected at least 1")

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"digits/{self.split}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return _LABELS

    def __len__(self) -> int:
        return self.copies * len(_scan_numbers(self.split))

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every image, without rendering one."""
        return _draw_sizes(len(self), self.sides, (self.seed, _SPLITS.index(self.split), 0))

    def size(self, index: SupportsIndex) -> tuple[int, int]:
        """(rows, columns) of one image."""
        rows, columns = self.sizes()[_checked_index(index, len(self))]
        return int(rows), int(columns)

    def example_labels(self) -> Int[np.ndarray, "examples"]:
        """The class of every image, without rendering one."""
        return np.tile(_scans()[1][_scan_numbers(self.split)], self.copies)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = _checked_index(index, len(self))
        scans, digits = _scans()
        numbers = _scan_numbers(self.split)
        number = numbers[index % len(numbers)]
        rows, columns = self.size(index)
        generator = np.random.default_rng((self.seed, _SPLITS.index(self.split), 1, index))
        height = round(rows * generator.uniform(0.75, 1.0))
        width = round(columns * generator.uniform(0.75, 1.0))
        top, left = generator.integers(0, (rows - height + 1, columns - width + 1))
        ink = np.zeros((rows, columns), np.float32)
        ink[top : top + height, left : left + width] = _stretch(scans[number], height, width)
        ground = _Ground.draw(generator)
        image = ground.paint(rows, columns, generator, [(ink, ground.ink_colour(generator))])
        return {"image": image, "label": int(digits[number]), "index": index}


@dataclass(frozen=True)
class DigitScenes:
    """Zero to eight digits of mixed sizes in a scene, with their boxes and masks: for detection and segmentation.

    `source[i]` is a dict of `image` uint8 `[H, W, 3]`; `labels` int32 `[n]`, 0...9; `boxes_xyxy_pixels` float32
    `[n, 4]` (left, top, right, bottom; right and bottom are exclusive), tight around the masks; `masks` bool
    `[n, H, W]`; `index`.
    Digits do not overlap. A digit that finds no room in 20 tries is left out, so crowded scenes are a little rarer.

    Attributes:
        split: "train" or "validation": which scans the digits are.
        num_scenes: length of the source.
        seed: of everything but the split of the scans.
        sides: shortest and longest side of a scene in pixels, aspect ratios within 1:2 and 2:1.
        digit_sides: smallest and largest height of a digit in pixels, log-uniform.
        max_digits: counts are uniform from `min_digits` to this.
        min_digits: see `max_digits`; a scene may still have fewer, see above, but never none.
    """

    split: str
    num_scenes: int = 1000
    seed: int = 0
    sides: tuple[int, int] = (96, 224)
    digit_sides: tuple[int, int] = (16, 64)
    max_digits: int = 8
    min_digits: int = 0

    def __post_init__(self):
        _check_split(self.split)
        _check_sides(self.sides, smallest=32)
        _check_sides(self.digit_sides, smallest=8)
        if self.digit_sides[1] > self.sides[0]:
            raise UserError(
                f"`digit_sides`={self.digit_sides}: the largest digit does not fit the smallest scene of "
                f"`sides`={self.sides}"
            )
        if self.num_scenes < 1 or not 0 <= self.min_digits <= self.max_digits:
            raise UserError(
                f"`num_scenes`={self.num_scenes}, `min_digits`={self.min_digits}, `max_digits`={self.max_digits}: "
                "expected at least 1 scene, and 0 or more digits, from the fewest to the most"
            )

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"digit scenes/{self.split}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return _LABELS

    def __len__(self) -> int:
        return self.num_scenes

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every scene, without rendering one."""
        return _draw_sizes(len(self), self.sides, (self.seed, _SPLITS.index(self.split), 2))

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = _checked_index(index, len(self))
        rows, columns = (int(side) for side in self.sizes()[index])
        generator = np.random.default_rng((self.seed, _SPLITS.index(self.split), 3, index))
        ground = _Ground.draw(generator)
        layers, masks, labels, taken = [], [], [], []
        scans, digits = _scans()
        numbers = _scan_numbers(self.split)
        for _ in range(generator.integers(self.min_digits, self.max_digits + 1)):
            low, high = self.digit_sides
            height = round(float(np.exp(generator.uniform(np.log(low), np.log(high)))))
            width = max(8, min(round(height * generator.uniform(0.9, 1.3)), columns))
            corner = _free_corner((rows, columns), (height, width), taken, generator)
            number = numbers[generator.integers(len(numbers))]
            if corner is None:
                continue
            top, left = corner
            taken.append((top, left, top + height, left + width))
            ink = np.zeros((rows, columns), np.float32)
            ink[top : top + height, left : left + width] = _stretch(scans[number], height, width)
            layers.append((ink, ground.ink_colour(generator)))
            masks.append(ink > 0.5)
            labels.append(digits[number])
        return {
            "image": ground.paint(rows, columns, generator, layers),
            "labels": np.array(labels, np.int32),
            "boxes_xyxy_pixels": _boxes_of(masks),
            "masks": np.array(masks, bool).reshape(-1, rows, columns),
            "index": index,
        }

    def write_coco(self, folder: str | Path) -> Path:
        """Writes `images/*.png` and `instances.json` in COCO's format and returns the path of the latter.

        Masks are uncompressed RLE: run lengths of 0 and 1 in turn, column by column. Category ids are 1...10 for the
        digits 0...9, so a reader that takes ids for class numbers is found out.
        """
        folder = Path(folder)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for index in range(len(self)):
            scene = self[index]
            rows, columns = scene["image"].shape[:2]
            file_name = f"{index:06d}.png"
            Image.fromarray(scene["image"]).save(folder / "images" / file_name)
            images.append({"id": index + 1, "file_name": file_name, "height": rows, "width": columns})
            for label, box, mask in zip(scene["labels"], scene["boxes_xyxy_pixels"], scene["masks"], strict=True):
                left, top, right, bottom = (float(edge) for edge in box)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": int(label) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": [rows, columns], "counts": encode_rle(mask)},
                    }
                )
        categories = [{"id": digit + 1, "name": name} for digit, name in enumerate(_LABELS)]
        path = folder / "instances.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return path


@dataclass(frozen=True)
class DigitCaptions:
    """The scenes of `DigitScenes` with one English sentence each: for contrastive training.

    `source[i]` is `{"image": uint8 [H, W, 3], "caption": str, "label": int, "index": i}`, for example "three digits on
    a dark ground: a large seven on the left, a two in the centre and a small nine at the bottom right". At most four
    digits are named, left to right. `label` is the digit of a scene with exactly one, and -1 otherwise: with
    `min_digits=1, max_digits=1` the source serves classification too.

    Attributes:
        split: "train" or "validation".
        num_scenes: length of the source.
        seed: of the scenes.
        sides: shortest and longest side of a scene in pixels.
        max_digits: digits in a scene, from `min_digits` to this.
        min_digits: see `max_digits`.
        digit_sides: smallest and largest height of a digit in pixels; below 25 it is called small, above 40 large.
    """

    split: str
    num_scenes: int = 1000
    seed: int = 0
    sides: tuple[int, int] = (96, 224)
    max_digits: int = 8
    min_digits: int = 0
    digit_sides: tuple[int, int] = (16, 64)

    def __post_init__(self):
        self._scenes()

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"digit captions/{self.split}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return _LABELS

    def __len__(self) -> int:
        return self.num_scenes

    def _scenes(self) -> DigitScenes:
        return DigitScenes(
            self.split, self.num_scenes, self.seed, self.sides, self.digit_sides, self.max_digits, self.min_digits
        )

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """The sentence of one scene."""
        return (self[index]["caption"],)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        scene = self._scenes()[index]
        label = int(scene["labels"][0]) if len(scene["labels"]) == 1 else -1
        return {"image": scene["image"], "caption": _sentence(scene), "label": label, "index": scene["index"]}


def encode_rle(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """COCO's uncompressed run-length code: lengths of runs of 0, 1, 0, ... down the columns, beginning with 0."""
    values = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [values.size]])).tolist()
    return [0, *lengths] if values[0] else lengths


def decode_rle(counts: list[int], rows: int, columns: int) -> Bool[np.ndarray, "H W"]:
    """The mask that `encode_rle` wrote down."""
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(columns, rows).T


@functools.cache
def _scans() -> tuple[UInt8[np.ndarray, "scans 8 8"], Int[np.ndarray, "scans"]]:
    """Ink of every scan, 0...255, and its digit."""
    specification = importlib.util.find_spec("sklearn")
    folders = (specification.submodule_search_locations or []) if specification else []
    files = [file for folder in folders if (file := Path(folder, "datasets", "data", "digits.csv.gz")).is_file()]
    if files:  # importing scikit-learn takes two seconds, its file twenty milliseconds
        table = np.loadtxt(files[0], delimiter=",", dtype=np.int32)
        pixels, digits = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
    ink = np.round(np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ink, np.asarray(digits, np.int32)


@functools.cache
def _scan_numbers(split: str) -> Int[np.ndarray, "scans"]:
    """Numbers of the scans of a split, ascending: a fixed 80/20 split of each digit's scans."""
    _, digits = _scans()
    generator = np.random.default_rng(0)
    parts: tuple[list[int], list[int]] = ([], [])
    for digit in range(10):
        numbers = generator.permutation(np.flatnonzero(digits == digit))
        num_validation = round(_VALIDATION_SHARE * len(numbers))
        parts[0].extend(numbers[num_validation:])
        parts[1].extend(numbers[:num_validation])
    return np.sort(parts[_SPLITS.index(split)])


@functools.lru_cache(maxsize=16)
def _draw_sizes(count: int, sides: tuple[int, int], key: tuple[int, ...]) -> Int[np.ndarray, "examples 2"]:
    """(rows, columns): aspect log-uniform in 1:2 to 2:1, the longer side uniform in what that leaves."""
    shortest, longest = sides
    uniform = np.random.default_rng(key).random((count, 2))
    reach = np.log(min(_MAX_ASPECT, longest / shortest))
    aspect = np.exp((2 * uniform[:, 0] - 1) * reach)  # rows to columns
    elongation = np.maximum(aspect, 1 / aspect)
    long_side = shortest * elongation + uniform[:, 1] * (longest - shortest * elongation)
    sizes = np.stack([np.where(aspect > 1, 1, aspect), np.where(aspect > 1, 1 / aspect, 1)], axis=1)
    sizes = np.clip(np.round(sizes * long_side[:, None]), shortest, longest).astype(np.int32)
    sizes.setflags(write=False)
    return sizes


def _stretch(scan: UInt8[np.ndarray, "8 8"], height: int, width: int) -> Float[np.ndarray, "height width"]:
    """The scan's ink, 0...1, enlarged with bicubic interpolation and edges sharpened: 8 pixels blur when enlarged."""
    ink = Image.fromarray(scan).resize((width, height), Image.Resampling.BICUBIC)
    return _SHARPER[np.asarray(ink)]


# From ink 0...255 to opacity 0...1: pale ink vanishes, the middle of an edge becomes steeper.
_SHARPER = np.clip((np.arange(256, dtype=np.float32) / 255 - 0.3) / 0.45, 0, 1)


@dataclass(frozen=True)
class _Ground:
    """Colour and luminance (0...255) of what the digits lie on."""

    colour: np.ndarray
    luminance: float
    grains: int

    @staticmethod
    def draw(generator: np.random.Generator) -> "_Ground":
        luminance = generator.uniform(140, 235)
        return _Ground(_tinted(luminance, generator), luminance, int(generator.integers(2, 7)))

    def ink_colour(self, generator: np.random.Generator) -> np.ndarray:
        """A colour darker than the ground by 90 or more."""
        return _tinted(generator.uniform(0, self.luminance - 90), generator)

    def paint(
        self, rows: int, columns: int, generator: np.random.Generator, layers: list[tuple[np.ndarray, np.ndarray]]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Ground with a coarse texture, layers of (opacity `[H, W]`, colour) on it, and fine noise over all."""
        coarse = generator.integers(0, 41, (self.grains, self.grains), dtype=np.uint8)
        texture = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BILINEAR)
        start = generator.integers(0, _NUM_GRAINS)
        noise = np.take(_noise(), np.arange(start, start + rows * columns), mode="wrap").reshape(rows, columns)
        canvas = np.empty((rows, columns, 3), np.float32)
        canvas[:] = self.colour
        for opacity, colour in layers:
            canvas += opacity[:, :, None] * (colour - canvas)
        canvas += (np.asarray(texture) + noise)[:, :, None]
        return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def _tinted(luminance: float, generator: np.random.Generator) -> np.ndarray:
    """An RGB colour of about this luminance (Rec. 601 weights), up to 60 off grey in each channel."""
    tint = generator.uniform(-60, 60, 3)
    tint -= tint @ np.array([0.299, 0.587, 0.114])
    # Near black and white there is little room; scaling keeps the luminance where clipping would shift it.
    room = min(luminance, 255 - luminance)
    tint *= min(1.0, room / np.abs(tint).max())
    return (luminance + tint).astype(np.float32)


@functools.cache
def _noise() -> Float[np.ndarray, "grains"]:
    """Pixel noise of mean -20 (which centres the coarse texture) and standard deviation 6, reused at random offsets."""
    return np.random.default_rng(1).normal(-20, 6, _NUM_GRAINS).astype(np.float32)


def _free_corner(
    scene: tuple[int, int],
    size: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
    generator: np.random.Generator,
) -> tuple[int, int] | None:
    """(top, left) of a box of `size` that lies in the scene and meets none of `taken` (top, left, bottom, right)."""
    for _ in range(20):
        top = int(generator.integers(0, scene[0] - size[0] + 1))
        left = int(generator.integers(0, scene[1] - size[1] + 1))
        bottom, right = top + size[0], left + size[1]
        if all(bottom <= box[0] or box[2] <= top or right <= box[1] or box[3] <= left for box in taken):
            return top, left
    return None


def _boxes_of(masks: list[np.ndarray]) -> Float[np.ndarray, "n 4"]:
    boxes = np.zeros((len(masks), 4), np.float32)
    for number, mask in enumerate(masks):
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes[number] = across[0], down[0], across[-1] + 1, down[-1] + 1
    return boxes


def _sentence(scene: dict[str, Any]) -> str:
    rows, columns = scene["image"].shape[:2]
    labels, boxes = scene["labels"], scene["boxes_xyxy_pixels"]
    count = len(labels)
    tone = "dark" if np.median(scene["image"]) < 128 else "light"
    if count == 0:
        return f"an empty scene with a {tone} ground"
    order = np.argsort(boxes[:, 0], kind="stable")[:4]
    phrases = list(_phrases(labels[order], boxes[order], rows, columns))
    if count == 1:
        return f"{phrases[0]} on a {tone} ground"
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]])
    among = ", among them" if count > len(phrases) else ":"
    return f"{_WORDS[count] if count < 10 else count} digits on a {tone} ground{among} {listed}"


def _phrases(labels: np.ndarray, boxes: np.ndarray, rows: int, columns: int) -> Iterator[str]:
    for label, (left, top, right, bottom) in zip(labels, boxes, strict=True):
        height = bottom - top
        size = "small " if height < 25 else "large " if height > 40 else ""
        word = size + _WORDS[label]
        article = "an" if word == "eight" else "a"  # "one" begins with a consonant when spoken
        across = ("left", "", "right")[min(2, int(3 * (left + right) / 2 / columns))]
        down = ("top", "", "bottom")[min(2, int(3 * (top + bottom) / 2 / rows))]
        place = f"at the {down} {across}".rstrip() if down else f"on the {across}" if across else "in the centre"
        yield f"{article} {word} {place}"


def _check_split(split: str) -> None:
    if split not in _SPLITS:
        raise UserError(f"`split`={split!r} of the digits, expected 'train' or 'validation'")


def _check_sides(sides: tuple[int, int], smallest: int) -> None:
    if len(sides) != 2 or not smallest <= sides[0] <= sides[1]:
        raise UserError(f"sides {sides}, expected (shortest, longest) in pixels, at least {smallest} and in this order")


def _checked_index(index: SupportsIndex, length: int) -> int:
    number = index.__index__()
    if not 0 <= number < length:
        raise IndexError(f"index {number} of a source with {length} examples")
    return number
