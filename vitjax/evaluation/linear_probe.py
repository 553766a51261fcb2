"""Linear probe: logistic regression on frozen features.

As in CLIP (Radford et al., 2021, arXiv:2103.00020, appendix A.3): scikit-learn's L-BFGS, the strength of the L2 term
swept on a held-out part of the training images, then fitted once more to all of them.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vitjax.errors import UserError

__all__ = ["LinearProbe", "fit_linear_probe", "fit_logistic", "hold_out", "probe_scores"]

_logger = logging.getLogger("vitjax")


class LinearProbe(NamedTuple):
    """A linear classifier.

    Attributes:
        mean: of the features it was fitted to.
        deviation: of the same; 1 where a feature never changes.
        weights: per standardised feature.
        bias: per class; -inf for a class that had no training image.
        strength: of the L2 term, see `fit_logistic`.
        sweep: strength -> top-1 on the held-out part; empty where there was no choice.
    """

    mean: Float[np.ndarray, "D"]
    deviation: Float[np.ndarray, "D"]
    weights: Float[np.ndarray, "D classes"]
    bias: Float[np.ndarray, "classes"]
    strength: float
    sweep: dict[float, float]


def fit_linear_probe(
    features: Float[np.ndarray, "images D"],
    labels: Int[np.ndarray, "images"],
    num_classes: int,
    *,
    strengths: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    held_out_share: float = 0.2,
    seed: int = 0,
    max_iterations: int = 1000,
) -> LinearProbe:
    """Fits with the strength that does best on a held-out part; of equally good ones the strongest.

    Args:
        features: of the training images; the test images have no part in any of this.
        labels: class numbers.
        num_classes: number of classes.
        strengths: those tried; a single one is taken as it is, with nothing held out.
        held_out_share: of each class, in (0, 1).
        seed: of the choice of the held-out images.
        max_iterations: of L-BFGS; a fit that needs more is logged.

    Raises:
        UserError: a setting is out of range, fewer than two classes have images, or no class has enough images to hold
            one out.
    """
    if not strengths or min(strengths) <= 0:
        raise UserError(f"fit_linear_probe: `strengths` (={tuple(strengths)}) must be positive, at least one")
    settings = {"num_classes": num_classes, "max_iterations": max_iterations}
    if len(strengths) == 1:
        return fit_logistic(features, labels, strength=strengths[0], **settings)
    held_out = hold_out(labels, held_out_share, seed)
    sweep: dict[float, float] = {}
    for strength in sorted(strengths, reverse=True):
        probe = fit_logistic(features[~held_out], labels[~held_out], strength=strength, **settings)
        sweep[float(strength)] = float(np.mean(probe_scores(probe, features[held_out]).argmax(1) == labels[held_out]))
    best = max(sweep, key=lambda strength: sweep[strength])  # of equals the first, which is the strongest
    if best in (min(sweep), max(sweep)):
        _logger.warning("linear probe: strength %g did best, the last of those tried; try further ones", best)
    return fit_logistic(features, labels, strength=best, **settings)._replace(sweep=sweep)


def fit_logistic(
    features: Float[np.ndarray, "images D"],
    labels: Int[np.ndarray, "images"],
    num_classes: int,
    *,
    strength: float,
    max_iterations: int = 1000,
) -> LinearProbe:
    """Minimises `mean cross-entropy + strength / 2 · |weights|²` over standardised features; biases are free.

    Args:
        features: of the training images.
        labels: class numbers.
        num_classes: number of classes; one without images is never the answer.
        strength: of the L2 term. It is relative to the mean, so it means the same for any number of images;
            scikit-learn's `C` is `1 / (strength · images)`.
        max_iterations: of L-BFGS.

    Raises:
        UserError: a label is no class number, or fewer than two classes have images.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    known = np.unique(labels)
    if len(known) < 2 or known[0] < 0 or known[-1] >= num_classes:
        raise UserError(
            f"fit_logistic: the labels are {len(known)} different numbers, {known[:3]}...; expected at least two of "
            f"0 to {num_classes - 1}"
        )
    features = np.asarray(features, np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 1e-8, deviation, 1.0)
    model = LogisticRegression(C=1 / (strength * len(labels)), max_iter=max_iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit((features - mean) / deviation, labels)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        _logger.warning("linear probe: no convergence in %d iterations at strength %g", max_iterations, strength)
    weights, bias = model.coef_.T, model.intercept_
    if len(known) == 2:  # scikit-learn keeps the difference of the two logits
        weights, bias = np.pad(weights, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    all_weights, all_bias = np.zeros((features.shape[1], num_classes)), np.full(num_classes, -np.inf)
    all_weights[:, known], all_bias[known] = weights, bias
    return LinearProbe(mean, deviation, all_weights, all_bias, float(strength), {})


def probe_scores(probe: LinearProbe, features: Float[np.ndarray, "images D"]) -> Float[np.ndarray, "images classes"]:
    """Logits: their softmax are the probabilities, the largest is the answer."""
    return (np.asarray(features, np.float64) - probe.mean) / probe.deviation @ probe.weights + probe.bias


def hold_out(labels: Int[np.ndarray, "images"], share: float, seed: int) -> np.ndarray:
    """Bool `[images]`, True = held out: `share` of each class rounded down, at random.

    Raises:
        UserError: the share is not in (0, 1), or so small that no class gives an image.
    """
    if not 0 < share < 1:
        raise UserError(f"hold_out: `share` (={share}) must lie in (0, 1)")
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for number in np.unique(labels):
        images = generator.permutation(np.flatnonzero(labels == number))
        chosen[images[: int(share * len(images))]] = True
    if not chosen.any():
        raise UserError(
            f"hold_out: no class has the {int(np.ceil(1 / share))} images it takes to hold out a share of {share}; "
            "give a larger share, or a single strength"
        )
    return chosen
