"""Accuracy against cost for one model over budgets of tokens (NaViT, arXiv:2307.06304, section 3.6 and appendix E)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BudgetPoint", "draw_budgets", "format_budgets"]


@dataclass(frozen=True)
class BudgetPoint:
    """One model at one budget, or a cascade of two.

    Attributes:
        tokens: patches of an image at most; of a cascade, those of its second pass.
        mean_tokens: patches that an image had on average; of a cascade, over both passes.
        macs: multiply-adds per image.
        seconds: per image.
        top1: share of right answers.
        calibration_error: expected, 0...1.
        share: of the images that ran twice; `None` for one budget alone.
    """

    tokens: int
    mean_tokens: float
    macs: float
    seconds: float
    top1: float
    calibration_error: float
    share: float | None = None


def format_budgets(curves: Mapping[str, Sequence[BudgetPoint]]) -> str:
    """A table with a line per point."""
    lines = [f"{'':<24}{'tokens':>8}{'M macs':>10}{'ms/image':>10}{'top-1':>8}{'ECE':>8}"]
    for name, points in curves.items():
        for point in points:
            shown = f"{name}, {point.tokens}" if point.share is None else f"{name}, {point.share:.0%} at {point.tokens}"
            numbers = f"{point.mean_tokens:>8.1f}{point.macs / 1e6:>10.2f}{1e3 * point.seconds:>10.3f}"
            lines.append(f"{shown:<24}{numbers}{point.top1:>8.4f}{point.calibration_error:>8.4f}")
    return "\n".join(lines)


def draw_budgets(curves: Mapping[str, Sequence[BudgetPoint]], path: str | Path, *, title: str = "") -> None:
    """Accuracy over tokens, multiply-adds and seconds, and the calibration error over tokens; one line per curve.

    Args:
        curves: points by name, in the order in which they are joined.
        path: of the picture.
        title: over all panels.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    from vitjax.analysis.plots import _figure, _save

    panels = (
        ("tokens per image", "top-1", lambda point: (point.mean_tokens, point.top1)),
        ("multiply-adds per image", "top-1", lambda point: (point.macs, point.top1)),
        ("seconds per image", "top-1", lambda point: (point.seconds, point.top1)),
        ("tokens per image", "expected calibration error", lambda point: (point.mean_tokens, point.calibration_error)),
    )
    figure = _figure(3.3 * len(panels), 3.2)
    for axes, (x, y, place) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, points in curves.items():
            places = [place(point) for point in points]
            axes.plot(*zip(*places, strict=True), "o-", markersize=4, label=name)
        axes.set(xscale="log", xlabel=x, ylabel=y)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    _save(figure, path)
