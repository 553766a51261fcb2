"""Rows of image-text pairs: which image rows make a batch with room for their texts, and the arrays of both.

One packer's share of a batch is worked out by itself; see `pairs.PackedPairBatches`.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vitjax.data.buckets import Buckets
from vitjax.data.loading import Batch
from vitjax.data.rows import PackedImage, PackingPolicy, Piece, stack_rows

__all__ = ["PackedPair", "PairLane", "PairSize", "Share", "pack_texts", "stack_pairs", "stack_texts"]


@dataclass(frozen=True)
class Share:
    """What each packer has room for in a batch.

    Attributes:
        policy: which images, and which texts, share a row.
        window: of images under construction, see the policy.
        rows: of images.
        length: tokens of an image row.
        max_images: of an image row.
        text_rows: of texts.
        text_length: tokens of a text row.
        max_texts: of a text row.
        pairs: at most.
    """

    policy: PackingPolicy
    window: int
    rows: int
    length: int
    max_images: int
    text_rows: int
    text_length: int
    max_texts: int
    pairs: int

    def room_for(self, max_tokens: int) -> int:
        """How many texts of `max_tokens` each surely fit."""
        return self.text_rows * min(self.text_length // max_tokens, self.max_texts)


class PairSize(NamedTuple):
    """What packing needs to know of a pair."""

    image_tokens: int
    text_tokens: int


@dataclass(frozen=True, slots=True)
class PackedPair:
    """A pair on its way into its rows.

    Attributes:
        image: on its way into a row.
        text: int32 [n], ids, the end token last.
        cut: whether the text was longer than it may be.
    """

    image: PackedImage
    text: Int[np.ndarray, " n"]
    cut: bool

    @property
    def text_tokens(self) -> int:
        """Tokens of the text."""
        return len(self.text)

    @property
    def position(self) -> int:
        """In the stream."""
        return self.image.position


class PairLane:
    """The image rows of one packer, and which of them its share of a batch takes.

    Args:
        share: what there is room for.
        open_rows: under construction, when going on.
        closed: finished rows that wait.
    """

    def __init__(self, share: Share, open_rows: Sequence[list[Piece]] = (), closed: Sequence[list[Piece]] = ()):
        self.packer = share.policy.packer(
            length=share.length, max_images=share.max_images, window=share.window, open_rows=open_rows
        )
        self.packer.closed.extend(closed)
        self._share = share
        self._looked = -1  # closed rows when last too few of them fitted together
        self._ended = False

    def add(self, piece: Piece) -> None:
        """Takes in a pair, whose `tokens` are the image's."""
        self.packer.add(piece)

    def end(self) -> None:
        """Nothing more will come."""
        self.packer.flush()
        self._ended = True

    @property
    def ready(self) -> bool:
        """Whether the next share is full, or twice as many rows as it needs did not fill it."""
        count = len(self.packer.closed)
        if self._ended or count >= 2 * self._share.rows:
            return True
        if count < self._share.rows or count == self._looked:
            return False
        self._looked = count
        return len(self._choose()) == self._share.rows

    def take(self) -> list[list[Piece]]:
        """The rows of the next share, oldest first; what does not fit stays."""
        chosen, rows = self._choose(), list(self.packer.closed)
        self.packer.closed = deque(row for number, row in enumerate(rows) if number not in chosen)
        self._looked = -1
        return [rows[number] for number in chosen]

    def take_all(self) -> int:
        """Takes shares while they are ready, and counts them."""
        count = 0
        while self.packer.closed and self.ready:
            self.take()
            count += 1
        return count

    def _choose(self) -> list[int]:
        """Numbers of the closed rows that fit together: from the oldest on, each that still fits."""
        chosen: list[int] = []
        texts: list[int] = []
        for number, row in enumerate(self.packer.closed):
            if len(chosen) == self._share.rows:
                break
            more = texts + [piece.item.text_tokens for piece in row]
            if pack_texts(self._share, more) is not None:
                chosen.append(number)
                texts = more
        return chosen


def pack_texts(share: Share, sizes: Sequence[int]) -> list[list[int]] | None:
    """Which texts are in each text row, as numbers of `sizes` (their tokens); `None` if they do not fit."""
    if len(sizes) > share.pairs or sum(sizes) > share.text_rows * share.text_length:
        return None
    packer = share.policy.packer(length=share.text_length, max_images=share.max_texts, window=len(sizes) + 1)
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        packer.add(Piece(sizes[number], number))
    packer.flush()
    return [[piece.item for piece in row] for row in packer.closed] if len(packer.closed) <= share.text_rows else None


# ---------------------------------------------------------------------------------------------------- arrays


def stack_texts(
    rows: Sequence[Sequence[Int[np.ndarray, "_"]]], *, length: int, max_texts: int
) -> dict[str, np.ndarray]:
    """Lays packed texts out as the `text_...` arrays of a batch; see `PackedPairBatches`."""
    batch = {name: np.zeros((len(rows), length), np.int32) for name in ("tokens", "segments", "positions")}
    batch["mask"] = np.zeros((len(rows), max_texts), bool)
    for number, row in enumerate(rows):
        start = 0
        for slot, text in enumerate(row):
            end = start + len(text)
            batch["tokens"][number, start:end] = text
            batch["segments"][number, start:end] = slot + 1
            batch["positions"][number, start:end] = np.arange(len(text))
            start = end
        batch["mask"][number, : len(row)] = True
    return {f"text_{name}": array for name, array in batch.items()}


def stack_pairs(
    share: Share,
    lanes: Sequence[Sequence[Sequence[PackedPair]]],
    *,
    patch_values: int,
    groups: int,
    buckets: Buckets | None,
) -> Batch:
    """The arrays of a batch from the image rows that each lane took; see `stack_rows` for the last three."""
    pairs = np.zeros((len(lanes), share.pairs, 2), np.int32)
    pair_mask = np.zeros(pairs.shape[:2], bool)
    image_rows: list[list[PackedImage]] = []
    text_rows: list[list[np.ndarray]] = []
    for lane, rows in enumerate(lanes):
        held = [pair for row in rows for pair in row]
        image_slots = [number * share.max_images + slot for number, row in enumerate(rows) for slot in range(len(row))]
        packed = pack_texts(share, [pair.text_tokens for pair in held])
        assert packed is not None  # PairLane chose rows that fit
        for row, numbers in enumerate(packed):
            for slot, number in enumerate(numbers):
                pairs[lane, number] = image_slots[number], row * share.max_texts + slot
        pair_mask[lane, : len(held)] = True
        image_rows += [[pair.image for pair in row] for row in rows] + [[]] * (share.rows - len(rows))
        text_rows += [[held[number].text for number in numbers] for numbers in packed]
        text_rows += [[]] * (share.text_rows - len(packed))
    batch = stack_rows(
        image_rows, length=share.length, max_images=share.max_images, patch_values=patch_values, blanks={},
        groups=groups, buckets=buckets,
    )  # fmt: skip
    texts = stack_texts(text_rows, length=share.text_length, max_texts=share.max_texts)
    return batch | texts | {"pairs": pairs, "pair_mask": pair_mask}
