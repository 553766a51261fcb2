"""Short clips of scanned digits that move: what happens can be told from several frames together only."""

from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vitjax.data.digit_scans import (
    SHARPER,
    SPLITS,
    Ground,
    check_sides,
    check_split,
    checked_index,
    draw_sizes,
    scan_numbers,
    scans,
)
from vitjax.errors import UserError

__all__ = ["MOTIONS", "DigitClips"]

MOTIONS = ("left", "right", "up", "down", "shrinks", "grows", "fades", "appears")
"""Class names by class number: motion `2 * i` is motion `2 * i + 1` backwards; kinds in the order of `_draw_paths`."""

_DIGIT_SIZES = (0.3, 0.6)  # smallest and largest, in shorter sides of the clip
_SHARE = (0.6, 1.0)  # of the room for places, or of the range of sizes, that a change crosses
_LEAST_OPACITY = 0.4
_LARGEST_ASPECT = 1.25
_MARGIN = 2  # empty pixels around the 8x8 of a scan, where interpolation fades out


@dataclass(frozen=True)
class DigitClips:
    """One digit per clip that moves left, right, up or down, shrinks, grows, fades or appears, on a ground that rests.

    `source[i]` is `{"video": uint8 [T, H, W, 3], "label": 0...7, "index": i}`; classes are `MOTIONS`, in turn. Which
    digit, its place, size, angle, aspect ratio and speed, colours and ground are drawn alike for all classes, and what
    does not change is as it would be in a changing clip at a random time. So a frame says nothing of the class: taken
    out at random its distribution is the same for all eight, and a class played backwards is its opposite, the same
    bits. (The *first* frame says a little: what moves left seldom begins on the left.)

    Attributes:
        split: "train" or "validation": which scans the digits are.
        num_clips: length of the source.
        seed: of everything but the split of the scans.
        sides: shortest and longest side of a clip in pixels, aspect ratios within 1:2 and 2:1.
        frames: fewest and most frames of a clip.
    """

    split: str
    num_clips: int = 1000
    seed: int = 0
    sides: tuple[int, int] = (32, 64)
    frames: tuple[int, int] = (4, 8)

    def __post_init__(self) -> None:
        check_split(self.split)
        check_sides(self.sides, smallest=16)
        if len(self.frames) != 2 or not 2 <= self.frames[0] <= self.frames[1]:
            raise UserError(
                f"`frames`={self.frames} of DigitClips, expected (fewest, most), 2 at least and in this order"
            )
        if self.num_clips < 1:
            raise UserError(f"`num_clips`={self.num_clips} of DigitClips, expected at least 1")

    @property
    def name(self) -> str:
        """Short name for logs."""
        return f"digit clips/{self.split}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, by class number."""
        return MOTIONS

    def __len__(self) -> int:
        return self.num_clips

    def sizes(self) -> Int[np.ndarray, "examples 2"]:
        """(rows, columns) of every clip, without rendering one."""
        return draw_sizes(len(self), self.sides, (self.seed, SPLITS.index(self.split), 4))

    def example_labels(self) -> Int[np.ndarray, "examples"]:
        """The class of every clip, without rendering one."""
        return np.arange(len(self)) % len(MOTIONS)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = checked_index(index, len(self))
        label = index % len(MOTIONS)
        return {"video": self.render(index, label), "label": label, "index": index}

    def render(self, index: int, motion: int) -> UInt8[np.ndarray, "T H W 3"]:
        """The clip of an index with any motion: the same digit, ground and speed.

        Args:
            index: of the clip.
            motion: number of the class.
        """
        rows, columns = (int(side) for side in self.sizes()[index])
        generator = np.random.default_rng((self.seed, SPLITS.index(self.split), 5, index))
        numbers = scan_numbers(self.split)
        scan = scans()[0][numbers[generator.integers(len(numbers))]]
        ground = Ground.draw(generator)
        colour = ground.ink_colour(generator)
        aspect, angle = _LARGEST_ASPECT ** generator.uniform(-1, 1), generator.uniform(0, 2 * np.pi)
        count = int(generator.integers(self.frames[0], self.frames[1] + 1))
        paths = _draw_paths(count, generator)
        places = np.repeat(paths[np.arange(4), generator.integers(count, size=4)][:, None], count, axis=1)
        kind, forwards = divmod(motion, 2)
        places[kind] = paths[kind]
        inks = np.stack([_ink(scan, (rows, columns), aspect, angle, place) for place in places.T])
        frames = ground.paint_frames(inks, colour, generator)
        return frames if forwards else frames[::-1]


def _draw_paths(count: int, generator: np.random.Generator) -> Float[np.ndarray, "4 T"]:
    """How the digit would be in every frame if it changed in one way: four paths, each rising within 0...1.

    Across and down count the room that its size leaves, the size its logarithm; the last is opacity.
    """
    shares = generator.uniform(*_SHARE, 4)
    return generator.uniform(0, 1 - shares)[:, None] + shares[:, None] * np.linspace(0, 1, count)


def _ink(
    scan: UInt8[np.ndarray, "8 8"], shape: tuple[int, int], aspect: float, angle: float, place: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "H W"]:
    """Opacity of the digit, 0...1, in a frame of this shape; `place` as in `_draw_paths`, turned about the middle."""
    across, down, size, strength = place
    rows, columns = shape
    side = min(shape) * np.exp(np.interp(size, (0, 1), np.log(_DIGIT_SIZES)))
    middle = side / 2 + across * (columns - side), side / 2 + down * (rows - side)
    # From a point of the frame to one of the scan.
    sine, cosine = np.sin(angle) * 8 / side, np.cos(angle) * 8 / side
    wide, high = np.sqrt(aspect), 1 / np.sqrt(aspect)
    turned = np.array([[cosine * high, sine * high], [-sine * wide, cosine * wide]])
    offset = 4 + _MARGIN - turned @ middle
    matrix = np.column_stack([turned, offset]).reshape(-1).tolist()
    picture = Image.fromarray(np.pad(scan, _MARGIN))
    ink = picture.transform((columns, rows), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return SHARPER[np.asarray(ink)] * np.float32(_LEAST_OPACITY + (1 - _LEAST_OPACITY) * strength)
