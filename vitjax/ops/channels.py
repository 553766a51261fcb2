"""Numbers of channels that hardware likes."""

__all__ = ["make_divisible"]


def make_divisible(value: float | int, divisor: int = 8, minimum: int | None = None) -> int:
    """The multiple of `divisor` nearest to `value` that is not more than 10 % below it (MobileNetV2's code).

    Args:
        value: wished for, positive.
        divisor: what the result is a multiple of, unless `minimum` is the result.
        minimum: the least result, `divisor` if not given.
    """
    least = divisor if minimum is None else minimum
    rounded = max(least, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
