"""Rows of patches: the packer that decides which images share a row, and the arrays that rows become.

NaViT's packing (Dehghani et al., 2023, arXiv:2307.06304, appendix B.3) is online first-fit: an image goes to the first
row under construction with enough room. `SubsetFit` pads less, see `python -m benchmarks packing`.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from vitjax.data.buckets import Buckets
from vitjax.data.loading import Batch
from vitjax.data.packed_targets import Blank
from vitjax.data.transforms import resize_image

__all__ = [
    "BestFit",
    "FirstFit",
    "ImagePatches",
    "PackedImage",
    "Packer",
    "PackingPolicy",
    "PatchCut",
    "Piece",
    "SubsetFit",
    "cut_patches",
    "stack_rows",
]

# ---------------------------------------------------------------------------------------------------- packers


class Piece(NamedTuple):
    """What a packer places: `item`, which takes `tokens` of a row."""

    tokens: int
    item: Any


@runtime_checkable
class Packer(Protocol):
    """Rows under construction. Pieces are never split or left out.

    Attributes:
        open: pieces taken in and not yet in a finished row; one list for each row under construction.
        closed: finished rows, for the caller to take.
    """

    closed: deque[list[Piece]]

    @property
    def open(self) -> Sequence[list[Piece]]: ...  # noqa: D102

    def add(self, piece: Piece) -> None:
        """Takes in a piece of 1 ... `length` tokens; may close rows."""
        ...

    def flush(self) -> None:
        """Closes everything: nothing more will come."""
        ...


@runtime_checkable
class PackingPolicy(Protocol):
    """Decides which pieces share a row."""

    def packer(self, *, length: int, max_images: int, window: int, open_rows: Sequence[list[Piece]] = ()) -> Packer:
        """A packer of rows of `length` tokens and `max_images` pieces, that goes on from `open_rows`.

        `window` bounds what it has under construction; what that counts is the policy's.
        """
        ...


@dataclass(frozen=True)
class FirstFit:
    """Each image goes to the oldest row with room: the paper's greedy rule. `window` counts rows.

    A row that is full is closed, and the fullest one when an image fits nowhere.
    """

    def packer(self, *, length: int, max_images: int, window: int, open_rows: Sequence[list[Piece]] = ()) -> Packer:
        """See `PackingPolicy`."""
        return _WindowPacker(_first_fit, length, max_images, window, open_rows)


@dataclass(frozen=True)
class BestFit:
    """Each image goes to the row that it leaves with the least room, otherwise as `FirstFit`."""

    def packer(self, *, length: int, max_images: int, window: int, open_rows: Sequence[list[Piece]] = ()) -> Packer:
        """See `PackingPolicy`."""
        return _WindowPacker(_best_fit, length, max_images, window, open_rows)


@dataclass(frozen=True)
class SubsetFit:
    """Keeps `window` images waiting and makes one row at a time of those that fill it best.

    A row takes the image that has waited longest, and then those whose tokens add up closest to what is left: a subset
    sum, solved exactly over (number of images, tokens). Among equal sums it takes the fewest images, older ones first.
    """

    def packer(self, *, length: int, max_images: int, window: int, open_rows: Sequence[list[Piece]] = ()) -> Packer:
        """See `PackingPolicy`."""
        return _SubsetPacker(length, max_images, window, open_rows)


def _first_fit(free: Sequence[int], tokens: int) -> int | None:
    for number, room in enumerate(free):
        if room >= tokens:
            return number
    return None


def _best_fit(free: Sequence[int], tokens: int) -> int | None:
    best, least = None, math.inf
    for number, room in enumerate(free):
        if tokens <= room < least:
            best, least = number, room
    return best


class _WindowPacker:
    """Online packing into a window of rows; `choose(free tokens of each row, tokens)` names one with room, if any."""

    def __init__(
        self,
        choose: Callable[[Sequence[int], int], int | None],
        length: int,
        max_images: int,
        window: int,
        open_rows: Sequence[list[Piece]],
    ):
        self.open: list[list[Piece]] = [list(row) for row in open_rows]
        self.closed: deque[list[Piece]] = deque()
        self._free = [length - sum(piece.tokens for piece in row) for row in self.open]
        self._choose = choose
        self._length = length
        self._max_images = max_images
        self._window = window

    def add(self, piece: Piece) -> None:
        assert 1 <= piece.tokens <= self._length, (piece.tokens, self._length)
        row = self._choose(self._free, piece.tokens)
        if row is None:
            if len(self.open) == self._window:
                self._close(min(range(len(self._free)), key=self._free.__getitem__))
            self.open.append([])
            self._free.append(self._length)
            row = len(self.open) - 1
        self.open[row].append(piece)
        self._free[row] -= piece.tokens
        if self._free[row] == 0 or len(self.open[row]) == self._max_images:
            self._close(row)

    def flush(self) -> None:
        self.closed.extend(self.open)
        self.open, self._free = [], []

    def _close(self, row: int) -> None:
        self.closed.append(self.open.pop(row))
        self._free.pop(row)


class _SubsetPacker:
    """See `SubsetFit`. Each waiting piece stands in `open` as a row of its own."""

    def __init__(self, length: int, max_images: int, window: int, open_rows: Sequence[list[Piece]]):
        self.closed: deque[list[Piece]] = deque()
        self._waiting = [piece for row in open_rows for piece in row]
        self._length = length
        self._window = window
        # sums are bits of one number: bit `count * stride + tokens`; a sum can pass the row's end before it is masked
        self._stride = 2 * length + 1
        within_row = (1 << (length + 1)) - 1
        self._mask = sum(within_row << (count * self._stride) for count in range(max_images))
        self._max_images = max_images

    @property
    def open(self) -> list[list[Piece]]:
        return [[piece] for piece in self._waiting]

    def add(self, piece: Piece) -> None:
        assert 1 <= piece.tokens <= self._length, (piece.tokens, self._length)
        self._waiting.append(piece)
        if len(self._waiting) >= self._window:
            self._make_row()

    def flush(self) -> None:
        while self._waiting:
            self._make_row()

    def _make_row(self) -> None:
        row = [self._waiting.pop(0)]
        chosen = self._fill(self._length - row[0].tokens)
        row += [self._waiting[number] for number in chosen]
        for number in reversed(chosen):
            self._waiting.pop(number)
        self.closed.append(row)

    def _fill(self, room: int) -> list[int]:
        """Numbers of the waiting pieces whose tokens add up to most of `room`, increasing."""
        sums = 1
        reached = [sums]  # by the pieces before each
        for piece in self._waiting:
            if piece.tokens <= room:
                sums |= (sums << (self._stride + piece.tokens)) & self._mask
            reached.append(sums)
        fits = (1 << (room + 1)) - 1
        best = [((sums >> (count * self._stride)) & fits).bit_length() - 1 for count in range(self._max_images)]
        count = best.index(max(best))
        bit = count * self._stride + best[count]
        chosen = []
        for number in range(len(self._waiting) - 1, -1, -1):
            if not reached[number] >> bit & 1:
                bit -= self._stride + self._waiting[number].tokens
                chosen.append(number)
        return chosen[::-1]


# ---------------------------------------------------------------------------------------------------- one image


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An image on its way into a row.

    Attributes:
        position: in the stream.
        example: index in the source.
        targets: its arrays beside the patches, see `PackedTargets`.
        patches: uint8 [n, P], the kept ones in raster order, values ordered (row, column, channel).
        places: int32 [n, 2], (row, column) of each in `grid`; of a clip [n, 3], with time in front.
        grid: (rows, columns) before tokens were dropped; of a clip with time in front.
        shrunk: whether the size that was asked for exceeded a row.
        seconds: processor time that preparing it took.
    """

    position: int
    example: int
    targets: Mapping[str, np.ndarray]
    patches: UInt8[np.ndarray, "n P"]
    places: Int[np.ndarray, "n axes"]
    grid: tuple[int, ...]
    shrunk: bool
    seconds: float


