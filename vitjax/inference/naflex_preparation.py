"""How pictures become rows for a NaFlex model: resized to a budget of patches, aspect ratio kept, several a row."""

from typing import Any

from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import SequenceBudget
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.packed_classification import PackedClassification

__all__ = ["naflex_preparation"]


def naflex_preparation(
    *, tokens: int, patch_size: int, mean: tuple[float, ...], std: tuple[float, ...], interpolation: str
) -> tuple[PackedClassification, PackedBatches]:
    """Task and batches.

    Args:
        tokens: patches of a picture at most.
        patch_size: pixels a side.
        mean: per channel, 0 to 1.
        std: per channel.
        interpolation: one of `vitjax.data.transforms.INTERPOLATIONS`.

    Raises:
        UserError: a value is out of range.
    """
    resolution: Any = SequenceBudget(tokens)
    batches = PackedBatches(
        source=None,
        patch_size=patch_size,
        length=4 * tokens,
        rows=4,
        packers=1,
        max_images=16,
        resolution=resolution,
        interpolation=interpolation,
    )
    return PackedClassification(mean=mean, std=std, criterion=SoftmaxCrossEntropy()), batches
