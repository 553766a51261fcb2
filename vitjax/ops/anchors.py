"""Anchors of the single-shot detector."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitjax.arrays import Float
from vitjax.errors import UserError

__all__ = ["SSDAnchors"]


@dataclass(frozen=True)
class SSDAnchors:
    """Boxes that a detector starts from: several around the centre of each cell of each feature map.

    SSD: Single Shot MultiBox Detector. Liu et al., 2016. https://arxiv.org/abs/1512.02325, section 2.2, with the
    numbers of MobileViT's authors. Level k of L has the scale `s_k = smallest + k / L * (largest - smallest)`. A cell
    has a square of side `s_k`, one of side `sqrt(s_k * s_{k+1})`, and for each aspect ratio r a box of `s_k * sqrt(r)`
    by `s_k / sqrt(r)`, lying and standing.

    Attributes:
        aspect_ratios: of each level, finest first; more than 1.
        smallest: scale of the first level, in units of the image's sides.
        largest: scale that the level after the last would have.
    """

    aspect_ratios: tuple[tuple[float | int, ...], ...] = ((2, 3), (2, 3), (2, 3), (2, 3), (2, 3), (2,))
    smallest: float = 0.1
    largest: float = 1.05

    def __post_init__(self):
        if not 0 < self.smallest < self.largest:
            raise UserError(
                f"SSDAnchors: `smallest` (={self.smallest}) must be positive and below `largest` (={self.largest})"
            )
        if not self.aspect_ratios or any(ratio <= 1 for level in self.aspect_ratios for ratio in level):
            raise UserError(
                f"SSDAnchors: `aspect_ratios` (={self.aspect_ratios}) needs a tuple of numbers above 1 for each level; "
                "each counts lying and standing"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """Anchors of a cell, by level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def __call__(self, map_sizes: Sequence[tuple[int, int]]) -> Float[np.ndarray, "anchors 4"]:
        """All anchors `boxes_cxcywh`, every number cut to [0, 1], ordered by (level, row, column, kind).

        Args:
            map_sizes: (rows, columns) of each level's feature map.

        Raises:
            UserError: there are not as many maps as levels.
        """
        if len(map_sizes) != len(self.aspect_ratios):
            raise UserError(
                f"SSDAnchors: `aspect_ratios` are of {len(self.aspect_ratios)} levels, but the detector has "
                f"{len(map_sizes)} feature maps"
            )
        scales = np.linspace(self.smallest, self.largest, len(map_sizes) + 1)
        levels = [
            _level(size, scale, math.sqrt(scale * following), ratios)
            for size, scale, following, ratios in zip(map_sizes, scales, scales[1:], self.aspect_ratios, strict=False)
        ]
        return np.clip(np.concatenate(levels), 0, 1).astype(np.float32)


def _level(size: tuple[int, int], scale: float, larger: float, ratios: tuple[float | int, ...]) -> np.ndarray:
    roots = [math.sqrt(ratio) for ratio in ratios]
    sides = [(scale, scale), (larger, larger)]
    sides += [side for root in roots for side in ((scale * root, scale / root), (scale / root, scale * root))]
    rows, columns = size
    centres_y, centres_x = np.meshgrid(
        (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
    )
    anchors = np.empty((rows, columns, len(sides), 4))
    anchors[..., 0], anchors[..., 1] = centres_x[..., None], centres_y[..., None]
    anchors[..., 2:] = sides
    return anchors.reshape(-1, 4)
