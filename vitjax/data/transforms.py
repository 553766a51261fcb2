"""Changes to one image, before batching: frozen settings, called with the image and the example's own generator.

Every transform takes and returns uint8 `[H, W, C]` with C of 1, 3 or 4 (only `Normalise` returns float32), and draws
all its randomness from the `numpy.random.Generator` it is handed, so that (seed, epoch, index) replays an example.
Sizes are (rows, columns); one number means a square. Resizing is Pillow's, which antialiases when it shrinks: the same
pixels as `timm` and torchvision make from PIL images.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vitjax.errors import UserError

__all__ = [
    "INTERPOLATIONS",
    "CentreCrop",
    "HorizontalFlip",
    "InceptionCrop",
    "Normalise",
    "Resize",
    "ResizeShorterSide",
    "ReverseChannels",
    "Transform",
    "apply_transforms",
    "check_interpolation",
    "check_rate",
    "check_size",
    "evaluation_transforms",
    "pair",
    "resize_image",
]

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Names that `interpolation` takes; all but "nearest" are antialiased."""


def apply_transforms(
    transforms: Sequence[Transform], image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator
) -> Any:
    """Runs `transforms` in order."""
    for transform in transforms:
        image = transform(image, generator)
    return image


def resize_image(
    image: UInt8[np.ndarray, "H W C"], size: tuple[int, int], interpolation: str = "bicubic"
) -> UInt8[np.ndarray, "rows columns C"]:
    """The image at `size` (rows, columns), each side stretched on its own; the image itself if it has that size."""
    if image.shape[:2] == tuple(size):
        return image
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[:, :, 0] if grey else image)
    resized = np.asarray(picture.resize((size[1], size[0]), INTERPOLATIONS[interpolation]))
    return resized[:, :, None] if grey else resized


