"""Checkpoints: the training state and the data position, written by orbax in the background."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.experimental import multihost_utils

from vitjax.arrays import Tree
from vitjax.errors import UserError
from vitjax.training.state import TrainState

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

__all__ = ["host_variables", "latest_step", "open_checkpoints", "read_position", "read_state", "save"]


def open_checkpoints(folder: Path, keep: int | None) -> "CheckpointManager":
    """The manager of a run's checkpoints; what a killed process left half written is removed.

    Args:
        folder: `checkpoints/` of the run.
        keep: newest checkpoints kept, or `None` for all.
    """
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
    )
    return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "position"))


def save(manager: "CheckpointManager", step: int, state: TrainState, position: dict[str, Any]) -> None:
    """Starts writing step `step`; returns once the state may be changed. A checkpoint that is there is left alone.

    Args:
        manager: from `open_checkpoints`.
        step: updates made.
        state: finite, and read from the device completely before this returns.
        position: of the data stream after the batch of the last step; merged over processes.
    """
    import orbax.checkpoint as ocp

    if step in manager.all_steps():
        return
    state_item = ocp.args.StandardSave(state)  # pyright: ignore[reportCallIssue]
    position_item = ocp.args.JsonSave(position)  # pyright: ignore[reportCallIssue]
    manager.save(step, args=ocp.args.Composite(state=state_item, position=position_item))


def latest_step(manager: "CheckpointManager") -> int | None:
    """The newest complete checkpoint."""
    return manager.latest_step()


def read_position(manager: "CheckpointManager", step: int) -> dict[str, Any]:
    """The data position that `save` was given."""
    import orbax.checkpoint as ocp

    restored = manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))
    return restored["position"]


def read_state(manager: "CheckpointManager", step: int, state: Tree, shardings: Tree) -> TrainState:
    """The state that `save` was given, laid out for the present mesh.

    Args:
        manager: from `open_checkpoints`.
        step: of a complete checkpoint.
        state: shapes of the state.
        shardings: of its leaves.

    Raises:
        UserError: the checkpoint does not fit the model or the optimizer.
    """
    import orbax.checkpoint as ocp

    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, shardings
    )
    item = ocp.args.StandardRestore(target)  # pyright: ignore[reportCallIssue]
    try:
        return manager.restore(step, args=ocp.args.Composite(state=item))["state"]
    except (ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"checkpoint {manager.directory}/{step} does not fit this config: {reason}") from error


def host_variables(variables: Tree) -> Tree:
    """Numpy copies of the whole arrays, in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(variables, tiled=True)
    return jax.device_get(variables)
