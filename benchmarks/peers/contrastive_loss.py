"""The process of `benchmarks.contrastive_loss` that has eight simulated devices; prints a row of JSON a line."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.report import Options, Row
from vitjax.ops.contrastive import sigmoid_pair_losses, softmax_pair_losses
from vitjax.ops.contrastive_chunks import chunked_sigmoid_pair_losses, chunked_softmax_pair_losses

__all__ = ["exchanged_in_hlo", "exchanged_in_jaxpr"]

_DEVICES, _BATCHES, _WIDTH, _CHUNK = (1, 2, 4, 8), (1024, 2048, 4096), 128, 256
_LOSSES = {
    "softmax": (chunked_softmax_pair_losses, softmax_pair_losses, (20.0,)),
    "sigmoid": (chunked_sigmoid_pair_losses, sigmoid_pair_losses, (20.0, -10.0)),
}


def rows(options: Options) -> Iterator[Row]:
    """Three rows for every case."""
    for name in _LOSSES:
        for devices in _DEVICES:
            for batch in _BATCHES:
                case = f"{name} {devices} devices batch {batch}"
                names = [f"{case} {what}" for what in ("memory", "exchanged", "time")]
                if any(options.wants(one) for one in names):
                    yield from (
                        row for row in _measure(name, devices, batch, options.repeats) if options.wants(row.case)
                    )


def _measure(name: str, devices: int, batch: int, repeats: int) -> Iterator[Row]:
    mesh = Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1, 1), ("data", "fsdp", "tensor"))
    chunked, dense, scalars = _LOSSES[name]
    arrays = _arrays(mesh, batch, scalars)
    with jax.set_mesh(mesh):
        ours = _mean(lambda *given: chunked(*given, chunk=_CHUNK))
        received = exchanged_in_jaxpr(jax.make_jaxpr(ours)(*arrays).jaxpr)
        programs = [jax.jit(program).lower(*arrays).compile() for program in (ours, _mean(dense))]
    memory = [program.memory_analysis().temp_size_in_bytes / 2**20 for program in programs]
    case = f"{name} {devices} devices batch {batch}"
    yield Row.lower(f"{case} memory", memory[:1], memory[1:], "MiB a device")
    others = exchanged_in_hlo(programs[1].as_text(), devices)
    if devices > 1:
        yield Row.lower(f"{case} exchanged", [received / 2**20], [others / 2**20], "MiB a device")
    times = [[1000 * _seconds(program, arrays) for program in programs] for _ in range(repeats + 1)][1:]
    yield Row.faster(f"{case} time", *(list(column) for column in zip(*times, strict=True)), unit="ms")


def _arrays(mesh: Mesh, batch: int, scalars: tuple[float, ...]) -> list[jax.Array]:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(2, batch, _WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    rows, whole = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), NamedSharding(mesh, PartitionSpec())
    mask = generator.random(batch) < 0.9
    return [
        *jax.device_put([*vectors, mask], rows),
        *jax.device_put([np.array(scalar, np.float32) for scalar in scalars], whole),
    ]


def _mean(losses: Callable[..., Any]) -> Callable[..., Any]:
    def mean(images: Any, texts: Any, mask: Any, *scalars: Any) -> Any:
        return losses(images, texts, mask, *scalars).sum() / mask.sum()

    return jax.value_and_grad(mean, argnums=(0, 1, 3))


def _seconds(program: Callable[..., Any], arrays: list[jax.Array]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(program(*arrays))
    return time.perf_counter() - started


def exchanged_in_jaxpr(jaxpr: Any) -> int:
    """Bytes that a device receives by `ppermute`, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "ppermute":
            total += sum(math.prod(value.aval.shape) * value.aval.dtype.itemsize for value in equation.invars)
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(exchanged_in_jaxpr(value) for value in inner if hasattr(value, "eqns"))
    return total


_COLLECTIVE = re.compile(r"= (?P<shapes>\(?[a-z0-9\[\],{} /*=]*?\)?) (?P<kind>all-gather|all-reduce|reduce-scatter|"
                         r"collective-permute|all-to-all)(-start)?\(")  # fmt: skip
_SHAPE = re.compile(r"(?P<type>pred|[a-z]+(?P<bits>\d+))\[(?P<sizes>[\d,]*)\]")


def exchanged_in_hlo(text: str, devices: int) -> float:
    """Bytes that a device receives by the collectives of a compiled program without loops.

    Of n bytes of result an all-gather receives what is not its own, n (devices - 1) / devices, and an all-reduce round
    a ring twice that; a reduce-scatter receives n for each other device.
    """
    share = (devices - 1) / devices
    factors = {
        "all-gather": share, "all-reduce": 2 * share, "reduce-scatter": devices - 1.0, "collective-permute": 1.0,
        "all-to-all": share,
    }  # fmt: skip
    total = 0.0
    for found in _COLLECTIVE.finditer(text):
        for shape in _SHAPE.finditer(found["shapes"]):
            size = 1 if shape["type"] == "pred" else int(shape["bits"]) / 8
            total += (
                factors[found["kind"]] * size * math.prod(int(number) for number in shape["sizes"].split(",") if number)
            )
    return total


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    for row in rows(Options(repeats=given["repeats"], case=given["case"])):
        print(json.dumps(asdict(row)), flush=True)
