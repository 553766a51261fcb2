"""Scenes of digits on grounds of several kinds, every pixel of which belongs to a segment: things and stuff."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vitjax.data.digits import DigitScenes
from vitjax.data.scene_geometry import tight_boxes

__all__ = ["DigitPanoptic"]

_GROUNDS = ("plain", "stripes", "checks")
_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class DigitPanoptic:
    """The scenes of `DigitScenes` on one to three grounds: ten things, and as stuff a plain, a striped and a checked.

    `source[i]` is a dict as `DigitScenes` has it; its segments are the digits and then the grounds, each kind once, and
    `masks` cover every pixel exactly once. A ground's box is around all of it that can be seen. Stripes and checks are
    of any width between 5 and 10 pixels and any direction.

    Attributes:
        split: "train" or "validation": which scans the digits are.
        num_scenes: length of the source.
        seed: of everything but the split of the scans.
        sides: shortest and longest side of a scene in pixels, aspect ratios within 1:2 and 2:1.
        digit_sides: smallest and largest height of a digit in pixels, log-uniform.
        max_digits: counts are uniform from 0 to this.
    """

    split: str
    num_scenes: int = 1000
    seed: int = 0
    sides: tuple[int, int] = (96, 144)
    digit_sides: tuple[int, int] = (32, 72)
    max_digits: int = 4

    def __post_init__(self) -> None:
        self._scenes()

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"panoptic digits/{self.split}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number: things, then stuff."""
        return (*self._scenes().labels, *_GROUNDS)

    @property
    def stuff(self) -> tuple[int, ...]:
        """Class numbers of stuff."""
        things = len(self._scenes().labels)
        return tuple(range(things, things + len(_GROUNDS)))

    def __len__(self) -> int:
        return self.num_scenes

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every scene, without rendering one."""
        return self._scenes().sizes()

    def _scenes(self) -> DigitScenes:
        return DigitScenes(self.split, self.num_scenes, self.seed, self.sides, self.digit_sides, self.max_digits)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        scene = self._scenes()[index]
        rows, columns = scene["image"].shape[:2]
        # The 6 keeps these draws apart from those of the digits.
        generator = np.random.default_rng((self.seed, _SPLITS.index(self.split), 6, scene["index"]))
        kinds = generator.permutation(len(_GROUNDS))[: generator.integers(1, len(_GROUNDS) + 1)].tolist()
        regions = _regions((rows, columns), len(kinds), generator)
        free = ~scene["masks"].any(axis=0)
        darker = np.zeros((rows, columns), np.float32)
        masks, labels = [], []
        for number, kind in enumerate(kinds):
            mask = (regions == number) & free
            if mask.any():
                darker[mask] = _pattern(kind, (rows, columns), generator)[mask]
                masks.append(mask)
                labels.append(self.stuff[kind])
        return scene | {
            "image": _darken(scene["image"], darker),
            "labels": np.concatenate([scene["labels"], np.array(labels, np.int32)]),
            "boxes_xyxy_pixels": np.concatenate([scene["boxes_xyxy_pixels"], tight_boxes(np.array(masks))]),
            "masks": np.concatenate([scene["masks"], masks]),
        }

    def write_coco(self, folder: str | Path) -> Path:
        """Writes `images/*.png`, `panoptic/*.png` and, in COCO's panoptic format, `panoptic.json`; returns its path.

        Category ids are 3, 6, ... for classes 0, 1, ..., and segments' ids spread over all three bytes of a colour: a
        reader that takes ids for numbers of classes or of segments is found out. The reader is `CocoPanopticFolder`.
        """
        folder = Path(folder)
        for name in ("images", "panoptic"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for index in range(len(self)):
            scene = self[index]
            file_name, (rows, columns) = f"{index:06d}.png", scene["image"].shape[:2]
            Image.fromarray(scene["image"]).save(folder / "images" / file_name)
            ids = 70_001 * np.arange(1, len(scene["labels"]) + 1)
            numbers = (scene["masks"] * ids[:, None, None]).max(axis=0)
            colours = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=-1)
            Image.fromarray(colours.astype(np.uint8)).save(folder / "panoptic" / file_name)
            images.append({"id": index + 1, "file_name": file_name, "height": rows, "width": columns})
            segments = [
                {"id": int(identity), "category_id": 3 * int(label) + 3, "area": int(mask.sum()), "iscrowd": 0}
                for identity, label, mask in zip(ids, scene["labels"], scene["masks"], strict=True)
            ]
            annotations.append({"image_id": index + 1, "file_name": file_name, "segments_info": segments})
        categories = [
            {"id": 3 * number + 3, "name": name, "isthing": int(number not in self.stuff)}
            for number, name in enumerate(self.labels)
        ]
        path = folder / "panoptic.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return path


def _regions(size: tuple[int, int], count: int, generator: np.random.Generator) -> Int[np.ndarray, "H W"]:
    """Which of `count` points, drawn far from one another, each pixel is nearest to."""
    points = max(
        (generator.uniform(0, size, (count, 2)) for _ in range(8)),
        key=lambda drawn: min([np.hypot(*(a - b)) for i, a in enumerate(drawn) for b in drawn[:i]], default=0.0),
    )
    down, across = _middles(size)
    return np.stack([np.square(down - row) + np.square(across - column) for row, column in points]).argmin(axis=0)


def _pattern(kind: int, size: tuple[int, int], generator: np.random.Generator) -> Float[np.ndarray, "H W"]:
    """By how much each pixel becomes darker, 0...255: nothing, bands, or bands across bands."""
    angle, width, depth = generator.uniform(0, np.pi), generator.uniform(5, 10), generator.uniform(25, 45)
    down, across = _middles(size)
    along = np.sin((across * np.cos(angle) + down * np.sin(angle)) * np.float32(np.pi / width)) > 0
    crossing = np.sin((down * np.cos(angle) - across * np.sin(angle)) * np.float32(np.pi / width)) > 0
    bands = (np.zeros(size, bool), along, along != crossing)[kind]
    return np.where(bands, np.float32(depth), np.float32(0))


def _middles(size: tuple[int, int]) -> tuple[Float[np.ndarray, "H 1"], Float[np.ndarray, "1 W"]]:
    """Of the pixels, in rows and in columns."""
    down, across = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in size)
    return down[:, None], across[None]


def _darken(image: UInt8[np.ndarray, "H W 3"], by: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    return np.maximum(image - by[:, :, None], 0).astype(np.uint8)
