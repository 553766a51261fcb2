"""What the classification tasks share: exact sums of losses and hits under a mask, and the meter that adds them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Batch, Bool, Float, Int, Tree
from vitjax.errors import UserError
from vitjax.tasks.task import Metrics

__all__ = ["MeanMeter", "class_ranks", "masked_scores"]


def class_ranks(logits: Float[Array, "*B classes"], labels: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """How many classes come before the right one when sorted by logit, 0 for a top-1 hit.

    Equal logits are ordered by class number, as `argmax` does, so a model that says the same of all classes does
    not pass for perfect. A logit that is not a number comes last.
    """
    labels = jnp.asarray(labels)[..., None]
    right = jnp.take_along_axis(jnp.asarray(logits), labels, axis=-1)
    numbers = jnp.arange(logits.shape[-1])
    beaten = (logits < right) | ((logits == right) & (numbers > labels))
    return logits.shape[-1] - 1 - jnp.sum(beaten, axis=-1)


def masked_scores(
    losses: Float[Array, "*B"],
    logits: Float[Array, "*B classes"],
    labels: Int[Array, "*B"],
    mask: Bool[Array, "*B"],
) -> tuple[jax.Array, Metrics]:
    """The mean loss of the real images, and the sums it and the scores are made of.

    Args:
        losses: one per image; what stands at padding is ignored.
        logits: in any float type.
        labels: class numbers.
        mask: True = real.

    Returns:
        The mean over the real images (0 if there are none), and `loss`, `top1` and `top5` as (sum, count). With five
        classes or fewer every answer is among the first five, so `top5` is left out.
    """
    count = jnp.sum(mask, dtype=jnp.float32)
    total = jnp.sum(jnp.where(mask, losses, 0.0))
    ranks = class_ranks(logits, labels)
    metrics = {"loss": (total, count), "top1": (jnp.sum((ranks < 1) & mask, dtype=jnp.float32), count)}
    if logits.shape[-1] > 5:
        metrics["top5"] = (jnp.sum((ranks < 5) & mask, dtype=jnp.float32), count)
    return total / jnp.maximum(count, 1.0), metrics


class MeanMeter:
    """Adds the (sum, count) pairs of all batches; a score is the quotient. Keeps no predictions."""

    def __init__(self):
        self._totals: dict[str, tuple[float, float]] = {}

    def add(self, metrics: Mapping[str, tuple[Any, Any]], predictions: Tree, batch: Batch) -> None:
        """Takes one batch's metrics; the sums are kept in double precision."""
        del predictions, batch
        for name, (total, count) in metrics.items():
            old_total, old_count = self._totals.get(name, (0.0, 0.0))
            self._totals[name] = (old_total + float(total), old_count + float(count))

    def scores(self) -> dict[str, float]:
        """The mean of each metric over all examples added so far.

        Raises:
            UserError: no example was added.
        """
        empty = [name for name, (_, count) in self._totals.items() if count == 0]
        if empty or not self._totals:
            raise UserError("evaluation saw no image: the evaluation data is empty, or none of its files can be read")
        return {name: total / count for name, (total, count) in self._totals.items()}
