"""transformers' image processors, read from the file beside `config.json`: transforms, mean, deviation, channels."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import Resize, ResizeShorterSide
from vitjax.errors import UserError
from vitjax.inference.evaluation_modes import CropOrPad
from vitjax.inference.foreign_types import need
from vitjax.tasks.classification import Classification

__all__ = ["RESAMPLING", "preparation_of", "read_processor", "statistics_of"]

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""`resample`, a number of `PIL.Image.Resampling`, -> ours."""

_FILES = ("preprocessor_config.json", "processor_config.json")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class _Kind:
    """What a class of image processors does by itself, and what it never does.

    Attributes:
        defaults: where the file says nothing.
        never: whatever the file says.
        side: what a `size` that is a number means.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    never: Mapping[str, Any] = field(default_factory=dict)
    side: tuple[str, ...] = ("height", "width")


_KINDS: Mapping[str, _Kind] = {
    "MobileViT": _Kind(
        {"resample": 3, "size": 224, "do_center_crop": True, "crop_size": 256, "do_flip_channel_order": True},
        never={"do_normalize": False},
        side=("shortest_edge",),
    ),
    "ConvNext": _Kind({"resample": 3, "size": 384, "crop_pct": 224 / 256}, side=("shortest_edge",)),
}
"""Beginning of the name of a class -> what it does; all others do as `ViTImageProcessor`."""


def preparation_of(
    folder: Path, size: tuple[int, int] | None, notes: list[str], *, otherwise: Mapping[str, Any] = _NOTHING
) -> tuple[Classification, ImageBatches, str | None]:
    """Task, batches and order of channels ("rgb", "bgr") from the image processor's file.

    Args:
        folder: with the file, or without.
        size: rows and columns that the model takes, or `None` where its config does not say it.
        notes: lines for the log, added to.
        otherwise: stands for the file where there is none; without it, what `ViTImageProcessor` does by itself. A
            `do_flip_channel_order` of `None` leaves the order of channels open.

    Raises:
        UserError: the file is damaged, or says something that cannot be done.
    """
    present = read_processor(folder)
    file, given = present or (folder / _FILES[0], dict(otherwise))
    name = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
    kind = next((kind for start, kind in _KINDS.items() if name.startswith(start)), _Kind())
    processor = {**kind.defaults, **{key: value for key, value in given.items() if value is not None}, **kind.never}
    transforms = _transforms(processor, kind, size, file, notes)
    mean, std = statistics_of(processor, file)
    turned = given.get("do_flip_channel_order", kind.defaults.get("do_flip_channel_order", False))
    if turned not in (True, False, None):
        raise UserError(f"{file}: `do_flip_channel_order` (={turned!r}) must be true or false")
    if not present:
        notes.append(
            f"there is no {_FILES[0]} beside it; pictures are prepared by {transforms}, mean {mean}, std {std}"
        )
    try:
        task = Classification(mean=mean, std=std)
        batches = ImageBatches(source=None, transforms=transforms, batch_size=16)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return task, batches, None if turned is None else "bgr" if turned else "rgb"


def read_processor(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The image processor's file in a folder, and its content; `None` where there is none.

    Raises:
        UserError: the file is damaged.
    """
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: the file is damaged, it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found a {type(content).__name__}")
    return file, content.get("image_processor", content)


def _transforms(
    processor: Mapping[str, Any], kind: _Kind, asked_size: tuple[int, int] | None, file: Path, notes: list[str]
) -> tuple[Any, ...]:
    size = asked_size or (224, 224)
    number = need(processor, "resample", int, file, 2)
    if number not in RESAMPLING:
        raise UserError(f"{file}: `resample` (={number}) must be one of {RESAMPLING}")
    asked = processor.get("size", {"height": size[0], "width": size[1]})
    if isinstance(asked, int):
        asked = dict.fromkeys(kind.side, asked)
    found: list[Any] = []
    if not need(processor, "do_resize", bool, file, True):
        notes.append(f"{file.name} says `do_resize`: false; pictures are stretched to {size[0]}x{size[1]} px")
        found.append(Resize(size, RESAMPLING[number]))
        made = size
    elif not isinstance(asked, Mapping) or set(asked) not in ({"shortest_edge"}, {"height", "width"}):
        raise UserError(f"{file}: `size` (={asked}) must have height and width, or shortest_edge")
    elif "crop_pct" in processor and "shortest_edge" in asked:
        found += _share_of(int(asked["shortest_edge"]), processor, RESAMPLING[number], file)
        made = found[-1].size
    elif "shortest_edge" in asked:
        found.append(ResizeShorterSide(int(asked["shortest_edge"]), RESAMPLING[number]))
        made = None
    else:
        made = (int(asked["height"]), int(asked["width"]))
        found.append(Resize(made, RESAMPLING[number]))
    if need(processor, "do_center_crop", bool, file, False):
        crop = processor.get("crop_size", {"height": size[0], "width": size[1]})
        made = (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))
        found.append(CropOrPad(made, halves_down=True))
    if made is None:
        raise UserError(f"{file}: `size` (={asked}) without `do_center_crop` leaves pictures of different shapes")
    if asked_size is not None and made != size:
        notes.append(
            f"{file.name} makes pictures of {made[0]}x{made[1]} px, config.json says `image_size` {size[0]}x{size[1]}; "
            "what depends on the size is fitted to every batch; give image_size= to settle it"
        )
    return tuple(found)


def _share_of(side: int, processor: Mapping[str, Any], interpolation: str, file: Path) -> list[Any]:
    """ConvNeXt's: the central share of a picture, or, from 384 px on, all of it stretched."""
    if side >= 384:
        return [Resize((side, side), interpolation)]
    share = float(need(processor, "crop_pct", (int, float), file))
    if not 0 < share <= 1:
        raise UserError(f"{file}: `crop_pct` (={share}) must be in (0, 1]")
    return [ResizeShorterSide(math.floor(side / share), interpolation), CropOrPad((side, side), halves_down=True)]


def statistics_of(processor: Mapping[str, Any], file: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in units of the brightest value, whatever `rescale_factor` the file multiplies by."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if need(processor, "do_normalize", bool, file, True):
        mean, std = (_triple(processor, key, file) for key in ("image_mean", "image_std"))
        if min(std) <= 0:
            raise UserError(f"{file}: `image_std` (={std}) must be positive")
    factor = 1.0
    if need(processor, "do_rescale", bool, file, True):
        factor = float(need(processor, "rescale_factor", (int, float), file, 1 / 255))
    brightest = 255 * factor
    if abs(brightest - 1) < 1e-6:
        return mean, std
    return tuple(value / brightest for value in mean), tuple(value / brightest for value in std)


def _triple(processor: Mapping[str, Any], key: str, file: Path) -> tuple[float, ...]:
    values = processor.get(key, (0.5, 0.5, 0.5))
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise UserError(f"{file}: `{key}` (={values!r}) must be three numbers, one per channel")
    return tuple(float(value) for value in values)
