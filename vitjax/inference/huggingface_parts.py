"""What transformers' `config.json` of all models have in common: classes, labels, sizes, activations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_types import need
from vitjax.inference.preparation import numbered_labels
from vitjax.ops.activations import gelu, gelu_tanh

__all__ = ["ACTIVATIONS", "check_class", "labels_of", "size_of"]

ACTIVATIONS = {"gelu": gelu, "gelu_pytorch_tanh": gelu_tanh, "gelu_python": gelu, "gelu_new": gelu_tanh}
"""transformers' `hidden_act` -> ours; the first name of a function is the one that is written."""


def check_class(config: Mapping[str, Any], file: Path, known: Sequence[str]) -> str:
    """Name of transformers' class, the first of `known` where the file names none.

    Raises:
        UserError: another class, or pictures that have not 3 channels.
    """
    classes = config.get("architectures") or [known[0]]
    if classes[0] not in known:
        raise UserError(f"{file}: `architectures` (={classes}) must be one of {', '.join(known)}")
    if need(config, "num_channels", int, file, 3) != 3:
        raise UserError(f"{file}: `num_channels` (={config['num_channels']}); pictures have 3 here")
    return classes[0]


def size_of(config: Mapping[str, Any], key: str, default: int, file: Path) -> int | tuple[int, int]:
    """A side, or (rows, columns).

    Raises:
        UserError: it is neither.
    """
    size = need(config, key, (int, list, tuple), file, default)
    if isinstance(size, int):
        return size
    if len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise UserError(f"{file}: `{key}` (={size}) must be a side or (rows, columns)")
    return size[0] if size[0] == size[1] else (size[0], size[1])


def labels_of(config: Mapping[str, Any], file: Path, notes: list[str]) -> tuple[str, ...]:
    """`id2label`, in the order of its numbers; transformers has two classes where a file says nothing.

    Raises:
        UserError: classes are numbered otherwise than from 0 on, or counted in two ways.
    """
    names = config.get("id2label")
    if names is None:
        count = need(config, "num_labels", int, file, 2)
        notes.append(f"it names none of its {count} classes; they are called class 0, class 1, ...; give labels=")
        return numbered_labels(count)
    if not isinstance(names, Mapping) or sorted(names, key=str) != sorted((str(n) for n in range(len(names))), key=str):
        raise UserError(f"{file}: `id2label` must name the classes 0 to n - 1, found {', '.join(list(names)[:8])}")
    if config.get("num_labels") not in (None, len(names)):
        raise UserError(f"{file}: `id2label` has {len(names)} names, `num_labels` is {config['num_labels']}")
    return tuple(str(names[str(number)]) for number in range(len(names)))
