"""What accelerators can do at most, from their makers' data sheets, and what a training step asks of them."""

import functools

from vitjax.analysis.cost import cost_report
from vitjax.models.navit import VARIANTS, NaViT

__all__ = ["PEAKS", "peak_of", "training_flops"]

PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v4": 275e12,
}
"""bfloat16 operations a second, dense, by the start of what jax calls the device ("lite" is sold as v6e and v5e). The
H100 is the SXM module. NVIDIA's sheets print twice the number for sparse matrices."""


def peak_of(device_kind: str) -> float | None:
    """Of a device as jax names it, or `None` for one that is not listed."""
    return next((peak for name, peak in PEAKS.items() if device_kind.startswith(name)), None)


@functools.cache
def training_flops(variant: str, sides: tuple[int, int]) -> float:
    """Floating-point operations per token of a NaViT's training step on images of (rows, columns) pixels.

    6 for each multiply-add of the forward pass (`vitjax.analysis.cost`): an addition and a multiplication, once forward
    and twice backward. Rematerialisation, softmax, norms and the optimizer do not count.
    """
    model = NaViT(**VARIANTS[variant], attention_implementation="segment_mask")
    tokens = sides[0] // model.patch_size * (sides[1] // model.patch_size)
    return 6 * cost_report(model, sides).total.macs / tokens
