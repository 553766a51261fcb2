"""How full packed rows are, and how many images a second one core packs.

`ours` of a padding row is the padded share of the tokens in per cent, `peer` that of the paper's first-fit over a
window of 16 rows on the same images, and the ratio theirs over ours; `min` and `max` are over five stretches of
the stream.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitjax.config import build, load_config_file
from vitjax.data.rows import BestFit, FirstFit, PackedImage, PackingPolicy, Piece, SubsetFit, cut_patches, stack_rows
from vitjax.data.sampling import (
    BetaDrop,
    NoDrop,
    Resolution,
    TokenDrop,
    UniformSide,
    grid_size,
    keep_tokens,
)

_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "navit.py"
_WINDOWS = ((SubsetFit(), 128), (BestFit(), 16), (BestFit(), 64), (FirstFit(), 64))


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


def image_tokens(
    native: list[tuple[int, int]], resolution: Resolution, drop: TokenDrop, *, patch_size: int, length: int
) -> list[int]:
    """Tokens of 20,000 images whose native sizes are drawn from `native`."""
    generator = np.random.default_rng(1)
    tokens = []
    for number, index in enumerate(generator.integers(0, len(native), 20000)):
        grid = grid_size(native[index], resolution(generator, native[index]), patch_size, length)
        size = grid[0] * grid[1]
        tokens.append(len(keep_tokens(generator, size, drop(generator, size, number))))
    return tokens


def _cases() -> Iterator[tuple[str, list[int], int, int]]:
    train = build(load_config_file(_CONFIG).train)
    digits = [train.source[index]["image"].shape[:2] for index in range(300)]
    photos = imagenet_like_sizes(20000)
    for note, drop in (("", train.token_drop), (" without token drop", NoDrop())):
        tokens = image_tokens(digits, train.resolution, drop, patch_size=train.patch_size, length=train.length)
        yield f"configs/navit.py{note}, length {train.length}", tokens, train.length, train.max_images
    wide = UniformSide(64, 256)
    yield (
        "ImageNet-like, length 256",
        image_tokens(photos, wide, BetaDrop(0.5, 0.8), patch_size=16, length=256),
        256,
        16,
    )
    yield (
        "ImageNet-like without token drop, length 256",
        image_tokens(photos, wide, NoDrop(), patch_size=16, length=256),
        256,
        16,
    )
    wide = UniformSide(64, 384)
    yield (
        "ImageNet-like, length 1024",
        image_tokens(photos, wide, BetaDrop(0.5, 0.8), patch_size=16, length=1024),
        1024,
        32,
    )
    yield (
        "ImageNet-like without token drop, length 1024",
        image_tokens(photos, wide, NoDrop(), patch_size=16, length=1024),
        1024,
        32,
    )


def _pack(
    policy: PackingPolicy, window: int, tokens: list[int], length: int, max_images: int
) -> tuple[list[float], float]:
    """Padding in per cent of five stretches of the steady stream, and images per second."""
    packer = policy.packer(length=length, max_images=max_images, window=window)
    started = time.thread_time()
    for size in tokens:
        packer.add(Piece(size, None))
    seconds = time.thread_time() - started
    rows = [sum(piece.tokens for piece in row) for row in packer.closed]
    rows = rows[len(rows) // 10 :]  # the first rows are chosen from a window that is still filling
    return [100 * (1 - float(np.mean(part)) / length) for part in np.array_split(rows, 5)], len(tokens) / seconds


def rows() -> list[dict]:
    """Padding of each policy on each distribution of sizes, packer speed, and speed with patches cut and copied."""
    found = []
    for case, tokens, length, max_images in _cases():
        reference, _ = _pack(FirstFit(), 16, tokens, length, max_images)
        for policy, window in _WINDOWS:
            padding, speed = _pack(policy, window, tokens, length, max_images)
            name = f"{type(policy).__name__} window {window}"
            found.append(
                _row(f"padding, {case}, {name} vs FirstFit window 16", padding, float(np.mean(reference)), "%")
            )
            found.append(_row(f"packer, {case}, {name}", [speed], None, "images/s on one core"))
    found.append(_preparation())
    return found


def _row(case: str, values: list[float], peer: float | None, unit: str) -> dict:
    ours = float(np.mean(values))
    ratio = None if peer is None else peer / max(ours, 1e-3)
    return {
        "case": case, "ours": ours, "peer": peer, "ratio": ratio,
        "min": min(values), "max": max(values), "unit": unit,
    }  # fmt: skip


def _preparation() -> dict:
    """Resize, cut, pack and copy into the batch: 500 x 375 pixels to R ~ U(64, 256), decoded already."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (375, 500, 3), np.uint8)
    speeds = []
    for _ in range(5):
        packer = SubsetFit().packer(length=256, max_images=16, window=128)
        started = time.thread_time()
        for number in range(400):
            grid = grid_size((375, 500), UniformSide(64, 256)(generator, (375, 500)), 16, 256)
            keep = keep_tokens(generator, grid[0] * grid[1], BetaDrop(0.5, 0.8)(generator, 1, 0))
            patches = cut_patches(image, grid, 16, keep)
            places = np.stack(np.divmod(keep, grid[1]), axis=1).astype(np.int32)
            packer.add(Piece(len(keep), PackedImage(number, number, {}, patches, places, grid, False, 0.0)))
        packer.flush()
        done = [[piece.item for piece in row] for row in packer.closed]
        stack_rows(done, length=256, max_images=16, patch_values=768, blanks={}, groups=1, buckets=None)
        speeds.append(400 / (time.thread_time() - started))
    return _row("resize, cut, pack and copy, 500x375 to U(64, 256), length 256", speeds, None, "images/s on one core")
