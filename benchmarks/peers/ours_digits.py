"""`configs/navit.py` as it is, or with one image per row padded to the largest: the training step in images/s."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.peers import serve
from benchmarks.peers.jax_step import make_step
from vitjax.config import build as build_config
from vitjax.config import load_config_file
from vitjax.data.loading import Shards

_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "navit.py"
_SAMPLE_BATCHES = 10


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `packed`; `ready` for batches made before the timing, in place of drawn within it."""
    config = load_config_file(_CONFIG)
    batches = build_config(config.train)
    model = build_config(config.model).clone(num_classes=len(batches.labels))
    task = build_config(config.task)
    if not settings["packed"]:
        batches = _one_per_row(batches)
    stream = batches.stream(0, Shards())
    variables = jax.jit(lambda key, batch: model.init(key, **task.inputs(batch)))(jax.random.key(0), next(stream))
    run = make_step(model, task, variables)
    if settings["ready"]:
        stream, waiting = cycle([next(stream) for _ in range(_SAMPLE_BATCHES)]), stream
        waiting.close()

    def iteration() -> int:
        batch = next(stream)
        run({name: value for name, value in batch.items() if name != "example"})
        return int(batch["image_mask"].sum())

    return iteration


def _one_per_row(batches: Any) -> Any:
    """The same images, each in a row of its own as long as the largest of a sample, about as many a step as packed."""
    stream, largest, count = batches.stream(0, Shards()), 0, 0
    for _ in range(_SAMPLE_BATCHES):
        batch = next(stream)
        sizes = [np.bincount(row)[1:] for row in batch["segments"]]
        largest = max(largest, *(int(size.max()) for size in sizes))
        count += int(batch["image_mask"].sum())
    stream.close()
    rows = count // _SAMPLE_BATCHES // batches.packers * batches.packers
    return replace(batches, length=largest, rows=rows, max_images=1, buckets=False, window=1)


if __name__ == "__main__":
    serve(build)