@runtime_checkable
class PatchCut(Protocol):
    """How an example's pixels become patches."""

    @property
    def axes(self) -> int:
        """Numbers that say where a patch is: 2, or 3 with time."""
        ...

    @property
    def most_layers(self) -> int:
        """Patches at one place of the picture, one after another in time, at most; 1 for images."""
        ...

    def values(self, patch_size: int) -> int:
        """P, the values of a patch."""
        ...

    def ready(self, example: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """The example with the pixels that will be cut, of which the methods below are asked."""
        ...

    def layers(self, example: dict[str, Any]) -> int:
        """Patches at one place of this example's picture."""
        ...

    def native_size(self, example: dict[str, Any]) -> tuple[int, int]:
        """(rows, columns) of the example's pixels."""
        ...

    def full_grid(self, grid: tuple[int, int], layers: int) -> tuple[int, ...]:
        """The grid of the picture, with that of time in front where there is one."""
        ...

    def __call__(
        self,
        example: dict[str, Any],
        grid: tuple[int, ...],
        patch_size: int,
        keep: Int[np.ndarray, " n"],
        interpolation: str,
    ) -> UInt8[np.ndarray, "n P"]:
        """Resizes to the grid, and flattens the patches that are kept."""
        ...


@dataclass(frozen=True)
class ImagePatches:
    """Squares of `example["image"]`, uint8 [H, W, 3]."""

    @property
    def axes(self) -> int:
        """Row and column."""
        return 2

    @property
    def most_layers(self) -> int:
        """An image has no time."""
        return 1

    def values(self, patch_size: int) -> int:
        """Of three channels."""
        return patch_size**2 * 3

    def ready(self, example: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """As it is: what changes pictures are the transforms of the batches."""
        del generator
        return example

    def layers(self, example: dict[str, Any]) -> int:
        """An image has no time."""
        return 1

    def native_size(self, example: dict[str, Any]) -> tuple[int, int]:
        """Of the image."""
        return example["image"].shape[:2]

    def full_grid(self, grid: tuple[int, int], layers: int) -> tuple[int, int]:
        """That of the image."""
        return grid

    def __call__(
        self,
        example: dict[str, Any],
        grid: tuple[int, ...],
        patch_size: int,
        keep: Int[np.ndarray, " n"],
        interpolation: str,
    ) -> UInt8[np.ndarray, "n P"]:
        """See `cut_patches`."""
        return cut_patches(example["image"], (grid[0], grid[1]), patch_size, keep, interpolation)


def cut_patches(
    image: UInt8[np.ndarray, "H W C"],
    grid: tuple[int, int],
    patch_size: int,
    keep: Int[np.ndarray, " n"],
    interpolation: str = "bilinear",
) -> UInt8[np.ndarray, "n P"]:
    """Resizes an image to a grid of patches and flattens those that are kept.

    Args:
        image: any size.
        grid: (rows, columns) of patches to resize to, with antialiasing; the aspect ratio becomes the grid's.
        patch_size: pixels a side.
        keep: numbers of the patches to cut, row by row.
        interpolation: as in `transforms.resize_image`.

    Returns:
        One patch a row, its values ordered (row, column, channel).
    """
    (rows, columns), channels = grid, image.shape[2]
    image = resize_image(image, (rows * patch_size, columns * patch_size), interpolation)
    patches = image.reshape(rows, patch_size, columns, patch_size, channels).swapaxes(1, 2)
    if len(keep) < rows * columns:
        patches = patches[keep // columns, keep % columns]
    return np.ascontiguousarray(patches).reshape(len(keep), -1)


# ---------------------------------------------------------------------------------------------------- arrays


def stack_rows(
    rows: Sequence[Sequence[PackedImage]],
    *,
    length: int,
    max_images: int,
    patch_values: int,
    axes: int = 2,
    blanks: Mapping[str, Blank],
    groups: int,
    buckets: Buckets | None,
) -> Batch:
    """Lays packed rows out as the arrays of a batch, see ARCHITECTURE.md; `buckets` is left out if they do not fit.

    `patch_values` is P, `axes` how many numbers say where a patch is, and `blanks` are those of the targets.
    """
    count = len(rows)
    batch: Batch = {
        "patches": np.zeros((count, length, patch_values), np.uint8),
        "segments": np.zeros((count, length), np.int32),
        "positions": np.zeros((count, length, axes), np.int32),
        "grid_sizes": np.ones((count, max_images, axes), np.int32),
        "image_mask": np.zeros((count, max_images), bool),
        "example": np.full((count, max_images), -1, np.int32),
    }
    for name, (value, per_token) in blanks.items():
        places = length if per_token else max_images
        batch[name] = np.broadcast_to(value, (count, places, *value.shape)).copy()
    for number, row in enumerate(rows):
        start = 0
        for slot, image in enumerate(row):
            end = start + len(image.patches)
            batch["patches"][number, start:end] = image.patches
            batch["positions"][number, start:end] = image.places
            batch["segments"][number, start:end] = slot + 1
            for name, (_, per_token) in blanks.items():
                batch[name][number, slice(start, end) if per_token else slot] = image.targets[name]
            start = end
        used = len(row)
        batch["grid_sizes"][number, :used] = [image.grid for image in row] or 1
        batch["example"][number, :used] = [image.example for image in row]
        batch["image_mask"][number, :used] = True
    if buckets is not None and (found := _buckets_of(rows, buckets, length, groups)) is not None:
        batch["buckets"] = found
    return batch


def _buckets_of(
    rows: Sequence[Sequence[PackedImage]], buckets: Buckets, length: int, groups: int
) -> tuple[np.ndarray, ...] | None:
    sizes = [np.array([len(image.patches) for image in row], np.int64) for row in rows]
    starts = [number * length + np.cumsum(row) - row for number, row in enumerate(sizes)]
    group_tokens = len(rows) // groups * length
    all_starts = np.concatenate(starts)
    return buckets.assign(
        all_starts // group_tokens, all_starts % group_tokens, np.concatenate(sizes),
        num_groups=groups, group_tokens=group_tokens,
    )  # fmt: skip
