"""Calibration: whether a model that is 80 % sure is right in 80 % of the cases.

Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599: reliability diagrams
(section 2), expected calibration error (equation 3), temperature scaling (section 4.2). Bins of equal mass: Nguyen and
O'Connor, 2015, arXiv:1508.05154, section 3.
"""

import logging
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.errors import UserError

__all__ = [
    "Binning",
    "Bins",
    "calibration_error",
    "draw_reliability",
    "equal_mass",
    "equal_width",
    "fill_bins",
    "fit_temperature",
    "format_bins",
    "top_confidences",
]

_logger = logging.getLogger("vitjax")

Binning = Callable[[Float[np.ndarray, "images"], int], Float[np.ndarray, "edges"]]
"""Confidences and a number of bins to the bins' edges, rising from 0 to 1."""


class Bins(NamedTuple):
    """What falls between two edges; a bin holds its upper edge but not its lower one.

    Attributes:
        edges: rising from 0 to 1, one more than there are bins.
        counts: images in each bin.
        confidence: mean confidence; 0 where there is no image.
        accuracy: share of right answers; 0 where there is no image.
    """

    edges: Float[np.ndarray, "edges"]
    counts: Int[np.ndarray, "bins"]
    confidence: Float[np.ndarray, "bins"]
    accuracy: Float[np.ndarray, "bins"]


def top_confidences(
    probabilities: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, "images"]
) -> tuple[Float[np.ndarray, "images"], Bool[np.ndarray, "images"]]:
    """The probability of each image's answer, and whether it is right.

    Args:
        probabilities: 0...1. They need not sum to 1: those of a sigmoid loss do not.
        labels: class numbers.

    Raises:
        UserError: there is no image, or a value outside 0...1, such as a logit.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if not len(probabilities) or not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise UserError(
            "calibration: expected probabilities in 0...1 of at least one image; "
            "logits go through a softmax or sigmoid first"
        )
    confidences = np.minimum(probabilities.max(axis=1), 1.0)
    return confidences, probabilities.argmax(axis=1) == labels


def equal_width(confidences: Float[np.ndarray, "images"], num_bins: int) -> Float[np.ndarray, "edges"]:
    """Edges at equal distances, whatever the confidences are."""
    del confidences
    return np.linspace(0.0, 1.0, num_bins + 1)


def equal_mass(confidences: Float[np.ndarray, "images"], num_bins: int) -> Float[np.ndarray, "edges"]:
    """Edges such that all bins hold about as many images.

    Equal confidences stay together, so that the order of the images means nothing; many of them make fewer bins.
    """
    rising = np.sort(confidences)
    last = [len(rising) * number // num_bins - 1 for number in range(1, num_bins)]
    inner = np.array([rising[place] for place in last if place >= 0], np.float64)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def fill_bins(
    confidences: Float[np.ndarray, "images"],
    correct: Bool[np.ndarray, "images"],
    *,
    num_bins: int = 15,
    binning: Binning = equal_width,
) -> Bins:
    """Sorts the images into bins by confidence.

    Args:
        confidences: 0...1.
        correct: whether the answer is right.
        num_bins: 15 in the paper; NaViT (arXiv:2307.06304) quotes its calibration at 30.
        binning: `equal_width`, `equal_mass` or a function like them.

    Raises:
        UserError: there is no image, or fewer than one bin.
    """
    if not len(confidences) or num_bins < 1:
        raise UserError(
            f"fill_bins: {len(confidences)} images and `num_bins` (={num_bins}), expected at least one of each"
        )
    edges = binning(confidences, num_bins)
    # (lower, upper], the first with its lower edge
    places = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, len(edges) - 2)
    counts = np.bincount(places, minlength=len(edges) - 1)
    divisor = np.maximum(counts, 1)
    confidence, accuracy = (
        np.bincount(places, weights=np.asarray(values, np.float64), minlength=len(counts)) / divisor
        for values in (confidences, correct)
    )
    return Bins(edges, counts, confidence, accuracy)


def calibration_error(bins: Bins) -> float:
    """Expected calibration error: the mean of |accuracy - confidence| over the bins, by number of images; 0...1."""
    return float(np.sum(bins.counts * np.abs(bins.accuracy - bins.confidence)) / np.sum(bins.counts))


def format_bins(bins: Bins) -> str:
    """A table with a line per bin, and the error below it."""
    lines = [f"{'confidence':>15}  {'images':>8}  {'mean':>6}  {'right':>6}"]
    rows = zip(bins.edges[:-1], bins.edges[1:], *bins[1:], strict=True)
    for low, high, count, confidence, accuracy in rows:
        means = f"{confidence:6.3f}  {accuracy:6.3f}" if count else f"{'-':>6}  {'-':>6}"
        lines.append(f"{low:.3f} ... {high:.3f}  {count:8d}  {means}")
    return "\n".join([*lines, f"expected calibration error {calibration_error(bins):.4f}"])


def draw_reliability(bins: Bins, path: str | os.PathLike) -> None:
    """A reliability diagram: bars of accuracy, points at (mean confidence, accuracy), the diagonal for perfection.

    Args:
        bins: from `fill_bins`.
        path: of the picture; its ending says the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    used = bins.counts > 0
    widths = np.diff(bins.edges)
    axes.bar(bins.edges[:-1][used], bins.accuracy[used], widths[used], align="edge", edgecolor="white", alpha=0.6)
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="perfect")
    sizes = 10 + 90 * bins.counts[used] / bins.counts.max()
    axes.scatter(bins.confidence[used], bins.accuracy[used], s=sizes, color="C3", zorder=3, label="bins, by images")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right")
    axes.set_title(f"{bins.counts.sum()} images, expected calibration error {calibration_error(bins):.3f}", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def fit_temperature(
    logits: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, "images"], *, limit: float = 1000.0
) -> float:
    """The temperature T for which softmax(logits / T) gives held-out labels the smallest cross-entropy.

    The cross-entropy is convex in 1/T, and its slope there, the mean of (expected logit - right logit), is bisected.
    The answers of the model stay the same; take the images from neither the training nor the test data.

    Args:
        logits: unnormalised log probabilities.
        labels: class numbers.
        limit: T lies in 1/limit ... limit; ending at either is logged, and means that the labels are all right or no
            better than chance.

    Raises:
        UserError: there is no image, or a logit is not finite.
    """
    logits = np.asarray(logits, np.float64)
    if not len(logits) or not np.isfinite(logits).all():
        raise UserError("fit_temperature: expected finite logits of at least one image")
    logits = logits - logits.max(axis=1, keepdims=True)
    right = logits[np.arange(len(labels)), labels].mean()

    def slope(log_inverse: float) -> float:
        weights = np.exp(np.exp(log_inverse) * logits)
        return float(np.mean((weights * logits).sum(1) / weights.sum(1)) - right)

    low, high = -np.log(limit), np.log(limit)
    if slope(low) >= 0 or slope(high) <= 0:
        _logger.warning("fit_temperature: no minimum between 1/%g and %g", limit, limit)
        return limit if slope(low) >= 0 else 1 / limit
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))
