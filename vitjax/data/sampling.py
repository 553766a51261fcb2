"""Every random choice of the data path: order of examples, size of an image, which of its tokens are dropped.

A choice is a function of (seed, epoch, index) and of nothing else, so an example can be made again at any time, in any
process. Sizes and token drop are those of NaViT (Dehghani et al., 2023, arXiv:2307.06304), sections 2.2 and 2.3.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from vitjax.errors import UserError

__all__ = [
    "BetaDrop",
    "ConstantDrop",
    "FixedOrder",
    "FixedSide",
    "NativeSize",
    "NoDrop",
    "Resolution",
    "ResolutionDrop",
    "ScheduledDrop",
    "SequenceBudget",
    "ShuffledOrder",
    "TokenBudget",
    "TokenDrop",
    "TruncatedNormalArea",
    "TruncatedNormalSide",
    "UniformArea",
    "UniformSide",
    "example_generator",
    "grid_size",
    "keep_tokens",
    "within",
]


def example_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of all that is random about one example in one epoch."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, index))))


Number = float | int
"""Sides in pixels and rates may be written as whole numbers."""

# ---------------------------------------------------------------------------------------------------- order


@functools.lru_cache(maxsize=64)
def _epoch_seed(seed: int, epoch: int) -> int:
    """32 bits per epoch; the third number keeps them apart from `example_generator`'s."""
    return int(np.random.SeedSequence((seed, epoch, 0, 1)).generate_state(1)[0])


@functools.lru_cache(maxsize=1)
def _index_shuffle() -> Callable[..., int]:
    from grain.experimental import index_shuffle

    return index_shuffle


@dataclass(frozen=True)
class ShuffledOrder:
    """Endless stream over `size` examples: each epoch is a new permutation, and any position is found at once.

    Calling it turns a position of the stream into (epoch, index).
    """

    seed: int
    size: int

    def __call__(self, position: int) -> tuple[int, int]:
        """(epoch, index) at a position of the stream."""
        epoch, place = divmod(position, self.size)
        if self.size == 1:
            return epoch, 0
        shuffle = _index_shuffle()
        return epoch, shuffle(place, max_index=self.size - 1, seed=_epoch_seed(self.seed, epoch), rounds=4)


@dataclass(frozen=True)
class FixedOrder:
    """The examples in the source's own order, as in evaluation: position `i` is (epoch 0, index `i`)."""

    seed: int = 0

    def __call__(self, position: int) -> tuple[int, int]:
        """(epoch, index) at a position of the stream."""
        return 0, position


# ---------------------------------------------------------------------------------------------------- sizes


@runtime_checkable
class Resolution(Protocol):
    """Chooses the size of an image. The aspect ratio is kept, so one number says it.

    `largest` is the largest side it can choose in pixels, or `None` if that depends on the images. `token_limit` caps
    the tokens of an image beside the length of the row, or is `None`. A resolution that rounds sides to patches by a
    rule of its own has a method `grid(native_size, patch_size, layers)` besides, which goes before `grid_size`; there
    are `layers` patches of one place, 1 but for clips.
    """

    @property
    def largest(self) -> Number | None: ...  # noqa: D102

    @property
    def token_limit(self) -> int | None: ...  # noqa: D102

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The effective side R in pixels of an image of (height, width) `native_size`: its area will be R × R.

        Infinity asks for as large as fits.
        """
        ...


def _check_range(name: str, low: Number, high: Number) -> None:
    if not 0 < low <= high:
        raise UserError(f"{name}: `low` (={low}) and `high` (={high}) are sides in pixels with 0 < low <= high")


def _check_normal(name: str, mean: Number, std: Number) -> None:
    if not -1 <= mean <= 1 or not std > 0:
        raise UserError(f"{name}: expected `mean` (={mean}) in [-1, 1] and `std` (={std}) above 0")


def _truncated_normal(generator: np.random.Generator, mean: Number, std: Number, low: Number, high: Number) -> Number:
    """Normal(mean, std), drawn again until it lies in [low, high]."""
    while True:
        value = float(generator.normal(mean, std))
        if low <= value <= high:
            return value


def _between(low: Number, high: Number, share: Number) -> Number:
    """`share` of [0, 1] rescaled to [low, high], never outside it by a rounding error."""
    return min(max(low + share * (high - low), low), high)


@dataclass(frozen=True)
class UniformSide:
    """R ~ U(low, high), pixels: NaViT's main runs use U(64, 256)."""

    low: Number
    high: Number

    def __post_init__(self) -> None:
        _check_range("UniformSide", self.low, self.high)

    largest = property(lambda self: self.high)
    token_limit = property(lambda self: None)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The side of one image, pixels; see `Resolution`."""
        return _between(self.low, self.high, generator.random())


@dataclass(frozen=True)
class UniformArea:
    """R² ~ U(low², high²); `low` and `high` are sides in pixels."""

    low: Number
    high: Number

    def __post_init__(self) -> None:
        _check_range("UniformArea", self.low, self.high)

    largest = property(lambda self: self.high)
    token_limit = property(lambda self: None)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The side of one image, pixels; see `Resolution`."""
        return math.sqrt(_between(self.low**2, self.high**2, generator.random()))


