"""Images and the texts about them, both packed into rows, for contrastive training.

Image rows are filled as `PackedBatches` fills them. A batch then takes as many image rows as it has room for, and the
texts of their images are packed into text rows of their own, by the same policy. A pair's image and text are mostly in
different rows and slots, so the batch lists where both are: `pairs`, see `PackedPairBatches`.
"""

import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vitjax.data.buckets import Buckets
from vitjax.data.captions import captions_of
from vitjax.data.images import BrokenExample
from vitjax.data.loading import (
    Batch,
    BatchStream,
    Broken,
    BrokenFiles,
    Produced,
    Shards,
    Stream,
    in_background,
)
from vitjax.data.packing import PackedBatches, Preparation
from vitjax.data.pair_rows import PackedPair, PairLane, PairSize, Share, stack_pairs
from vitjax.data.reading import LaneReader, read_ahead, read_now
from vitjax.data.rows import Piece
from vitjax.data.sampling import FixedOrder, ShuffledOrder, example_generator
from vitjax.data.source_access import drop_source, get_source, replace_source, source_labels, source_length
from vitjax.data.text import Tokenizer, encode_text
from vitjax.errors import UserError

__all__ = ["PackedPairBatches"]


@dataclass(frozen=True)
class PackedPairBatches:
    """Batches of packed image rows and packed text rows.

    They have the keys of `PackedBatches` without `label`, and these:

    | key | what |
    |---|---|
    | `text_tokens` | int32 `[text_rows, text_length]`: ids; 0 for padding |
    | `text_segments` | int32, likewise: 1…max_texts numbers the row's texts, 0 is padding |
    | `text_positions` | int32, likewise: place in its text |
    | `text_mask` | bool `[text_rows, max_texts]`: which slots hold a text |
    | `pairs` | int32 `[packers, pairs / packers, 2]`: of each pair the slot of its image and that of its text |
    | `pair_mask` | bool `[packers, pairs / packers]`: True = real |

    Each packer fills an equal share of image rows, text rows and pairs, and the numbers in `pairs` count the slots of
    its own share, row after row; so a pair's two vectors are found on the device that computed them. Every real image
    is in exactly one pair. Images have `buckets` as in `PackedBatches`. Attention of texts on CPU always uses the
    segment mask, for which text rows of 128 tokens or fewer are best.

    Of an example with several captions training takes one at random, evaluation the first.

    Attributes:
        source: images with captions (`vitjax.data.captions`), or `None` until `with_source`.
        images: how images are prepared, packed and read; its own `source` is not used.
        tokenizer: such as `ByteTokenizer` (`vitjax.data.text`).
        max_tokens: of a text, its end token counted; longer ones are cut, which `statistics()` counts.
        text_length: tokens of a text row.
        text_rows: of a global batch. Where the texts of an image row do not fit it waits for a later batch; too few
            text rows show in `statistics()` as `empty_rows`.
        max_texts: of a text row at most.
        pairs: of a global batch at most; fake ones cost a contrastive loss as much as real ones.
    """

    source: Any
    images: PackedBatches
    tokenizer: Tokenizer
    max_tokens: int
    text_length: int
    text_rows: int
    max_texts: int
    pairs: int

    def __post_init__(self) -> None:
        for setting in ("text_length", "text_rows", "max_texts", "pairs"):
            if getattr(self, setting) < 1:
                raise UserError(f"PackedPairBatches: `{setting}` (={getattr(self, setting)}) is at least 1")
        if not 2 <= self.max_tokens <= self.text_length:
            raise UserError(
                f"PackedPairBatches: expected 2 <= `max_tokens` (={self.max_tokens}) <= `text_length` "
                f"(={self.text_length}): a text is in one row"
            )
        for setting in ("text_rows", "pairs"):
            if getattr(self, setting) % self.images.packers:
                raise UserError(
                    f"PackedPairBatches: `{setting}` (={getattr(self, setting)}) is not divisible by `images.packers` "
                    f"(={self.images.packers}), which share them out"
                )
        self._check_room()

    def _check_room(self) -> None:
        """An image row with as many images as it may have must fit into an empty batch, however long its texts are."""
        most, share = self.images.max_images, self.share
        room = {"`text_rows`, `text_length` or `max_texts`": share.room_for(self.max_tokens), "`pairs`": share.pairs}
        for setting, count in room.items():
            if count < most:
                raise UserError(
                    f"PackedPairBatches: a row holds up to `images.max_images` (={most}) images, but each of "
                    f"{self.images.packers} packers has room for {count} of the longest texts; raise {setting}, or "
                    "lower `images.max_images`"
                )

    @property
    def share(self) -> Share:
        """What each packer has room for."""
        images = self.images
        return Share(
            policy=images.policy,
            window=images.window,
            rows=images.rows // images.packers,
            length=images.length,
            max_images=images.max_images,
            text_rows=self.text_rows // images.packers,
            text_length=self.text_length,
            max_texts=self.max_texts,
            pairs=self.pairs // images.packers,
        )

    labels = property(source_labels)
    num_examples = property(source_length)
    without_source = drop_source
    with_source = replace_source

    def describe(self) -> str:
        """A line for the log."""
        return (
            f"texts: {type(self.tokenizer).__name__} with {self.tokenizer.vocabulary_size} tokens, up to "
            f"{self.max_tokens} of them a text; up to {self.pairs} pairs a batch"
        )

    def stream(self, seed: int, shards: Shards) -> Stream:
        """Endless batches for training, each epoch in a new order.

        Raises:
            UserError: rows or packers cannot be divided by the processes and their data shards, or there are no
                examples.
        """
        start = self._start(shards)
        if not self.num_examples:
            raise UserError(f"PackedPairBatches: {getattr(self.source, 'name', 'the source')} has no examples")
        order = ShuffledOrder(seed, self.num_examples)
        start = {"seed": seed, "examples": self.num_examples, "num_packers": self.images.packers} | start
        plan = _Plan(self, order, shards.groups, self._image_buckets(shards))
        return BatchStream(functools.partial(_produce, plan), start, _summarise, self.images.prefetch)

    def epoch(self, shards: Shards) -> Iterator[Batch]:
        """Each pair once, in the source's order; the last batches have rows that are not full, or empty.

        Where there are several processes each first reads all examples once to learn how many batches there will be.

        Raises:
            UserError: see `stream`.
        """
        start = self._start(shards)
        if not self.num_examples:
            return
        batches = self._epoch_batches if shards.process_count > 1 else None
        buckets = self._image_buckets(shards)
        plan = _Plan(self, FixedOrder(), shards.groups, buckets, end=self.num_examples, batches=batches)
        for item in in_background(_produce(plan, start), self.images.prefetch):
            yield item.batch

    def _start(self, shards: Shards) -> dict[str, Any]:
        """The state of this process's packers before the first example."""
        get_source(self)
        shards.local_size(self.images.rows, "images.rows")
        parts = shards.process_count * shards.groups
        if self.images.packers % parts:
            raise UserError(
                f"PackedPairBatches: `images.packers` (={self.images.packers}) is not divisible by {parts}, the data "
                f"shards of the mesh times `accumulate_steps`: each has pairs of its own; use packers={parts} or a "
                "multiple, and keep it when resuming"
            )
        each = self.images.packers // shards.process_count
        lanes = range(shards.process_index * each, (shards.process_index + 1) * each)
        return {"packers": {str(lane): {"next": lane, "open": [], "closed": []} for lane in lanes}}

    @functools.cached_property
    def _images(self) -> PackedBatches:
        """The images without their texts."""
        return self.images.with_source(self.source)

    def _image_buckets(self, shards: Shards) -> Buckets | None:
        """Planned as if every image row were always taken; where texts leave some empty there is room to spare."""
        return self._images.plan_buckets(shards)

    @functools.cached_property
    def _epoch_batches(self) -> int:
        """Batches of an epoch: those of the packer that needs most."""
        measure, images = _Preparation(self, FixedOrder(), measure=True), self.images
        lanes, counts = [PairLane(self.share) for _ in range(images.packers)], [0] * images.packers
        found = read_ahead(measure, range(self.num_examples), threads=images.threads, workers=images.workers)
        for position, size in found:
            if not isinstance(size, Broken):
                number = position % images.packers
                lanes[number].add(Piece(size.image_tokens, size))
                counts[number] += lanes[number].take_all()  # as soon as it can: what is chosen depends on it
        for number, lane in enumerate(lanes):
            lane.end()
            counts[number] += lane.take_all()
        return max(counts)


