"""NaViT's claim of a quarter of ViT's compute at equal accuracy, tried on the embedded digits.

    python -m benchmarks claims.navit --write-readme

Both learn the digits of `configs/navit.py` (16 to 64 px a side, aspects of 1:2 to 2:1) with the same trunk, optimizer
and schedule, about 2,048 tokens a step, each at the best of two or three learning rates (after 240 steps); only what
becomes of the images differs. ViT sees each squashed to one square, of 32 or of 48 px; NaViT sees it with its aspect
kept at a side from a truncated normal of 16 to 40 px, drops tokens, and packs.

A budget is a number of floating-point operations, counted by XLA in the compiled training step. Each (model, budget,
seed) is a run of its own whose schedule ends with the budget, as in table 2 of the paper (Dehghani et al., 2023,
arXiv:2307.06304). Accuracy is top-1 on the held-back scans, drawn three times each: ViT at its own size, NaViT at 32
px with its aspect.

`ours` is NaViT. A ratio is ViT's compute over what NaViT needs for ViT's mean accuracy, read between NaViT's budgets
on a line over log(compute) and log(error); `min` and `max` are the 5th and 95th hundredth over seeds drawn again. At
the ends of NaViT's curve it is a bound, and the case says which. Seconds are steps times the median time of a step on a
ready batch, all models in turns.

Runs stand in `runs/claims_navit`; those that are complete are read again. They take about an hour on two cores.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from benchmarks.parity import write_table
from benchmarks.report import Options, Row
from vitjax.config import factory, load_config_file, spec
from vitjax.data.sampling import BetaDrop, FixedSide, NoDrop, TruncatedNormalSide
from vitjax.data.transforms import Resize
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis, fractional
from vitjax.training.feed import feed
from vitjax.training.fit import fit
from vitjax.training.run import make_parts, make_programs

__all__ = ["FLAGS", "MODELS", "Bound", "compute_for", "ratios", "rows", "run_settings"]

FLAGS = ("--write-readme",)

_ROOT = Path(__file__).resolve().parents[2]
_RUNS = Path("runs/claims_navit")
_PLOT = Path(__file__).with_name("navit.png")
_MARKS = ("<!-- claim:begin -->", "<!-- claim:end -->")

_SEEDS = (0, 1, 2)
_STEPS = (60, 120, 240, 480, 960)
"""Of NaViT at each budget; ViT makes as many as the same operations pay for."""

_TOKENS = 2048  # of a step
_PACKED = "NaViT"


def _navit(config: ConfigDict) -> None:
    config.optimizer.lr = 3e-3
    config.train.update(length=64, rows=_TOKENS // 64, max_images=16)
    config.train.resolution = spec(TruncatedNormalSide, low=16, high=40)
    config.train.token_drop = spec(BetaDrop, mean=0.1, maximum=0.4)
    config.evaluation.resolution = spec(FixedSide, side=32)


def _vit(side: int, rate: float) -> Callable[[ConfigDict], None]:
    def change(config: ConfigDict) -> None:
        config.optimizer.lr = rate
        length = (side // config.model.patch_size) ** 2
        config.train.token_drop = spec(NoDrop)
        for batches in (config.train, config.evaluation):
            packers = batches.get("packers", 4)
            batches.update(length=length, rows=_TOKENS // length // packers * packers, max_images=1, window=1)
            batches.transforms = (spec(Resize, size=side),)
            batches.resolution = spec(FixedSide, side=side)

    return change


MODELS: Mapping[str, Callable[[ConfigDict], None]] = {
    _PACKED: _navit,
    "ViT at 32 px": _vit(32, 3e-3),
    "ViT at 48 px": _vit(48, 7.5e-4),
}
"""What becomes of the images; all else is the same."""


def run_settings(model: str, steps: int, seed: int) -> ConfigDict:
    """The config of one run."""
    name = f"{model.replace(' ', '_')}_{steps}_{seed}"
    config = load_config_file(_ROOT / "configs" / "navit.py", [f"workdir={_RUNS / name}"])
    config.model.max_grid = (8, 8)
    config.model.positions = factory(
        FactorisedPositions, axis=factory(LearnedAxis, std=0.5), coordinates=factory(fractional)
    )
    config.evaluation.source.copies = 3
    config.update(seed=seed, steps=steps, ema_decay=None, log_every=min(20, steps), evaluate_every=steps)
    config.update(checkpoint_every=steps, keep_checkpoints=1)
    config.schedule.warmup_steps = steps // 8
    MODELS[model](config)
    return config


# ------------------------------------------------------------------------------------------------------------- cost


class _Cost(NamedTuple):
    """Of one training step."""

    operations: float
    seconds: float


def _step_costs(repeats: int) -> dict[str, _Cost]:
    """Operations as XLA counts them in the compiled step; the median time on a ready batch, models in turns."""
    steps: dict[str, Callable[[], float]] = {}
    operations: dict[str, float] = {}
    for model in MODELS:
        config = run_settings(model, 100, 0)
        config.workdir = str(_RUNS / "cost" / model.replace(" ", "_"))
        operations[model], steps[model] = _timed_step(config)
    seconds: dict[str, list[float]] = {model: [] for model in MODELS}
    for number in range(10 * repeats + 2):
        for model, step in steps.items():
            taken = step()
            if number >= 2:
                seconds[model].append(taken)
    return {model: _Cost(operations[model], float(np.median(seconds[model]))) for model in MODELS}


def _timed_step(config: ConfigDict) -> tuple[float, Callable[[], float]]:
    parts = make_parts(config)
    batch = feed(parts.stream, parts.mesh).batch
    parts.stream.close()
    parts.manager.close()
    programs = make_programs(parts, batch)
    held = [programs.make_state()]
    program = programs.train_step.lower(held[0], batch).compile()  # pyright: ignore[reportFunctionMemberAccess]

    def step() -> float:
        began = time.perf_counter()
        held[0], result = program(held[0], batch)
        jax.block_until_ready(result)
        return time.perf_counter() - began

    return float(program.cost_analysis()["flops"]), step


# ------------------------------------------------------------------------------------------------------------- runs


def _accuracy(model: str, steps: int, seed: int) -> float:
    """Top-1 at the end of a run; a run that is complete is read."""
    config = run_settings(model, steps, seed)
    file = Path(config.workdir) / "metrics.jsonl"
    if file.is_file():
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in found:
            if row["kind"] == "evaluation" and row["step"] == steps:
                return row["top1"]
    summary = fit(config)
    if summary.interrupted:
        raise KeyboardInterrupt
    return summary.scores["top1"]


# ------------------------------------------------------------------------------------------------------------- curves


class Bound(NamedTuple):
    """A compute; `side` says where the true one is if the curve does not reach it: -1 below, 1 above, 0 here."""

    compute: float
    side: int


def compute_for(accuracy: float, budgets: Sequence[float], accuracies: Sequence[float]) -> Bound:
    """The least compute at which a curve reaches an accuracy.

    Args:
        accuracy: 0 to 1.
        budgets: rising.
        accuracies: at these.
    """
    wanted = _log_error(accuracy)
    points = [(math.log(budget), _log_error(value)) for budget, value in zip(budgets, accuracies, strict=True)]
    if points[0][1] <= wanted:
        return Bound(budgets[0], -1 if points[0][1] < wanted else 0)
    for (left, above), (right, below) in pairwise(points):
        if below <= wanted:
            return Bound(math.exp(left + (right - left) * (above - wanted) / (above - below)), 0)
    return Bound(budgets[-1], 1)


def _log_error(accuracy: float) -> float:
    return math.log(max(1 - accuracy, 1e-4))


def ratios(
    ours: Float[np.ndarray, "seeds budgets"],
    peer: Float[np.ndarray, "seeds"],
    peer_compute: float,
    budgets: Sequence[float],
    draws: int = 1000,
) -> tuple[float, float, float, int]:
    """The peer's compute over ours at the peer's mean accuracy; 5th and 95th hundredth over seeds; `Bound.side`."""
    generator = np.random.default_rng(0)

    def ratio(ours: np.ndarray, peer: np.ndarray) -> tuple[float, int]:
        compute, side = compute_for(float(peer.mean()), budgets, list(ours.mean(axis=0)))
        return peer_compute / compute, side

    value, side = ratio(ours, peer)
    drawn = [
        ratio(ours[generator.integers(0, len(ours), len(ours))], peer[generator.integers(0, len(peer), len(peer))])[0]
        for _ in range(draws)
    ]
    return value, float(np.quantile(drawn, 0.05)), float(np.quantile(drawn, 0.95)), side


# ------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class _Curve:
    """One model over the budgets."""

    steps: tuple[int, ...]
    cost: _Cost
    accuracies: Float[np.ndarray, "seeds budgets"]

    def compute(self, measure: str) -> list[float]:
        """Of each budget, in operations or seconds."""
        return [steps * getattr(self.cost, measure) for steps in self.steps]


def rows(options: Options) -> list[Row]:
    """Accuracy of each model and budget, then the ratios; `--case` chooses what is shown, all is run."""
    costs = _step_costs(options.repeats)
    steps = {
        model: tuple(max(8, round(count * costs[_PACKED].operations / cost.operations)) for count in _STEPS)
        for model, cost in costs.items()
    }
    accuracies = {model: np.zeros((len(_SEEDS), len(_STEPS))) for model in MODELS}
    for number, seed in enumerate(_SEEDS):
        for budget in range(len(_STEPS)):
            for model in MODELS:
                accuracies[model][number, budget] = _accuracy(model, steps[model][budget], seed)
    curves = {model: _Curve(steps[model], costs[model], accuracies[model]) for model in MODELS}
    _draw(curves, _PLOT)
    found = [*_accuracy_rows(curves), *_ratio_rows(curves)]
    if "--write-readme" in options.flags:
        write_table(_ROOT / "README.md", _table(curves, found), _MARKS)
    return [row for row in found if options.wants(row.case)]


def _accuracy_rows(curves: Mapping[str, _Curve]) -> list[Row]:
    found = []
    for model, curve in curves.items():
        found.append(Row.alone(f"{model}, operations of a step", curve.cost.operations / 1e9, "GFLOP"))
        found.append(Row.alone(f"{model}, time of a step", 1000 * curve.cost.seconds, "ms"))
        for number, count in enumerate(curve.steps):
            values, compute = curve.accuracies[:, number], curve.compute("operations")[number]
            case = f"{model}, {compute / 1e12:.2f} TFLOP ({count} steps), top-1 of {len(values)} seeds"
            found.append(Row(case, float(values.mean()), None, None, values.min(), values.max(), "share"))
    return found


def _ratio_rows(curves: Mapping[str, _Curve]) -> list[Row]:
    ours, found = curves[_PACKED], []
    for model, curve in curves.items():
        if model == _PACKED:
            continue
        for measure in ("operations", "seconds"):
            for number, compute in enumerate(curve.compute(measure)):
                values = curve.accuracies[:, number]
                ratio, low, high, side = ratios(ours.accuracies, values, compute, ours.compute(measure))
                bound = {-1: ", at least", 0: "", 1: ", at most"}[side]
                case = f"{model} over NaViT, {measure} at top-1 {values.mean():.3f}{bound}"
                unit = "TFLOP" if measure == "operations" else "s"
                scale = 1e12 if measure == "operations" else 1.0
                found.append(Row(case, compute / ratio / scale, compute / scale, ratio, low, high, unit))
    return found


def _table(curves: Mapping[str, _Curve], found: Sequence[Row]) -> str:
    heads = [f"{compute / 1e12:.2f} TFLOP" for compute in curves[_PACKED].compute("operations")]
    lines = [f"| top-1, mean of {len(_SEEDS)} seeds | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for model, curve in curves.items():
        cells = [f"{100 * value:.1f} %" for value in curve.accuracies.mean(axis=0)]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    for model in curves:
        if model == _PACKED:
            continue
        for measure in ("operations", "seconds"):
            cells = []
            for row in found:
                if row.ratio is not None and row.case.startswith(f"{model} over NaViT, {measure}"):
                    sign = ">= " if "at least" in row.case else "<= " if "at most" in row.case else ""
                    cells.append(f"{sign}{row.ratio:.2f} ({row.min:.2f} to {row.max:.2f})")
            lines.append(f"| {measure} of {model} over NaViT's at its accuracy | {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(curves: Mapping[str, _Curve], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (measure, title, scale) in zip(
        figure.subplots(1, 2, sharey=True),
        (("operations", "training compute, TFLOP", 1e12), ("seconds", "training time of a step times steps, s", 1.0)),
        strict=True,
    ):
        for model, curve in curves.items():
            compute = np.array(curve.compute(measure)) / scale
            error = 100 * (1 - curve.accuracies)
            (line,) = axes.loglog(compute, error.mean(axis=0), "o-", label=model)
            axes.fill_between(compute, error.min(axis=0), error.max(axis=0), color=line.get_color(), alpha=0.2)
        axes.set(xlabel=title)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
        axes.legend()
        if measure == "operations":
            axes.set_ylabel("top-1 error on held-back digits, %")
    figure.suptitle(f"Digits of many sizes: mean, least and most of {len(_SEEDS)} seeds, each budget a run of its own")
    figure.savefig(path, dpi=110)
