"""What a foreign folder says, in our terms, and what is opened."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from vitjax.errors import UserError
from vitjax.weights.layouts import Arrays, as_it_is

__all__ = [
    "Arrays",
    "Asked",
    "Description",
    "Holding",
    "Opened",
    "Parts",
    "demand",
    "left_after",
    "need",
    "one_if_equal",
    "refuse_unknown",
]


Parts = dict[str, dict[str, Any]]
"""Name of a JSON file -> its content."""


def _nothing(arrays: Arrays) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Description:
    """A model, its preparation and its labels, before its weights are read.

    Attributes:
        target: makes the module.
        keywords: of the target, `num_classes` among them.
        layout: name of the layout of the weights.
        task: with the file's mean and standard deviation.
        batches: with the file's resizing and cropping.
        labels: class names in the order of the outputs.
        rename: from the file's arrays to those that the layout names.
        from_arrays: keywords that only the arrays tell.
        notes: lines for the log: what the file leaves open or says twice.
        channel_order: "rgb" or "bgr", what the weights expect; `None` where the file leaves it open and both are
            found. The batches' transforms do not say it yet.
    """

    target: Callable[..., Any]
    keywords: dict[str, Any]
    layout: str
    task: Any
    batches: Any
    labels: tuple[str, ...]
    rename: Callable[[Arrays], Arrays] = as_it_is
    from_arrays: Callable[[Arrays], dict[str, Any]] = _nothing
    notes: tuple[str, ...] = field(default=())
    channel_order: str | None = "rgb"


@dataclass(frozen=True, eq=False)
class Asked:
    """What timm's `config.json` asks of a family of models.

    Attributes:
        target: makes the module.
        arguments: timm's, of the file and of the architecture's name.
        variant: keywords of the target by the architecture's name.
        size: rows and columns of the pictures.
        file: for messages.
        notes: lines for the log, added to.
    """

    target: Callable[..., Any]
    arguments: Mapping[str, Any]
    variant: Mapping[str, Any]
    size: tuple[int, int]
    file: Path
    notes: list[str]


@dataclass(frozen=True, eq=False)
class Holding:
    """What is written.

    Attributes:
        module: a linen module.
        arrays: gives its variables by path, numpy; called once the format is known to hold the module.
        task: with mean and standard deviation.
        batches: with the preparation of pictures.
        labels: class names.
    """

    module: Any
    arrays: Callable[[], Mapping[str, np.ndarray]]
    task: Any
    batches: Any
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Opened:
    """A model as it lies in its file.

    Attributes:
        module: a linen module of the file's own size and classes.
        arrays: all its variables by path, `params/...`.
        task: turns batches into the module's inputs.
        batches: how images are prepared.
        labels: class names in the order of the outputs.
        place: the file or folder, for messages.
        settled: settings that were asked for were in force when it was opened.
        facts: whatever else the file knows (`step`, `score`, `metric`).
    """

    module: nn.Module
    arrays: dict[str, np.ndarray]
    task: Any
    batches: Any
    labels: tuple[str, ...]
    place: str
    settled: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


def need(config: Mapping[str, Any], key: str, kind: type | tuple[type, ...], file: Path, default: Any = None) -> Any:
    """A value of a foreign config, checked.

    Args:
        config: the object, or a part of it.
        key: name of the value.
        kind: types it may have.
        file: for the message.
        default: what it is when the file leaves it out; `None` for a value that has to be there.

    Raises:
        UserError: the value is missing or of another type.
    """
    value = config.get(key, default)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if value is None or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(one.__name__ for one in kinds)
        given = "is missing" if value is None else f"(={value!r:.60}) is a {type(value).__name__}"
        raise UserError(f"{file}: `{key}` {given}, expected {expected}")
    return value


def left_after(
    asked: Asked, without_effect: Sequence[str], must_be: Mapping[str, tuple[Any, ...]], in_training: Sequence[str]
) -> dict[str, Any]:
    """The arguments without those that change nothing here, once they have been found to change nothing.

    Args:
        asked: has the arguments.
        without_effect: names of arguments that never change what given weights compute.
        must_be: name -> values that leave out what the model here does not have; the first is the default.
        in_training: names of arguments that act in training only; a note says that they are lost.

    Raises:
        UserError: one of `must_be` has another value.
    """
    left = {name: value for name, value in asked.arguments.items() if name not in without_effect or name in must_be}
    for name, allowed in must_be.items():
        value = left.pop(name, allowed[0])
        if value not in allowed:
            raise UserError(f"{asked.file}: `model_args.{name}` (={value!r}): only {allowed[0]!r} is known here")
    lost = [name for name in in_training if left.pop(name, None)]
    if lost:
        asked.notes.append(f"of use in training only, and not taken over: {', '.join(lost)}")
    return {name: value for name, value in left.items() if value is not None}


def refuse_unknown(asked: Asked, names: Sequence[str]) -> None:
    """Raises `UserError` for the first argument that nobody understood."""
    if names:
        raise UserError(f"{asked.file}: `model_args.{names[0]}` is unknown for this model here")


def one_if_equal(size: Any) -> int | tuple[int, int]:
    """A side for a square, (rows, columns) otherwise."""
    rows, columns = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return rows if rows == columns else (rows, columns)


def demand(condition: bool, message: str) -> None:
    """Raises `UserError` with the message unless the condition holds; for what a format cannot express."""
    if not condition:
        raise UserError(message)
