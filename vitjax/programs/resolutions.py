"""NaViT's fine-tuning at one or many resolutions (section 3.4): does one model serve all of them?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitjax.config import build, factory, override, spec
from vitjax.data.sampling import FixedSide, UniformSide
from vitjax.inference.bundle import Bundle, load
from vitjax.inference.foreign import initial_weights
from vitjax.training.fit import RunSummary, fit

__all__ = ["Resolutions", "draw_resolutions", "tune_at_resolutions"]


@dataclass(frozen=True)
class Resolutions:
    """What came out.

    Attributes:
        workdir: with the run folder `pretrained`, one per tuned model, `table.json` and `plots/resolutions.png`.
        runs: how each training ended.
        rows: the table: by model, top-1 at each side.
        interrupted: whether a run was; the same command goes on with it.
    """

    workdir: Path
    runs: dict[str, RunSummary]
    rows: dict[str, dict[int, float]]
    interrupted: bool


def tune_at_resolutions(
    config: ConfigDict,
    *,
    sides: Sequence[int],
    many: tuple[int, int],
    judged: Sequence[int],
    tune_steps: int,
    tune_rate: float = 0.2,
) -> Resolutions:
    """Trains the config's NaViT, tunes it at each of some sides and at many, and judges all at several sides.

    Args:
        config: of a run of packed rows.
        sides: effective sides in pixels, of one tuned model each.
        many: smallest and largest side of the model tuned at all between them, drawn evenly for each image.
        judged: sides at which all models are judged.
        tune_steps: of each tuning.
        tune_rate: of its learning rate, in units of the config's.
    """
    settings: Any = config
    workdir = Path(str(settings.workdir))
    kinds = {f"at {side} px": spec(FixedSide, side=side) for side in sides}
    kinds[f"at {many[0]} to {many[1]} px"] = spec(UniformSide, low=many[0], high=many[1])
    runs: dict[str, RunSummary] = {}
    for name in ("pretrained", *kinds):
        print(f"-- {name}", flush=True)
        own = _run(config, workdir / name.replace(" ", "_"))
        if name in kinds:
            _tune(own, workdir / "pretrained", kinds[name], tune_steps, tune_rate)
        runs[name] = fit(own)
        if runs[name].interrupted:
            return Resolutions(workdir, runs, {}, interrupted=True)
    source = build(settings.evaluation.source)
    rows = {name: _judge(load(run.workdir), source, judged) for name, run in runs.items()}
    (workdir / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    draw_resolutions(rows, workdir / "plots" / "resolutions.png")
    print(
        "\n".join(
            [f"{'tuned':<20}" + "".join(f"{f'{side} px':>9}" for side in judged), *map(_line, rows, rows.values())]
        )
    )
    print(f"look at {workdir}/plots/resolutions.png and {workdir}/table.json", flush=True)
    return Resolutions(workdir, runs, rows, interrupted=False)


def _run(config: ConfigDict, folder: Path) -> ConfigDict:
    own = config.copy_and_resolve_references()
    override(own, "workdir", str(folder))
    return own


def _tune(own: Any, pretrained: Path, resolution: ConfigDict, steps: int, rate: float) -> None:
    with own.unlocked():
        own.initial = factory(initial_weights, path=str(pretrained))
        own.train.resolution = resolution
        own.steps = steps
        own.optimizer.lr = own.optimizer.lr * rate
        own.evaluate_every = own.checkpoint_every = min(steps, own.evaluate_every)


def _judge(bundle: Bundle, source: Any, sides: Sequence[int]) -> dict[int, float]:
    def at(side: int) -> Bundle:
        return replace(bundle, batches=replace(bundle.batches, resolution=FixedSide(side)))

    return {side: at(side).evaluate(source)["top1"] for side in sides}


def _line(name: str, scores: dict[int, float]) -> str:
    return f"{name:<20}" + "".join(f"{score:>9.4f}" for score in scores.values())


def draw_resolutions(rows: dict[str, dict[int, float]], path: Path) -> None:
    """Top-1 over the side at which a model is judged, a line per model.

    Args:
        rows: by model, top-1 by side in pixels.
        path: of the picture.
    """
    from vitjax.analysis.plots import _figure, _save

    figure = _figure(5.0, 3.4)
    axes = figure.subplots()
    for name, scores in rows.items():
        axes.plot(list(scores), list(scores.values()), "o-", markersize=4, label=name)
    axes.set(xlabel="judged at, px a side", ylabel="top-1")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)
