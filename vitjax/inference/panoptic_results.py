"""What `predict` returns where every pixel gets a segment: the segments, the objects' boxes, and a picture of both."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.arrays import Float, Int
from vitjax.errors import UserError
from vitjax.inference.detection_results import DetectionResult, draw_boxes
from vitjax.inference.segmentation_results import new_figure

__all__ = ["PanopticResult", "Segment", "draw_segments", "save_panoptic"]


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        label: name of its class.
        score: in `[0, 1]`.
        area: its share of the picture, 0...1.
        is_stuff: whether it is all that there is of its class.
        index: number of the class.
        number: its pixels' number in `PanopticResult.segment_map`.
    """

    label: str
    score: float
    area: float
    is_stuff: bool
    index: int
    number: int

    def __str__(self) -> str:
        return f"{self.label} {self.score:.3f} on {self.area:.1%}"


@dataclass(frozen=True, eq=False)
class PanopticResult:
    """The segments of one picture, largest first when listed, or what was wrong with it.

    Attributes:
        detections: boxes, labels and scores of all queries, of things and stuff, best first; `detections.plot` draws
            them. Its `name`, `labels`, `error` and `picture` are the result's.
        segment_map: of the original picture's size; 1...n, and 0 where nothing was found. `None` if there is an error.
        segment_classes: class number of segments 1...n.
        segment_scores: of each, in `[0, 1]`.
        stuff: class numbers of stuff.
    """

    detections: DetectionResult
    segment_map: Int[np.ndarray, "H W"] | None
    segment_classes: Int[np.ndarray, "n"]
    segment_scores: Float[np.ndarray, "n"]
    stuff: tuple[int, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Path, URL, or type and number of the picture."""
        return self.detections.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names."""
        return self.detections.labels

    @property
    def error(self) -> str | None:
        """Why the picture could not be read, or `None`."""
        return self.detections.error

    @property
    def picture(self) -> Callable[[], np.ndarray] | None:
        """Reads the original picture again, uint8 `[H, W, 3]`."""
        return self.detections.picture

    @property
    def boxes_xyxy_pixels(self) -> Float[np.ndarray, "found 4"]:
        """Of all queries, in pixels of the original; scores and classes stand in `detections`."""
        return self.detections.boxes_xyxy_pixels

    def __len__(self) -> int:
        return len(self.segment_classes)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, the largest first.

        Raises:
            UserError: the picture could not be read.
        """
        segment_map = self._found()
        shares = np.bincount(segment_map.reshape(-1), minlength=len(self) + 1)[1:] / max(segment_map.size, 1)
        return tuple(
            Segment(
                self.labels[self.segment_classes[place]],
                float(self.segment_scores[place]),
                float(shares[place]),
                int(self.segment_classes[place]) in self.stuff,
                int(self.segment_classes[place]),
                int(place) + 1,
            )
            for place in np.argsort(-shares, kind="stable")
        )

    def plot(self, path: str | Path) -> Path:
        """Draws the picture, and beside it the picture with its segments.

        Args:
            path: of the picture to write; its folder is made.

        Raises:
            UserError: there are no segments, or there is no picture to draw on.
        """
        self._found()
        if self.picture is None:
            raise UserError(f"{self.name}: the result does not know its picture; make it by `Bundle.predict`")
        return save_panoptic([self], path)

    def _found(self) -> np.ndarray:
        if self.segment_map is None:
            raise UserError(f"{self.name}: there are no segments, {self.error}; look at `result.error` first")
        return self.segment_map

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: {self.error}"
        return f"{self.name}: {', '.join(map(str, self.segments)) or 'nothing found'}"

    def __repr__(self) -> str:
        return f"PanopticResult({self})"


# -------------------------------------------------------------------------------------------------- drawing


def draw_segments(
    axes: Any,
    picture: np.ndarray,
    segment_map: Int[np.ndarray, "H W"],
    names: list[str],
    *,
    opacity: float = 0.65,
) -> None:
    """Draws segments over a picture into matplotlib's axes, each in a colour of its own with its name in its middle.

    Args:
        axes: matplotlib's.
        picture: uint8 `[H, W, 3]`.
        segment_map: 1...n; 0 is left as it is.
        names: of segments 1...n.
        opacity: of the colours, 0...1.
    """
    from matplotlib import colormaps

    colours = np.asarray(colormaps["tab20"](np.arange(max(len(names), 1)) % 20))[:, :3]
    shown = np.where(segment_map > 0, opacity, 0.0)[:, :, None]
    painted = colours[np.maximum(segment_map - 1, 0)]
    axes.imshow((1 - shown) * picture / 255 + shown * painted)
    axes.set_axis_off()
    for number, name in enumerate(names, start=1):
        pixels = np.argwhere(segment_map == number)
        if len(pixels):
            # The pixel of the segment that is nearest to its centre lies in it, whatever its form.
            row, column = pixels[np.square(pixels - pixels.mean(axis=0)).sum(axis=1).argmin()]
            style = {"fontsize": 7, "color": "white", "ha": "center", "va": "center", "clip_on": True}
            axes.text(column, row, name, bbox={"facecolor": "black", "alpha": 0.6, "lw": 0, "pad": 0.8}, **style)


def save_panoptic(
    results: "list[PanopticResult]",
    path: str | Path,
    *,
    truths: "list[tuple[np.ndarray, list[str]]] | None" = None,
    across: int = 3,
    threshold: float = 0.5,
) -> Path:
    """Draws each picture with its boxes of things, perhaps its true segments, and the segments found.

    Args:
        results: with their pictures.
        path: of the picture to write; its folder is made.
        truths: segment map and names of each picture.
        across: pictures in a row.
        threshold: least score of the boxes that are drawn.
    """
    panels = 2 if truths is None else 3
    across = min(across, len(results))
    down = -(-len(results) // across)
    figure = new_figure(1.9 * panels * across, 1.9 * down)
    grid = figure.subplots(down, panels * across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, result in enumerate(results):
        if result.picture is None or result.segment_map is None:
            continue
        row, column = number // across, panels * (number % across)
        shown = {"found": (result.segment_map, [result.labels[n] for n in result.segment_classes])}
        shown = shown if truths is None else {"truth": truths[number], **shown}
        draw_boxes(grid[row, column], result.detections, threshold=threshold)
        for place, (title, (segment_map, names)) in enumerate(shown.items(), start=column + 1):
            draw_segments(grid[row, place], result.picture(), segment_map, names)
            grid[row, place].set_title(title if row == 0 else "", fontsize=8)
    for text in (text for axes in grid.flat for text in axes.texts):
        text.set_in_layout(False)  # those of boxes far outside would take all the room
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
