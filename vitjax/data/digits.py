"""Real scanned digits that come with scikit-learn: single images, scenes with boxes and masks, and captions.

The scans are those of `digit_scans`; the same digits move in `digit_clips`.

Everything is a function of (seed, index): no state, nothing on disk, cheap to send to worker processes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from vitjax.data.digit_scans import (
    SPLITS,
    Ground,
    check_sides,
    check_split,
    checked_index,
    draw_sizes,
    scan_numbers,
    scans,
    stretch,
)
from vitjax.errors import UserError

__all__ = ["DigitCaptions", "DigitImages", "DigitScenes", "decode_rle", "encode_rle"]

_LABELS = tuple("0123456789")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


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
        check_split(self.split)
        check_sides(self.sides, smallest=8)
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
        return self.copies * len(scan_numbers(self.split))

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every image, without rendering one."""
        return draw_sizes(len(self), self.sides, (self.seed, SPLITS.index(self.split), 0))

    def size(self, index: SupportsIndex) -> tuple[int, int]:
        """(rows, columns) of one image."""
        rows, columns = self.sizes()[checked_index(index, len(self))]
        return int(rows), int(columns)

    def example_labels(self) -> Int[np.ndarray, "examples"]:
        """The class of every image, without rendering one."""
        return np.tile(scans()[1][scan_numbers(self.split)], self.copies)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = checked_index(index, len(self))
        inks, digits = scans()
        numbers = scan_numbers(self.split)
        number = numbers[index % len(numbers)]
        rows, columns = self.size(index)
        generator = np.random.default_rng((self.seed, SPLITS.index(self.split), 1, index))
        height = round(rows * generator.uniform(0.75, 1.0))
        width = round(columns * generator.uniform(0.75, 1.0))
        top, left = generator.integers(0, (rows - height + 1, columns - width + 1))
        ink = np.zeros((rows, columns), np.float32)
        ink[top : top + height, left : left + width] = stretch(inks[number], height, width)
        ground = Ground.draw(generator)
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
        check_split(self.split)
        check_sides(self.sides, smallest=32)
        check_sides(self.digit_sides, smallest=8)
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
        return draw_sizes(len(self), self.sides, (self.seed, SPLITS.index(self.split), 2))

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = checked_index(index, len(self))
        rows, columns = (int(side) for side in self.sizes()[index])
        generator = np.random.default_rng((self.seed, SPLITS.index(self.split), 3, index))
        ground = Ground.draw(generator)
        layers, masks, labels, taken = [], [], [], []
        inks, digits = scans()
        numbers = scan_numbers(self.split)
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
            ink[top : top + height, left : left + width] = stretch(inks[number], height, width)
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
