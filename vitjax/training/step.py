"""The one training step, for every task."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from vitjax.arrays import Array, Batch, Tree
from vitjax.paths import map_with_path
from vitjax.tasks.task import Metrics, Task
from vitjax.training.schedules import Multiplier
from vitjax.training.state import TrainState, moving_average

__all__ = ["StepResult", "make_train_step", "split_batch"]


@flax.struct.dataclass
class StepResult:
    """What the host reads of a step: scalars only.

    Attributes:
        metrics: name to (sum, count), over the whole batch.
        images: of the batch, without padding; a loss may count something else, such as pixels.
        loss: what was minimised.
        gradient_norm: over the trained parameters, before clipping.
        learning_rate: of this step.
        finite: whether loss and gradient norm are numbers; if not, the state was left as it was.
    """

    metrics: Any
    images: Any
    loss: Any
    gradient_norm: Any
    learning_rate: Any
    finite: Any


def make_train_step(
    model: nn.Module,
    task: Task,
    optimizer: optax.GradientTransformation,
    learning_rate: Multiplier,
    *,
    trained: dict[str, bool],
    seed: int,
    data_shards: int = 1,
    accumulate_steps: int = 1,
    ema_decay: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepResult]]:
    """The function `(state, batch) -> (state, result)`, to be jitted with the state donated.

    Args:
        model: a linen module.
        task: augments, picks inputs, computes the loss.
        optimizer: what `make_optimizer` made.
        learning_rate: of a step, for the log.
        trained: by path; the gradient stops at parameters that are not.
        seed: all keys are folded from (seed, step).
        data_shards: of the mesh; see `split_batch`.
        accumulate_steps: the gradient is summed over this many parts of the batch, one after the other.
        ema_decay: of the moving average of parameters and collections, or `None` for none.
    """

    def loss_and_gradient(
        params: Tree, collections: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics, Tree, Tree]:
        def loss_of(params: Tree) -> tuple[jax.Array, tuple[Metrics, Tree]]:
            params = map_with_path(lambda path, leaf: leaf if trained[path] else jax.lax.stop_gradient(leaf), params)
            outputs, changed = model.apply(
                {"params": params, **collections},
                **task.inputs(batch),
                train=True,
                rngs={"dropout": key},
                mutable=list(collections),
            )
            loss, metrics = task.loss(outputs, batch)
            return loss, (metrics, {**collections, **changed})

        (loss, (metrics, changed)), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        return loss, metrics, changed, gradient

    def accumulated(state: TrainState, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics, Tree, Tree]:
        """A part's loss weighs as many examples as it counts, so that unequally filled parts add up to the whole."""

        def add(carry: Any, part_and_number: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            collections, sums = carry
            part, number = part_and_number
            loss, metrics, collections, gradient = loss_and_gradient(
                state.params, collections, part, jax.random.fold_in(key, number)
            )
            weight = metrics["loss"][1]
            weighted = jax.tree.map(lambda leaf: leaf * weight, (loss, gradient))
            return (collections, jax.tree.map(jnp.add, sums, (*weighted, metrics, weight))), None

        parts = split_batch(batch, accumulate_steps, data_shards)
        first = jax.tree.map(lambda leaf: leaf[0], parts)
        loss, metrics, _, gradient = jax.eval_shape(loss_and_gradient, state.params, state.collections, first, key)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (loss, gradient, metrics, metrics["loss"][1])
        )
        (collections, sums), _ = jax.lax.scan(
            add, (state.collections, zeros), (parts, jnp.arange(accumulate_steps, dtype=jnp.int32))
        )
        loss, gradient, metrics, weight = sums
        weight = jnp.maximum(weight, 1.0)  # a batch of nothing but padding
        return loss / weight, metrics, collections, jax.tree.map(lambda leaf: leaf / weight, gradient)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepResult]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        batch = task.augment(batch, augment_key)
        if accumulate_steps == 1:
            parts = loss_and_gradient(state.params, state.collections, batch, dropout_key)
        else:
            parts = accumulated(state, batch, dropout_key)
        loss, metrics, collections, gradient = parts
        norm = optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params = map_with_path(lambda path, after, before: after if trained[path] else before, params, state.params)
        ema_params, ema_collections = state.ema_params, state.ema_collections
        if ema_decay is not None:
            ema_params = moving_average(ema_params, params, ema_decay)
            # Batch statistics begin as numbers that no batch had (variance 1), and those after them hold a share of it:
            # all that must fade at once, so their average begins short, as TensorFlow's does with `num_updates`.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema_collections = moving_average(ema_collections, collections, decay)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        go = finite & ~state.halted
        new = TrainState(state.step + 1, params, collections, opt_state, ema_params, ema_collections, state.halted)
        new = jax.tree.map(lambda after, before: jnp.where(go, after, before), new, state)
        images = jnp.sum(batch["image_mask"], dtype=jnp.int32)
        rate = jnp.asarray(learning_rate(state.step), jnp.float32)
        result = StepResult(metrics, images, loss, norm, rate, finite)
        return new.replace(halted=~go), result

    return train_step


def split_batch(batch: Batch, parts: int, data_shards: int) -> Batch:
    """Cuts every leaf's leading axis into `[parts, axis / parts]`, each device keeping its own rows.

    The rows of data shard `d` are cut into `parts` runs, and part `p` is the `p`-th run of every shard. Leaves with an
    entry per group of rows (`buckets`) come with `data_shards * parts` groups and are cut alike, so that group and rows
    stay together.
    """

    def split(leaf: Array) -> Array:
        rows = leaf.reshape(data_shards, parts, -1, *leaf.shape[1:])
        return rows.swapaxes(0, 1).reshape(parts, -1, *leaf.shape[1:])

    return jax.tree.map(split, batch)
