"""timm's three ways to bring a picture to the model's size, and the way back from our transforms to their names."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vitjax.data.transforms import CentreCrop, Resize, ResizeShorterSide, evaluation_transforms, resize_image
from vitjax.errors import UserError

__all__ = ["MODES", "CropOrPad", "EvaluationMode", "ResizeKeepingRatio", "evaluation_mode", "transforms_of"]


@dataclass(frozen=True)
class ResizeKeepingRatio:
    """Resizes so that the image just covers `size`, or just fits into it.

    Attributes:
        size: rows and columns, pixels.
        interpolation: one of `vitjax.data.transforms.INTERPOLATIONS`.
        inside: the image fits into `size` instead of covering it.
    """

    size: tuple[int, int]
    interpolation: str = "bicubic"
    inside: bool = False

    def __call__(
        self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "rows columns C"]:
        """Resizes; both sides are rounded to nearest."""
        ratios = [side / wanted for side, wanted in zip(image.shape[:2], self.size, strict=True)]
        ratio = max(ratios) if self.inside else min(ratios)
        rows, columns = (max(round(side / ratio), 1) for side in image.shape[:2])
        return resize_image(image, (rows, columns), self.interpolation)


@dataclass(frozen=True)
class CropOrPad:
    """The middle of the image; a side that is too short is padded on both ends.

    Attributes:
        size: rows and columns, pixels.
        fill: value of each channel of the padding, 0 to 255.
        halves_down: of an odd rest, the larger half is cut off at the bottom and right, or padded at the top and left,
            as transformers does; otherwise as `CentreCrop` and torchvision.
    """

    size: tuple[int, int]
    fill: tuple[int, ...] = (0, 0, 0)
    halves_down: bool = False

    def __call__(
        self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "rows columns C"]:
        """Pads where needed, and crops."""
        lacking = [max(wanted - side, 0) for wanted, side in zip(self.size, image.shape[:2], strict=True)]
        if any(lacking):
            shape = [side + more for side, more in zip(image.shape[:2], lacking, strict=True)]
            padded = np.empty((*shape, image.shape[2]), np.uint8)
            padded[:] = np.asarray(self.fill, np.uint8)
            top, left = ((side + self.halves_down) // 2 for side in lacking)
            padded[top : top + image.shape[0], left : left + image.shape[1]] = image
            image = padded
        if not self.halves_down:
            return CentreCrop(self.size)(image, generator)
        top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape[:2], self.size, strict=True))
        return image[top : top + self.size[0], left : left + self.size[1]]


@dataclass(frozen=True)
class EvaluationMode:
    """timm's description of how a picture becomes the model's input.

    Attributes:
        mode: "center", "squash" or "border" (`crop_mode`).
        size: rows and columns of the result, pixels.
        crop_share: share of the resized image that is kept, in (0, 1] (`crop_pct`).
        interpolation: one of `vitjax.data.transforms.INTERPOLATIONS`.
    """

    mode: str
    size: tuple[int, int]
    crop_share: float
    interpolation: str

    @property
    def resized(self) -> tuple[int, int]:
        """Rows and columns in front of the crop."""
        return math.floor(self.size[0] / self.crop_share), math.floor(self.size[1] / self.crop_share)


def _centre(mode: EvaluationMode, fill: tuple[int, ...]) -> tuple[Any, ...]:
    if mode.size[0] == mode.size[1]:
        return evaluation_transforms(mode.size[0], mode.crop_share, mode.interpolation)
    return ResizeKeepingRatio(mode.resized, mode.interpolation), CentreCrop(mode.size)


def _squash(mode: EvaluationMode, fill: tuple[int, ...]) -> tuple[Any, ...]:
    resize = Resize(mode.resized, mode.interpolation)
    return (resize,) if mode.resized == mode.size else (resize, CentreCrop(mode.size))


def _border(mode: EvaluationMode, fill: tuple[int, ...]) -> tuple[Any, ...]:
    return ResizeKeepingRatio(mode.resized, mode.interpolation, inside=True), CropOrPad(mode.size, fill)


MODES: dict[str, Callable[[EvaluationMode, tuple[int, ...]], tuple[Any, ...]]] = {
    "center": _centre,
    "squash": _squash,
    "border": _border,
}
"""Name of timm's `crop_mode` -> transforms."""


def transforms_of(mode: EvaluationMode, mean: Sequence[float]) -> tuple[Any, ...]:
    """The transforms that make the same pixels as timm.

    Args:
        mode: what the file says.
        mean: per channel, 0 to 1: what "border" fills with.

    Raises:
        UserError: there is no such mode, or a value is out of range.
    """
    if mode.mode not in MODES:
        raise UserError(f"`crop_mode` (={mode.mode!r}) must be one of {', '.join(MODES)}")
    if not 0 < mode.crop_share <= 1:
        raise UserError(f"`crop_pct` (={mode.crop_share}) must be in (0, 1]")
    return MODES[mode.mode](mode, tuple(round(255 * value) for value in mean))


def evaluation_mode(transforms: Sequence[Any]) -> EvaluationMode:
    """The way back: the description of transforms that `transforms_of` could have made.

    Which way an odd rest of a crop is halved has no word in timm: it is the writer's to say.

    Raises:
        UserError: timm has no name for what these transforms do.
    """
    plain: tuple[Any, ...] = tuple(
        CentreCrop(transform.size) if isinstance(transform, CropOrPad) and transform.halves_down else transform
        for transform in transforms
    )
    kinds = tuple(type(transform) for transform in plain)
    known = {
        (ResizeShorterSide, CentreCrop): "center",
        (ResizeKeepingRatio, CentreCrop): "center",
        (Resize,): "squash",
        (Resize, CentreCrop): "squash",
        (ResizeKeepingRatio, CropOrPad): "border",
    }
    if kinds not in known:
        raise UserError(f"the preparation {tuple(transforms)} is none that the format can describe")
    larger, size = _pair(plain[0].size), _pair(plain[-1].size)
    # Any share whose floor(size / share) is the resized side makes the same pixels; the roundest is what people wrote.
    middle, exact = size[0] / (larger[0] + 0.5), size[0] / larger[0]
    for share in (*(round(middle, digits) for digits in (2, 3, 4)), exact, math.nextafter(exact, 0)):
        mode = EvaluationMode(known[kinds], size, share, plain[0].interpolation)
        if 0 < share <= 1 and mode.resized == larger:
            return mode
    raise UserError(f"the preparation {tuple(transforms)} is none that the format can describe: two shares are cropped")


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
