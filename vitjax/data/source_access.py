"""What every description of batches can do because it has a `source`.

Their classes take these functions over as `labels` and `num_examples`, `without_source` and `with_source`.
"""

from dataclasses import replace
from typing import Any, TypeVar

from vitjax.errors import UserError

__all__ = ["drop_source", "get_source", "replace_source", "source_labels", "source_length"]

Described = TypeVar("Described")


def get_source(batches: Any) -> Any:
    """The source.

    Raises:
        UserError: there is none yet.
    """
    if batches.source is None:
        raise UserError(f"{type(batches).__name__}: no source was given; call with_source(source) first")
    return batches.source


def source_labels(batches: Any) -> tuple[str, ...]:
    """Class names of the source."""
    return get_source(batches).labels


def source_length(batches: Any) -> int:
    """Examples of the source."""
    return len(get_source(batches))


def drop_source(batches: Described) -> Described:
    """The same preparation without data, to be stored."""
    return replace_source(batches, None)


def replace_source(batches: Described, source: Any) -> Described:
    """The same preparation of other data."""
    return replace(batches, source=source)  # pyright: ignore[reportArgumentType]
