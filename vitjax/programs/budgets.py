"""NaViT's variable cost (section 3.6, appendix E): one model at many budgets of tokens, and its cascade."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vitjax.analysis.budgets import BudgetPoint, draw_budgets, format_budgets
from vitjax.analysis.cost import cost_report
from vitjax.arrays import Batch, Tree
from vitjax.config import build, override
from vitjax.data.loading import Shards
from vitjax.errors import UserError
from vitjax.evaluation.calibration import calibration_error, fill_bins, top_confidences
from vitjax.inference.bundle import Bundle, load
from vitjax.inference.cascade import amortised, cascaded_scores
from vitjax.inference.packed import budgeted
from vitjax.training.fit import RunSummary, fit

__all__ = ["Budgets", "Measured", "accuracy_over_budgets", "measure_budget"]


@dataclass(frozen=True)
class Budgets:
    """What came out.

    Attributes:
        workdir: with the run folder `run`, `table.json` and `plots/budgets.png`.
        run: how the training ended; `None` where a bundle was given.
        curves: points of the single budgets, and of the cascade, by name.
        interrupted: whether the training was; the same command goes on with it.
    """

    workdir: Path
    run: RunSummary | None
    curves: dict[str, tuple[BudgetPoint, ...]]
    interrupted: bool = False


class Measured(NamedTuple):
    """One budget, and what the model said of each image at it, in the order of the source."""

    point: BudgetPoint
    probabilities: Float[np.ndarray, "images classes"]
    labels: Int[np.ndarray, "images"]


def accuracy_over_budgets(
    config: ConfigDict,
    *,
    budgets: Sequence[int] = (64, 128, 256, 512, 1024),
    cascade: tuple[int, int] | None = None,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.5),
    num_bins: int = 30,
    repeats: int = 5,
    bundle: str | None = None,
) -> Budgets:
    """Accuracy, calibration and cost of one model at several budgets, and of a cascade of two of them.

    Args:
        config: of a run, which is trained first; with `bundle`, its `workdir` and `evaluation` are enough.
        budgets: patches of an image at most.
        cascade: the small and the large budget, two of `budgets`; `None` for no cascade.
        shares: of the images that run again in it.
        num_bins: of the calibration error; NaViT quotes 30.
        repeats: times that a batch is timed; the median counts.
        bundle: whatever `vitjax.load` opens, instead of training.

    Raises:
        UserError: the model takes no budget, or the cascade's are not among the budgets.
    """
    settings: Any = config
    workdir = Path(str(settings.workdir))
    if cascade is not None and not set(cascade) <= set(budgets):
        raise UserError(f"`cascade` (={tuple(cascade)}) must be two of `budgets` (={tuple(budgets)})")
    run = None
    if bundle is None:
        own = config.copy_and_resolve_references()
        override(own, "workdir", str(workdir / "run"))
        run = fit(own)
        if run.interrupted:
            return Budgets(workdir, run, {}, interrupted=True)
    opened, source = load(bundle or workdir / "run"), build(settings.evaluation.source)
    found = {tokens: measure_budget(opened, source, tokens, num_bins=num_bins, repeats=repeats) for tokens in budgets}
    curves = {"one budget": tuple(one.point for one in found.values())}
    if cascade is not None:
        small, large = (found[tokens] for tokens in cascade)
        curves["cascade"] = tuple(_cascade_point(small, large, share, num_bins) for share in shares)
    workdir.mkdir(parents=True, exist_ok=True)
    title = f"{type(opened.module).__name__}, {len(next(iter(found.values())).labels)} images of {source.name}"
    draw_budgets(curves, workdir / "plots" / "budgets.png", title=title)
    rows = [{"curve": name, **asdict(point)} for name, points in curves.items() for point in points]
    (workdir / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(format_budgets(curves))
    print(f"look at {workdir}/plots/budgets.png and {workdir}/table.json", flush=True)
    return Budgets(workdir, run, curves)


def measure_budget(bundle: Bundle, source: Any, tokens: int, *, num_bins: int = 30, repeats: int = 5) -> Measured:
    """One model on all images of a source at one budget.

    Seconds are those of the model on one prepared batch, per image; multiply-adds those of an image of as many tokens
    as the images had on average, alone in a row.

    Args:
        bundle: of a model of packed rows.
        source: with the bundle's labels.
        tokens: patches of an image at most.
        num_bins: of the calibration error.
        repeats: times that a batch is timed.

    Raises:
        UserError: the model takes no budget, or the source has other labels.
    """
    if tuple(source.labels) != bundle.labels:
        raise UserError(f"{source.name} has {len(source.labels)} labels, the bundle {len(bundle.labels)} others")

    @jax.jit
    def forward(variables: Tree, batch: Batch) -> Tree:
        outputs = bundle.module.apply(variables, **bundle.task.inputs(batch), train=False)
        return bundle.task.predict(outputs, batch)

    used, probabilities, labels, examples, first = 0, [], [], [], None
    for batch in budgeted(bundle.batches, tokens).with_source(source).epoch(Shards()):
        first = batch if first is None else first
        mask = batch["image_mask"]
        used += int((batch["segments"] > 0).sum())
        probabilities.append(np.asarray(forward(bundle.variables, batch), np.float64)[mask])
        labels.append(batch["label"][mask])
        examples.append(batch["example"][mask])
    if first is None:
        raise UserError(f"{source.name} has no image")
    order = np.argsort(np.concatenate(examples))
    answers, truth = np.concatenate(probabilities)[order], np.concatenate(labels)[order]
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(forward(bundle.variables, first))
        times.append(time.perf_counter() - started)
    mean, side = used / len(truth), bundle.module.patch_size
    point = BudgetPoint(
        tokens=tokens,
        mean_tokens=mean,
        macs=float(cost_report(bundle.module, (side, side * round(mean))).macs),
        seconds=float(np.median(times)) / int(first["image_mask"].sum()),
        **_quality(answers, truth, num_bins),
    )
    return Measured(point, answers, truth)


def _cascade_point(small: Measured, large: Measured, share: float, num_bins: int) -> BudgetPoint:
    costs = {
        name: amortised([getattr(one.point, name) for one in (small, large)], share)
        for name in ("mean_tokens", "macs", "seconds")
    }
    scores = cascaded_scores(small.probabilities, large.probabilities, share)
    return replace(large.point, share=share, **costs, **_quality(scores, small.labels, num_bins))


def _quality(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> dict[str, float]:
    confidences, correct = top_confidences(probabilities, labels)
    bins = fill_bins(confidences, correct, num_bins=num_bins)
    return {"top1": float(np.mean(correct)), "calibration_error": calibration_error(bins)}
