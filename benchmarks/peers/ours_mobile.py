"""Our networks of convolutions: one forward pass of the fused model, or one AdamW step, on the same images."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers import serve
from vitjax.models import create_model


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `model` (timm's name), `batch`, `train`. A unit of work is a step at batch 1, otherwise an image."""
    model: Any = create_model(settings["model"])
    rates = {name: 0.0 for name in type(model).__dataclass_fields__ if name.endswith("dropout_rate")}
    model = model.clone(**rates)  # timm's have none unless they are told
    rng = np.random.default_rng(0)
    images = rng.normal(size=(settings["batch"], model.image_size, model.image_size, 3)).astype(np.float32)
    images, labels = jax.device_put((images, rng.integers(0, 1000, settings["batch"])))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    run = (_make_step if settings["train"] else _make_forward)(model, variables)

    def iteration() -> int:
        run(images, labels)
        return settings["batch"]

    return iteration


def _make_forward(model: Any, variables: Any) -> Callable[[jax.Array, jax.Array], None]:
    fused, folded = model.fuse(variables)
    folded = jax.device_put(folded)
    forward = jax.jit(
        functools.partial(fused.apply, folded)
    )  # weights as constants, as `Bundle.predict` of a fused one

    def run(images: jax.Array, _: jax.Array) -> None:
        forward(images).block_until_ready()

    return run


def _make_step(model: Any, variables: Any) -> Callable[[jax.Array, jax.Array], None]:
    """Loss, gradients, running statistics and AdamW's update in one program, the state donated."""
    optimizer = optax.adamw(1e-3, weight_decay=0.05)

    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, statistics, optimizer_state = state

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": statistics}
            logits, changed = model.apply(variables, images, train=True, mutable=["batch_stats"])
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            return -chosen.mean(), changed["batch_stats"]

        (loss, changed), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), changed, optimizer_state), loss

    program = jax.jit(step, donate_argnums=0)
    params = variables["params"]
    held = [(params, variables["batch_stats"], jax.jit(optimizer.init)(params))]

    def run(images: jax.Array, labels: jax.Array) -> None:
        held[0], loss = program(held[0], images, labels)
        loss.block_until_ready()

    return run


if __name__ == "__main__":
    serve(build)
