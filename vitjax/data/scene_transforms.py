"""Changes to a scene: its image, boxes, masks and class map move together.

Frozen settings, called with the scene (see `scene_batching`) and the example's own generator; the scene given is not
changed. Boxes are scaled and clipped as geometry says; masks and class maps move by the nearest pixel. Sizes are (rows,
columns); one number means a square. What comes into view from outside is black, and 255 in a class map: it does not
count. An object's `area` is that of all of it in the picture as the source gave it, and stays.

`planned_size` says beforehand, without pixels, what size a picture will have.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitjax.data.scene_geometry import (
    Scene,
    crop_scene,
    fitting_size,
    overlaps,
    pad_scene,
    resize_scene,
    turn_scene,
)
from vitjax.data.transforms import Transform, check_interpolation, check_rate, check_size, pair
from vitjax.errors import UserError

__all__ = [
    "OnImage",
    "PadTo",
    "SSDCrop",
    "SceneCrop",
    "SceneHorizontalFlip",
    "SceneRandomSizeCrop",
    "SceneResize",
    "SceneResizeShorterSide",
    "SceneRotate",
    "SceneScaleJitter",
    "SceneSometimes",
    "SceneTransform",
    "planned_size",
]

SceneTransform = Callable[[Scene, np.random.Generator], Scene]


def planned_size(transforms: Iterable[Any], size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
    """(rows, columns) that a picture of this size will have after all of them.

    Exact if the generator is in the state that the transforms will be called with, and every one of them up to the last
    that changes the size has a method of this name. One without (`OnImage`, `SSDCrop`, `SceneRotate`) is taken to keep
    the size and to draw nothing.
    """
    for transform in transforms:
        plan = getattr(transform, "planned_size", None)
        size = size if plan is None else plan(size, generator)
    return size


@dataclass(frozen=True)
class OnImage:
    """A transform of the image alone, such as `augmentation.PhotometricDistortion`: one that leaves all in its place.

    Attributes:
        transform: of `transforms` or `augmentation`; must keep the size.
    """

    transform: Transform

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Changes the image."""
        image = self.transform(scene["image"], generator)
        if image.shape != scene["image"].shape:
            raise UserError(
                f"OnImage: `transform` (={self.transform}) makes {image.shape} of an image {scene['image'].shape}; "
                "boxes and masks would stay behind: use one of vitjax.data.scene_transforms"
            )
        return scene | {"image": image}


@dataclass(frozen=True)
class SceneResize:
    """Stretches each side on its own, whatever the aspect ratio: SSD's resizing.

    Attributes:
        size: side or (rows, columns), pixels.
        interpolation: of the image, one of `transforms.INTERPOLATIONS`.
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"

    def __post_init__(self):
        check_size(self.size, "SceneResize")
        check_interpolation(self.interpolation, "SceneResize")

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """Of the result."""
        return pair(self.size)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Stretches."""
        return resize_scene(scene, pair(self.size), self.interpolation)


@dataclass(frozen=True)
class SceneResizeShorterSide:
    """Keeps the aspect ratio: the shorter side becomes `size`, less where the longer one would exceed `longest`.

    Attributes:
        size: pixels of the shorter side, or several of which one is drawn: 480, 512, ... 800 for DETR.
        longest: limit of the longer side in pixels, or `None`: 1333 for DETR.
        interpolation: of the image.
    """

    size: int | tuple[int, ...]
    longest: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self):
        sizes = (self.size,) if isinstance(self.size, int) else self.size
        if not sizes:
            raise UserError("`size`=() of SceneResizeShorterSide, expected one side or several")
        for size in (*sizes, *(() if self.longest is None else (self.longest,))):
            check_size(size, "SceneResizeShorterSide")
        check_interpolation(self.interpolation, "SceneResizeShorterSide")

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """Draws the side, where there are several."""
        side = self.size if isinstance(self.size, int) else self.size[int(generator.integers(len(self.size)))]
        return fitting_size(size, side, self.longest)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Draws the side, where there are several, and resizes."""
        return resize_scene(scene, self.planned_size(scene["image"].shape[:2], generator), self.interpolation)


@dataclass(frozen=True)
class SceneScaleJitter:
    """Keeps the aspect ratio: the shorter side becomes a number drawn evenly from `sides`.

    With (256, 1024) and a `SceneCrop` of 512 the scaling of MobileViT's segmentation recipe (arXiv:2110.02178).

    Attributes:
        sides: smallest and largest, pixels.
        longest: limit of the longer side in pixels, or `None`.
        interpolation: of the image.
    """

    sides: tuple[int, int]
    longest: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self):
        if len(self.sides) != 2 or not 1 <= self.sides[0] <= self.sides[1]:
            raise UserError(f"`sides`={self.sides} of SceneScaleJitter, expected (smallest, largest) in pixels")
        check_interpolation(self.interpolation, "SceneScaleJitter")

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """Draws the side."""
        return fitting_size(size, int(generator.integers(self.sides[0], self.sides[1] + 1)), self.longest)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Draws the side and resizes."""
        return resize_scene(scene, self.planned_size(scene["image"].shape[:2], generator), self.interpolation)


