"""A ViT's weights as the start of a FlexiViT: the student begins as its teacher (Beyer et al. 2023, section 4)."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.data.transforms import pair
from vitjax.errors import UserError
from vitjax.inference.opening import open_any
from vitjax.ops.patches import resize_patch_kernel
from vitjax.ops.positions import resample_corners

__all__ = ["student_weights"]

_logger = logging.getLogger("vitjax")

_KERNEL, _TABLE, _TOKEN = (
    f"params/{name}" for name in ("patch_embedding/kernel", "position_embedding/table", "class_token")
)


def student_weights(
    module: Any, shapes: Mapping[str, tuple[int, ...]], *, path: str, name: str | None = None, layout: str | None = None
) -> dict[str, np.ndarray]:
    """Weights of a ViT for a FlexiViT to start from: `config.initial = factory(student_weights, path="teacher.npz")`.

    The patch kernel is PI-resized to the underlying one, and the grid of positions resampled corner to corner to the
    underlying grid, as the authors' code does. A FlexiViT's class token has no position: the ViT's is added to it.

    Args:
        module: the FlexiViT.
        shapes: of its variables, by path.
        path: whatever `vitjax.load` opens; for a file of weights with its `name` and `layout`.
        name: see `vitjax.load`.
        layout: see `vitjax.load`.

    Returns:
        By path; a head for other classes is left out, which is said.

    Raises:
        UserError: it is no ViT with patches and positions, or one of another width or depth.
    """
    opened = open_any(path, name=name, layout=layout, any_size=True)
    arrays, teacher = dict(opened.arrays), opened.module
    if missing := [known for known in (_KERNEL, _TABLE) if known not in arrays]:
        raise UserError(f"{path}: has no {', '.join(missing)}; a student starts from a ViT with learned positions")
    embedding: Any = module.embedding(patch_size=module.patch_size, width=module.width, parent=None)
    positions: Any = module.positions(parent=None)
    patch: Any = teacher.patch_size  # type: ignore[attr-defined]
    kernel = arrays[_KERNEL].reshape(patch, patch, -1, arrays[_KERNEL].shape[-1])
    resized = resize_patch_kernel(kernel, pair(embedding.kernel_size))
    arrays[_KERNEL] = np.asarray(resized).reshape(-1, kernel.shape[-1])
    rows, columns = teacher.grid  # type: ignore[attr-defined]
    table = arrays[_TABLE]
    prefix = len(table) - rows * columns
    if prefix:
        arrays[_TOKEN] = arrays[_TOKEN] + table[:prefix].reshape(arrays[_TOKEN].shape)
    grid = table[prefix:].reshape(rows, columns, -1)
    arrays[_TABLE] = np.asarray(resample_corners(grid, pair(positions.position_grid))).reshape(-1, grid.shape[-1])
    return _fitting(arrays, shapes, path)


def _fitting(arrays: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], path: str) -> dict[str, np.ndarray]:
    other_head = [
        known for known in arrays if known.startswith("params/head/") and arrays[known].shape != shapes.get(known)
    ]
    if other_head:
        _logger.warning("%s: its head has other classes than the student's, which starts anew", path)
    kept = {known: array for known, array in arrays.items() if known not in other_head}
    wrong = [
        f"{known} {array.shape} for {shapes.get(known, 'none')}"
        for known, array in kept.items()
        if array.shape != shapes.get(known)
    ]
    if wrong:
        raise UserError(f"{path}: these variables do not fit the student: {', '.join(wrong)}")
    return kept