@dataclass(frozen=True)
class TruncatedNormalSide:
    """N(mean, std) truncated to [-1, 1] and rescaled linearly to sides in [low, high] pixels.

    The paper's best setting is mean -0.5 on [64, 384] (section 3.3 and appendix A): many small images, few large ones.
    """

    low: Number
    high: Number
    mean: Number = -0.5
    std: Number = 1.0

    def __post_init__(self) -> None:
        _check_range("TruncatedNormalSide", self.low, self.high)
        _check_normal("TruncatedNormalSide", self.mean, self.std)

    largest = property(lambda self: self.high)
    token_limit = property(lambda self: None)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The side of one image, pixels; see `Resolution`."""
        return _between(self.low, self.high, (_truncated_normal(generator, self.mean, self.std, -1, 1) + 1) / 2)


@dataclass(frozen=True)
class TruncatedNormalArea:
    """As `TruncatedNormalSide`, but rescaled to areas in [low², high²]."""

    low: Number
    high: Number
    mean: Number = -0.5
    std: Number = 1.0

    def __post_init__(self) -> None:
        _check_range("TruncatedNormalArea", self.low, self.high)
        _check_normal("TruncatedNormalArea", self.mean, self.std)

    largest = property(lambda self: self.high)
    token_limit = property(lambda self: None)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The side of one image, pixels; see `Resolution`."""
        share = (_truncated_normal(generator, self.mean, self.std, -1, 1) + 1) / 2
        return math.sqrt(_between(self.low**2, self.high**2, share))


@dataclass(frozen=True)
class FixedSide:
    """Every image gets the area of a square of `side` pixels, as in evaluation."""

    side: Number

    def __post_init__(self) -> None:
        _check_range("FixedSide", self.side, self.side)

    largest = property(lambda self: self.side)
    token_limit = property(lambda self: None)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The side of one image, pixels; see `Resolution`."""
        return self.side


@dataclass(frozen=True)
class NativeSize:
    """The image's own area, or that of a square of `maximum` pixels a side where that is smaller."""

    maximum: Number | None = None

    def __post_init__(self) -> None:
        if self.maximum is not None:
            _check_range("NativeSize", self.maximum, self.maximum)

    largest = property(lambda self: self.maximum)
    token_limit = property(lambda self: None)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The side of one image, pixels; see `Resolution`."""
        side = math.sqrt(native_size[0] * native_size[1])
        return side if self.maximum is None else min(side, self.maximum)


@dataclass(frozen=True)
class TokenBudget:
    """The largest grid of at most `tokens` patches, small images enlarged: NaViT's choice at inference."""

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UserError(f"TokenBudget: `tokens` (={self.tokens}) is at least 1")

    largest = property(lambda self: None)
    token_limit = property(lambda self: self.tokens)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """The side of one image, pixels; see `Resolution`."""
        return math.inf


