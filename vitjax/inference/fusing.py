"""A model with its batch norms folded away, compared with what it was."""

import logging
from typing import Any

import jax
import numpy as np

from vitjax.arrays import Tree
from vitjax.errors import UserError
from vitjax.inference.preparation import image_shape_of
from vitjax.layers.conv_norm import FoldedConv
from vitjax.paths import flatten

__all__ = ["fused_parts", "is_fused"]

_logger = logging.getLogger("vitjax")


def is_fused(module: Any) -> bool:
    """Whether the module's convolutions have their norms in them."""
    conv_norm = getattr(module, "conv_norm", None)
    return getattr(conv_norm, "func", conv_norm) is FoldedConv


def fused_parts(module: Any, variables: Tree, task: Any) -> tuple[Any, Tree]:
    """The module's own `fuse`, its effect measured and logged.

    Args:
        module: has a method `fuse(variables)`.
        variables: `{"params": ..., "batch_stats": ...}`.
        task: makes the module's inputs of two pictures of noise.

    Returns:
        The fused module and its variables, on the default device.

    Raises:
        UserError: there is nothing to fold, or nothing left.
    """
    name = type(module).__name__
    if is_fused(module):
        raise UserError(f"fuse: this {name} is fused already")
    if not hasattr(module, "fuse"):
        raise UserError(f"fuse: {name} has no batch norms to fold into convolutions; use it as it is")
    fused, folded = module.fuse(variables)
    folded = jax.device_put(folded)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *image_shape_of(module), 3), np.uint8)
    inputs = task.inputs({"image": pixels})
    before, after = (
        jax.tree.leaves(jax.jit(lambda given, one=one: one.apply(given, **inputs, train=False))(held))
        for one, held in ((module, variables), (fused, folded))
    )
    pairs = [(np.asarray(one), np.asarray(other)) for one, other in zip(before, after, strict=True)]
    counts = [{path: leaf.size for path, leaf in flatten(tree).items()} for tree in (variables, folded)]
    parameters = [sum(count for path, count in sizes.items() if path.startswith("params/")) for sizes in counts]
    _logger.info(
        "fused %s: %d parameters and %d running statistics before, %d parameters and %d after; outputs on random "
        "pictures, up to %.3g, differ by %.2g at most",
        name, parameters[0], sum(counts[0].values()) - parameters[0], parameters[1],
        sum(counts[1].values()) - parameters[1],
        max(np.abs(one).max() for one, _ in pairs), max(np.abs(one - other).max() for one, other in pairs),
    )  # fmt: skip
    return fused, folded
