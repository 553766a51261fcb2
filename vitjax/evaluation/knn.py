"""Classification by the nearest neighbours among frozen features.

Caron et al., 2021, "Emerging Properties in Self-Supervised Vision Transformers" (arXiv:2104.14294):
20 neighbours by cosine, each voting with exp(similarity / 0.07) (Wu et al., 2018, arXiv:1805.01978).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vitjax.arrays import Array
from vitjax.errors import UserError

__all__ = ["ExponentialVotes", "Similarity", "Votes", "cosine", "equal_votes", "knn_scores", "minus_distance"]

Similarity = Callable[[Array, Array], Array]
"""Features `[Q D]` and `[N D]` to similarities `[Q N]`, larger for nearer."""

Votes = Callable[[Array], Array]
"""Similarities of the neighbours to the weights of their votes, element by element."""


def cosine(queries: Float[Array, "Q D"], others: Float[Array, "N D"]) -> Float[Array, "Q N"]:
    """Cosine of the angle between two vectors, -1 to 1; 0 for a vector of zeros."""
    queries, others = (
        features * jax.lax.rsqrt(jnp.maximum(jnp.sum(features**2, axis=-1, keepdims=True), 1e-24))
        for features in (jnp.asarray(queries), jnp.asarray(others))
    )
    return jnp.matmul(queries, others.T, precision="highest")


def minus_distance(queries: Float[Array, "Q D"], others: Float[Array, "N D"]) -> Float[Array, "Q N"]:
    """The Euclidean distance with its sign turned, so that near is large."""
    queries, others = jnp.asarray(queries), jnp.asarray(others)
    squares = jnp.sum(queries**2, axis=-1)[:, None] + jnp.sum(others**2, axis=-1)
    return -jnp.sqrt(jnp.maximum(squares - 2 * jnp.matmul(queries, others.T, precision="highest"), 0.0))


def equal_votes(similarities: Float[Array, "Q K"]) -> Float[Array, "Q K"]:
    """One vote per neighbour: the plain majority."""
    return jnp.ones_like(similarities)


@dataclass(frozen=True)
class ExponentialVotes:
    """exp(similarity / temperature); the nearer, the more.

    Attributes:
        temperature: positive; 0.07 in the papers, for cosines.
    """

    temperature: float = 0.07

    def __post_init__(self):
        if self.temperature <= 0:
            raise UserError(f"ExponentialVotes: `temperature` (={self.temperature}) must be positive")

    def __call__(self, similarities: Float[Array, "Q K"]) -> Float[Array, "Q K"]:
        """Weights relative to the nearest neighbour's, which has 1: the winner is the same and nothing overflows."""
        nearest = jnp.max(similarities, axis=-1, keepdims=True)
        return jnp.exp((similarities - nearest) / self.temperature)


def knn_scores(
    train_features: Float[np.ndarray, "train D"],
    train_labels: Int[np.ndarray, "train"],
    test_features: Float[np.ndarray, "test D"],
    num_classes: int,
    *,
    neighbours: int = 20,
    similarity: Similarity = cosine,
    votes: Votes = ExponentialVotes(),
    block: int = 1024,
) -> Float[np.ndarray, "test classes"]:
    """The share of the votes that each class gets from an image's nearest neighbours.

    Exact, in blocks of `block` by `block` images: memory does not grow with the data. Of equally near neighbours the
    earlier one counts; the largest share, and of equal ones the first class, is the answer (`argmax`).

    Args:
        train_features: of the images that vote.
        train_labels: class numbers.
        test_features: of the images that are classified.
        num_classes: number of classes.
        neighbours: how many vote.
        similarity: `cosine`, `minus_distance` or a function like them.
        votes: `ExponentialVotes(...)`, `equal_votes` or a function like them.
        block: images of either side that are compared at a time.

    Raises:
        UserError: there are fewer training images than neighbours, or a label is no class number.
    """
    if not 1 <= neighbours <= len(train_features) or block < 1:
        raise UserError(
            f"knn_scores: `neighbours` (={neighbours}) must lie in 1 to {len(train_features)}, the number of training "
            f"images, and `block` (={block}) be at least 1"
        )
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        raise UserError(
            f"knn_scores: labels reach from {train_labels.min()} to {train_labels.max()}, expected 0 to "
            f"{num_classes - 1} (`num_classes`={num_classes})"
        )
    scores = []
    for start in range(0, len(test_features), block):
        queries = jnp.asarray(test_features[start : start + block], jnp.float32)
        best = jnp.full((len(queries), neighbours), -jnp.inf)
        nearest = jnp.zeros((len(queries), neighbours), jnp.int32)
        for at in range(0, len(train_features), block):
            others = jnp.asarray(train_features[at : at + block], jnp.float32)
            labels = jnp.asarray(train_labels[at : at + block], jnp.int32)
            best, nearest = _nearer((best, nearest), queries, others, labels, similarity)
        scores.append(np.asarray(_count(best, nearest, votes, num_classes)))
    return np.concatenate(scores) if scores else np.zeros((0, num_classes), np.float32)


@functools.partial(jax.jit, static_argnums=4)
def _nearer(
    so_far: tuple[Array, Array], queries: Array, others: Array, labels: Array, similarity: Similarity
) -> tuple[Array, Array]:
    """Similarities and labels of the nearest neighbours so far, once `others` are among them."""
    best, nearest = so_far
    similarities = jnp.concatenate([best, similarity(queries, others)], axis=1)
    known = jnp.concatenate([nearest, jnp.broadcast_to(labels, (len(queries), len(labels)))], axis=1)
    best, places = jax.lax.top_k(similarities, best.shape[1])  # of equals the first, which is the earlier image
    return best, jnp.take_along_axis(known, places, axis=1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _count(best: Array, nearest: Array, votes: Votes, num_classes: int) -> Array:
    weights = votes(best)
    shares = jnp.einsum("qk,qkc->qc", weights, jax.nn.one_hot(nearest, num_classes), precision="highest")
    return shares / jnp.sum(weights, axis=1, keepdims=True)
