"""All that does not change while a run goes on, made and checked before the first step."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vitjax.arrays import Batch
from vitjax.config import build
from vitjax.data.loading import Shards
from vitjax.errors import UserError
from vitjax.tasks.task import Task
from vitjax.training.devices import (
    check_batch_size,
    count_data_shards,
    make_mesh,
    replicated,
    rows_sharding,
    state_shardings,
)
from vitjax.training.evaluation import EvaluationStep, evaluate, make_evaluation_step
from vitjax.training.feed import Batches, Stream
from vitjax.training.optimizers import make_optimizer, trained_paths
from vitjax.training.run_folder import RunFolder, open_run_folder
from vitjax.training.settings import Settings, fill_num_classes, read_settings
from vitjax.training.state import TrainState, abstract_variables, evaluation_variables, initial_state
from vitjax.training.step import StepResult, make_train_step

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

__all__ = ["Parts", "Programs", "check_evaluation", "evaluation_shards", "make_parts", "make_programs", "train_shards"]


@dataclass(frozen=True)
class Parts:
    """What the config names, built.

    Attributes:
        settings: with `model.num_classes` filled in.
        notes: what was filled in, for the log.
        writes: whether this process writes files and speaks; one of many does.
    """

    settings: Settings
    folder: RunFolder
    mesh: Mesh
    model: nn.Module
    task: Task
    train: Batches
    evaluation: Batches
    stream: Stream
    manager: "CheckpointManager"
    notes: tuple[str, ...]
    writes: bool


@dataclass(frozen=True)
class Programs:
    """The compiled functions of a run, and the shapes they were made for.

    Attributes:
        abstract: shapes of the state.
        shardings: of the state's leaves.
        make_state: the state before the first step.
        train_step: donates the state.
        evaluation_step: results on every device.
    """

    abstract: TrainState
    shardings: TrainState
    make_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, StepResult]]
    evaluation_step: EvaluationStep


def make_parts(config: ConfigDict) -> Parts:
    """Builds what the config names; opens the run folder first, so that a wrong one is told at once.

    Args:
        config: of the run; not changed.

    Raises:
        UserError: the folder, the mesh, the data or a constructor refuses.
    """
    from vitjax.training.checkpoints import open_checkpoints

    writes = jax.process_index() == 0
    settings = read_settings(config)
    folder = open_run_folder(config, write=writes)
    mesh = make_mesh(settings.mesh["data"], settings.mesh["fsdp"], settings.mesh["tensor"])
    train, evaluation, task = build(settings.train), build(settings.evaluation), build(settings.task)
    settings, notes = fill_num_classes(settings, train, evaluation, least=getattr(task, "least_classes", 2))
    return Parts(
        settings=settings,
        folder=folder,
        mesh=mesh,
        model=build(settings.model),
        task=task,
        train=train,
        evaluation=evaluation,
        stream=train.stream(settings.seed, train_shards(mesh, settings.accumulate_steps)),
        manager=open_checkpoints(folder.checkpoints, settings.keep_checkpoints),
        notes=tuple(notes),
        writes=writes,
    )


def train_shards(mesh: Mesh, accumulate_steps: int) -> Shards:
    """This process's part of a training batch; `step.split_batch` says why the parts multiply the groups."""
    return _shards(_local_shards(mesh) * accumulate_steps)


def evaluation_shards(mesh: Mesh) -> Shards:
    """This process's part of an evaluation batch."""
    return _shards(_local_shards(mesh))


def _shards(groups: int) -> Shards:
    return Shards(jax.process_index(), jax.process_count(), groups, buckets=jax.default_backend() == "cpu")


def _local_shards(mesh: Mesh) -> int:
    shards, processes = count_data_shards(mesh), jax.process_count()
    if shards % processes:
        raise UserError(f"`mesh` has {shards} data shards, which {processes} processes cannot share evenly")
    return shards // processes


def make_programs(parts: Parts, batch: Batch) -> Programs:
    """Traces the model for the batch's shapes, checks every rule against its parameters, and jits the two steps.

    Raises:
        UserError: a rule, the schedule or the optimizer does not fit.
    """
    settings, model, task = parts.settings, parts.model, parts.task
    chosen, multiplier = build(settings.optimizer), build(settings.schedule).multiplier(settings.steps)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    params = abstract_variables(model, task, shapes)["params"]
    optimizer = make_optimizer(
        chosen,
        multiplier,
        params,
        decay_rules=settings.decay_rules,
        rate_rules=settings.rate_rules,
        clip_norm=settings.clip_norm,
        adaptive_clip=settings.adaptive_clip,
    )

    def make_state() -> TrainState:
        return initial_state(model, task, shapes, optimizer, seed=settings.seed, ema=settings.ema_decay is not None)

    abstract = jax.eval_shape(make_state)
    shardings = state_shardings(abstract, params, parts.mesh, settings.sharding_rules)
    step = make_train_step(
        model,
        task,
        optimizer,
        lambda step: chosen.lr * multiplier(step),
        trained=trained_paths(params, settings.rate_rules),
        seed=settings.seed,
        data_shards=count_data_shards(parts.mesh),
        accumulate_steps=settings.accumulate_steps,
        ema_decay=settings.ema_decay,
    )
    everywhere, rows = replicated(parts.mesh), rows_sharding(parts.mesh)
    return Programs(
        abstract=abstract,
        shardings=shardings,
        make_state=jax.jit(make_state, out_shardings=shardings),
        train_step=jax.jit(
            _in_mesh(parts.mesh, step),
            in_shardings=(shardings, rows),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
        ),
        evaluation_step=jax.jit(_in_mesh(parts.mesh, make_evaluation_step(model, task)), out_shardings=everywhere),
    )


def _in_mesh(mesh: Mesh, step: Callable[..., Any]) -> Callable[..., Any]:
    """Traced with the mesh in context: there `jax.shard_map` finds it, and a loss that compares across devices."""

    @functools.wraps(step)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(*arguments)

    return traced


def check_evaluation(parts: Parts, programs: Programs, state: TrainState) -> None:
    """Evaluates one batch, so that what is wrong there is told now and not at the first evaluation.

    Raises:
        UserError: there is no batch, it does not fit the mesh, or no score is called `best_metric`.
    """
    batches = parts.evaluation.epoch(evaluation_shards(parts.mesh))
    try:
        batch = next(iter(batches), None)
    finally:
        getattr(batches, "close", lambda: None)()  # generators hold reading threads
    if batch is None:
        raise UserError("`evaluation` yields no batch: its source is empty")
    check_batch_size(batch, parts.mesh, 1, setting="evaluation")
    scores = evaluate(programs.evaluation_step, evaluation_variables(state), [batch], parts.task, parts.mesh)
    if parts.settings.best_name not in scores:
        raise UserError(
            f"`best_metric={parts.settings.best_metric}`: the evaluation gives {', '.join(scores)}; "
            "choose one of these, with a '-' before it if smaller is better"
        )
