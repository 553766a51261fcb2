"""Training of a segmentation model that ends with a picture of what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitjax.config import build
from vitjax.inference.bundle import load
from vitjax.inference.segmentation_results import SegmentationResult, new_figure, paint, save_with_key
from vitjax.training.fit import RunSummary, fit

__all__ = ["SegmentationRun", "save_comparison", "train_and_draw"]


@dataclass(frozen=True)
class SegmentationRun:
    """What came out.

    Attributes:
        run: how the training ended.
        picture: held-back scenes with truth and prediction; `None` where the run was interrupted.
    """

    run: RunSummary
    picture: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether the same command goes on with it."""
        return self.run.interrupted


def train_and_draw(config: ConfigDict, *, images: int = 12) -> SegmentationRun:
    """Trains the config's model and draws what its best weights find in the first images of the evaluation data.

    Args:
        config: of a run whose predictions are `SegmentationResult`s.
        images: how many to draw.
    """
    run = fit(config)
    if run.interrupted:
        return SegmentationRun(run, None)
    source, bundle = build(config.evaluation).source, load(run.workdir)
    scenes = [source[number] for number in range(min(images, len(source)))]
    results = bundle.predict([scene["image"] for scene in scenes])
    picture = save_comparison(scenes, results, run.workdir / "plots" / "predictions.png")
    print(", ".join(f"{name} {run.scores[name]:.3f}" for name in ("mean_iou", "pixel_accuracy")))
    print(f"look at {picture}", flush=True)
    return SegmentationRun(run, picture)


def save_comparison(
    scenes: Sequence[dict[str, Any]], results: Sequence[SegmentationResult], path: str | Path, *, across: int = 3
) -> Path:
    """Draws each image, its true and its predicted class map beside one another.

    Args:
        scenes: with `image` and `class_map`.
        results: of the same images.
        path: of the picture to write; its folder is made.
        across: scenes in a row.
    """
    labels, down = results[0].labels, -(-len(scenes) // across)
    figure = new_figure(4.2 * across, 1.6 * down)
    grid = figure.subplots(down, 3 * across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    class_maps = []
    for number, (scene, result) in enumerate(zip(scenes, results, strict=True)):
        row, column = number // across, 3 * (number % across)
        shown = {"truth": scene["class_map"], "found": result.class_map}
        grid[row, column].imshow(scene["image"])
        for place, (title, class_map) in enumerate(shown.items(), start=column + 1):
            if class_map is not None:
                grid[row, place].imshow(paint(scene["image"], class_map, len(labels), opacity=0.85))
                class_maps.append(class_map)
            grid[row, place].set_title(title if row == 0 else "", fontsize=8)
    return save_with_key(figure, labels, class_maps, path)
