"""EfficientViT's analysis (section 2.3): which channels does a model need, and what is it without the others?"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitjax.analysis.cost import cost_report
from vitjax.analysis.importance import kept_shares, taylor_importance
from vitjax.analysis.importance_plots import draw_kept_shares
from vitjax.config import build, describe, factory, override
from vitjax.data.loading import Shards
from vitjax.inference.bundle import Bundle, load
from vitjax.inference.foreign import initial_weights
from vitjax.training.fit import RunSummary, fit
from vitjax.transfer.pruning import prune

__all__ = ["Pruning", "prune_and_tune"]


@dataclass(frozen=True)
class Pruning:
    """What came out.

    Attributes:
        workdir: with the run folders `whole` and `tuned`, the bundle `pruned`, `table.json` and `plots/`.
        runs: how each training ended.
        rows: the table: the model as it was trained, pruned, and trained on.
        interrupted: whether a run was; the same command goes on with it.
    """

    workdir: Path
    runs: dict[str, RunSummary]
    rows: tuple[dict[str, Any], ...]
    interrupted: bool


def prune_and_tune(
    config: ConfigDict,
    *,
    keep: float = 0.5,
    units: tuple[str, ...] = ("hidden", "query"),
    batches: int = 16,
    tune_steps: int = 100,
    tune_rate: float = 0.2,
) -> Pruning:
    """Trains the config's model, draws what its channels are worth, prunes it, and trains what is left.

    Args:
        config: of a run whose model can be pruned.
        keep: share of the channels of each unit that stay.
        units: what is pruned; see `transfer.pruning.prune`.
        batches: of training pictures, prepared as for evaluation, over which importance is added up.
        tune_steps: of training behind the pruning.
        tune_rate: of its learning rate, in units of the config's.
    """
    settings: Any = config
    workdir = Path(settings.workdir)
    print("-- whole", flush=True)
    runs = {"whole": fit(_run(config, workdir / "whole"))}
    if runs["whole"].interrupted:
        return Pruning(workdir, runs, (), interrupted=True)
    whole = load(workdir / "whole")
    pictures = whole.batches.with_source(build(settings.train.source)).epoch(Shards())
    importance = taylor_importance(whole.module, whole.variables, whole.task, itertools.islice(pictures, batches))
    title = f"of all channels the most important {keep:.0%} are kept"
    draw_kept_shares(kept_shares(importance, keep), workdir / "plots" / "importance.png", title=title)
    pruned = prune(whole, importance, dict.fromkeys(units, keep))
    pruned.save(workdir / "pruned")
    print("-- pruned, trained on", flush=True)
    runs["tuned"] = fit(_tuning(config, workdir, pruned, tune_steps, tune_rate))
    if runs["tuned"].interrupted:
        return Pruning(workdir, runs, (), interrupted=True)
    source = build(settings.evaluation.source)
    models = {"whole": whole, "pruned": pruned, "pruned and tuned": load(workdir / "tuned")}
    rows = tuple(_row(name, bundle, source) for name, bundle in models.items())
    (workdir / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(_table(rows))
    print(f"look at {workdir}/plots/importance.png and {workdir}/table.json", flush=True)
    return Pruning(workdir, runs, rows, interrupted=False)


def _run(config: ConfigDict, folder: Path) -> ConfigDict:
    own = config.copy_and_resolve_references()
    override(own, "workdir", str(folder))
    return own


def _tuning(config: ConfigDict, workdir: Path, pruned: Bundle, steps: int, rate: float) -> ConfigDict:
    own: Any = _run(config, workdir / "tuned")
    with own.unlocked():
        own.model = describe(pruned.module)
        own.initial = factory(initial_weights, path=str(workdir / "pruned"))
        own.steps = steps
        own.optimizer.lr = own.optimizer.lr * rate
        own.evaluate_every = own.checkpoint_every = min(steps, own.evaluate_every)
    return own


def _row(name: str, bundle: Bundle, source: Any) -> dict[str, Any]:
    cost = cost_report(bundle)
    return {"model": name, "parameters": cost.parameters, "macs": cost.macs, "top1": bundle.evaluate(source)["top1"]}


def _table(rows: tuple[dict[str, Any], ...]) -> str:
    lines = [f"{'':<18}{'parameters':>12}{'multiply-adds':>15}{'top-1':>8}"]
    for row in rows:
        lines.append(f"{row['model']:<18}{row['parameters']:>12,}{row['macs']:>15,}{row['top1']:>8.3f}")
    return "\n".join(lines)