# ---------------------------------------------------------------------------------------------------- one pair


@dataclass(frozen=True)
class _Preparation:
    """Makes the pair at a position of the stream, or only measures it."""

    batches: PackedPairBatches
    order: Callable[[int], tuple[int, int]]
    measure: bool = False

    def __call__(self, position: int) -> PackedPair | PairSize | Broken:
        started = time.thread_time()
        settings = self.batches
        epoch, index = self.order(position)
        generator = example_generator(self.order.seed, epoch, index)  # pyright: ignore[reportFunctionMemberAccess]
        try:
            example = settings.source[index]
        except BrokenExample as error:
            return Broken(error.name, error.reason)
        texts = captions_of(example, str(getattr(settings.source, "name", "the source")))
        number = 0 if isinstance(self.order, FixedOrder) or len(texts) == 1 else int(generator.integers(len(texts)))
        text, cut = encode_text(settings.tokenizer, texts[number], settings.max_tokens)
        prepare = Preparation(settings.images, self.order, measure=self.measure).prepare
        image = prepare(example, position, index, generator, started=started)
        return PairSize(image, len(text)) if isinstance(image, int) else PackedPair(image, text, cut)


# ---------------------------------------------------------------------------------------------------- production


@dataclass(frozen=True)
class _Plan:
    """What a process makes: endless batches, or `batches` of them (`None`: until nothing is left) of `end` pairs."""

    settings: PackedPairBatches
    order: Callable[[int], tuple[int, int]]
    groups: int
    buckets: Buckets | None
    end: int | None = None
    batches: int | None = None


