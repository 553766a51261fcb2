"""Losses of a detector's classes: few anchors hold an object, most show background. One value per anchor, float32."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.errors import UserError

__all__ = ["AnchorLoss", "FocalLoss", "HardNegativeCrossEntropy", "hardest_negatives"]


@runtime_checkable
class AnchorLoss(Protocol):
    """What compares the logits of anchors with their classes, and turns the same logits into probabilities."""

    def __call__(self, logits: Float[Array, "B N classes"], targets: Int[Array, "B N"]) -> Float[Array, "B N"]:
        """One loss per anchor; class 0 is the background."""
        ...

    def probabilities(self, logits: Float[Array, "*B classes"]) -> Float[Array, "*B objects"]:
        """The probability of each class but the background, as the loss trains the logits to mean it."""
        ...


@dataclass(frozen=True)
class HardNegativeCrossEntropy:
    """Cross-entropy of the anchors with an object, and of the worst of the others: 0 for the rest.

    SSD (Liu et al., 2016, arXiv:1512.02325, section 2.2, "Hard negative mining").

    Attributes:
        ratio: background anchors per anchor with an object, counted in each image; without objects there are none.
    """

    ratio: float | int = 3

    def __post_init__(self):
        if self.ratio <= 0:
            raise UserError(f"HardNegativeCrossEntropy: `ratio` (={self.ratio}) must be positive")

    def __call__(self, logits: Float[Array, "B N classes"], targets: Int[Array, "B N"]) -> Float[Array, "B N"]:
        """One loss per anchor."""
        losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits, jnp.float32), targets)
        positive = targets > 0
        counts = jnp.floor(self.ratio * positive.sum(axis=-1)).astype(jnp.int32)
        negative = hardest_negatives(jax.lax.stop_gradient(losses), positive, counts)
        return jnp.where(positive | negative, losses, 0.0)

    def probabilities(self, logits: Float[Array, "*B classes"]) -> Float[Array, "*B objects"]:
        """Shares that sum to 1 with the background's, which is left out."""
        return jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)[..., 1:]


def hardest_negatives(
    losses: Float[Array, "B N"], positive: Bool[Array, "B N"], counts: Int[Array, "B"]
) -> Bool[Array, "B N"]:
    """The anchors without object that have the largest losses, `counts` in each image or all there are."""
    order = jnp.argsort(jnp.where(positive, -jnp.inf, losses), axis=-1, descending=True)
    rank = jnp.argsort(order, axis=-1)
    return (rank < counts[:, None]) & ~positive


@dataclass(frozen=True)
class FocalLoss:
    """Binary cross-entropy of each class at each anchor, less of it where the answer is good already.

    Focal Loss for Dense Object Detection. Lin et al., 2017. https://arxiv.org/abs/1708.02002, equation 5: with p the
    probability given to the truth, `-α_t (1 - p)^γ log p`, summed over the classes. The background's logit plays no
    part.

    Attributes:
        alpha: weight of the classes that hold; `1 - alpha` of those that do not.
        gamma: 0 is cross-entropy.
    """

    alpha: float = 0.25
    gamma: float | int = 2

    def __post_init__(self):
        if not 0 < self.alpha < 1 or self.gamma < 0:
            raise UserError(
                f"FocalLoss: `alpha` (={self.alpha}) must lie in (0, 1) and `gamma` (={self.gamma}) be 0 or more"
            )

    def __call__(self, logits: Float[Array, "B N classes"], targets: Int[Array, "B N"]) -> Float[Array, "B N"]:
        """One loss per anchor."""
        holds = jax.nn.one_hot(targets - 1, logits.shape[-1] - 1)  # all zeros for the background
        losses = optax.sigmoid_focal_loss(
            jnp.asarray(logits, jnp.float32)[..., 1:], holds, alpha=self.alpha, gamma=self.gamma
        )
        return losses.sum(axis=-1)

    def probabilities(self, logits: Float[Array, "*B classes"]) -> Float[Array, "*B objects"]:
        """The probability of each class by itself."""
        return jax.nn.sigmoid(jnp.asarray(logits, jnp.float32))[..., 1:]
