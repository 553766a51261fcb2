"""How full packed rows are, what one core packs a second, and whether 16 cores feed 16 accelerators.

*Padding*: the padded share of the tokens in per cent. `peer` is that of the paper's first-fit over a window of 16 rows
on the same images, the ratio theirs over ours, and `min` and `max` are over five stretches of the stream. The mark is
1 % at lengths of 256 and more. The streams are those of NaViT (arXiv:2307.06304) on the sizes of photographs, for JFT's
and WebLI's are not published: "B.1", the JFT runs, sides U(64, 256); "B.2", contrastive, U(64, 384); "3.3", the best of
its ablation, a normal of mean -0.5 truncated to [-1, 1] and spread over sides of 64 to 384, or to 256 where a row holds
no more. Tokens are dropped at a rate of 0.8 Beta, 0.5 in the mean (B.4 leaves both open), or not at all.

*One core*, stream B.1 in rows of 256, processor time of one thread: "packer" chooses which images share a row; "ready
patches" also copies them into the arrays of batches; "decoded" starts from 500 x 375 pixels, which it resizes, cuts and
thins out; "JPEG" from the bytes of such files. Tokens are those that are kept.

*16 cores against 16 accelerators*: 16 times a core's tokens, each core being a packer of its own with its share of the
examples. `peer` is what 16 chips train of NaViT-B/16 at half of their peak: data sheets' bfloat16 operations, and 6 for
each multiply-add per token (`benchmarks.chips`) on images of 49 tokens, the square next to the 57 that B.1 keeps.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.chips import PEAKS, training_flops
from benchmarks.loading import write_jpegs
from benchmarks.report import Options, Row
from vitjax.config import build, load_config_file
from vitjax.data.images import decode_image
from vitjax.data.rows import BestFit, FirstFit, PackedImage, PackingPolicy, Piece, SubsetFit, cut_patches, stack_rows
from vitjax.data.sampling import (
    BetaDrop,
    NoDrop,
    TokenDrop,
    TruncatedNormalSide,
    UniformSide,
    grid_size,
    keep_tokens,
)

__all__ = ["imagenet_like_sizes", "rows"]

_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "navit.py"
_POLICIES = ((SubsetFit(), 128), (BestFit(), 16), (BestFit(), 64), (FirstFit(), 64))
_REFERENCE = (FirstFit(), 16)
_JFT, _CONTRASTIVE, _BETA = UniformSide(64, 256), UniformSide(64, 384), BetaDrop(0.5, 0.8)
_PATCH, _LENGTH, _MAX_IMAGES = 16, 256, 16
_COUNT = 20000  # images of a stream
_CHIPS = ("TPU v5 lite", "NVIDIA H200")


def rows(options: Options) -> Iterator[Row]:
    """Padding of each policy on each stream, what a core packs, and what accelerators take."""
    yield from _padding_rows(options)
    yield from _core_rows(options)


# ---------------------------------------------------------------------------------------------------- padding


def imagenet_like_sizes(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """(height, width) of photographs: area log-normal around 500 x 375, with a tail of large ones.

    A quarter are upright. Aspect ratios are those of cameras and crops: 4:3 most often, then 3:2, square, 16:9 and
    anything between 0.5 and 2.5, each give or take a few per cent.
    """
    generator = np.random.default_rng(seed)
    kinds = generator.choice(5, count, p=[0.5, 0.25, 0.1, 0.05, 0.1])
    ratios = np.array([4 / 3, 3 / 2, 1, 16 / 9, 1])[kinds] * np.exp(generator.normal(0, 0.03, count))
    ratios = np.where(kinds == 4, np.exp(generator.uniform(np.log(0.5), np.log(2.5), count)), ratios)
    ratios = np.where(generator.random(count) < 0.25, 1 / ratios, ratios)
    areas = 500 * 375 * np.exp(generator.normal(0, 0.35, count) + 2 * (generator.random(count) < 0.05))
    heights, widths = np.sqrt(areas / ratios), np.sqrt(areas * ratios)
    return [(int(height), int(width)) for height, width in zip(heights, widths, strict=True)]


@dataclass(frozen=True)
class _Stream:
    """Images whose sizes are drawn, packed into rows of `length`."""

    name: str
    resolution: Callable[[np.random.Generator, tuple[int, int]], float]
    drop: TokenDrop
    length: int
    max_images: int
    patch_size: int = _PATCH

    def tokens(self, native: list[tuple[int, int]]) -> list[int]:
        """Of `_COUNT` images whose native sizes are drawn from `native`."""
        generator = np.random.default_rng(1)
        found = []
        for number, index in enumerate(generator.integers(0, len(native), _COUNT)):
            grid = grid_size(native[index], self.resolution(generator, native[index]), self.patch_size, self.length)
            size = grid[0] * grid[1]
            found.append(len(keep_tokens(generator, size, self.drop(generator, size, number))))
        return found


_STREAMS = (
    _Stream("B.1", _JFT, _BETA, 256, 16),
    _Stream("B.1", _JFT, _BETA, 1024, 48),
    _Stream("B.1 without drop", _JFT, NoDrop(), 256, 16),
    _Stream("B.1 without drop", _JFT, NoDrop(), 1024, 48),
    _Stream("B.2", _CONTRASTIVE, _BETA, 1024, 48),
    _Stream("B.2 without drop", _CONTRASTIVE, NoDrop(), 1024, 48),
    _Stream("3.3 up to 256 px", TruncatedNormalSide(64, 256), _BETA, 256, 16),
    _Stream("3.3", TruncatedNormalSide(64, 384), _BETA, 1024, 48),
    _Stream("3.3 without drop", TruncatedNormalSide(64, 384), NoDrop(), 1024, 48),
)


def _padding_rows(options: Options) -> Iterator[Row]:
    train = build(load_config_file(_CONFIG).train)
    sizes = {"length": train.length, "max_images": train.max_images, "patch_size": train.patch_size}
    digits = [train.source[index]["image"].shape[:2] for index in range(300)]
    for note, drop in (("", train.token_drop), (" without drop", NoDrop())):
        stream = _Stream(f"configs/navit.py{note}", train.resolution, drop, **sizes)
        yield from _padding_of(options, stream, digits)
    photos = imagenet_like_sizes(_COUNT)
    for stream in _STREAMS:
        yield from _padding_of(options, stream, photos)


def _padding_of(options: Options, stream: _Stream, native: list[tuple[int, int]]) -> Iterator[Row]:
    case = f"padding, {stream.name}, {stream.length}: {{}} {{}} vs FirstFit 16"
    named = {case.format(type(policy).__name__, window): (policy, window) for policy, window in _POLICIES}
    wanted = {name: how for name, how in named.items() if options.wants(name)}
    if not wanted:
        return
    tokens = stream.tokens(native)
    reference = float(np.mean(_padding(*_REFERENCE, tokens, stream)))
    for name, how in wanted.items():
        padding = _padding(*how, tokens, stream)
        ours = float(np.mean(padding))
        yield Row(name, ours, reference, reference / max(ours, 1e-3), min(padding), max(padding), "%")


def _padding(policy: PackingPolicy, window: int, tokens: list[int], stream: _Stream) -> list[float]:
    """In per cent, of five stretches of the steady stream."""
    packer = policy.packer(length=stream.length, max_images=stream.max_images, window=window)
    for size in tokens:
        packer.add(Piece(size, None))
    filled = [sum(piece.tokens for piece in row) for row in packer.closed]
    filled = filled[len(filled) // 10 :]  # the first rows are chosen from a window that is still filling
    return [100 * (1 - float(np.mean(part)) / stream.length) for part in np.array_split(filled, 5)]


# ---------------------------------------------------------------------------------------------------- throughput


def _core_rows(options: Options) -> Iterator[Row]:
    for stage, work in _stages().items():
        chips = {chip: f"16 cores, {stage}, vs 16 x {chip} training B/16 at half their peak" for chip in _CHIPS}
        units = {unit: f"one core, {stage}, {unit}" for unit in ("images", "tokens")}
        if not any(map(options.wants, (*chips.values(), *units.values()))):
            continue
        images, tokens = zip(*(_timed(work) for _ in range(options.repeats)), strict=True)
        for (unit, case), speeds in zip(units.items(), (images, tokens), strict=True):
            if options.wants(case):
                yield Row.alone(case, speeds, f"{unit}/s")
        for chip, case in chips.items():
            if options.wants(case):
                taken = 16 * 0.5 * PEAKS[chip] / training_flops("navit_base_patch16", (112, 112))
                yield Row.higher(case, [16 * speed for speed in tokens], [taken] * len(tokens), "tokens/s")


def _timed(work: Callable[[], list[int]]) -> tuple[float, float]:
    """Images and tokens that a core gets through in a second; `work` returns the tokens of each image."""
    started = time.thread_time()
    tokens = work()
    seconds = time.thread_time() - started
    return len(tokens) / seconds, sum(tokens) / seconds


def _stages() -> dict[str, Callable[[], list[int]]]:
    """Name and work of each way to count."""
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(folder, 8)
        files = [file.read_bytes() for file in sorted(Path(folder).iterdir())]
    pictures = [decode_image(data) for data in files]
    ready = list(_images(itertools.cycle(pictures)))
    sizes = _STREAMS[0].tokens(imagenet_like_sizes(_COUNT))

    def choose() -> list[int]:
        packer = SubsetFit().packer(length=_LENGTH, max_images=_MAX_IMAGES, window=128)
        for size in sizes:
            packer.add(Piece(size, None))
        return sizes

    return {
        "packer": choose,
        "ready patches": lambda: _fill(ready),
        "decoded": lambda: _fill(_images(itertools.cycle(pictures))),
        "JPEG": lambda: _fill(_images(map(decode_image, itertools.cycle(files)))),
    }


def _images(pictures: Iterable[np.ndarray], count: int = 400) -> Iterator[PackedImage]:
    """As stream B.1 makes them of the first pictures of an endless row."""
    generator = np.random.default_rng(0)
    for number, picture in enumerate(itertools.islice(pictures, count)):
        native = picture.shape[:2]
        grid = grid_size(native, _JFT(generator, native), _PATCH, _LENGTH)
        size = grid[0] * grid[1]
        keep = keep_tokens(generator, size, _BETA(generator, size, number))
        patches = cut_patches(picture, grid, _PATCH, keep)
        places = np.stack(np.divmod(keep, grid[1]), axis=1).astype(np.int32)
        yield PackedImage(number, number, {}, patches, places, grid, False, 0.0)


def _fill(images: Iterable[PackedImage]) -> list[int]:
    """Packs images and copies them into the arrays of batches of 16 rows; the tokens of each."""
    packer = SubsetFit().packer(length=_LENGTH, max_images=_MAX_IMAGES, window=128)
    tokens = []
    for image in images:
        packer.add(Piece(len(image.patches), image))
        tokens.append(len(image.patches))
    packer.flush()
    done = [[piece.item for piece in row] for row in packer.closed]
    for start in range(0, len(done), 16):
        stack_rows(
            done[start : start + 16], length=_LENGTH, max_images=_MAX_IMAGES, patch_values=3 * _PATCH**2, blanks={},
            groups=1, buckets=None,
        )  # fmt: skip
    return tokens