def _produce(plan: _Plan, state: dict[str, Any]) -> Generator[Produced, None, None]:
    """The batches that follow a state."""
    settings, images = plan.settings, plan.settings.images
    prepare = _Preparation(settings, plan.order)
    broken = BrokenFiles(str(getattr(settings.source, "name", "the source")), images.max_broken)
    lanes = {int(lane): _resume(settings, saved, prepare) for lane, saved in state["packers"].items()}
    upcoming = {int(lane): saved["next"] for lane, saved in state["packers"].items()}
    reader = LaneReader(
        prepare, list(upcoming.values()), stride=images.packers, end=plan.end, threads=images.threads,
        workers=images.workers,
    )  # fmt: skip
    made = 0
    try:
        while plan.batches is None or made < plan.batches:
            started, waited = time.perf_counter(), reader.wait_seconds
            prepared = 0.0
            for number, lane in lanes.items():
                while not lane.ready:
                    if (found := reader.next(number)) is None:
                        lane.end()
                        break
                    upcoming[number] = found[0] + images.packers
                    if broken.passes(found[1]):
                        lane.add(_piece(found[1]))
                        prepared += found[1].image.seconds
            shares = [[[piece.item for piece in row] for row in lane.take()] for lane in lanes.values()]
            if plan.end is not None and plan.batches is None and not any(shares):
                return
            values = images.cut.values(images.patch_size)
            batch = stack_pairs(settings.share, shares, patch_values=values, groups=plan.groups, buckets=plan.buckets)
            packing = time.perf_counter() - started - (reader.wait_seconds - waited)
            counts = _count(settings, shares, lanes) | {
                "dense_batches": float(plan.buckets is not None and "buckets" not in batch),
                "broken_files": float(broken.taken()),
                "host_seconds": packing + prepared,
            }
            made += 1
            yield Produced(batch, state | {"packers": _save(lanes, upcoming)}, counts)
    finally:
        reader.close()


