"""Non-maximum suppression with arrays of fixed size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vitjax.arrays import Array, Bool, Float, Int
from vitjax.ops.boxes import iou

__all__ = ["Kept", "suppress_overlaps"]


class Kept(NamedTuple):
    """What is left, best first.

    Attributes:
        index: numbers of the candidates; 0 behind the last one.
        mask: which entries are real.
    """

    index: Int[Array, "kept"]
    mask: Bool[Array, "kept"]


def suppress_overlaps(
    boxes_xyxy: Float[Array, "N 4"],
    scores: Float[Array, "N"],
    labels: Int[Array, "N"],
    mask: Bool[Array, "N"],
    *,
    threshold: float = 0.5,
    max_kept: int = 200,
) -> Kept:
    """Takes the best candidate, drops all of its class that overlap it by more than the threshold, and so on.

    Equal scores go by number. Nothing but the `max_kept` best is looked for, so the cost is that of as many passes over
    the candidates, without a table of all pairs.

    Args:
        boxes_xyxy: candidates.
        scores: finite.
        labels: classes; boxes of different classes leave each other alone.
        mask: which candidates are real.
        threshold: of the IoU.
        max_kept: length of the result.
    """
    boxes_xyxy, scores, labels = (jnp.asarray(array) for array in (boxes_xyxy, scores, labels))

    def take(carry: tuple[jax.Array, Any, jax.Array]) -> tuple[jax.Array, Kept, jax.Array]:
        alive, kept, count = carry
        best = jnp.argmax(jnp.where(alive, scores, -jnp.inf))
        overlaps = (iou(boxes_xyxy[best], boxes_xyxy) > threshold) & (labels == labels[best])
        alive = (alive & ~overlaps).at[best].set(False)
        kept = Kept(kept.index.at[count].set(best.astype(jnp.int32)), kept.mask.at[count].set(True))
        return alive, kept, count + 1

    def goes_on(carry: tuple[jax.Array, Any, jax.Array]) -> jax.Array:
        alive, _, count = carry
        return alive.any() & (count < max_kept)

    nothing = Kept(jnp.zeros(max_kept, jnp.int32), jnp.zeros(max_kept, bool))
    return jax.lax.while_loop(goes_on, take, (jnp.asarray(mask), nothing, jnp.int32(0)))[1]
