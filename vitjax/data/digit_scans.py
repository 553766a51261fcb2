"""What all pictures of digits are made of: the scans and their split, sizes, textured grounds.

The data are the 1,797 handwritten digits of `sklearn.datasets.load_digits`, 8x8 pixels with 17 grey levels
(E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).
scikit-learn has only the *test* part of the UCI set, without the writers' numbers, so a writer-disjoint split cannot
be kept: `train` and `validation` are a fixed stratified 80/20 split by image (1,438 and 359 scans), and a writer may
appear in both.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vitjax.errors import UserError

__all__ = [
    "SHARPER",
    "SPLITS",
    "Ground",
    "check_sides",
    "check_split",
    "checked_index",
    "draw_sizes",
    "scan_numbers",
    "scans",
    "stretch",
]

SPLITS = ("train", "validation")
_VALIDATION_SHARE = 0.2
_MAX_ASPECT = 2.0
_NUM_GRAINS = 2**16  # length of the table of pixel noise


@functools.cache
def scans() -> tuple[UInt8[np.ndarray, "scans 8 8"], Int[np.ndarray, "scans"]]:
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
def scan_numbers(split: str) -> Int[np.ndarray, "scans"]:
    """Numbers of the scans of a split, ascending: a fixed 80/20 split of each digit's scans."""
    _, digits = scans()
    generator = np.random.default_rng(0)
    parts: tuple[list[int], list[int]] = ([], [])
    for digit in range(10):
        numbers = generator.permutation(np.flatnonzero(digits == digit))
        num_validation = round(_VALIDATION_SHARE * len(numbers))
        parts[0].extend(numbers[num_validation:])
        parts[1].extend(numbers[:num_validation])
    return np.sort(parts[SPLITS.index(split)])


@functools.lru_cache(maxsize=16)
def draw_sizes(count: int, sides: tuple[int, int], key: tuple[int, ...]) -> Int[np.ndarray, "examples 2"]:
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


def stretch(scan: UInt8[np.ndarray, "8 8"], height: int, width: int) -> Float[np.ndarray, "height width"]:
    """The scan's ink, 0...1, enlarged with bicubic interpolation and edges sharpened: 8 pixels blur when enlarged."""
    ink = Image.fromarray(scan).resize((width, height), Image.Resampling.BICUBIC)
    return SHARPER[np.asarray(ink)]


# From ink 0...255 to opacity 0...1: pale ink vanishes, the middle of an edge becomes steeper.
SHARPER = np.clip((np.arange(256, dtype=np.float32) / 255 - 0.3) / 0.45, 0, 1)


@dataclass(frozen=True)
class Ground:
    """Colour and luminance (0...255) of what the digits lie on."""

    colour: np.ndarray
    luminance: float
    grains: int

    @staticmethod
    def draw(generator: np.random.Generator) -> "Ground":
        """A light one, of any colour."""
        luminance = generator.uniform(140, 235)
        return Ground(_tinted(luminance, generator), luminance, int(generator.integers(2, 7)))

    def ink_colour(self, generator: np.random.Generator) -> np.ndarray:
        """A colour darker than the ground by 90 or more."""
        return _tinted(generator.uniform(0, self.luminance - 90), generator)

    def paint(
        self, rows: int, columns: int, generator: np.random.Generator, layers: list[tuple[np.ndarray, np.ndarray]]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Ground with a coarse texture, layers of (opacity `[H, W]`, colour) on it, and fine noise over all."""
        grain = self._grain(rows, columns, generator)
        canvas = np.empty((rows, columns, 3), np.float32)
        canvas[:] = self.colour
        for opacity, colour in layers:
            canvas += opacity[:, :, None] * (colour - canvas)
        canvas += grain[:, :, None]
        return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)

    def paint_frames(
        self, inks: Float[np.ndarray, "T H W"], colour: np.ndarray, generator: np.random.Generator
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """One ground, the same in all frames, with ink of one colour on it; `inks` are its opacities, 0...1."""
        grain = self._grain(inks.shape[1], inks.shape[2], generator)
        frames = inks[..., None] * (colour - self.colour) + (self.colour + grain[:, :, None])
        return np.clip(frames, 0, 255, out=frames).astype(np.uint8)

    def _grain(self, rows: int, columns: int, generator: np.random.Generator) -> Float[np.ndarray, "H W"]:
        coarse = generator.integers(0, 41, (self.grains, self.grains), dtype=np.uint8)
        texture = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BILINEAR)
        start = generator.integers(0, _NUM_GRAINS)
        noise = np.take(_noise(), np.arange(start, start + rows * columns), mode="wrap").reshape(rows, columns)
        return np.asarray(texture) + noise


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


def check_split(split: str) -> None:
    """Raises a `UserError` unless there is such a split."""
    if split not in SPLITS:
        raise UserError(f"`split`={split!r} of the digits, expected 'train' or 'validation'")


def check_sides(sides: tuple[int, int], smallest: int) -> None:
    """Raises a `UserError` unless these are a shortest and a longest side in pixels, of `smallest` at least."""
    if len(sides) != 2 or not smallest <= sides[0] <= sides[1]:
        raise UserError(f"sides {sides}, expected (shortest, longest) in pixels, at least {smallest} and in this order")


def checked_index(index: SupportsIndex, length: int) -> int:
    """The index as a number; an `IndexError` ends iteration."""
    number = index.__index__()
    if not 0 <= number < length:
        raise IndexError(f"index {number} of a source with {length} examples")
    return number
