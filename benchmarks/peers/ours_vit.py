"""Our ViT: one forward pass or one AdamW step on a batch that stays the same."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.peers import serve
from benchmarks.peers.jax_step import make_forward, make_step
from vitjax.models.vit import VARIANTS, ViT


class _FloatImages:
    """Images that are normalised already, as the other side gets them; softmax cross-entropy."""

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"images": batch["image"]}

    def loss(self, outputs: jax.Array, batch: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(outputs), batch["label"][:, None], axis=1)
        return -chosen.mean(), {}


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `model` (a name in `VARIANTS`), `batch`, `train`."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(settings["batch"], 224, 224, 3)).astype(np.float32)
    batch = jax.device_put({"image": images, "label": rng.integers(0, 1000, settings["batch"])})
    model = ViT(**VARIANTS[settings["model"]])
    variables = jax.jit(model.init)(jax.random.key(0), batch["image"])
    run = (make_step if settings["train"] else make_forward)(model, _FloatImages(), variables)

    def iteration() -> int:
        run(batch)
        return 1

    return iteration


if __name__ == "__main__":
    serve(build)
