"""Our DETR: one forward pass of the fused model."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.peers import serve
from vitjax.models import create_model


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `model` (our name), `batch`, `size` (rows, columns). A unit of work is a batch."""
    model: Any = create_model(settings["model"])
    shape = (settings["batch"], *settings["size"], 3)
    images = jax.device_put(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:, :64, :64]))()
    fused, folded = model.fuse(variables)
    folded, forward = jax.device_put(folded), jax.jit(fused.apply)

    def iteration() -> int:
        jax.block_until_ready(forward(folded, images))
        return 1

    return iteration


if __name__ == "__main__":
    serve(build)
