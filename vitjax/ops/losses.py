"""Classification losses: one value per example, no reduction hidden in them, computed in float32."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Array, Float, Int
from vitjax.errors import UserError

__all__ = [
    "ClassLoss",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "class_weights",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]

Targets = Int[Array, "*B"] | Float[Array, "*B classes"]


@runtime_checkable
class ClassLoss(Protocol):
    """What compares logits with classes, and turns the same logits into probabilities."""

    def __call__(self, logits: Float[Array, "*B classes"], targets: Targets) -> Float[Array, "*B"]:
        """One loss per example; `targets` are class numbers or a weight per class."""
        ...

    def probabilities(self, logits: Float[Array, "*B classes"]) -> Float[Array, "*B classes"]:
        """The class probabilities that the loss trains the logits to mean."""
        ...


def class_weights(targets: Targets, num_classes: int, label_smoothing: float = 0.0) -> Float[Array, "*B classes"]:
    """The share of each class in the target, float32.

    Args:
        targets: class numbers in `[0, num_classes)`, or shares that are already one per class.
        num_classes: number of classes.
        label_smoothing: share in `[0, 1)` spread evenly over all classes, the right one included (Szegedy et al.,
            2016, arXiv:1512.00567, section 7).
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, num_classes, dtype=jnp.float32)
    return optax.smooth_labels(jnp.asarray(targets, jnp.float32), label_smoothing)


def softmax_cross_entropy(
    logits: Float[Array, "*B classes"], targets: Targets, *, label_smoothing: float = 0.0
) -> Float[Array, "*B"]:
    """`-Σ_c target_c · log softmax(logits)_c` per example: the classes exclude each other.

    Args:
        logits: unnormalised log probabilities in any float type.
        targets: class numbers in `[0, classes)`, or a distribution over the classes.
        label_smoothing: see `class_weights`.
    """
    logits = jnp.asarray(logits, jnp.float32)
    if jnp.issubdtype(targets.dtype, jnp.integer) and not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return optax.softmax_cross_entropy(logits, class_weights(targets, logits.shape[-1], label_smoothing))


def sigmoid_cross_entropy(
    logits: Float[Array, "*B classes"], targets: Targets, *, label_smoothing: float = 0.0
) -> Float[Array, "*B"]:
    """One binary cross-entropy per class, *summed* over the classes: any number of classes may hold.

    The sum, not the mean, is what ViT and NaViT were pre-trained with (Dehghani et al., 2023, arXiv:2307.06304, B.1;
    Beyer et al., 2020, arXiv:2006.07159, section 5).

    Args:
        logits: log odds of each class in any float type.
        targets: class numbers in `[0, classes)`, or the probability of each class, in `[0, 1]`.
        label_smoothing: see `class_weights`.
    """
    logits = jnp.asarray(logits, jnp.float32)
    targets = class_weights(targets, logits.shape[-1], label_smoothing)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """`softmax_cross_entropy` with its setting: `label_smoothing` in `[0, 1)`."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        _check_rate(self)

    def __call__(self, logits: Float[Array, "*B classes"], targets: Targets) -> Float[Array, "*B"]:
        """One loss per example."""
        return softmax_cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def probabilities(self, logits: Float[Array, "*B classes"]) -> Float[Array, "*B classes"]:
        """Shares in `[0, 1]` that sum to 1 over the classes, float32."""
        return jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)


@dataclass(frozen=True)
class SigmoidCrossEntropy:
    """`sigmoid_cross_entropy` with its setting: `label_smoothing` in `[0, 1)`."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        _check_rate(self)

    def __call__(self, logits: Float[Array, "*B classes"], targets: Targets) -> Float[Array, "*B"]:
        """One loss per example, summed over the classes."""
        return sigmoid_cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def probabilities(self, logits: Float[Array, "*B classes"]) -> Float[Array, "*B classes"]:
        """The probability in `[0, 1]` of each class by itself, float32; they need not sum to 1."""
        return jax.nn.sigmoid(jnp.asarray(logits, jnp.float32))


def _check_rate(loss: SoftmaxCrossEntropy | SigmoidCrossEntropy) -> None:
    if not 0 <= loss.label_smoothing < 1:
        raise UserError(f"`label_smoothing` (={loss.label_smoothing}) of {type(loss).__name__} must lie in [0, 1)")