@dataclass(frozen=True)
class InceptionCrop:
    """A random part of the image, resized to `size`: the training crop of Szegedy et al. 2014 (arXiv:1409.4842, §6).

    The part's share of the image's area is uniform in `area`, its aspect ratio (columns to rows) log-uniform in
    `aspect`. A part that does not fit is drawn again, ten times at most; then the largest central part
    whose aspect ratio lies in `aspect` is taken.

    Attributes:
        size: output side or (rows, columns), pixels.
        area: smallest and largest share, in 0...1.
        aspect: smallest and largest ratio, columns to rows.
        interpolation: one of `INTERPOLATIONS`.
    """

    size: int | tuple[int, int]
    area: tuple[float, float] = (0.05, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"

    def __post_init__(self):
        check_size(self.size, "InceptionCrop")
        check_interpolation(self.interpolation, "InceptionCrop")
        _check_range(self.area, "area", "InceptionCrop", highest=1.0)
        _check_range(self.aspect, "aspect", "InceptionCrop")

    def __call__(
        self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "rows columns C"]:
        """Draws a part and resizes it."""
        top, left, height, width = self.draw_box(image.shape[0], image.shape[1], generator)
        part = np.ascontiguousarray(image[top : top + height, left : left + width])
        return resize_image(part, pair(self.size), self.interpolation)

    def draw_box(self, rows: int, columns: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part of an image of this size, in pixels."""
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        for _ in range(10):
            target = rows * columns * generator.uniform(*self.area)
            ratio = math.exp(generator.uniform(low, high))
            width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < width <= columns and 0 < height <= rows:
                top = int(generator.integers(0, rows - height + 1))
                left = int(generator.integers(0, columns - width + 1))
                return top, left, height, width
        ratio = min(max(columns / rows, self.aspect[0]), self.aspect[1])
        width, height = min(columns, round(rows * ratio)), min(rows, round(columns / ratio))
        width, height = max(width, 1), max(height, 1)
        return (rows - height) // 2, (columns - width) // 2, height, width


@dataclass(frozen=True)
class Resize:
    """Stretches the image to `size`, whatever its aspect ratio.

    Attributes:
        size: output side or (rows, columns), pixels.
        interpolation: one of `INTERPOLATIONS`.
    """

    size: int | tuple[int, int]
    interpolation: str = "bicubic"

    def __post_init__(self):
        check_size(self.size, "Resize")
        check_interpolation(self.interpolation, "Resize")

    def __call__(
        self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "rows columns C"]:
        """Stretches."""
        return resize_image(image, pair(self.size), self.interpolation)


@dataclass(frozen=True)
class ResizeShorterSide:
    """Resizes so that the shorter side has `size` pixels, keeping the aspect ratio.

    The longer side is rounded down, as torchvision does.

    Attributes:
        size: pixels of the shorter side.
        interpolation: one of `INTERPOLATIONS`.
    """

    size: int
    interpolation: str = "bicubic"

    def __post_init__(self):
        check_size(self.size, "ResizeShorterSide")
        check_interpolation(self.interpolation, "ResizeShorterSide")

    def __call__(
        self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "rows columns C"]:
        """Resizes, keeping the aspect ratio."""
        rows, columns = image.shape[:2]
        if rows <= columns:
            size = (self.size, int(self.size * columns / rows))
        else:
            size = (int(self.size * rows / columns), self.size)
        return resize_image(image, size, self.interpolation)


@dataclass(frozen=True)
class CentreCrop:
    """The middle of the image; a side that is too short is first padded with black on both ends.

    Attributes:
        size: output side or (rows, columns), pixels.
    """

    size: int | tuple[int, int]

    def __post_init__(self):
        check_size(self.size, "CentreCrop")

    def __call__(
        self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "rows columns C"]:
        """Pads where needed and crops."""
        rows, columns = pair(self.size)
        down, across = max(rows - image.shape[0], 0), max(columns - image.shape[1], 0)
        if down or across:
            image = np.pad(image, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)))
        # Halves go to the even number, as in torchvision: both round with Python's `round`.
        top, left = round((image.shape[0] - rows) / 2), round((image.shape[1] - columns) / 2)
        return image[top : top + rows, left : left + columns]


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors left and right.

    Attributes:
        rate: probability, 0...1.
    """

    rate: float | int = 0.5

    def __post_init__(self):
        check_rate(self.rate, "HorizontalFlip")

    def __call__(self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator) -> UInt8[np.ndarray, "H W C"]:
        """Flips or returns the image itself."""
        return np.ascontiguousarray(image[:, ::-1]) if generator.random() < self.rate else image


@dataclass(frozen=True)
class ReverseChannels:
    """Red, green, blue becomes blue, green, red, for weights that were trained on pictures read by OpenCV.

    A fourth channel stays the last, and a single one stays as it is.
    """

    def __call__(self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator) -> UInt8[np.ndarray, "H W C"]:
        """Reverses the first three channels."""
        return image if image.shape[2] < 3 else image[:, :, (2, 1, 0, *range(3, image.shape[2]))]


@dataclass(frozen=True)
class Normalise:
    """(image / 255 - mean) / std in float32, for arrays that leave our own models' path: tasks normalise on the device.

    Attributes:
        mean: per channel, in units of 0...1.
        std: per channel, in units of 0...1, above 0.
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise UserError(
                f"`mean`={self.mean}, `std`={self.std} of Normalise: expected a number per channel, `std` above 0"
            )
        if any(abs(value) > 1 for value in (*self.mean, *self.std)):
            raise UserError(
                f"`mean`={self.mean}, `std`={self.std} of Normalise: expected units of 0...1; divide by 255"
            )

    def __call__(self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator) -> Float[np.ndarray, "H W C"]:
        """Scales to float32."""
        if image.shape[2] != len(self.mean):
            raise UserError(
                f"Normalise has {len(self.mean)} channels in `mean`={self.mean}, the image has {image.shape[2]}"
            )
        scaled = image.astype(np.float32) / np.float32(255)
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


def evaluation_transforms(
    size: int, crop_share: float | int = 0.875, interpolation: str = "bicubic"
) -> tuple[ResizeShorterSide, CentreCrop]:
    """The evaluation preprocessing of timm: the shorter side to floor(size / crop_share), then the central square.

    Args:
        size: side of the result, pixels.
        crop_share: timm's `crop_pct`, in (0, 1].
        interpolation: one of `INTERPOLATIONS`.

    Raises:
        UserError: a value is out of range.
    """
    if not 0 < crop_share <= 1:
        raise UserError(f"`crop_share`={crop_share}, expected a number in (0, 1]")
    return ResizeShorterSide(math.floor(size / crop_share), interpolation), CentreCrop(size)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a setting that may be one side."""
    return (size, size) if isinstance(size, int) else size


def check_size(size: Any, owner: str) -> None:
    """Raises a `UserError` unless it is a side or a pair of sides."""
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
        raise UserError(f"`size`={size} of {owner}, expected a side or (rows, columns) in pixels, at least 1")


def check_interpolation(name: str, owner: str) -> None:
    """Raises a `UserError` unless it is one of `INTERPOLATIONS`."""
    if name not in INTERPOLATIONS:
        raise UserError(f"`interpolation`={name!r} of {owner}, expected one of {', '.join(INTERPOLATIONS)}")


def _check_range(values: tuple[float, float], name: str, owner: str, highest: float = math.inf) -> None:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= highest:
        limit = f", {highest:g} at most" if highest < math.inf else ""
        raise UserError(f"`{name}`={values} of {owner}, expected (smallest, largest) above 0{limit}")


def check_rate(rate: float | int, owner: str) -> None:
    """Raises a `UserError` unless it is a probability."""
    if not 0 <= rate <= 1:
        raise UserError(f"`rate`={rate} of {owner}, expected a probability in 0...1")
