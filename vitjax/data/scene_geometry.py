"""What scene transforms do to pixels and boxes, once their random numbers are drawn; see `scene_transforms`.

Boxes are float32 [n, 4], (left, top, right, bottom) in pixels; sizes are (rows, columns). No function changes what it
is given.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from vitjax.data.transforms import resize_image

__all__ = [
    "IGNORED",
    "Scene",
    "crop_scene",
    "fitting_size",
    "overlaps",
    "pad_scene",
    "resize_scene",
    "tight_boxes",
    "turn_scene",
]

Scene = dict[str, Any]

IGNORED = 255
"""The class of pixels that do not count."""


def fitting_size(size: Sequence[int], side: int, longest: int | None) -> tuple[int, int]:
    """(rows, columns) with the shorter side at `side`, unless that makes the longer one exceed `longest`.

    Rounded as by DETR's authors: the shorter side to the nearest pixel, the longer one down.
    """
    short, long = min(size), max(size)
    if longest is not None and side * long > longest * short:
        side = max(1, round(longest * short / long))
    other = side * long // short
    return (side, other) if size[0] <= size[1] else (other, side)


def resize_scene(scene: Scene, size: tuple[int, int], interpolation: str) -> Scene:
    """Each side stretched on its own."""
    rows, columns = scene["image"].shape[:2]
    if (rows, columns) == size:
        return scene
    resized = scene | {"image": resize_image(scene["image"], size, interpolation)}
    if "class_map" in scene:
        resized["class_map"] = resize_image(scene["class_map"][:, :, None], size, "nearest")[:, :, 0]
    if "masks" in scene:
        wanted = (size[1], size[0])
        resized["masks"] = _change_masks(
            scene["masks"], lambda mask: mask.resize(wanted, Image.Resampling.NEAREST), size
        )
    if "boxes_xyxy_pixels" in scene:
        down, across = size[0] / rows, size[1] / columns
        scale = np.array([across, down, across, down], np.float32)
        resized["boxes_xyxy_pixels"] = _clip_boxes(scene["boxes_xyxy_pixels"] * scale, size)
    return resized


def crop_scene(scene: Scene, part: tuple[int, int, int, int], keep_partial: bool) -> Scene:
    """The part (top, left, height, width), which lies in the scene.

    Objects go of which nothing is left, and without `keep_partial` those whose centre is cut off.
    """
    top, left, height, width = part
    cropped = scene | {"image": np.ascontiguousarray(scene["image"][top : top + height, left : left + width])}
    for key in ("masks", "class_map"):
        if key in scene:
            cropped[key] = np.ascontiguousarray(scene[key][..., top : top + height, left : left + width])
    if "boxes_xyxy_pixels" not in scene:
        return cropped
    moved = scene["boxes_xyxy_pixels"] - np.array([left, top, left, top], np.float32)
    boxes = _clip_boxes(moved, (height, width))
    kept = (_box_areas(boxes) > 0) & (keep_partial | _centred(moved, (height, width)))
    return _keep_objects(cropped | {"boxes_xyxy_pixels": boxes}, kept)


def pad_scene(scene: Scene, size: tuple[int, int]) -> Scene:
    """Grows the scene at the bottom and on the right; boxes stay where they are."""
    rows, columns = scene["image"].shape[:2]
    ends = ((0, size[0] - rows), (0, size[1] - columns))
    if ends == ((0, 0), (0, 0)):
        return scene
    padded = scene | {"image": np.pad(scene["image"], (*ends, (0, 0)))}
    if "masks" in scene:
        padded["masks"] = np.pad(scene["masks"], ((0, 0), *ends))
    if "class_map" in scene:
        padded["class_map"] = np.pad(scene["class_map"], ends, constant_values=IGNORED)
    return padded


def turn_scene(scene: Scene, angle: float) -> Scene:
    """Turned by degrees counter-clockwise about its middle; what leaves it is dropped."""
    picture = Image.fromarray(scene["image"])
    turned = scene | {"image": np.asarray(picture.rotate(angle, Image.Resampling.BILINEAR))}
    if "class_map" in scene:
        turned["class_map"] = np.asarray(Image.fromarray(scene["class_map"]).rotate(angle, fillcolor=IGNORED))
    if "boxes_xyxy_pixels" not in scene:
        return turned
    if "masks" in scene:
        turned["masks"] = _change_masks(scene["masks"], lambda mask: mask.rotate(angle), scene["image"].shape[:2])
        boxes = tight_boxes(turned["masks"])
    else:
        boxes = _turn_boxes(scene["boxes_xyxy_pixels"], angle, scene["image"].shape[:2])
    boxes = _clip_boxes(boxes, scene["image"].shape[:2])
    return _keep_objects(turned | {"boxes_xyxy_pixels": boxes}, _box_areas(boxes) > 0)


def _keep_objects(scene: Scene, kept: Bool[np.ndarray, "n"]) -> Scene:
    """The scene with those of its objects."""
    keys = [key for key in ("labels", "boxes_xyxy_pixels", "masks", "crowd", "area") if key in scene]
    return scene if kept.all() else scene | {key: scene[key][kept] for key in keys}


def _clip_boxes(boxes: Float[np.ndarray, "n 4"], size: tuple[int, int]) -> Float[np.ndarray, "n 4"]:
    limits = np.array([size[1], size[0], size[1], size[0]], np.float32)
    return np.clip(boxes, 0, limits).astype(np.float32)


def _box_areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _centred(boxes: Float[np.ndarray, "n 4"], size: tuple[int, int]) -> Bool[np.ndarray, "n"]:
    """Whether the centres lie in 0 ... size."""
    across, down = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return (across >= 0) & (across < size[1]) & (down >= 0) & (down < size[0])


def overlaps(boxes: Float[np.ndarray, "n 4"], part: tuple[int, int, int, int], overlap: float | int) -> bool:
    """Whether the part (top, left, height, width) holds a box's centre, and some box has this IoU with it or more."""
    top, left, height, width = part
    moved = boxes - np.array([left, top, left, top], np.float32)
    if not _centred(moved, (height, width)).any():
        return False
    shared = _box_areas(_clip_boxes(moved, (height, width)))
    return bool((shared / (_box_areas(boxes) + height * width - shared)).max() >= overlap)


def _change_masks(
    masks: Bool[np.ndarray, "n H W"], change: Callable[[Image.Image], Image.Image], size: tuple[int, int]
) -> Bool[np.ndarray, "n rows columns"]:
    changed = [np.asarray(change(Image.fromarray(mask.astype(np.uint8)))) for mask in masks]
    return np.array(changed, bool).reshape(-1, *size)


def tight_boxes(masks: Bool[np.ndarray, "n H W"]) -> Float[np.ndarray, "n 4"]:
    """Boxes around masks; 0 for an empty one."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for number, mask in enumerate(masks):
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(down):
            boxes[number] = across[0], down[0], across[-1] + 1, down[-1] + 1
    return boxes


def _turn_boxes(boxes: Float[np.ndarray, "n 4"], degrees: float, size: tuple[int, int]) -> Float[np.ndarray, "n 4"]:
    """Boxes around the corners, turned counter-clockwise about the middle, as Pillow turns images."""
    angle, middle = np.deg2rad(degrees), np.array([size[1], size[0]]) / 2
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - middle  # n, four corners, (across, down)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = corners @ turn + middle
    return np.concatenate([turned.min(axis=1), turned.max(axis=1)], axis=1).astype(np.float32)
