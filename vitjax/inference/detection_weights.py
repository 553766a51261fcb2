"""Weights that a detector starts from: of a classifier for its backbone, or of another detector."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.inference.opening import open_any

__all__ = ["backbone_weights", "detector_weights"]

_logger = logging.getLogger("vitjax")

_OWN = r"params/(class_head|mask_attention|mask_head)/.*|params/query_embedding"


def backbone_weights(
    module: Any,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    path: str,
    trunk: str = "trunk",
    backbone: str = "backbone",
    name: str | None = None,
    layout: str | None = None,
) -> dict[str, np.ndarray]:
    """A classifier's trunk for a detector's backbone: `config.initial = factory(backbone_weights, path=...)`.

    Args:
        module: to be trained.
        shapes: of its variables, by path.
        path: whatever `vitjax.load` opens.
        trunk: what the trunk is called in the classifier; nothing where it is the classifier itself, as of a NaViT.
        backbone: what it is called in the module.
        name: see `vitjax.load`.
        layout: see `vitjax.load`.

    Returns:
        Parameters and statistics of the whole backbone, by path.

    Raises:
        UserError: there is nothing to load, or a variable of the backbone is missing or has another shape.
    """
    opened = open_any(path, name=name, layout=layout, any_size=True)
    wanted = {known: shape for known, shape in shapes.items() if known.split("/")[1] == backbone}
    below = f"{trunk}/" if trunk else ""
    named = {known: re.sub(rf"^(\w+)/{backbone}/", rf"\1/{below}", known) for known in wanted}
    misfits = [
        f"{theirs} {opened.arrays[theirs].shape if theirs in opened.arrays else 'is missing'}, expected {wanted[ours]}"
        for ours, theirs in named.items()
        if theirs not in opened.arrays or opened.arrays[theirs].shape != tuple(wanted[ours])
    ]
    if misfits or not wanted:
        raise UserError(
            f"{path}: {type(opened.module).__name__} does not fit the backbone of {type(module).__name__}: "
            f"{', '.join(misfits[:4]) or f'which has no {backbone}'}{', ...' if len(misfits) > 4 else ''}"
        )
    return {ours: opened.arrays[theirs] for ours, theirs in named.items()}


def detector_weights(module: Any, shapes: Mapping[str, tuple[int, ...]], *, path: str) -> dict[str, np.ndarray]:
    """A trained DETR's weights for other classes: `config.initial = factory(detector_weights, path=...)`.

    Args:
        module: to be trained.
        shapes: of its variables, by path.
        path: whatever `vitjax.load` opens.

    Returns:
        By path; the class head stays out if the classes differ in number, the queries if they do, what makes masks if
        the trained model makes none; the log says which.

    Raises:
        UserError: there is nothing to load, or another variable is missing or has another shape.
    """
    opened = open_any(path, any_size=True)
    differing = {
        known: opened.arrays[known].shape if known in opened.arrays else "missing"
        for known, shape in shapes.items()
        if known not in opened.arrays or opened.arrays[known].shape != tuple(shape)
    }
    misfits = [known for known in differing if not re.fullmatch(_OWN, known)]
    if misfits:
        raise UserError(
            f"{path}: {type(opened.module).__name__} does not fit {type(module).__name__}: {misfits[0]} is "
            f"{differing[misfits[0]]}, expected {shapes[misfits[0]]}, and {len(misfits) - 1} more"
        )
    missing = [known for known, was in differing.items() if was == "missing"]
    if missing:
        _logger.warning("%s: has no %s and %d more, which start anew", path, missing[0], len(missing) - 1)
    for known, was in differing.items():
        if was != "missing":
            _logger.warning("%s: %s starts anew, it is %s there and %s here", path, known, was, shapes[known])
    return {known: opened.arrays[known] for known in shapes if known not in differing}
