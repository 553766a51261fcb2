"""One form of our convolutions, forward or with its gradient."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.peers import serve
from vitjax.ops import convolution


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `form` of `ops.convolution`, shapes `images` and `kernel`, `stride`, `groups`, `gradient`."""
    form = getattr(convolution, settings["form"])
    steps = {"stride": settings["stride"], "groups": settings["groups"], "dilation": 1}
    steps["padding"] = settings["kernel"][0] // 2
    rng = np.random.default_rng(0)
    arrays = [jax.device_put(rng.normal(size=settings[name]).astype(np.float32)) for name in ("images", "kernel")]
    outputs = jax.eval_shape(lambda images, kernel: form(images, kernel, **steps), *arrays)
    outer = jax.device_put(rng.normal(size=outputs.shape).astype(np.float32))

    def forward(images: jax.Array, kernel: jax.Array) -> Any:
        return form(images, kernel, **steps)

    def gradient(images: jax.Array, kernel: jax.Array) -> Any:
        result, pull = jax.vjp(forward, images, kernel)
        by_images, by_kernel = pull(outer)
        return (result, by_kernel) if images.shape[-1] == 3 else (result, by_images, by_kernel)

    program = jax.jit(gradient if settings["gradient"] else forward)

    def iteration() -> int:
        jax.block_until_ready(program(*arrays))
        return 1

    return iteration


if __name__ == "__main__":
    serve(build)
