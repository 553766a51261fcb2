"""Processes, the mesh, and where arrays lie on it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax.arrays import Batch, Tree
from vitjax.errors import UserError
from vitjax.paths import first_match, flatten, map_with_path

__all__ = [
    "AXES",
    "check_batch_size",
    "count_data_shards",
    "gather_json",
    "join_processes",
    "make_mesh",
    "place_batch",
    "replicated",
    "rows_sharding",
    "state_shardings",
    "use_compile_cache",
]

AXES = ("data", "fsdp", "tensor")
_ROWS = ("data", "fsdp")  # a batch is cut over both


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of one run; does nothing for a run of a single process.

    Args:
        coordinator: `host:port` of process 0, or `None` for `JAX_COORDINATOR_ADDRESS` or a single process; "auto" asks
            the cluster (SLURM, TPU pod).
        num_processes: of the whole run.
        process_id: this one's number from 0.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: expected 0 to {num_processes - 1} with --num_processes={num_processes}"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def use_compile_cache(folder: Path | None = None) -> Path:
    """Keeps compiled programs on disk, so that the second start of a run skips compilation.

    Args:
        folder: `None` for `$XDG_CACHE_HOME/vitjax/compiled`, `~/.cache` where that variable is not set.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = folder or root / "vitjax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return folder


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of the run's devices, each process holding a run of neighbouring data shards.

    One process may ask for fewer devices than there are, and gets the first ones; of several processes each takes part.

    Args:
        data: copies of the parameters; -1 for the devices that the other axes leave.
        fsdp: shards that parameters and batch are cut into; -1 likewise.
        tensor: shards that only parameters are cut into, by `sharding_rules`; -1 likewise.
        devices: jax devices; all of the run's by default.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or a tensor group spans processes.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    given = f"`mesh` (data={data}, fsdp={fsdp}, tensor={tensor})"
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"{given}: expected positive sizes, at most one of them -1 for the rest")
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        if len(devices) % known:
            raise UserError(f"{given}: {known} does not divide the {len(devices)} devices there are")
        sizes[sizes.index(-1)] = len(devices) // known
    elif known > len(devices) or (known < len(devices) and jax.process_count() > 1):
        raise UserError(
            f"{given} asks for {known} devices, but there are {len(devices)}; set one size to -1 for the rest"
        )
    if jax.local_device_count() % sizes[2] and jax.process_count() > 1:
        raise UserError(f"{given}: tensor groups lie within a process, which has {jax.local_device_count()} devices")
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered[: int(np.prod(sizes))], dtype=object).reshape(sizes), AXES)


def count_data_shards(mesh: Mesh) -> int:
    """Shards that a global batch is cut into."""
    return int(np.prod([mesh.shape[axis] for axis in _ROWS]))


def check_batch_size(batch: Batch, mesh: Mesh, accumulate_steps: int, *, setting: str) -> None:
    """Checks that the rows of this process's batch fill its devices and parts evenly.

    Raises:
        UserError: they do not.
    """
    rows = len(batch["example"]) * jax.process_count()
    shards = count_data_shards(mesh)
    if rows % (shards * accumulate_steps):
        parts = f" and `accumulate_steps={accumulate_steps}`" if accumulate_steps > 1 else ""
        raise UserError(
            f"`{setting}`: a batch has {rows} rows, which the {shards} data shards of the mesh "
            f"(data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}){parts} do not divide; "
            f"give a multiple of {shards * accumulate_steps} rows, or a smaller `mesh.data`"
        )


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over all data shards."""
    return NamedSharding(mesh, PartitionSpec(_ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Puts this process's rows on its devices; the result is the global batch."""
    sharding = rows_sharding(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)


def state_shardings(state: Tree, params: Tree, mesh: Mesh, rules: Sequence[tuple[str, tuple[str | None, ...]]]) -> Tree:
    """Where every leaf of the training state lies.

    A parameter is laid out by the first rule that matches its path. Without rules it is cut over `fsdp` along the
    longest axis that `fsdp` divides. Moments and averages of a parameter lie as the parameter does; all else is on
    every device.

    Args:
        state: shapes of the whole state.
        params: shapes of the parameters.
        mesh: of the run.
        rules: (path pattern, axis name or `None` per array axis) pairs.

    Raises:
        UserError: an axis is unknown, does not divide, or a path is uncovered.
    """
    if mesh.shape["tensor"] > 1 and not any("tensor" in axes for _, axes in rules):
        raise UserError(
            f"`mesh.tensor={mesh.shape['tensor']}` needs `sharding_rules` that name 'tensor', such as "
            "(('.*/expand/kernel', (None, 'tensor')), ('.*', ()))"
        )
    shapes = {path: leaf.shape for path, leaf in flatten(params).items()}
    if rules:
        chosen = first_match([(pattern, tuple(axes)) for pattern, axes in rules], shapes, setting="sharding_rules")
        specs = {path: _checked(path, axes, shapes[path], mesh) for path, axes in chosen.items()}
    else:
        specs = {path: _longest_axis(shape, mesh.shape["fsdp"]) for path, shape in shapes.items()}

    def place(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))  # the longest name first
        owner = next((end for end in ends if end in specs and shapes[end] == leaf.shape), None)
        return NamedSharding(mesh, specs[owner] if owner else PartitionSpec())

    return map_with_path(place, state)


def _checked(path: str, axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    if len(axes) > len(shape):
        raise UserError(f"`sharding_rules`: {path} has shape {shape}, but its rule names {len(axes)} axes: {axes}")
    for axis, size in zip(axes, shape, strict=False):
        if axis is not None and axis not in AXES:
            raise UserError(f"`sharding_rules`: {path}: unknown mesh axis {axis!r}; expected one of {', '.join(AXES)}")
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"`sharding_rules`: {path} has shape {shape}; `mesh.{axis}={mesh.shape[axis]}` does not divide {size}"
            )
    return PartitionSpec(*axes)


def _longest_axis(shape: tuple[int, ...], shards: int) -> PartitionSpec:
    fitting = [axis for axis, size in enumerate(shape) if shards > 1 and size % shards == 0]
    if not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, "fsdp")


def gather_json(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Every process's `value`, in all of them, ordered by process."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.array([len(text)], np.int32))))
    padded = np.full(longest, ord(" "), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(jax.process_count(), longest)
    return [json.loads(row.tobytes()) for row in rows]
