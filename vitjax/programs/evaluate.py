"""What a trained model's features and probabilities are worth, by every evaluator of `vitjax.evaluation`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vitjax.config import build
from vitjax.errors import UserError
from vitjax.evaluation.calibration import (
    Bins,
    calibration_error,
    draw_reliability,
    equal_mass,
    fill_bins,
    fit_temperature,
    format_bins,
    top_confidences,
)
from vitjax.evaluation.features import Features
from vitjax.evaluation.fewshot import few_shot
from vitjax.evaluation.knn import knn_scores
from vitjax.evaluation.linear_probe import fit_linear_probe, probe_scores
from vitjax.evaluation.real_labels import read_real_labels, real_top1
from vitjax.inference.bundle import Bundle, load
from vitjax.inference.features import source_features, source_probabilities

__all__ = ["Evaluation", "evaluate_bundle"]


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        workdir: with `table.json` and, where there are probabilities to judge, `plots/reliability.png`.
        scores: by name; shares of right answers and calibration errors in 0...1.
        interrupted: never, there is nothing to resume.
    """

    workdir: Path
    scores: dict[str, float]
    interrupted: bool = False


def evaluate_bundle(
    config: ConfigDict,
    *,
    shots: Sequence[int] = (1, 5, 10),
    neighbours: int = 20,
    probe: bool = True,
    num_bins: int = 15,
    real_labels: str | None = None,
) -> Evaluation:
    """Evaluates a bundle on a data set, whose classes need not be the bundle's.

    Features are learnt from on the training images and judged on the evaluation images. Where the data have the
    bundle's labels, its own probabilities are judged as well.

    Args:
        config: with `workdir`, `bundle` (whatever `vitjax.load` opens), and `train` and `evaluation`, specs of sources.
        shots: images per class of the few-shot evaluation, each with three seeds; none of it if empty.
        neighbours: that vote on an image, at most as many as there are training images; 0 for none of it.
        probe: whether a linear probe is fitted; for large data sets it takes longest.
        num_bins: of the calibration.
        real_labels: path of ReaL's `real.json`; the evaluation images are then ImageNet's, in files of their own names.

    Raises:
        UserError: the config lacks a key, or what the parts raise.
    """
    missing = [name for name in ("workdir", "bundle", "train", "evaluation") if name not in config]
    if missing:
        raise UserError(f"evaluate_bundle: the config lacks {', '.join(f'`{name}`' for name in missing)}")
    bundle, workdir = load(str(config.bundle)), Path(str(config.workdir))
    train, test = build(config.train), build(config.evaluation)
    if tuple(train.labels) != tuple(test.labels):
        raise UserError(f"evaluate_bundle: {train.name} and {test.name} have different labels")
    workdir.mkdir(parents=True, exist_ok=True)
    scores: dict[str, float] = {}
    known, asked = source_features(bundle, train), source_features(bundle, test)
    classes = len(train.labels)
    print(f"{bundle}: {known.features.shape[1]} features, {len(known.labels)} and {len(asked.labels)} images")
    for name, top1 in _of_features(known, asked, classes, shots=shots, neighbours=neighbours, probe=probe):
        scores[name] = top1
        print(f"{name:<24}{top1:8.4f}", flush=True)
    if tuple(test.labels) == bundle.labels:
        scores |= _of_probabilities(bundle, test, workdir / "plots", num_bins=num_bins, real_labels=real_labels)
    else:
        print(f"probabilities are left out: {test.name} has other labels than the bundle", flush=True)
    (workdir / "table.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(f"look at {workdir}/table.json", flush=True)
    return Evaluation(workdir, scores)


def _of_features(
    known: Features, asked: Features, classes: int, *, shots: Sequence[int], neighbours: int, probe: bool
) -> Iterator[tuple[str, float]]:
    def top1(answers: np.ndarray) -> float:
        return float(np.mean(answers.argmax(axis=1) == asked.labels))

    data = (known.features, known.labels, asked.features)
    for number in shots:
        hits = few_shot(*data, asked.labels, classes, shots=(number,))[number]
        yield f"{number}_shot", float(np.mean(hits))
    if neighbours:
        count = min(neighbours, len(known.labels))
        yield f"{count}_neighbours", top1(knn_scores(*data, classes, neighbours=count))
    if probe:
        yield "linear_probe", top1(probe_scores(fit_linear_probe(*data[:2], classes), asked.features))


def _of_probabilities(
    bundle: Bundle, test: Any, plots: Path, *, num_bins: int, real_labels: str | None
) -> dict[str, float]:
    found = source_probabilities(bundle, test)
    probabilities, labels = np.asarray(found.features, np.float64), found.labels
    confidences, correct = top_confidences(probabilities, labels)
    bins = fill_bins(confidences, correct, num_bins=num_bins)
    plots.mkdir(parents=True, exist_ok=True)
    draw_reliability(bins, plots / "reliability.png")
    print(format_bins(bins))
    scores = {
        "top1": float(np.mean(correct)),
        "calibration_error": calibration_error(bins),
        "calibration_error_equal_mass": calibration_error(
            fill_bins(confidences, correct, num_bins=num_bins, binning=equal_mass)
        ),
    }
    if np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-3) and len(labels) > 1:
        scores |= _with_temperature(probabilities, labels, num_bins)
    if real_labels is not None:
        files = getattr(test, "files", None)
        if files is None:
            raise UserError(
                f"{test.name} does not say which file an image is; ReaL needs ImageNet as a folder of files"
            )
        names = [str(files[number]) for number in found.examples]
        real = real_top1(probabilities.argmax(axis=1), names, read_real_labels(real_labels))
        print(f"ReaL: {real.counted} images have labels, {real.unlabelled} are left out")
        scores["real_top1"] = real.top1
    for name, value in scores.items():
        print(f"{name:<32}{value:8.4f}", flush=True)
    return scores


def _with_temperature(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> dict[str, float]:
    """The temperature of one half of the images, and the other half's error before and after it."""
    order = np.random.default_rng(0).permutation(len(labels))
    fitted, judged = order[: len(order) // 2], order[len(order) // 2 :]
    logits = np.log(np.maximum(probabilities, 1e-12))  # as good as the logits: they differ by a number per image
    temperature = fit_temperature(logits[fitted], labels[fitted])
    scaled = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    scaled /= scaled.sum(axis=1, keepdims=True)
    before, after = (
        calibration_error(_bins_of(values[judged], labels[judged], num_bins)) for values in (probabilities, scaled)
    )
    return {"temperature": temperature, "half_before_temperature": before, "half_after_temperature": after}


def _bins_of(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> Bins:
    return fill_bins(*top_confidences(probabilities, labels), num_bins=num_bins)