@dataclass(frozen=True)
class SequenceBudget:
    """The largest grid of at most `tokens` patches as NaFlex rounds it: SigLIP 2's, in its three implementations.

    A scale of both sides is searched by halving [1e-6, 100] down to 1e-5; sides are rounded up to whole patches, so
    the aspect ratio is off by less than one patch (big_vision's `resize_to_sequence`).
    """

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UserError(f"SequenceBudget: `tokens` (={self.tokens}) is at least 1")

    largest = property(lambda self: None)
    token_limit = property(lambda self: self.tokens)

    def __call__(self, generator: np.random.Generator, native_size: tuple[int, int]) -> Number:
        """As large as fits; see `Resolution`."""
        return math.inf

    def grid(self, native_size: tuple[int, int], patch_size: int, layers: int = 1) -> tuple[int, int]:
        """(rows, columns) of patches for an image of (height, width) pixels, or a clip of so many layers of patches."""

        def sides(scale: float) -> tuple[int, int]:
            rows, columns = (max(1, math.ceil(side * scale / patch_size)) for side in native_size)
            return rows, columns

        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            scale = (low + high) / 2
            low, high = (scale, high) if layers * math.prod(sides(scale)) <= self.tokens else (low, scale)
        return sides(low)


def grid_size(native_size: tuple[int, int], side: Number, patch_size: int, max_tokens: int) -> tuple[int, int]:
    """The patch grid that an image is resized to.

    Args:
        native_size: (height, width) of the image, pixels.
        side: effective side in pixels; the grid covers about side × side pixels in the image's aspect ratio.
        patch_size: pixels a side.
        max_tokens: what a row holds. A grid that would be larger becomes the largest one that fits.

    Returns:
        (rows, columns), each at least 1, with rows × columns <= max_tokens.
    """
    height, width = native_size
    if math.isfinite(side):
        aspect = math.sqrt(height / width)
        rows = max(1, round(side * aspect / patch_size))
        columns = max(1, round(side / aspect / patch_size))
        if rows * columns <= max_tokens:
            return rows, columns
    return _largest_grid(height, width, max_tokens)


def within(grid: tuple[int, int], max_grid: tuple[int, int]) -> tuple[int, int]:
    """The grid itself, or one of about its aspect ratio that has no more rows and columns than `max_grid`.

    Example:
        >>> within((4, 40), (32, 32))
        (3, 32)
    """
    factor = min(1.0, max_grid[0] / grid[0], max_grid[1] / grid[1])
    rows, columns = (
        max(1, min(limit, math.floor(size * factor + 1e-9))) for size, limit in zip(grid, max_grid, strict=True)
    )
    return rows, columns


def _largest_grid(height: int, width: int, max_tokens: int) -> tuple[int, int]:
    """The grid nearest to the aspect ratio among the largest of those around the ideal, real-valued one."""
    rows = min(max(math.sqrt(max_tokens * height / width), 1.0), max_tokens)
    columns = min(max(math.sqrt(max_tokens * width / height), 1.0), max_tokens)
    candidates = [
        (r, c)
        for r in {math.floor(rows), math.ceil(rows)}
        for c in {math.floor(columns), math.ceil(columns)}
        if r * c <= max_tokens
    ]
    return max(candidates, key=lambda grid: (grid[0] * grid[1], -abs(math.log(grid[0] * width / (grid[1] * height)))))


# ---------------------------------------------------------------------------------------------------- token drop


@runtime_checkable
class TokenDrop(Protocol):
    """The share of an image's tokens to drop."""

    def __call__(self, generator: np.random.Generator, tokens: int, position: int) -> Number:
        """The rate in [0, 1) for an image of `tokens` tokens at `position` of the stream (images seen before it)."""
        ...


def _check_rates(name: str, **rates: Number) -> None:
    for setting, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{name}: `{setting}` (={rate}) is a share of tokens in [0, 1)")


