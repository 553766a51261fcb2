"""Clips cut into tubelets: patches that reach through several frames, with a place in time besides row and column.

NaViT takes video so (Dehghani et al., 2023, arXiv:2307.06304): tubelets of ViViT (Arnab et al., 2021,
arXiv:2103.15691, section 3.2), packed like the patches of images. Clips of any length and size share rows with each
other and with pictures, which are clips of one frame.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vitjax.data.transforms import apply_transforms, resize_image
from vitjax.errors import UserError

__all__ = ["Tubelets", "cut_tubelets"]


@dataclass(frozen=True)
class Tubelets:
    """Blocks of `depth` frames and a patch's rows and columns, of `example["video"]`, uint8 [T, H, W, 3].

    Of a long clip `frames` frames are taken, evenly spaced. A shorter one keeps as many of its frames as make whole
    tubelets; one shorter than a tubelet repeats its last frame, and so does a picture, `example["image"]`.

    Attributes:
        frames: of a clip at most, a multiple of `depth`.
        depth: frames of a tubelet.
        transforms: of `data.transforms` and `data.augmentation`, applied to every frame with the same random draws.
    """

    frames: int
    depth: int = 2
    transforms: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.depth < 1 or self.frames < 1 or self.frames % self.depth:
            raise UserError(
                f"Tubelets: `frames` (={self.frames}) must be a multiple of `depth` (={self.depth}), both 1 or more"
            )

    @property
    def axes(self) -> int:
        """Time, row and column."""
        return 3

    @property
    def most_layers(self) -> int:
        """Tubelets of a clip of `frames` frames at one place."""
        return self.frames // self.depth

    def values(self, patch_size: int) -> int:
        """Of all frames of a tubelet, in three channels."""
        return self.depth * patch_size**2 * 3

    def ready(self, example: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """Takes the frames, and transforms them.

        Raises:
            UserError: there is neither a clip nor a picture.
        """
        if "video" not in example and "image" not in example:
            raise UserError(
                f"Tubelets are cut from `video` or `image`, and the example has {', '.join(sorted(example))}"
            )
        video = example["video"] if "video" in example else example["image"][None]
        frames = video[self._chosen(len(video))]
        if self.transforms:
            state = generator.bit_generator.state
            changed = []
            for frame in frames:
                generator.bit_generator.state = state
                changed.append(apply_transforms(self.transforms, frame, generator))
            frames = np.stack(changed)
        return example | {"video": frames}

    def _chosen(self, count: int) -> Int[np.ndarray, " frames"]:
        """Numbers of the frames that are taken of so many."""
        taken = min(count, self.frames) // self.depth * self.depth
        if not taken:
            return np.minimum(np.arange(self.depth), count - 1)
        return (2 * np.arange(taken) + 1) * count // (2 * taken)  # the middles of equal parts

    def layers(self, example: dict[str, Any]) -> int:
        """Tubelets at one place of this clip."""
        return len(example["video"]) // self.depth

    def native_size(self, example: dict[str, Any]) -> tuple[int, int]:
        """Of a frame."""
        return example["video"].shape[1:3]

    def full_grid(self, grid: tuple[int, int], layers: int) -> tuple[int, int, int]:
        """(times, rows, columns)."""
        return layers, *grid

    def __call__(
        self,
        example: dict[str, Any],
        grid: tuple[int, int, int],
        patch_size: int,
        keep: Int[np.ndarray, " n"],
        interpolation: str,
    ) -> UInt8[np.ndarray, "n P"]:
        """See `cut_tubelets`."""
        return cut_tubelets(example["video"], grid, patch_size, keep, interpolation)


def cut_tubelets(
    video: UInt8[np.ndarray, "T H W C"],
    grid: tuple[int, int, int],
    patch_size: int,
    keep: Int[np.ndarray, " n"],
    interpolation: str = "bilinear",
) -> UInt8[np.ndarray, "n P"]:
    """Resizes every frame of a clip to a grid of patches and flattens those tubelets that are kept.

    Args:
        video: T is a multiple of the grid's times.
        grid: (times, rows, columns).
        patch_size: pixels a side.
        keep: numbers of the tubelets to cut, in raster order of the grid.
        interpolation: as in `transforms.resize_image`.

    Returns:
        One tubelet a row, its values ordered (time, row, column, channel).
    """
    times, rows, columns = grid
    size = rows * patch_size, columns * patch_size
    frames = np.stack([resize_image(frame, size, interpolation) for frame in video])
    blocks = frames.reshape(times, -1, rows, patch_size, columns, patch_size, video.shape[-1])
    blocks = blocks.transpose(0, 2, 4, 1, 3, 5, 6)
    if len(keep) < times * rows * columns:
        blocks = blocks[np.unravel_index(keep, grid)]
    return np.ascontiguousarray(blocks).reshape(len(keep), -1)
