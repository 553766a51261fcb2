"""The experiment of the learnable-memory paper: one trained ViT, a new task, and what of the model is trained for it.

Sandler et al. 2022 (arXiv:2203.15243), section 4, and LoRA beside it.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vitjax.arrays import Tree
from vitjax.config import build
from vitjax.data.loading import Shards
from vitjax.inference.bundle import Bundle, load
from vitjax.models.memory_vit import BASE
from vitjax.paths import flatten
from vitjax.training.fit import RunSummary, fit
from vitjax.training.optimizers import trained_paths
from vitjax.training.run_folder import read_rows
from vitjax.transfer.memories import attach, save_task
from vitjax.transfer.regimes import (
    Regime,
    full,
    head_and_class_token,
    head_only,
    low_rank,
    masked_memory,
    memory,
)
from vitjax.weights.bundle_io import read_bundle

__all__ = ["Comparison", "compare_regimes"]


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        workdir: the first task's run, with a run folder per regime below `from_step_N/`, `table.json`,
            `plots/regimes.png` and the new task's file.
        first: how training on the first task ended.
        runs: how each regime's training ended.
        rows: the table: one row per regime.
        untouched: whether the masked model's answers to the first task are those of the first model, bit for bit.
        interrupted: whether a run was; the same command goes on with it.
    """

    workdir: Path
    first: RunSummary
    runs: Mapping[str, RunSummary]
    rows: tuple[Mapping[str, Any], ...]
    untouched: bool | None
    interrupted: bool

    @property
    def step(self) -> int:
        """Updates made on the first task."""
        return self.first.step

    @property
    def scores(self) -> dict[str, float]:
        """Of the first task."""
        return self.first.scores


def compare_regimes(config: ConfigDict, *, task: str, cells: int = 5, rank: int = 4) -> Comparison:
    """Trains the config's ViT on a first task, then makes it do a second one in each regime, all with as many steps.

    Args:
        config: of the first task's run. `config.transfer` holds `train`, `evaluation` and `optimizer` of the second
            task, and `rates`, the learning rate of each regime; `config.transfer_steps` are those of each regime.
        task: name of the second task.
        cells: memory cells of each layer.
        rank: of the low-rank products.
    """
    regimes: dict[str, Callable[[str], Regime]] = {
        "full": full,
        "head_only": head_only,
        "head_and_class_token": head_and_class_token,
        "memory": partial(memory, cells=cells),
        "masked_memory": partial(masked_memory, task=task, cells=cells),
        "low_rank": partial(low_rank, rank=rank),
    }
    transfer: Any = config.transfer
    workdir, first_config = Path(str(config.workdir)), config.copy_and_resolve_references()
    with first_config.unlocked():
        del first_config["transfer"], first_config["transfer_steps"]
    _say(f"-- the first task, in {workdir}")
    first, runs, rows = fit(first_config), {}, []
    if first.interrupted:
        return Comparison(workdir, first, {}, (), None, interrupted=True)
    best = workdir / "best"
    # Runs that start from other weights are other runs: were the first task trained on, these would begin anew.
    folder = workdir / f"from_step_{read_bundle(best, variables=False).step}"
    for name, make in regimes.items():
        _say(f"-- the second task, {name}, in {folder / name}")
        regime = make(str(best))
        runs[name] = fit(_second(config, transfer, regime, transfer.rates[name], folder / name))
        if runs[name].interrupted:
            return Comparison(workdir, first, runs, tuple(rows), None, interrupted=True)
        rows.append(_row(name, regime, runs[name]))
    untouched = _check_first_task(load(workdir), load(folder / "masked_memory"), config.evaluation, workdir, task)
    (workdir / "table.json").write_text(json.dumps({"regimes": rows, "untouched": untouched}, indent=2) + "\n")
    _draw(workdir / "plots" / "regimes.png", rows, folder)
    _say(_table(rows))
    _say(f"look at {workdir}/plots/regimes.png and {workdir}/table.json")
    return Comparison(workdir, first, runs, tuple(rows), untouched, interrupted=False)


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)