@dataclass(frozen=True)
class NoDrop:
    """Keeps every token, as in evaluation."""

    def __call__(self, generator: np.random.Generator, tokens: int, position: int) -> Number:
        """The rate for one image; see `TokenDrop`."""
        return 0.0


@dataclass(frozen=True)
class ConstantDrop:
    """The same rate for every image."""

    rate: Number

    def __post_init__(self) -> None:
        _check_rates("ConstantDrop", rate=self.rate)

    def __call__(self, generator: np.random.Generator, tokens: int, position: int) -> Number:
        """The rate for one image; see `TokenDrop`."""
        return self.rate


@dataclass(frozen=True)
class BetaDrop:
    """Rate = maximum · Beta(α, β), mean `mean` (appendix B.4).

    Its variance is 0.3 of the largest that its mean allows, 0.3·u(1 - u) with u = mean / maximum, so that
    α + β = 1/0.3 - 1 = 7/3.
    """

    mean: Number
    maximum: Number

    def __post_init__(self) -> None:
        _check_rates("BetaDrop", mean=self.mean, maximum=self.maximum)
        if not 0 < self.mean < self.maximum:
            raise UserError(f"BetaDrop: expected 0 < `mean` (={self.mean}) < `maximum` (={self.maximum})")

    def __call__(self, generator: np.random.Generator, tokens: int, position: int) -> Number:
        """The rate for one image; see `TokenDrop`."""
        share = self.mean / self.maximum
        return self.maximum * float(generator.beta(share * 7 / 3, (1 - share) * 7 / 3))


@dataclass(frozen=True)
class ResolutionDrop:
    """Drops more of larger images: Normal(μ, 0.02) within two standard deviations (appendix B.4).

    μ rises linearly from `low_rate` at `shortest` tokens to `high_rate` at `longest` tokens and is constant beyond.
    """

    low_rate: Number
    high_rate: Number
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        _check_rates("ResolutionDrop", low_rate=self.low_rate, high_rate=self.high_rate)
        if not 0 < self.shortest < self.longest:
            raise UserError(
                f"ResolutionDrop: expected 0 < `shortest` (={self.shortest}) < `longest` (={self.longest}), in tokens"
            )

    def __call__(self, generator: np.random.Generator, tokens: int, position: int) -> Number:
        """The rate for one image; see `TokenDrop`."""
        share = min(max((tokens - self.shortest) / (self.longest - self.shortest), 0.0), 1.0)
        mean = self.low_rate + share * (self.high_rate - self.low_rate)
        rate = _truncated_normal(generator, mean, 0.02, mean - 0.04, mean + 0.04)
        return min(max(rate, 0.0), math.nextafter(1.0, 0.0))


@dataclass(frozen=True)
class ScheduledDrop:
    """ρ(n) = low + (high - low)·σ((n - midpoint) / temperature) after n images (appendix B.4).

    `midpoint` and `temperature` count images; a negative temperature lets the rate fall, which the paper found best.
    """

    midpoint: Number
    temperature: Number
    low: Number = 0.2
    high: Number = 0.8

    def __post_init__(self) -> None:
        _check_rates("ScheduledDrop", low=self.low, high=self.high)
        if self.temperature == 0:
            raise UserError("ScheduledDrop: `temperature` (=0) is a number of images, below 0 for a falling rate")

    def __call__(self, generator: np.random.Generator, tokens: int, position: int) -> Number:
        """The rate for one image; see `TokenDrop`."""
        # tanh form of the sigmoid: no overflow far from the midpoint
        sigmoid = 0.5 * (1 + math.tanh(0.5 * (position - self.midpoint) / self.temperature))
        return self.low + (self.high - self.low) * sigmoid


def keep_tokens(generator: np.random.Generator, tokens: int, rate: Number) -> Int[np.ndarray, "_"]:
    """Which tokens stay when a share `rate` of them is dropped at random: at least one, in raster order."""
    kept = min(max(1, round(tokens * (1 - rate))), tokens)
    if kept == tokens:
        return np.arange(tokens)
    return np.sort(generator.permutation(tokens)[:kept])
