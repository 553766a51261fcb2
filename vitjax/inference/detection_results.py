"""What `predict` returns where objects are looked for: their boxes, labels and scores, and a picture of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.arrays import Float, Int
from vitjax.errors import UserError

__all__ = ["Detection", "DetectionResult", "detection_result", "draw_boxes", "save_scenes"]


@dataclass(frozen=True)
class Detection:
    """One object.

    Attributes:
        label: name of its class.
        score: in `[0, 1]`.
        box_xyxy_pixels: (left, top, right, bottom) in pixels of the original picture.
        index: number of the class.
    """

    label: str
    score: float
    box_xyxy_pixels: tuple[float, float, float, float]
    index: int

    def __str__(self) -> str:
        corners = ", ".join(f"{edge:.0f}" for edge in self.box_xyxy_pixels)
        return f"{self.label} {self.score:.3f} at ({corners})"


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """The objects of one picture, best first, or what was wrong with it.

    Attributes:
        name: path, URL, or type and number of the picture.
        labels: class names.
        boxes_xyxy_pixels: left, top, right, bottom in pixels of the original picture.
        scores: in `[0, 1]`, descending.
        classes: class numbers.
        error: why the picture could not be read, or `None`.
        top_k: how many objects are printed.
        picture: reads the original picture again, uint8 `[H, W, 3]`.
    """

    name: str
    labels: tuple[str, ...] = field(repr=False)
    boxes_xyxy_pixels: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, "n"]
    classes: Int[np.ndarray, "n"]
    error: str | None = None
    top_k: int = 5
    picture: Callable[[], np.ndarray] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.top(len(self))) if len(self) else iter(())

    def top(self, k: int | None = None, *, threshold: float = 0.0) -> tuple[Detection, ...]:
        """The best objects.

        Args:
            k: how many at most, at least 1; `top_k` by default.
            threshold: least score.

        Raises:
            UserError: the picture could not be read, or `k` is no positive number.
        """
        k = self.top_k if k is None else k
        if k < 1:
            raise UserError(f"`k` (={k}) must be 1 or more")
        self._check()
        return tuple(
            Detection(self.labels[number], float(score), tuple(map(float, box)), int(number))  # pyright: ignore
            for number, score, box in zip(self.classes[:k], self.scores[:k], self.boxes_xyxy_pixels[:k], strict=True)
            if score >= threshold
        )

    def plot(self, path: str | Path, *, threshold: float = 0.3) -> Path:
        """Draws the picture with the objects found in it.

        Args:
            path: of the picture to write; its folder is made.
            threshold: least score of what is drawn.

        Raises:
            UserError: there is no picture to draw on.
        """
        self._check()
        if self.picture is None:
            raise UserError(f"{self.name}: the result does not know its picture; make it by `Bundle.predict`")
        return save_scenes([self], path, threshold=threshold)

    def _check(self) -> None:
        if self.error is not None:
            raise UserError(f"{self.name}: there are no boxes, {self.error}; look at `result.error` first")

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: {self.error}"
        shown = ", ".join(map(str, self.top())) if len(self) else "nothing found"
        more = f" and {len(self) - self.top_k} more" if len(self) > self.top_k else ""
        return f"{self.name}: {shown}{more}"

    def __repr__(self) -> str:
        return f"DetectionResult({self})"


def detection_result(
    name: str,
    labels: tuple[str, ...],
    prediction: dict[str, np.ndarray] | None,
    original_size: tuple[int, int] | None,
    top_k: int,
    *,
    error: str | None = None,
    picture: Callable[[], np.ndarray] | None = None,
) -> DetectionResult:
    """One picture's result from what a detection task predicts.

    Args:
        name: of the picture.
        labels: class names.
        prediction: `boxes` `[D, 4]`, xyxy in 0...1 of an image that shows the whole original, `scores`, `labels` and
            `mask` `[D]`, best first; `None` where there is an error.
        original_size: (rows, columns) of the original.
        top_k: how many objects are printed.
        error: why there is no prediction.
        picture: reads the original.

    Raises:
        UserError: a class has no label.
    """
    if prediction is None or original_size is None:
        nothing = np.zeros(0, np.float32)
        return DetectionResult(
            name, labels, nothing.reshape(0, 4), nothing, nothing.astype(np.int32), error or "not prepared", top_k
        )
    boxes, scores, classes = (prediction[key][prediction["mask"]] for key in ("boxes", "scores", "labels"))
    if classes.size and classes.max() >= len(labels):
        raise UserError(f"the model finds class {classes.max()}, but the bundle holds {len(labels)} labels")
    rows, columns = original_size
    boxes = boxes * np.array([columns, rows, columns, rows], boxes.dtype)
    return DetectionResult(name, labels, boxes, scores, classes, None, top_k, picture)


def draw_boxes(axes: Any, result: DetectionResult, *, threshold: float = 0.3) -> None:
    """Draws a result into matplotlib's axes: the picture, and a frame with label and score around each object."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    assert result.picture is not None
    axes.imshow(result.picture())
    axes.set_axis_off()
    for found in result.top(max(len(result), 1), threshold=threshold):
        left, top, right, bottom = found.box_xyxy_pixels
        colour = colormaps["tab10"](found.index % 10)
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5))
        # Above the frame, or inside where there is no room above.
        place = "bottom" if top > axes.get_ylim()[0] / 12 else "top"
        text = {"fontsize": 7, "color": "white", "va": place, "clip_on": True}
        box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        axes.text(left, top, f"{found.label} {found.score:.2f}", bbox=box, **text)


def save_scenes(
    results: "list[DetectionResult]", path: str | Path, *, threshold: float = 0.3, columns: int = 4
) -> Path:
    """Draws several results beside one another.

    Args:
        results: with their pictures.
        path: of the picture to write; its folder is made.
        threshold: least score of what is drawn.
        columns: of pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, result in zip(grid.flat, results, strict=False):
        draw_boxes(axes, result, threshold=threshold)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
