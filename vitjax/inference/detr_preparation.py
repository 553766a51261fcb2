"""How pictures are prepared for a DETR: the shorter side brought to one length, padded to one of a few shapes."""

from vitjax.data.padded_scenes import PaddedSceneBatches
from vitjax.data.scene_batching import BoxTargets
from vitjax.data.scene_transforms import SceneResizeShorterSide

__all__ = ["detr_batches"]

_STRIDE = 32
"""Sides of frames are multiples of it, so that a map's pixel is as large everywhere."""


def detr_batches(
    size: int | tuple[int, int], *, interpolation: str = "bilinear", batch_size: int = 8
) -> PaddedSceneBatches:
    """Batches without source, in four shapes at most: pictures up to 4:3 and beyond, upright and lying.

    Args:
        size: the shorter side, and the longest that the other may be; one number for both.
        interpolation: of pictures.
        batch_size: pictures of a batch.
    """
    shorter, longest = (size, size) if isinstance(size, int) else sorted(size)
    common = min(longest, shorter * 4 // 3)
    sides = [(_up(shorter), _up(side)) for side in (common, longest)]
    shapes = dict.fromkeys(shape for rows, columns in sides for shape in ((rows, columns), (columns, rows)))
    return PaddedSceneBatches(
        source=None,
        batch_size=batch_size,
        targets=BoxTargets(),
        shapes=tuple(shapes),
        transforms=(SceneResizeShorterSide(shorter, longest, interpolation),),
    )


def _up(side: int) -> int:
    return -(-side // _STRIDE) * _STRIDE
