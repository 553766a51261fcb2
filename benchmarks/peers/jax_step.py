"""One forward pass or AdamW step of ours, as the trainer makes it: one jitted program, the state donated."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from vitjax.arrays import Batch

__all__ = ["make_forward", "make_step"]


def make_forward(model: Any, task: Any, variables: Any) -> Callable[[Batch], None]:
    """From a batch to logits, awaited."""
    forward = jax.jit(lambda variables, batch: model.apply(variables, **task.inputs(batch), train=False))

    def run(batch: Batch) -> None:
        forward(variables, batch).block_until_ready()

    return run


def make_step(model: Any, task: Any, variables: Any) -> Callable[[Batch], None]:
    """Loss, gradients and AdamW's update, awaited; the parameters go on from one batch to the next."""
    optimizer = optax.adamw(1e-3, weight_decay=0.05)

    def step(state: Any, batch: Batch) -> tuple[Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            outputs = model.apply({"params": params}, **task.inputs(batch), train=True)
            return task.loss(outputs, batch)[0]

        params, optimizer_state = state
        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    program = jax.jit(step, donate_argnums=0)
    held = [(variables["params"], jax.jit(optimizer.init)(variables["params"]))]

    def run(batch: Batch) -> None:
        held[0], loss = program(held[0], batch)
        loss.block_until_ready()

    return run