def _second(config: ConfigDict, transfer: Any, regime: Regime, rate: float, folder: Path) -> ConfigDict:
    own: Any = config.copy_and_resolve_references()
    with own.unlocked(), own.ignore_type():
        for name in ("train", "evaluation", "optimizer"):
            own[name] = transfer[name].copy_and_resolve_references()
        own.optimizer.lr, own.steps = rate, config.transfer_steps
        del own["transfer"], own["transfer_steps"]
        own.model, own.initial, own.rate_rules = regime.model, regime.initial, regime.rate_rules
        own.workdir = str(folder)
    return own


def _row(name: str, regime: Regime, run: RunSummary) -> dict[str, Any]:
    params = read_bundle(run.workdir / "best").variables["params"]
    trained = trained_paths(params, regime.rate_rules)
    sizes = {path: int(np.size(leaf)) for path, leaf in flatten(params).items()}
    return {
        "regime": name,
        "trained": sum(size for path, size in sizes.items() if trained[path]),
        "parameters": sum(sizes.values()),
        "top1": run.scores["top1"],
        "seconds": _training_seconds(run.workdir / "metrics.jsonl"),
    }


def _training_seconds(metrics: Path) -> float:
    """Of all steps that were logged, interrupted or not; without compiling and evaluating."""
    seconds, before = 0.0, 0
    for line in read_rows(metrics):
        if line["kind"] == "train":
            seconds, before = seconds + line["seconds_per_step"] * (line["step"] - before), line["step"]
    return seconds


def _check_first_task(first: Bundle, masked: Bundle, evaluation: Any, workdir: Path, task: str) -> bool:
    """Asks the first model, the masked one, and the first with the task's file attached; says what is equal."""
    path = save_task(masked, task, workdir / f"{task}.safetensors")
    attached = attach(first, path)[BASE]

    def every_task(bundle: Bundle) -> Callable[[Tree, Any], Any]:
        return jax.jit(lambda variables, inputs: bundle.module.apply(variables, **inputs, method="every_task"))

    alone, beside, again = jax.jit(first.module.apply), every_task(masked), every_task(attached)
    images, right, equal, same = 0, 0, 0, True
    for batch in build(evaluation).epoch(Shards()):
        inputs, real = first.task.inputs(batch), batch["image_mask"]
        logits = np.asarray(alone(first.variables, **inputs))[real]
        both, anew = beside(masked.variables, inputs), again(attached.variables, inputs)
        images += int(real.sum())
        right += int((logits.argmax(-1) == batch["label"][real]).sum())
        equal += int((logits == np.asarray(both[BASE])[real]).all(-1).sum())
        same &= all(np.array_equal(both[name], anew[name]) for name in both)
    untouched = equal == images
    _say(
        f"the first task beside the second: top-1 {right / images:.4f}, logits of {equal} of {images} images "
        f"bit-identical ({'untouched' if untouched else 'CHANGED'})"
    )
    _say(
        f"the second task is {path.stat().st_size / 1000:.1f} kB in {path}; attached to the first model it gives "
        f"{'the same logits' if same else 'OTHER logits'}"
    )
    return untouched


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'regime':<22}{'trained':>10}{'of all':>9}{'top-1':>9}{'seconds':>9}"]
    for row in rows:
        share = row["trained"] / row["parameters"]
        lines.append(f"{row['regime']:<22}{row['trained']:>10,}{share:>9.2%}{row['top1']:>9.4f}{row['seconds']:>9.1f}")
    return "\n".join(lines)


def _draw(path: Path, rows: list[dict[str, Any]], folder: Path) -> None:
    """Accuracy over trained parameters, and over steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for row, marker in zip(rows, itertools.cycle("osD^vP")):  # memories lie on one another
        label = row["regime"].replace("_", " ")
        left.plot(row["trained"], row["top1"], marker, ms=8, alpha=0.7)
        curve = [line for line in read_rows(folder / row["regime"] / "metrics.jsonl") if line["kind"] == "evaluation"]
        right.plot([line["step"] for line in curve], [line["top1"] for line in curve], f"{marker}-", ms=5, label=label)
    left.set_xscale("log")
    left.set_xlabel("trained parameters")
    right.set_xlabel("step")
    figure.legend(loc="outside right center")
    for axes in (left, right):
        axes.set_ylabel("top-1 on the second task")
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
