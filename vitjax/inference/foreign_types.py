"""What a foreign folder says, in our terms, and what is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from vitjax.errors import UserError

__all__ = ["Arrays", "Description", "Opened", "need"]

Arrays = Mapping[str, np.ndarray]


def _nothing(arrays: Arrays) -> dict[str, Any]:
    return {}


def _as_it_is(arrays: Arrays) -> Arrays:
    return arrays


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
    """

    target: Callable[..., Any]
    keywords: dict[str, Any]
    layout: str
    task: Any
    batches: Any
    labels: tuple[str, ...]
    rename: Callable[[Arrays], Arrays] = _as_it_is
    from_arrays: Callable[[Arrays], dict[str, Any]] = _nothing
    notes: tuple[str, ...] = field(default=())


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
