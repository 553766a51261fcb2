"""COCO's segmentations: polygons and run lengths, kept as pycocotools' compressed run lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from vitjax.errors import UserError

__all__ = ["compress_segmentation", "decode_masks"]


def compress_segmentation(segmentation: Any, size: tuple[int, int]) -> bytes | None:
    """Compressed run lengths of a mask, some ten to a hundred bytes.

    Args:
        segmentation: polygons, each (x, y, x, y, ...) in pixels, at least three corners; or `{"size", "counts"}` with
            run lengths, as a list or compressed.
        size: (rows, columns) of the image.

    Returns:
        `None` for anything else: another size, no polygon of three corners, counts that do not fill the image.
    """
    tools = _tools()
    rows, columns = size
    if isinstance(segmentation, dict):
        return _compress_counts(segmentation, size)
    if not isinstance(segmentation, list):
        return None
    # pycocotools takes four numbers for a box
    polygons = [polygon for polygon in segmentation if isinstance(polygon, list) and len(polygon) >= 6]
    try:
        finite = all(np.isfinite(np.array(polygon, float)).all() for polygon in polygons)
    except (TypeError, ValueError):
        return None
    if not polygons or not finite:
        return None
    return tools.merge(tools.frPyObjects([polygon[: len(polygon) // 2 * 2] for polygon in polygons], rows, columns))[
        "counts"
    ]


def _compress_counts(segmentation: dict[str, Any], size: tuple[int, int]) -> bytes | None:
    tools, (rows, columns) = _tools(), size
    counts = segmentation.get("counts")
    if list(segmentation.get("size", ())) != [rows, columns]:
        return None
    if isinstance(counts, list):
        valid = all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == rows * columns
        return (
            tools.frPyObjects({"size": [rows, columns], "counts": counts}, rows, columns)["counts"] if valid else None
        )
    if not isinstance(counts, str) or _decoded_length(counts) != rows * columns:
        return None
    return counts.encode()


def _decoded_length(counts: str) -> int:
    """Pixels that compressed run lengths fill; -1 where they are no such text.

    Five bits a letter from 48 on, the sixth says that more follow; from the third on, a run is the difference to the
    run before the last (pycocotools' `rleFrString`). What does not fill its image is so found before the run.
    """
    runs: list[int] = []
    at = 0
    while at < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if at == len(counts) or not 0 <= ord(counts[at]) - 48 < 64:
                return -1
            bits = ord(counts[at]) - 48
            value |= (bits & 31) << shift
            more, at, shift = bool(bits & 32), at + 1, shift + 5
            if not more and bits & 16:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return -1
    return sum(runs)


def decode_masks(compressed: Sequence[bytes], size: tuple[int, int]) -> Bool[np.ndarray, "n H W"]:
    """The masks of an image's objects.

    Args:
        compressed: of `compress_segmentation`.
        size: (rows, columns) of the image.
    """
    if not compressed:
        return np.zeros((0, *size), bool)
    masks = _tools().decode([{"size": list(size), "counts": counts} for counts in compressed])  # H W n
    return np.ascontiguousarray(masks.transpose(2, 0, 1)).astype(bool)


def _tools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError("masks of COCO's json need pycocotools: pip install pycocotools") from error
    return mask
