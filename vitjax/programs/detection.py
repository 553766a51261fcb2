"""Training of a detector that ends with a picture of what it finds."""

from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from vitjax.config import build
from vitjax.inference.bundle import load
from vitjax.inference.detection_results import save_scenes
from vitjax.training.fit import RunSummary, fit

__all__ = ["DetectionRun", "train_and_draw"]


@dataclass(frozen=True)
class DetectionRun:
    """What came out.

    Attributes:
        run: how the training ended.
        picture: predictions of held-back scenes; `None` where the run was interrupted.
    """

    run: RunSummary
    picture: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether the same command goes on with it."""
        return self.run.interrupted


def train_and_draw(config: ConfigDict, *, images: int = 12, threshold: float = 0.3) -> DetectionRun:
    """Trains the config's detector and draws what its best weights find in the first scenes of the evaluation data.

    Args:
        config: of a run whose predictions are `DetectionResult`s.
        images: scenes to draw.
        threshold: least score of what is drawn.
    """
    run = fit(config)
    if run.interrupted:
        return DetectionRun(run, None)
    source = build(config.evaluation).source
    bundle = load(run.workdir)
    scenes = [source[number]["image"] for number in range(min(images, len(source)))]
    picture = save_scenes(bundle.predict(scenes), run.workdir / "plots" / "predictions.png", threshold=threshold)
    print(", ".join(f"{name} {run.scores[name]:.3f}" for name in ("AP", "AP50", "AP75", "AR100")))
    print(f"look at {picture}", flush=True)
    return DetectionRun(run, picture)