@dataclass(frozen=True)
class SceneHorizontalFlip:
    """Mirrors left and right.

    Attributes:
        rate: probability, 0...1.
    """

    rate: float | int = 0.5

    def __post_init__(self):
        check_rate(self.rate, "SceneHorizontalFlip")

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """The same; draws."""
        generator.random()
        return size

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Flips or returns the scene itself."""
        if generator.random() >= self.rate:
            return scene
        flipped = scene | {"image": np.ascontiguousarray(scene["image"][:, ::-1])}
        for key in ("masks", "class_map"):
            if key in scene:
                flipped[key] = np.ascontiguousarray(scene[key][..., ::-1])
        if "boxes_xyxy_pixels" in scene:
            columns = scene["image"].shape[1]
            left, top, right, bottom = scene["boxes_xyxy_pixels"].T
            flipped["boxes_xyxy_pixels"] = np.stack([columns - right, top, columns - left, bottom], axis=1)
        return flipped


@dataclass(frozen=True)
class SceneCrop:
    """A part of the scene at a random place; a side that is too short is padded at its end.

    Attributes:
        size: side or (rows, columns), pixels.
        keep_partial: keeps every box of which something is left. Otherwise a box goes whose centre is cut off.
    """

    size: int | tuple[int, int]
    keep_partial: bool = False

    def __post_init__(self):
        check_size(self.size, "SceneCrop")

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """Of the result; draws."""
        _draw_corner(size, pair(self.size), generator)
        return pair(self.size)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Draws the place, crops and pads."""
        (height, width), (rows, columns) = pair(self.size), scene["image"].shape[:2]
        top, left = _draw_corner((rows, columns), (height, width), generator)
        part = crop_scene(scene, (top, left, min(height, rows), min(width, columns)), self.keep_partial)
        return pad_scene(part, (height, width))


