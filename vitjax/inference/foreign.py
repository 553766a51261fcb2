"""Everybody's weights, for other classes or another image size: a new head, resampled positions, both said aloud."""

import dataclasses
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.inference.channel_order import channel_order_of
from vitjax.inference.foreign_types import Arrays, Opened
from vitjax.inference.opening import open_any
from vitjax.inference.preparation import (
    fresh_variables,
    image_shape_of,
    numbered_labels,
    resized_batches,
    variable_shapes,
)

__all__ = ["adapt", "carry_over", "initial_weights"]

_logger = logging.getLogger("vitjax")

_HEAD = r"params/head/.*"
_POSITIONS = r"params/position_embedding/table"
_BIASES = r"params/.*/biases"


def adapt(
    opened: Opened,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Opened:
    """The model with other classes, for other images, or with other settings.

    Args:
        opened: as it lies in its file.
        num_classes: another number than the file's gets a new head, as the module starts it.
        image_size: side, or (rows, columns); positions, and biases of windows, are resampled by the module's own rule,
            and the preparation of pictures grows alike. A module without either only gets other pictures.
        labels: class names; their number stands for `num_classes`.
        settings: keywords of the module that replace the file's, such as `dtype="bfloat16"`.

    Raises:
        UserError: the module has no such setting, or a number does not fit.
    """
    module, batches = opened.module, opened.batches
    own = len(opened.labels)
    if labels is not None and num_classes is not None and len(labels) != num_classes:
        raise UserError(f"`labels` has {len(labels)} names, `num_classes` is {num_classes}")
    count = len(labels) if labels is not None else own if num_classes is None else num_classes
    changes = {} if opened.settled else dict(settings or {})
    unknown = [name for name in changes if name not in {field.name for field in dataclasses.fields(module)}]
    if unknown:
        raise UserError(f"{opened.place}: {type(module).__name__} has no setting `{unknown[0]}`")
    if count != own:
        if count < 1:
            raise UserError(f"`num_classes` (={count}) must be positive")
        changes["num_classes"] = count
    if image_size is not None and _pair(image_size) != image_shape_of(module):
        if hasattr(module, "image_size"):
            changes["image_size"] = image_size if isinstance(image_size, int) else tuple(image_size)
        batches = resized_batches(batches, image_shape_of(module), _pair(image_size))
    names = opened.labels if count == own else numbered_labels(count)
    names = tuple(labels) if labels is not None else names
    if not changes:
        return dataclasses.replace(opened, labels=names, batches=batches)
    try:
        target: Any = module.clone(**changes)
    except TypeError as error:
        raise UserError(f"{opened.place}: {error}") from error
    shapes = variable_shapes(target, opened.task, batches)
    arrays, fresh = carry_over(opened.arrays, module, target, shapes, opened.place)
    if fresh:
        _logger.warning("%s: a new, untrained head for %d classes instead of the file's %d", opened.place, count, own)
        arrays |= fresh_variables(target, opened.task, batches, fresh)
    arrays = {path: arrays[path] for path in shapes}
    return dataclasses.replace(opened, module=target, arrays=arrays, batches=batches, labels=names)


def carry_over(
    arrays: Arrays, source: Any, target: Any, shapes: Mapping[str, tuple[int, ...]], place: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of the arrays that a module can take over.

    Args:
        arrays: by path, of `source`.
        source: the module that they belong to.
        target: the module that is to have them.
        shapes: of all variables of `target`, by path.
        place: where the arrays come from, for messages.

    Returns:
        Arrays in the shapes of `target`, and the paths of its head if that stays as it is.

    Raises:
        UserError: a shape differs in anything but the head and the positions, or a variable is missing.
    """
    taken: dict[str, np.ndarray] = {}
    misfits: list[str] = []
    resampled: list[str] = []
    head = [path for path in shapes if re.fullmatch(_HEAD, path)]
    new_head = any(path not in arrays or arrays[path].shape != shapes[path] for path in head)
    for path, shape in shapes.items():
        if path in head and new_head:
            continue
        array = arrays.get(path)
        if array is None:
            misfits.append(f"{path} {shape} is missing")
        elif array.shape == shape:
            taken[path] = array
        elif re.fullmatch(_POSITIONS, path) and array.ndim == 2 and array.shape[1] == shape[1]:
            taken[path] = _resampled(array, source, target, place)
        elif re.fullmatch(_BIASES, path) and array.ndim == len(shape) == 2 and array.shape[0] == shape[0]:
            taken[path] = _resampled_biases(array, shape[1], target)
            resampled.append(f"{array.shape[1]} to {shape[1]}")
        else:
            misfits.append(f"{path} {array.shape}, expected {shape}")
        if path in taken and taken[path].shape != shape:
            misfits.append(f"{path} {taken[path].shape} after resampling, expected {shape}")
    if misfits:
        raise UserError(f"{place}: the weights do not fit the model: {', '.join(misfits)}")
    if resampled:
        _logger.warning("%s: %d tables of biases resampled, the first from %s", place, len(resampled), resampled[0])
    return taken, head if new_head else []


def _resampled(table: np.ndarray, source: Any, target: Any, place: str) -> np.ndarray:
    """The position table for the target's grid by the target's rule; rows of the class token stay as they are."""
    positions = target.positions()
    resampling = getattr(positions, "resampling", None)
    old, new = source.grid, target.grid
    prefix = len(table) - old[0] * old[1]
    if resampling is None or prefix < 0:
        raise UserError(f"{place}: positions {table.shape} of {old[0]}x{old[1]} patches cannot be resampled here")
    _logger.warning(
        "%s: positions resampled from %dx%d to %dx%d patches by %s",
        place, *old, *new, getattr(resampling, "__name__", resampling),
    )  # fmt: skip
    grid = table[prefix:].reshape(*old, -1).astype(np.float32)
    patches = np.asarray(resampling(grid, tuple(new))).reshape(-1, table.shape[1])
    return np.concatenate([table[:prefix], patches.astype(table.dtype)])


def _resampled_biases(table: np.ndarray, count: int, target: Any) -> np.ndarray:
    """`[A, R * R]` biases of a window's offsets, (row, column), for windows of another size."""
    old, new = math.isqrt(table.shape[1]), math.isqrt(count)
    grid = table.T.reshape(old, old, -1).astype(np.float32)
    return np.asarray(target.bias_resampling(grid, (new, new))).reshape(count, -1).T.astype(table.dtype)


def initial_weights(
    module: Any,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    path: str,
    name: str | None = None,
    layout: str | None = None,
    channel_order: str | None = None,
) -> dict[str, np.ndarray]:
    """Weights to fine-tune from: `config.initial = factory(initial_weights, path="hf-hub:...")`.

    A head for other classes is left out, and stays as the module starts it; positions for another grid are resampled.
    Variables that only one of the two has (a representation layer, memory tokens) are named in the log.

    Args:
        module: to be trained.
        shapes: of its variables, by path.
        path: whatever `vitjax.load` opens.
        name: see `vitjax.load`.
        layout: see `vitjax.load`.
        channel_order: see `vitjax.load`. Where it is "bgr", the run's own transforms must end in `ReverseChannels`,
            which the log says.

    Returns:
        By path; what is not among them starts at random.

    Raises:
        UserError: there is nothing to load, or it is the weights of another model.
    """
    opened = open_any(path, name=name, layout=layout, any_size=True, channel_order=channel_order)
    wanted = {known: shape for known, shape in shapes.items() if known in opened.arrays or re.fullmatch(_HEAD, known)}
    if not any(known in opened.arrays for known in wanted):
        raise UserError(f"{path}: holds {type(opened.module).__name__}, of which nothing fits {type(module).__name__}")
    arrays, fresh = carry_over(opened.arrays, opened.module, module, wanted, opened.place)
    if fresh:
        was = opened.arrays.get("params/head/bias", np.zeros(0)).size
        now = shapes.get("params/head/bias", (0,))[0]
        _logger.warning("%s: the head is left out, it has %d classes and the model %d", opened.place, was, now)
    unused = [known for known in opened.arrays if known not in shapes]
    if unused:
        _logger.warning("%s: not used, the model has no such variables: %s", opened.place, ", ".join(unused))
    _warn_of_numerics(opened.module, module, opened.place)
    if channel_order_of(getattr(opened.batches, "transforms", ())) == "bgr":
        _logger.warning(
            "%s: its weights expect blue, green, red; this run's batches must turn pictures round by ReverseChannels()",
            opened.place,
        )
    return arrays


def _warn_of_numerics(source: Any, target: Any, place: str) -> None:
    """Settings with which the same weights compute something else."""
    for name in ("norm_epsilon", "activation", "norm_after_pooling", "num_heads", "patch_size"):
        was, now = getattr(source, name, None), getattr(target, name, None)
        if was is not None and now is not None and was != now:
            shown = [getattr(value, "__name__", value) for value in (was, now)]
            _logger.warning("%s: its weights were computed with `%s` %s, the model has %s", place, name, *shown)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
