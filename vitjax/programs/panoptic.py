"""Training of a panoptic model that ends with a picture of what it finds."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from vitjax.config import build
from vitjax.inference.bundle import load
from vitjax.inference.panoptic_results import save_panoptic
from vitjax.training.fit import RunSummary, fit

__all__ = ["PanopticRun", "train_and_draw"]


@dataclass(frozen=True)
class PanopticRun:
    """What came out.

    Attributes:
        run: how the training ended.
        picture: held-back scenes with boxes, true and found segments; `None` where the run was interrupted.
    """

    run: RunSummary
    picture: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether the same command goes on with it."""
        return self.run.interrupted


def train_and_draw(config: ConfigDict, *, images: int = 12) -> PanopticRun:
    """Trains the config's model and draws what its best weights find in the first scenes of the evaluation data.

    Args:
        config: of a run whose predictions are `PanopticResult`s. Where `task.stuff` is `None`, it is the data's.
        images: scenes to draw.
    """
    config, source = copy.deepcopy(config), build(config.evaluation).source
    task: Any = config.task
    if task.stuff is None:
        task.stuff = source.stuff
    run = fit(config)
    if run.interrupted:
        return PanopticRun(run, None)
    bundle = load(run.workdir)
    scenes = [source[number] for number in range(min(images, len(source)))]
    results = bundle.predict([scene["image"] for scene in scenes])
    truths = [(_segment_map(scene["masks"]), [source.labels[n] for n in scene["labels"]]) for scene in scenes]
    picture = save_panoptic(results, run.workdir / "plots" / "predictions.png", truths=truths)
    print(", ".join(f"{name} {run.scores[name]:.3f}" for name in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP")))
    print(f"look at {picture}", flush=True)
    return PanopticRun(run, picture)


def _segment_map(masks: Bool[np.ndarray, "n H W"]) -> Int[np.ndarray, "H W"]:
    return np.max(masks * np.arange(1, len(masks) + 1)[:, None, None], axis=0, initial=0)
