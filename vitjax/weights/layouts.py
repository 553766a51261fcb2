"""How other people's files hold a model: the rules, and what the same weights need to compute the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitjax.weights.rules import Table

__all__ = ["Arrays", "Layout", "as_it_is"]

Arrays = Mapping[str, np.ndarray]
"""What a file of weights holds, by key."""


def as_it_is(arrays: Arrays) -> Arrays:
    """The same arrays."""
    return arrays


@dataclass(frozen=True)
class Layout:
    """One layout of one model; `models/NAME_tables.py` lists a model's in `LAYOUTS`.

    Attributes:
        name: "timm", "huggingface", "vit_jax", "big_vision", "vit_pytorch", or "authors" for those of the paper.
        rules: from the linen module to its table.
        settings: keywords of the module with which these weights compute what they computed there: the layer norm's
            epsilon, the form of GELU, how positions are resampled.
        prepare: from the arrays of a file to those that the table names: prefixes taken off, old counters renamed,
            layers that are stacked along an axis taken apart. Writing makes the plain form.
    """

    name: str
    rules: Callable[[Any], Table]
    settings: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Arrays], Arrays] = as_it_is
