"""What `predict` returns where every pixel gets a class: a class map, and a picture of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from vitjax.arrays import Float, UInt8
from vitjax.errors import UserError
from vitjax.inference.results import Prediction

__all__ = ["SegmentationResult", "class_colours", "new_figure", "paint", "save_with_key", "segmentation_result"]


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """The class of every pixel of one picture, or what was wrong with it.

    Attributes:
        name: path, URL, or type and number of the picture.
        labels: class names.
        class_map: class numbers, of the original picture's size; `None` if there is an `error`.
        error: why the picture could not be read, or `None`.
        top_k: how many classes are printed.
        picture: reads the original picture again, uint8 `[H, W, 3]`.
    """

    name: str
    labels: tuple[str, ...] = field(repr=False)
    class_map: Integer[np.ndarray, "H W"] | None = None
    error: str | None = None
    top_k: int = 5
    picture: Callable[[], np.ndarray] | None = field(default=None, repr=False)

    def top(self, k: int | None = None) -> tuple[Prediction, ...]:
        """The classes that cover most, those that are there; `score` is their share of the pixels.

        Args:
            k: how many at most, at least 1; `top_k` by default.

        Raises:
            UserError: the picture could not be read, or `k` is no positive number.
        """
        k = self.top_k if k is None else k
        if k < 1:
            raise UserError(f"`k` (={k}) must be 1 or more")
        shares = np.bincount(self._found().reshape(-1), minlength=len(self.labels)) / self._found().size
        order = np.argsort(-shares, kind="stable")[:k]
        return tuple(Prediction(self.labels[n], float(shares[n]), int(n)) for n in order if shares[n] > 0)

    @property
    def top1(self) -> Prediction:
        """The class that covers most."""
        return self.top(1)[0]

    def plot(self, path: str | Path, *, opacity: float = 0.6) -> Path:
        """Draws the picture with the classes found in it, and their names.

        Args:
            path: of the picture to write; its folder is made.
            opacity: of the colours of the classes, 0...1; the background, class 0, is left as it is.

        Raises:
            UserError: there is no class map, or no picture to draw on.
        """
        class_map = self._found()
        if self.picture is None:
            raise UserError(f"{self.name}: the result does not know its picture; make it by `Bundle.predict`")
        figure = new_figure(6.4, 4.8)
        axes = figure.add_subplot()
        axes.imshow(paint(self.picture(), class_map, len(self.labels), opacity=opacity))
        axes.set_axis_off()
        return save_with_key(figure, self.labels, [class_map], path)

    def _found(self) -> np.ndarray:
        if self.class_map is None:
            raise UserError(f"{self.name}: there is no class map, {self.error}; look at `result.error` first")
        return self.class_map

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: {self.error}"
        return f"{self.name}: {', '.join(f'{found.label} {found.score:.1%}' for found in self.top())}"

    def __repr__(self) -> str:
        return f"SegmentationResult({self})"


def segmentation_result(
    name: str,
    labels: tuple[str, ...],
    prediction: Integer[np.ndarray, "h w"] | None,
    original_size: tuple[int, int] | None,
    top_k: int,
    *,
    error: str | None = None,
    picture: Callable[[], np.ndarray] | None = None,
) -> SegmentationResult:
    """One picture's result from what the segmentation task predicts.

    Args:
        name: of the picture.
        labels: class names.
        prediction: classes of the pixels of an image that shows the whole original; each pixel of the original gets the
            nearest one's. `None` where there is an error.
        original_size: (rows, columns) of the original.
        top_k: how many classes are printed.
        error: why there is no prediction.
        picture: reads the original.

    Raises:
        UserError: a class has no label.
    """
    if prediction is None or original_size is None:
        return SegmentationResult(name, labels, None, error or "it was not prepared", top_k)
    if prediction.max() >= len(labels):
        raise UserError(f"the model finds class {prediction.max()}, but the bundle holds {len(labels)} labels")
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(prediction.shape, original_size, strict=True)
    )
    return SegmentationResult(name, labels, prediction[np.ix_(rows, columns)], None, top_k, picture)


# -------------------------------------------------------------------------------------------------- drawing


def class_colours(count: int) -> Float[np.ndarray, "count 3"]:
    """A colour per class, 0...1: black for class 0, the others apart from their neighbours in number."""
    from matplotlib import colormaps
    from matplotlib.colors import hsv_to_rgb

    numbers = np.arange(count - 1)
    if count <= 11:
        colours = np.asarray(colormaps["tab10"](numbers))[:, :3]
    else:
        # Steps by the golden ratio never come close to an earlier hue; three brightnesses tell those apart that do.
        brightness = 0.5 + 0.25 * (numbers % 3)
        colours = hsv_to_rgb(np.stack([numbers * 0.618034 % 1, np.full(count - 1, 0.9), brightness], axis=1))
    return np.concatenate([np.zeros((1, 3)), colours])


def paint(
    picture: UInt8[np.ndarray, "H W 3"],
    class_map: Integer[np.ndarray, "H W"],
    num_classes: int,
    *,
    opacity: float = 0.6,
) -> Float[np.ndarray, "H W 3"]:
    """The picture, 0...1, with the colours of the classes over it; where class 0 or nothing (255) is, as it was."""
    numbers = np.where(class_map < num_classes, class_map, 0)
    shown = np.where(numbers > 0, opacity, 0.0)[:, :, None]
    return (1 - shown) * picture / 255 + shown * class_colours(num_classes)[numbers]


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_with_key(
    figure: Any, labels: Sequence[str], class_maps: Sequence[np.ndarray], path: str | Path, *, most: int = 24
) -> Path:
    """Writes a figure with the names and colours of the classes that the maps have below it; the folder is made."""
    from matplotlib.patches import Patch

    numbers = sorted({int(n) for class_map in class_maps for n in np.unique(class_map)} - {0, 255})[:most]
    handles = [Patch(color=class_colours(len(labels))[n], label=labels[n]) for n in numbers]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(12, len(handles)), fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
