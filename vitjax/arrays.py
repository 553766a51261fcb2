"""The axis legend of the whole package, and the array types that signatures use.

A letter means one thing everywhere:

====== ===========================================
`B`    batch (images, or rows when packed)
`H W C` image rows, columns, channels
`N`    tokens of an image or of a packed row
`D`    width of a token
`A K`  attention heads, size of one head
`M`    memory tokens
`S`    images packed in a row (slots)
`G`    groups of rows, one per data shard
`P`    values of one flattened patch, ordered (row, column, channel)
`L`    layers
`Q T`  queries of a detector, objects of the truth
====== ===========================================

Rare axes are written as words (`classes`).
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key, UInt8

__all__ = ["Array", "Batch", "Bool", "Float", "Int", "Key", "Tree", "UInt8"]

Array = jax.Array | np.ndarray
"""Anything that holds numbers: functions of arrays take numpy arrays, device arrays and tracers alike."""

Batch = dict[str, Any]
"""Named arrays with a leading batch axis; see ARCHITECTURE.md for the keys."""

Tree = Any
"""A pytree of arrays."""