def _resume(settings: PackedPairBatches, saved: dict[str, Any], prepare: _Preparation) -> PairLane:
    """A lane whose rows are read again from their positions."""
    positions = [position for rows in (saved["open"], saved["closed"]) for row in rows for position in row]
    found = read_now(prepare, positions, settings.images.threads)

    def pieces(rows: list[list[int]]) -> list[list[Piece]]:
        return [[_piece(found[position]) for position in row] for row in rows]

    return PairLane(settings.share, pieces(saved["open"]), pieces(saved["closed"]))


def _piece(pair: PackedPair) -> Piece:
    return Piece(len(pair.image.patches), pair)


def _save(lanes: dict[int, PairLane], upcoming: dict[int, int]) -> dict[str, Any]:
    def positions(rows: Sequence[list[Piece]]) -> list[list[int]]:
        return [[piece.item.position for piece in row] for row in rows]

    return {
        str(number): {
            "next": upcoming[number],
            "open": positions(lane.packer.open),
            "closed": positions(list(lane.packer.closed)),
        }
        for number, lane in lanes.items()
    }


def _count(
    settings: PackedPairBatches, shares: list[list[list[PackedPair]]], lanes: dict[int, PairLane]
) -> dict[str, float]:
    images = settings.images
    found = [pair for share in shares for row in share for pair in row]
    unfinished = [row for lane in lanes.values() for row in (*lane.packer.open, *lane.packer.closed)]
    rows, share = images.rows * len(lanes) // images.packers, len(lanes) / images.packers
    return {
        "rows": float(rows),
        "empty_rows": float(rows - sum(map(len, shares))),
        "slots": float(rows * images.length),
        "text_slots": settings.text_rows * settings.text_length * share,
        "pair_slots": settings.pairs * share,
        "pairs": float(len(found)),
        "tokens": float(sum(len(pair.image.patches) for pair in found)),
        "text_tokens": float(sum(pair.text_tokens for pair in found)),
        "grid_tokens": float(sum(pair.image.grid[0] * pair.image.grid[1] for pair in found)),
        "shrunk_images": float(sum(pair.image.shrunk for pair in found)),
        "cut_texts": float(sum(pair.cut for pair in found)),
        "waiting_pairs": float(sum(map(len, unfinished))),
    }


def _summarise(counts: dict[str, float]) -> dict[str, float]:
    """Statistics from summed counts: totals and shares; seconds and waiting pairs are means per batch."""
    return {
        "pairs": counts["pairs"],
        "tokens": counts["tokens"],
        "text_tokens": counts["text_tokens"],
        "padding_share": 1 - counts["tokens"] / counts["slots"],
        "text_padding_share": 1 - counts["text_tokens"] / counts["text_slots"],
        "fake_pair_share": 1 - counts["pairs"] / counts["pair_slots"],
        "empty_rows": counts["empty_rows"],
        "images_per_row": counts["pairs"] / counts["rows"],
        "dropped_token_share": 1 - counts["tokens"] / max(counts["grid_tokens"], 1.0),
        "shrunk_images": counts["shrunk_images"],
        "cut_texts": counts["cut_texts"],
        "waiting_pairs": counts["waiting_pairs"] / counts["batches"],
        "broken_files": counts["broken_files"],
        "dense_batches": counts["dense_batches"],
        "host_seconds": counts["host_seconds"] / counts["batches"],
        "wait_seconds": counts["wait_seconds"] / counts["batches"],
    }