def _draw_corner(size: tuple[int, int], part: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
    """(top, left) of a part of a picture; 0 where the part is the longer one."""
    top, left = (int(generator.integers(max(whole - side, 0) + 1)) for whole, side in zip(size, part, strict=True))
    return top, left


@dataclass(frozen=True)
class SceneRandomSizeCrop:
    """A part whose sides are each drawn evenly from `smallest` to `largest`, or to the picture's own where less.

    What is left of a box stays. DETR: 384 to 600 (Carion et al., 2020, arXiv:2005.12872, section 4).

    Attributes:
        smallest: side, pixels; a shorter side of the picture stays whole.
        largest: side, pixels.
    """

    smallest: int
    largest: int

    def __post_init__(self):
        if not 1 <= self.smallest <= self.largest:
            raise UserError(
                f"`smallest`={self.smallest}, `largest`={self.largest} of SceneRandomSizeCrop: expected sides in "
                "pixels, 1 or more, the largest not below the smallest"
            )

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """Of the result; draws size and place."""
        part = self._draw_size(size, generator)
        _draw_corner(size, part, generator)
        return part

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Draws size and place, and crops."""
        size = scene["image"].shape[:2]
        part = self._draw_size(size, generator)
        return crop_scene(scene, (*_draw_corner(size, part, generator), *part), keep_partial=True)

    def _draw_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        smallest = (min(self.smallest, side) for side in size)
        height, width = (
            int(generator.integers(least, min(side, self.largest) + 1))
            for least, side in zip(smallest, size, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class SceneSometimes:
    """All of some transforms, or none of them.

    DETR's crop: the shorter side to 400, 500 or 600 and a `SceneRandomSizeCrop`, before the usual resizing.

    Attributes:
        transforms: one after the other.
        rate: probability, 0...1.
    """

    transforms: tuple[Any, ...]
    rate: float | int = 0.5

    def __post_init__(self):
        check_rate(self.rate, "SceneSometimes")

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """Draws whether, and what the transforms draw."""
        return planned_size(self.transforms, size, generator) if generator.random() < self.rate else size

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Draws whether, and applies them."""
        if generator.random() < self.rate:
            for transform in self.transforms:
                scene = transform(scene, generator)
        return scene


@dataclass(frozen=True)
class SSDCrop:
    """SSD's sampling of patches: the whole scene, or a part that overlaps some object by at least a drawn IoU.

    The part's sides are each a share of the scene's, drawn evenly from `share`, its aspect ratio (columns to rows)
    within `aspect`. Boxes whose centre lies in the part are kept, clipped to it, and there must be one. An IoU for
    which no part is found in `trials` draws gives way to another. Scenes without boxes stay whole.

    Liu et al.: "SSD: Single Shot MultiBox Detector", 2016, arXiv:1512.02325, §2.2 and the authors' sampling.

    Attributes:
        overlaps: IoUs, of which one is drawn: at least one box must have it with the part. 0 asks for none; 1 or
            more keeps the whole scene.
        share: smallest and largest.
        aspect: smallest and largest.
        trials: parts drawn for an IoU.
    """

    overlaps: tuple[float | int, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    share: tuple[float | int, float | int] = (0.3, 1.0)
    aspect: tuple[float | int, float | int] = (0.5, 2.0)
    trials: int = 40

    def __post_init__(self):
        if not self.overlaps or min(self.overlaps) < 0 or self.trials < 1:
            raise UserError(
                f"`overlaps`={self.overlaps}, `trials`={self.trials} of SSDCrop: expected IoUs of 0 or more and at "
                "least one trial"
            )
        if not 0 < self.share[0] <= self.share[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(
                f"`share`={self.share}, `aspect`={self.aspect} of SSDCrop: expected (smallest, largest) above 0, "
                "shares of 1 at most"
            )

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Draws a part and crops."""
        if not len(scene.get("boxes_xyxy_pixels", ())):
            return scene
        for _ in range(10):
            overlap = self.overlaps[int(generator.integers(len(self.overlaps)))]
            if overlap >= 1:
                return scene
            for _ in range(self.trials):
                part = self._draw(scene["image"].shape[:2], generator)
                if part is not None and overlaps(scene["boxes_xyxy_pixels"], part, overlap):
                    return crop_scene(scene, part, keep_partial=False)
        return scene

    def _draw(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int, int, int] | None:
        """(top, left, height, width), or `None` if its aspect ratio will not do."""
        height, width = (max(1, int(side * generator.uniform(*self.share))) for side in size)
        if not self.aspect[0] <= width / height <= self.aspect[1]:
            return None
        top, left = generator.integers(0, (size[0] - height + 1, size[1] - width + 1))
        return int(top), int(left), height, width


@dataclass(frozen=True)
class PadTo:
    """Pads at the bottom and on the right up to `size`.

    Attributes:
        size: side or (rows, columns), pixels; at least the scene's.
    """

    size: int | tuple[int, int]

    def __post_init__(self):
        check_size(self.size, "PadTo")

    def planned_size(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
        """Of the result."""
        return pair(self.size)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Pads.

        Raises:
            UserError: the scene is larger.
        """
        rows, columns = scene["image"].shape[:2]
        if rows > pair(self.size)[0] or columns > pair(self.size)[1]:
            raise UserError(
                f"`size`={self.size} of PadTo: example {scene.get('index')} is larger, {rows} x {columns} pixels; "
                "put SceneResizeShorterSide with `longest` or SceneCrop before it"
            )
        return pad_scene(scene, pair(self.size))


@dataclass(frozen=True)
class SceneRotate:
    """Turns the scene about its middle by an angle drawn evenly; the size stays.

    With masks a box becomes tight around its turned mask, without them it holds the turned box's corners. What is
    turned out of the scene is dropped.

    Attributes:
        degrees: largest angle to either side.
    """

    degrees: float | int = 10.0

    def __post_init__(self):
        if not 0 <= self.degrees <= 180:
            raise UserError(f"`degrees`={self.degrees} of SceneRotate, expected 0...180")

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """Draws the angle and turns."""
        angle = float(generator.uniform(-self.degrees, self.degrees))
        return turn_scene(scene, angle)
