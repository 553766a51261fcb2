"""All that changes from step to step, in one tree."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Batch, Tree
from vitjax.tasks.task import Task

__all__ = [
    "TrainState",
    "abstract_variables",
    "count_parameters",
    "evaluation_variables",
    "initial_state",
    "moving_average",
]


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds, besides the data position. Its leaves are arrays, their shapes, or their shardings.

    Attributes:
        step: int32 scalar, updates made so far.
        params: float32 parameters.
        collections: the model's other variables, such as batch statistics; empty for most models.
        opt_state: the optimizer's.
        ema_params: moving average of the parameters, or `None`.
        ema_collections: of `collections`, numbers that are not floats being the last ones; or `None`.
        halted: bool scalar; set by the first non-finite loss or gradient, after which no step changes anything.
    """

    step: Any
    params: Tree
    collections: Tree
    opt_state: Tree
    ema_params: Tree
    ema_collections: Tree
    halted: Any


def _initial_variables(model: nn.Module, task: Task, batch: Batch, seed: int) -> dict[str, Any]:
    params_key, dropout_key = jax.random.split(jax.random.key(seed))
    keys: dict[str, Any] = {"params": params_key, "dropout": dropout_key}
    return dict(model.init(keys, **task.inputs(_zeros(batch)), train=False))


def _zeros(batch: Batch) -> Batch:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)


def abstract_variables(model: nn.Module, task: Task, batch: Batch) -> dict[str, Any]:
    """Shapes of the model's variables, without computing any.

    Args:
        model: a linen module.
        task: says which of the batch's arrays the model takes.
        batch: arrays, or their shapes.
    """
    return jax.eval_shape(lambda: _initial_variables(model, task, batch, 0))


def initial_state(
    model: nn.Module, task: Task, batch: Batch, optimizer: optax.GradientTransformation, *, seed: int, ema: bool
) -> TrainState:
    """The state before the first step; only the shapes of `batch` matter. Made to be called under `jit`."""
    collections = _initial_variables(model, task, batch, seed)
    params = collections.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=collections,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        ema_collections=jax.tree.map(jnp.copy, collections) if ema else None,
        halted=jnp.zeros((), bool),
    )


def evaluation_variables(state: TrainState) -> dict[str, Any]:
    """The model's variables as they are evaluated and kept: averages where there are any.

    Batch statistics are averaged with the parameters that they belong to, as in MobileViT's training.
    """
    if state.ema_params is None:
        return {"params": state.params, **state.collections}
    return {"params": state.ema_params, **state.ema_collections}


def moving_average(average: Tree, new: Tree, decay: float | jax.Array) -> Tree:
    """`decay · average + (1 - decay) · new` for floats, the new ones for other leaves."""

    def move(old: jax.Array, latest: jax.Array) -> jax.Array:
        floats = jnp.issubdtype(latest.dtype, jnp.floating)
        return decay * old + (1.0 - decay) * latest if floats else latest

    return jax.tree.map(move, average, new)


def count_parameters(params: Tree) -> int:
    """Numbers in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
