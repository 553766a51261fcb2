"""Few-shot linear evaluation: ridge regression on frozen features, in closed form.

The protocol of ViT (Dosovitskiy et al., 2021, arXiv:2010.11929, section 4 "Metrics") as google-research/big_vision runs
it (`evaluators/fewshot_lsr.py`): features standardised by the few images' own mean and deviation, a large constant
feature in place of a bias, targets of -1 and 1.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vitjax.errors import UserError

__all__ = ["RidgeProbe", "draw_shots", "few_shot", "fit_ridge", "ridge_scores"]

_logger = logging.getLogger("vitjax")

_CONSTANT = 100.0  # so large that the ridge hardly touches its weight
_TINY_DEVIATION = 1e-5


class RidgeProbe(NamedTuple):
    """A linear classifier.

    Attributes:
        mean: of the features it was fitted to.
        deviation: of the same, plus 1e-5.
        weights: per standardised feature; the last row belongs to the constant feature.
    """

    mean: Float[np.ndarray, "D"]
    deviation: Float[np.ndarray, "D"]
    weights: Float[np.ndarray, "D+1 classes"]


def draw_shots(labels: Int[np.ndarray, "images"], num_classes: int, shots: int, seed: int) -> Int[np.ndarray, "few"]:
    """Numbers of `shots` random images of each class, class by class.

    One `default_rng(seed)` permutes the images of one class after the other, so more shots contain the fewer ones of
    the same seed. A class with too few images gives all it has, which is logged.

    Raises:
        UserError: a label is no class number, or there is no image.
    """
    _check_labels(labels, num_classes)
    generator = np.random.default_rng(seed)
    order = [generator.permutation(np.flatnonzero(labels == number)) for number in range(num_classes)]
    short = [number for number, images in enumerate(order) if len(images) < shots]
    if short:
        _logger.warning(
            "few-shot: %d of %d classes have fewer than %d images, first class %d with %d; all of them are taken",
            len(short), num_classes, shots, short[0], len(order[short[0]]),
        )  # fmt: skip
    return np.concatenate([images[:shots] for images in order])


def fit_ridge(
    features: Float[np.ndarray, "images D"],
    labels: Int[np.ndarray, "images"],
    num_classes: int,
    *,
    regularisation: float | int = 2.0**10,
) -> RidgeProbe:
    """Least squares from features to 2·onehot - 1 with a ridge, exact, in float64.

    With X the standardised features and the constant, Y the targets and λ the ridge, the weights are
    (XᵀX + λ)⁻¹XᵀY, or the same number written Xᵀ(XXᵀ + λ)⁻¹Y where there are fewer images than features. Either way one
    symmetric matrix of the smaller side is decomposed.

    Args:
        features: of the images to learn from, float.
        labels: class numbers.
        num_classes: number of classes; those without an image are learnt as -1 everywhere.
        regularisation: λ, positive.

    Raises:
        UserError: a label is no class number, there is no image, or λ is not positive.
    """
    _check_labels(labels, num_classes)
    if regularisation <= 0:
        raise UserError(f"fit_ridge: `regularisation` (={regularisation}) must be positive")
    features = np.asarray(features, np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + _TINY_DEVIATION
    inputs = _standardise(features, mean, deviation)
    targets = 2.0 * np.eye(num_classes)[labels] - 1.0
    images, width = inputs.shape
    if images >= width:
        values, vectors = np.linalg.eigh(inputs.T @ inputs)
        left, right = vectors, vectors.T @ (inputs.T @ targets)
    else:
        values, vectors = np.linalg.eigh(inputs @ inputs.T)
        left, right = inputs.T @ vectors, vectors.T @ targets
    return RidgeProbe(mean, deviation, (left / (values + regularisation)) @ right)


def ridge_scores(probe: RidgeProbe, features: Float[np.ndarray, "images D"]) -> Float[np.ndarray, "images classes"]:
    """About 1 for the right class and -1 for the others; the largest is the answer."""
    return _standardise(np.asarray(features, np.float64), probe.mean, probe.deviation) @ probe.weights


def few_shot(
    train_features: Float[np.ndarray, "train D"],
    train_labels: Int[np.ndarray, "train"],
    test_features: Float[np.ndarray, "test D"],
    test_labels: Int[np.ndarray, "test"],
    num_classes: int,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    seeds: Sequence[int] = (0, 1, 2),
    regularisation: float | int = 2.0**10,
) -> dict[int, tuple[float, ...]]:
    """Top-1 on the test images after learning from a few training images of each class.

    Args:
        train_features: of the images that the few are drawn from.
        train_labels: class numbers.
        test_features: of the images that are classified.
        test_labels: class numbers.
        num_classes: number of classes.
        shots: images per class; 5 is what ViT's figure 4 shows, 1, 5, 10 and 25 what big_vision reports.
        seeds: draws of the few images.
        regularisation: big_vision's, whatever the number of shots.

    Returns:
        Number of shots -> top-1 of each seed, in 0...1.
    """
    if any(number < 1 for number in shots) or not shots or not seeds:
        raise UserError(f"few_shot: `shots` (={tuple(shots)}) must be 1 or more, `seeds` (={tuple(seeds)}) not empty")
    _check_labels(test_labels, num_classes)
    found = {}
    for number in shots:
        hits = []
        for seed in seeds:
            few = draw_shots(train_labels, num_classes, number, seed)
            probe = fit_ridge(train_features[few], train_labels[few], num_classes, regularisation=regularisation)
            answers = ridge_scores(probe, test_features).argmax(axis=1)
            hits.append(float(np.mean(answers == test_labels)))
        found[number] = tuple(hits)
    return found


def _standardise(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.pad((features - mean) / deviation, ((0, 0), (0, 1)), constant_values=_CONSTANT)


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    if not len(labels):
        raise UserError("few-shot: no images were given")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"few-shot: labels reach from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1} "
            f"(`num_classes`={num_classes})"
        )
