"""Starting from given weights instead of random ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vitjax.arrays import Tree
from vitjax.errors import UserError
from vitjax.paths import flatten, map_with_path
from vitjax.training.state import TrainState

__all__ = ["start_from", "variable_shapes"]


def variable_shapes(state: TrainState) -> dict[str, tuple[int, ...]]:
    """Path and shape of all the model's variables: `params/...`, and the collections such as `batch_stats/...`."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(_variables(state)).items()}


def start_from(state: TrainState, given: Mapping[str, Any]) -> tuple[TrainState, str]:
    """Puts given arrays into the state before the first step, each where and how the fresh one lies on the devices.

    Args:
        state: fresh, on the devices.
        given: arrays by path (`variable_shapes`); what is not given stays as it is. The moving average starts there.

    Returns:
        The state, and a line that says what was given and what stays fresh.

    Raises:
        UserError: a path or a shape that the model does not have; all of them are listed.
    """
    shapes = variable_shapes(state)
    wrong = [f"{path} {np.shape(array)}" for path, array in given.items() if shapes.get(path) != np.shape(array)]
    if wrong:
        raise UserError(f"`initial` gives variables that the model does not have in this shape: {', '.join(wrong)}")

    def put(prefix: str, tree: Tree) -> Tree:
        def choose(path: str, leaf: Any) -> Any:
            array = given.get(f"{prefix}{path}")
            return leaf if array is None else jax.device_put(np.asarray(array, leaf.dtype), leaf.sharding)

        return map_with_path(choose, tree)

    fresh = [path for path in shapes if path not in given]
    line = f"initial: {len(shapes) - len(fresh)} of {len(shapes)} variables given"
    line += f"; fresh: {', '.join(fresh[:8])}{', ...' if len(fresh) > 8 else ''}" if fresh else ""
    begun = dataclasses.replace(
        state,
        params=put("params/", state.params),
        collections=put("", state.collections),
        ema_params=None if state.ema_params is None else put("params/", state.ema_params),
        ema_collections=None if state.ema_collections is None else put("", state.ema_collections),
    )
    return begun, line


def _variables(state: TrainState) -> Tree:
    return {"params": state.params, **state.collections}
