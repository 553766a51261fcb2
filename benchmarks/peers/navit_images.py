"""The images that both sides of the NaViT comparisons pack."""

import numpy as np

__all__ = ["MOST_PATCHES", "PATCH_SIZE", "grids", "images"]

PATCH_SIZE = 16
MOST_PATCHES = 16
"""Along a side, in any of the sizes below."""
SIDES = {"imagenet-like": (4, MOST_PATCHES), "small": (2, 8)}
"""Fewest and most patches along a side, all equally likely: 16 to 256 tokens an image, or 4 to 64."""


def grids(sizes: str, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """(rows, columns) of patches of each image."""
    low, high = SIDES[sizes]
    drawn = np.random.default_rng(seed).integers(low, high, size=(count, 2), endpoint=True)
    return [(int(rows), int(columns)) for rows, columns in drawn]


def images(sizes: str, count: int, seed: int = 0) -> list[np.ndarray]:
    """uint8 `[H, W, 3]` each, sides multiples of the patch size."""
    rng = np.random.default_rng(seed + 1)
    return [
        rng.integers(0, 256, size=(rows * PATCH_SIZE, columns * PATCH_SIZE, 3), dtype=np.uint8)
        for rows, columns in grids(sizes, count, seed)
    ]
