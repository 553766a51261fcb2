"""A run's config, checked and typed."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from vitjax.errors import UserError
from vitjax.training.feed import Batches

__all__ = ["Settings", "fill_num_classes", "read_settings"]

_POSITIVE = ("steps", "accumulate_steps", "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints")
_SPECS = ("model", "task", "train", "evaluation", "optimizer", "schedule")
_OPTIONAL = ("log_examples", "initial", "adaptive_clip")


@dataclass(frozen=True)
class Settings:
    """The top level of a config; ARCHITECTURE.md says what each key means.

    Attributes:
        initial: spec of a callable (module, {path: shape}) -> {path: array}, the weights to start from; configs may
            leave it out.
        adaptive_clip: see `make_optimizer`; configs may leave it out.
        log_examples: whether `examples.jsonl` gets the ids of every step's examples; configs may leave it out.
        best_metric: name of an evaluation score; `-name` if smaller is better.
    """

    seed: int
    workdir: str
    steps: int
    model: ConfigDict
    task: ConfigDict
    train: ConfigDict
    evaluation: ConfigDict
    optimizer: ConfigDict
    schedule: ConfigDict
    decay_rules: Sequence[tuple[str, float]]
    rate_rules: Sequence[tuple[str, float]]
    clip_norm: float | int | None
    accumulate_steps: int
    ema_decay: float | None
    mesh: dict[str, int]
    sharding_rules: Sequence[tuple[str, tuple[str | None, ...]]]
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    keep_checkpoints: int | None
    best_metric: str
    log_examples: bool = False
    initial: ConfigDict | None = None
    adaptive_clip: float | None = None

    @property
    def best_name(self) -> str:
        """`best_metric` without its sign."""
        return self.best_metric.removeprefix("-")

    @property
    def best_sign(self) -> float:
        """1 if larger is better, -1 if smaller."""
        return -1.0 if self.best_metric.startswith("-") else 1.0


def read_settings(config: ConfigDict) -> Settings:
    """The settings of a config, which may hold other keys of its own as well.

    Raises:
        UserError: a key is missing, or a value out of range.
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    missing = [name for name in names if name not in config and name not in _OPTIONAL]
    if missing:
        raise UserError(
            f"the config lacks {', '.join(f'`{name}`' for name in missing)}; ARCHITECTURE.md lists all keys"
        )
    values: dict[str, Any] = {name: config[name] for name in names if name in config}
    for name in _SPECS:
        if not isinstance(values[name], ConfigDict) or "target" not in values[name]:
            raise UserError(f"`{name}` is {values[name]!r}; expected spec(...) of a class")
        values[name] = values[name].copy_and_resolve_references()
    for name in _POSITIVE:
        value = values[name]
        if not (isinstance(value, int) and value > 0) and not (name == "keep_checkpoints" and value is None):
            raise UserError(f"`{name}={value}`: expected a positive whole number")
    values["mesh"] = dict(values["mesh"])
    if set(values["mesh"]) != {"data", "fsdp", "tensor"}:
        raise UserError(f"`mesh` has {', '.join(values['mesh']) or 'no axes'}; expected data, fsdp and tensor")
    if values["ema_decay"] is not None and not 0 < values["ema_decay"] < 1:
        raise UserError(f"`ema_decay={values['ema_decay']}`: expected a number between 0 and 1, or None for no average")
    return Settings(**values)


def fill_num_classes(
    settings: Settings, train: Batches, evaluation: Batches, *, least: int = 2
) -> tuple[Settings, list[str]]:
    """Sets `model.num_classes` where the model has one that the config leaves open.

    Args:
        settings: of the run.
        train: has the classes.
        evaluation: has the same, or none.
        least: classes that the task needs.

    Returns:
        The settings, and lines that say what was set.

    Raises:
        UserError: there are fewer classes than `least`, the two sources name different ones, or the config's number is
            not the data's.
    """
    labels, held_back = _names(train), _names(evaluation)
    if "num_classes" not in settings.model or labels is None:
        return settings, []
    if len(labels) < least:
        raise UserError(
            f"`train` has {len(labels)} class ({', '.join(labels) or 'none'}): this task needs at least {least}; check "
            "the folder or data set that `data` names"
        )
    if held_back is not None and held_back != labels:
        odd = sorted(set(labels) ^ set(held_back)) or ["their order"]
        raise UserError(
            f"`train` has {len(labels)} classes and `evaluation` {len(held_back)}, different in {', '.join(odd[:8])}; "
            "both need the same classes in the same order"
        )
    given = settings.model["num_classes"]
    if given is None:
        model = ConfigDict({**settings.model, "num_classes": len(labels)})
        note = f"model.num_classes is {len(labels)}, the classes of the training data"
        return dataclasses.replace(settings, model=model), [note]
    if given != len(labels):
        raise UserError(
            f"`model.num_classes={given}`, but the training data has {len(labels)} classes; "
            "leave it None to take the data's"
        )
    return settings, []


def _names(batches: Batches) -> tuple[str, ...] | None:
    return None if batches.labels is None else tuple(batches.labels)
