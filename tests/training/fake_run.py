"""A model, a task and a source that are small enough to train in a test, and a config of them.

Run as a program, it trains: `python fake_run.py WORKDIR steps=6 ...`, which is how tests kill a run.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vitjax.config import spec
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


class Net(nn.Module):
    """Two layers; dropout and batch norm on demand."""

    num_classes: int | None = None
    width: int = 8
    dropout_rate: float = 0.0
    batch_norm: bool = False

    @nn.compact
    def __call__(self, images, *, train: bool):
        # Under batch norm a bias has gradient 0; Adam would blow its rounding up to full steps.
        x = nn.Dense(self.width, use_bias=not self.batch_norm, name="hidden")(images.reshape(len(images), -1))
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(nn.gelu(x))
        return nn.Dense(self.num_classes, name="head")(x)

    def describe(self, **inputs) -> str:
        return "no attention"


@dataclass(frozen=True)
class Classify:
    """Cross-entropy over the unmasked images; one source number can be made to give a NaN."""

    poisoned: int = -1

    def augment(self, batch, key):
        return batch

    def inputs(self, batch):
        return {"images": batch["image"].astype(jnp.float32) / 255.0}

    def loss(self, outputs, batch):
        mask = batch["image_mask"]
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["label"])
        losses = jnp.where(batch["example"] == self.poisoned, jnp.nan, losses) if self.poisoned >= 0 else losses
        total, count = jnp.sum(jnp.where(mask, losses, 0.0)), jnp.sum(mask.astype(jnp.float32))
        hits = jnp.sum((jnp.argmax(outputs, -1) == batch["label"]) & mask)
        return total / jnp.maximum(count, 1.0), {"loss": (total, count), "top1": (hits.astype(jnp.float32), count)}

    def predict(self, outputs, batch):
        return jnp.argmax(outputs, -1)

    def meter(self):
        return Meter()


class Meter:
    def __init__(self):
        self.totals, self.seen = {}, []

    def add(self, metrics, predictions, batch):
        for name, (total, count) in metrics.items():
            old = self.totals.get(name, (0.0, 0.0))
            self.totals[name] = (old[0] + total, old[1] + count)
        assert len(predictions) == len(batch["label"])
        self.seen.extend(int(number) for number in batch["example"] if number >= 0)

    def scores(self):
        assert len(set(self.seen)) == len(self.seen), "an example was counted twice"
        return {name: total / count for name, (total, count) in self.totals.items()} | {"images": float(len(self.seen))}


class Stream:
    def __init__(self, batches, seed, shards):
        self.batches, self.seed, self.shards, self.number = batches, seed, shards, 0
        self.handed = 0
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        size = self.batches.batch_size
        local = self.shards.local_size(size, "batch_size")
        rng = np.random.default_rng((self.seed, self.number))
        order = rng.integers(0, self.batches.num_examples, size)
        if self.batches.odd_rows:
            order[-self.batches.odd_rows :] = -1
        self.number += 1
        self.handed += 1
        start = local * self.shards.process_index
        if (at := os.environ.get("KILL_AT")) and int(at) == self.number:
            os.kill(os.getpid(), int(os.environ.get("KILL_WITH", signal.SIGKILL)))
        return self.batches.rows(order[start : start + local])

    def state(self):
        return {"position": self.number}

    def restore(self, state):
        self.number = state["position"]

    def statistics(self):
        return {"padding_share": 0.25}

    def close(self):
        self.closed = True


@dataclass(frozen=True)
class Batches:
    """Images of noise whose brightness is their class."""

    source: int | None = 40
    batch_size: int = 8
    classes: int = 3
    odd_rows: int = 0
    names: tuple[str, ...] | None = None

    @property
    def labels(self):
        return self.names or tuple(f"class {number}" for number in range(self.classes))

    @property
    def num_examples(self):
        return self.source

    def rows(self, numbers):
        real = numbers >= 0
        label = np.where(real, numbers % self.classes, 0).astype(np.int32)
        noise = np.stack([np.random.default_rng(max(number, 0)).integers(0, 40, (4, 4, 3)) for number in numbers])
        image = (noise + label[:, None, None, None] * 60).astype(np.uint8)
        return {"image": image, "label": label, "image_mask": real, "example": numbers.astype(np.int32)}

    def stream(self, seed, shards):
        return Stream(self, seed, shards)

    def epoch(self, shards) -> Iterator[dict]:
        local = shards.local_size(self.batch_size, "batch_size")
        for start in range(0, self.num_examples, self.batch_size):
            numbers = np.arange(start, start + self.batch_size)
            numbers = np.where(numbers < self.num_examples, numbers, -1)
            begin = local * shards.process_index
            yield self.rows(numbers[begin : begin + local])


def config(workdir, **changes) -> ConfigDict:
    """A complete config; `changes` replace top-level keys."""
    config = ConfigDict()
    config.seed = 0
    config.workdir = str(workdir)
    config.steps = 6
    config.model = spec(Net)
    config.task = spec(Classify)
    config.train = spec(Batches)
    config.evaluation = spec(Batches, source=21)
    config.optimizer = spec(AdamW, lr=0.01, weight_decay=0.1)
    config.schedule = spec(Cosine, warmup_steps=1)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = 0.9
    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "tensor": 1})
    config.sharding_rules = ()
    config.log_every = 2
    config.evaluate_every = 3
    config.checkpoint_every = 2
    config.keep_checkpoints = 2
    config.best_metric = "top1"
    config.log_examples = True
    with config.ignore_type():
        for name, value in changes.items():
            config[name] = value
    return config


if __name__ == "__main__":
    from vitjax.training.fit import fit
    from vitjax.training.interruption import EXIT_INTERRUPTED

    if process := os.environ.get("PROCESS"):  # host:port,count,number
        from vitjax.training.devices import join_processes

        coordinator, count, number = process.split(",")
        join_processes(coordinator, int(count), int(number))
    given = config(
        sys.argv[1], **{name: json.loads(value) for name, value in (item.split("=") for item in sys.argv[2:])}
    )
    given.model = spec(Net, dropout_rate=0.2, batch_norm=True)
    sys.exit(EXIT_INTERRUPTED if fit(given).interrupted else 0)
