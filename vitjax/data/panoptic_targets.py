"""What a batch of scenes holds for panoptic segmentation: boxes and masks of all segments, and their map."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from vitjax.data.scene_batching import BoxTargets
from vitjax.errors import UserError

__all__ = ["KeepSegmentMap", "PanopticTargets"]


@dataclass(frozen=True)
class KeepSegmentMap:
    """The first of the transforms of an evaluation: notes which segment each pixel of the picture as it came is of.

    The scene's `segment_map` is int16 [H, W], n + 1 where `masks[n]` is and 0 where none is. What follows must drop no
    object.
    """

    def __call__(self, scene: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """Nothing else changes; nothing at all without masks."""
        if "masks" not in scene:
            return scene
        return scene | {"segment_map": _numbered(scene["masks"], scene["image"].shape[:2])}


@dataclass(frozen=True)
class PanopticTargets:
    """Those of `BoxTargets`, and `masks` bool [B, S, h, w]; for scoring also `segment_map` int16 [B, R, C].

    A mask's pixel is the one nearest to the middle of `mask_stride` by `mask_stride` pixels of the image, padding
    included, where no mask is. Stuff is a segment with a box like things.

    Attributes:
        max_segments: S, the slots of a scene.
        mask_stride: pixels of the image per pixel of the masks, along an axis; 1 has every pixel.
        map_size: (rows, columns) with room for the largest picture as the source gives it; `None` for no map. Needs
            `KeepSegmentMap`.
    """

    max_segments: int
    mask_stride: int = 4
    map_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.mask_stride < 1 or min(self.map_size or (1,)) < 1:
            raise UserError(
                f"PanopticTargets: `mask_stride` (={self.mask_stride}) and `map_size` (={self.map_size}) are in "
                "pixels, at least 1"
            )
        self._boxes()

    def _boxes(self) -> BoxTargets:
        return BoxTargets(self.max_segments)

    @property
    def needs(self) -> tuple[str, ...]:
        """Labels, boxes and masks."""
        return (*self._boxes().needs, "masks")

    def __call__(self, scene: dict[str, Any]) -> dict[str, np.ndarray]:
        """The first slots hold the scene's segments in their order.

        Raises:
            UserError: there are more segments than slots, or the picture is larger than `map_size`, or its map is
                missing.
        """
        targets = self._boxes()(scene)
        rows, columns = (_middles(side, self.mask_stride) for side in scene["image"].shape[:2])
        masks = np.zeros((self.max_segments, len(rows), len(columns)), bool)
        if "masks" in scene:
            masks[: len(scene["masks"])] = scene["masks"][:, rows][:, :, columns]
        return targets | {"masks": masks} | self._map(scene)

    def _map(self, scene: dict[str, Any]) -> dict[str, np.ndarray]:
        if self.map_size is None:
            return {}
        segment_map = np.zeros(self.map_size, np.int16)
        given = scene.get("segment_map")
        if given is None:
            if "masks" in scene:
                raise UserError(
                    f"PanopticTargets: example {scene.get('index')} has no `segment_map`, which `map_size` "
                    f"(={self.map_size}) asks for; begin the transforms with KeepSegmentMap"
                )
            return {"segment_map": segment_map}
        if given.shape[0] > self.map_size[0] or given.shape[1] > self.map_size[1]:
            raise UserError(
                f"PanopticTargets: example {scene.get('index')} has {given.shape[0]} x {given.shape[1]} pixels, more "
                f"than `map_size` (={self.map_size}); make it as large as the largest picture"
            )
        segment_map[: given.shape[0], : given.shape[1]] = given
        return {"segment_map": segment_map}


def _middles(side: int, stride: int) -> Int[np.ndarray, "cells"]:
    return np.minimum(np.arange(0, side, stride) + stride // 2, side - 1)


def _numbered(masks: Bool[np.ndarray, "n H W"], size: tuple[int, int]) -> np.ndarray:
    """Where masks overlap the first one counts."""
    if not len(masks):
        return np.zeros(size, np.int16)
    return np.where(masks.any(axis=0), masks.argmax(axis=0) + 1, 0).astype(np.int16)
