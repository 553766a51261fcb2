"""Stronger changes to a training image: its colours, RandAugment, random erasing. Same interface as `transforms`."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from vitjax.errors import UserError

__all__ = ["GaussianNoise", "PhotometricDistortion", "RandAugment", "RandomErasing"]

_GREY = 128  # what moves into the picture from outside


@dataclass(frozen=True)
class RandAugment:
    """`layers` operations, each drawn anew from fourteen with equal chance, all at one strength.

    The operations are those of the paper's §3. `magnitude` is on its scale, where 10 is AutoAugment's strongest setting
    (arXiv:1805.09501, table 6), and up to 30 the ranges go on linearly; every operation grows with it. With
    m = magnitude / 10 and a fair sign:

    ========================================== ====================================================================
    identity, auto contrast, equalise          no strength
    rotate                                     ±30·m degrees
    shear x, shear y                           ±0.3·m
    translate x, translate y                   ±0.45·m of the side, 0.9 at most
    posterise                                  8 - 4·m bits kept, 1 at least
    solarise                                   values of 256·(1 - m) and above inverted
    colour, contrast, brightness, sharpness    factor 1 ± 0.9·m, 0.1 at least
    ========================================== ====================================================================

    What comes into view from outside is grey (128). "How to train your ViT?" (arXiv:2106.10270, §3) uses 2 layers at
    10, 15 or 20.

    Cubuk, Zoph, Shlens, Le: "RandAugment: Practical automated data augmentation with a reduced search space", 2020,
    arXiv:1909.13719.

    Attributes:
        layers: operations applied one after the other.
        magnitude: 0...30.
    """

    layers: int = 2
    magnitude: float | int = 10

    def __post_init__(self):
        if self.layers < 0 or not 0 <= self.magnitude <= 30:
            raise UserError(
                f"`layers`={self.layers}, `magnitude`={self.magnitude} of RandAugment: expected layers of 0 or more "
                "and a magnitude in 0...30"
            )

    def __call__(self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator) -> UInt8[np.ndarray, "H W C"]:
        """Draws the operations and applies them."""
        if self.layers == 0:
            return image
        if image.shape[2] not in (1, 3):
            raise UserError(f"RandAugment takes images of 1 or 3 channels, got {image.shape[2]}")
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        for number in generator.integers(0, len(_OPERATIONS), self.layers):
            sign = 1 if generator.random() < 0.5 else -1
            picture = _OPERATIONS[number](picture, self.magnitude / 10, sign)
        return np.asarray(picture).reshape(image.shape)


@dataclass(frozen=True)
class RandomErasing:
    """Covers a random rectangle, with probability `rate`.

    Zhong, Zheng, Kang, Li, Yang: "Random Erasing Data Augmentation", 2017, arXiv:1708.04896, algorithm 1; the aspect
    ratio is drawn log-uniformly.

    Attributes:
        rate: probability, 0...1.
        area: smallest and largest share of the image covered, 0...1.
        aspect: smallest and largest ratio of the rectangle, columns to rows.
        mode: "noise" (each value normal around 128 with deviation 58, which is about unit noise after normalisation),
            "colour" (one uniform random colour) or "black".
    """

    rate: float | int = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    mode: str = "noise"

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise UserError(f"`rate`={self.rate} of RandomErasing, expected a probability in 0...1")
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(
                f"`area`={self.area}, `aspect`={self.aspect} of RandomErasing: expected (smallest, largest) above 0, "
                "areas of 1 at most"
            )
        if self.mode not in _FILLS:
            raise UserError(f"`mode`={self.mode!r} of RandomErasing, expected one of {', '.join(_FILLS)}")

    def __call__(self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator) -> UInt8[np.ndarray, "H W C"]:
        """Covers a rectangle or returns the image itself."""
        if generator.random() >= self.rate:
            return image
        rows, columns, channels = image.shape
        for _ in range(10):
            target = rows * columns * generator.uniform(*self.area)
            ratio = math.exp(generator.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            height, width = round(math.sqrt(target / ratio)), round(math.sqrt(target * ratio))
            if 0 < height <= rows and 0 < width <= columns:
                top = generator.integers(0, rows - height + 1)
                left = generator.integers(0, columns - width + 1)
                erased = image.copy()
                erased[top : top + height, left : left + width] = _FILLS[self.mode](
                    (height, width, channels), generator
                )
                return erased
        return image  # no rectangle of these shares fits an image this narrow


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each changed with probability `rate` by an amount drawn evenly.

    Contrast comes either before saturation and hue or after them, at even odds. Images have three channels, RGB.

    Howard: "Some Improvements on Deep Convolutional Neural Network Based Image Classification", 2013, arXiv:1312.5402,
    as SSD uses it (arXiv:1512.02325, §2.2).

    Attributes:
        brightness: largest deviation of the factor from 1, below 1.
        contrast: the same.
        saturation: the same.
        hue: largest shift, in turns of the colour circle, 0.5 at most.
        rate: 0...1.
    """

    brightness: float | int = 0.5
    contrast: float | int = 0.5
    saturation: float | int = 0.5
    hue: float | int = 0.05
    rate: float | int = 0.5

    def __post_init__(self):
        if not all(0 <= value < 1 for value in (self.brightness, self.contrast, self.saturation)) or not (
            0 <= self.hue <= 0.5 and 0 <= self.rate <= 1
        ):
            raise UserError(f"{self}: expected deviations in 0...1 (1 excluded), `hue` in 0...0.5, `rate` in 0...1")

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], generator: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
        """Draws the changes and makes them."""
        contrast = functools.partial(_scale, ImageEnhance.Contrast, self.contrast)
        steps = [functools.partial(_scale, ImageEnhance.Color, self.saturation), self._shift_hue]
        steps = [contrast, *steps] if generator.random() < 0.5 else [*steps, contrast]
        picture = Image.fromarray(image)
        for step in (functools.partial(_scale, ImageEnhance.Brightness, self.brightness), *steps):
            if generator.random() < self.rate:
                picture = step(picture, generator)
        return np.asarray(picture)

    def _shift_hue(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        shift = round(256 * generator.uniform(-self.hue, self.hue)) % 256
        hue = hue.point([(level + shift) % 256 for level in range(256)])
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _scale(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
    deviation: float | int,
    picture: Image.Image,
    generator: np.random.Generator,
) -> Image.Image:
    return kind(picture).enhance(generator.uniform(1 - deviation, 1 + deviation))


@dataclass(frozen=True)
class GaussianNoise:
    """Normal noise on every value, whose deviation is drawn evenly from 0...`deviation`.

    Attributes:
        deviation: largest, of 255.
        rate: probability, 0...1.
    """

    deviation: float | int = 12.0
    rate: float | int = 0.5

    def __post_init__(self):
        if self.deviation < 0 or not 0 <= self.rate <= 1:
            raise UserError(f"{self}: expected a `deviation` of 0 or more and a `rate` in 0...1")

    def __call__(self, image: UInt8[np.ndarray, "H W C"], generator: np.random.Generator) -> UInt8[np.ndarray, "H W C"]:
        """Adds noise or returns the image itself."""
        if generator.random() >= self.rate:
            return image
        noise = generator.normal(0, generator.uniform(0, self.deviation), image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _noise(shape: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    return np.clip(generator.normal(128, 58, shape), 0, 255).astype(np.uint8)


def _colour(shape: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 256, (1, 1, shape[2]), dtype=np.uint8)


def _black(shape: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    return np.zeros((1, 1, shape[2]), np.uint8)


_FILLS = {"noise": _noise, "colour": _colour, "black": _black}


Operation = Callable[[Image.Image, float | int, int], Image.Image]
"""(picture, strength with 1 = AutoAugment's strongest, sign of +1 or -1) -> picture"""


def _identity(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return picture


def _auto_contrast(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return ImageOps.autocontrast(picture)


def _equalise(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return ImageOps.equalize(picture)


def _posterise(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return ImageOps.posterize(picture, max(1, 8 - round(4 * strength)))


def _solarise(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return ImageOps.solarize(picture, max(0, round(256 * (1 - strength))))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def enhance(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
        return kind(picture).enhance(max(0.1, 1 + 0.9 * strength * sign))

    return enhance


def _rotate(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return picture.rotate(30 * strength * sign, Image.Resampling.BILINEAR, fillcolor=_fill(picture))


def _shear_x(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    shear = 0.3 * strength * sign
    return _affine(picture, (1, shear, -shear * picture.height / 2, 0, 1, 0))


def _shear_y(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    shear = 0.3 * strength * sign
    return _affine(picture, (1, 0, 0, shear, 1, -shear * picture.width / 2))


def _translate_x(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return _affine(picture, (1, 0, min(0.45 * strength, 0.9) * sign * picture.width, 0, 1, 0))


def _translate_y(picture: Image.Image, strength: float | int, sign: int) -> Image.Image:
    return _affine(picture, (1, 0, 0, 0, 1, min(0.45 * strength, 0.9) * sign * picture.height))


def _affine(picture: Image.Image, matrix: tuple[float | int, ...]) -> Image.Image:
    """Output pixel (x, y) is taken from (a·x + b·y + c, d·x + e·y + f)."""
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_fill(picture)
    )


def _fill(picture: Image.Image) -> int | tuple[int, ...]:
    return _GREY if picture.mode == "L" else (_GREY,) * len(picture.getbands())


_OPERATIONS: tuple[Operation, ...] = (
    _identity,
    _auto_contrast,
    _equalise,
    _rotate,
    _solarise,
    _enhance(ImageEnhance.Color),
    _posterise,
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
