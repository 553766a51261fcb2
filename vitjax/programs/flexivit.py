"""FlexiViT: one model trained at random patch sizes, and judged at each of them (Beyer et al. 2023, figure 3)."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitjax.config import build, override
from vitjax.inference.bundle import load
from vitjax.training.fit import RunSummary, fit

__all__ = ["PatchSizes", "compare_patch_sizes"]

_FLEXIBLE, _FIXED = "flexible", "fixed"


@dataclass(frozen=True)
class PatchSizes:
    """What came out.

    Attributes:
        workdir: with a run folder per model, `table.json` and `plots/patch_sizes.png`.
        runs: how each model's training ended.
        rows: the table: one row per model and grid.
        interrupted: whether a run was; the same command goes on with it.
    """

    workdir: Path
    runs: dict[str, RunSummary]
    rows: tuple[dict[str, Any], ...]
    interrupted: bool


def compare_patch_sizes(
    config: ConfigDict, *, grids: tuple[int, ...] = (), fixed_grid: int | None = None
) -> PatchSizes:
    """Trains with a random patch size in every step, then evaluates the best model at every patch size.

    Args:
        config: of a run whose model takes `grid` and whose `train` has `grids`; trained in `workdir/flexible`.
        grids: sides of the patch grids to evaluate at; those of training if empty.
        fixed_grid: also trains the same model at this grid alone, in `workdir/fixed`, to see what flexibility costs
            there and gains elsewhere.
    """
    settings: Any = config
    workdir = Path(settings.workdir)
    arms = {_FLEXIBLE: tuple(settings.train.grids)}
    if fixed_grid is not None:
        arms[_FIXED] = (fixed_grid,)
    runs: dict[str, RunSummary] = {}
    for name, trained in arms.items():
        print(f"-- {name}: patch grids of side {', '.join(map(str, trained))}", flush=True)
        runs[name] = fit(_arm(config, workdir / name, trained))
        if runs[name].interrupted:
            return PatchSizes(workdir, runs, (), interrupted=True)
    sides = grids or arms[_FLEXIBLE]
    source = build(settings.evaluation.source)
    rows = tuple(row for name in runs for row in _scores(name, workdir / name, source, sides))
    (workdir / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    _draw(rows, arms, workdir / "plots" / "patch_sizes.png")
    print(_table(rows))
    print(f"look at {workdir}/plots/patch_sizes.png and {workdir}/table.json", flush=True)
    return PatchSizes(workdir, runs, rows, interrupted=False)


def _arm(config: ConfigDict, folder: Path, grids: tuple[int, ...]) -> ConfigDict:
    own = config.copy_and_resolve_references()
    override(own, "workdir", str(folder))
    override(own, "train.grids", grids)
    return own


def _scores(name: str, folder: Path, source: Any, sides: tuple[int, ...]) -> list[dict[str, Any]]:
    """The best model of a run at each grid."""
    bundle, rows = load(folder), []
    for side in sides:
        batches = dataclasses.replace(bundle.batches, grids=(side,))
        scores = dataclasses.replace(bundle, batches=batches).evaluate(source)
        patch_size = bundle.module.image_shape[0] / side  # pyright: ignore[reportAttributeAccessIssue]
        rows.append({"model": name, "grid": side, "patch_size": patch_size, "tokens": side**2, **scores})
    return rows


def _table(rows: tuple[dict[str, Any], ...]) -> str:
    lines = [f"{'trained':<12}{'grid':>6}{'patch, px':>11}{'tokens':>8}{'loss':>8}{'top-1':>8}"]
    for row in rows:
        lines.append(
            f"{row['model']:<12}{row['grid']:>6}{row['patch_size']:>11g}{row['tokens']:>8}{row['loss']:>8.3f}{row['top1']:>8.3f}"
        )
    return "\n".join(lines)


def _draw(rows: tuple[dict[str, Any], ...], trained: dict[str, tuple[int, ...]], path: Path) -> None:
    """Accuracy against the grid's side, filled where the model was trained."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, own) in enumerate(trained.items()):
        points = sorted((row["grid"], row["top1"]) for row in rows if row["model"] == name)
        axes.plot(*zip(*points, strict=True), "-", color=f"C{number}", label=name)
        for grid, score in points:
            face = f"C{number}" if grid in own else "white"
            axes.plot(grid, score, "o", color=f"C{number}", markerfacecolor=face)
    axes.set_xlabel("patches along a side (filled: trained at)")
    axes.set_ylabel("top-1")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)
