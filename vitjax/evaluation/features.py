"""Features of a whole data set, gathered from padded batches."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vitjax.arrays import Array, Batch
from vitjax.errors import UserError

__all__ = ["Features", "extract_features"]


class Features(NamedTuple):
    """One row per real image, in the order of the batches.

    Attributes:
        features: float32, on the host.
        labels: class numbers.
        examples: number of each image in its source, such as finds its file name.
    """

    features: Float[np.ndarray, "images D"]
    labels: Int[np.ndarray, "images"]
    examples: Int[np.ndarray, "images"]


def extract_features(forward: Callable[[Batch], Array], batches: Iterable[Batch]) -> Features:
    """Runs `forward` over all batches and keeps what belongs to real images.

    Args:
        forward: from a batch to float `[B, D]`, or `[B, S, D]` for packed rows. Logits and probabilities count as
            features too: calibration starts from them.
        batches: dictionaries with `label`, `image_mask` and `example` (ARCHITECTURE.md), of one pass over the data;
            the fillings of the last batch are left out under the mask.

    Raises:
        UserError: there is no real image at all, or a feature is not a finite number.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for batch in batches:
        mask = np.asarray(batch["image_mask"])
        features = np.asarray(forward(batch), np.float32)[mask]
        examples = np.asarray(batch["example"])[mask]
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise UserError(
                f"the features of {np.sum(~finite)} of {len(features)} images in a batch are no finite numbers, first "
                f"example {examples[~finite][0]}; check the weights, or compute in float32"
            )
        found.append((features, np.asarray(batch["label"])[mask], examples))
    if not any(labels.size for _, labels, _ in found):
        raise UserError("there is no image to take features of: the data is empty, or none of its files can be read")
    return Features(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
