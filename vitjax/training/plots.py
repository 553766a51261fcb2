"""Pictures of a run: curves, inputs, packed rows. matplotlib is imported when the first one is drawn."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.arrays import Batch

__all__ = ["draw_batch", "draw_curves", "packed_images"]

_SHOWN = 24


def draw_curves(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """`loss.png`, and `scores.png` with a panel for every other metric of the evaluation.

    Args:
        rows: of `metrics.jsonl`.
        folder: where the pictures go.
    """
    train = [row for row in rows if row.get("kind") == "train"]
    evaluation = [row for row in rows if row.get("kind") == "evaluation"]
    names = {name for row in evaluation for name in row} - {"kind", "step", "loss", "seconds"}
    _draw_lines(folder / "loss.png", ["loss"], train, evaluation)
    if names:
        _draw_lines(folder / "scores.png", sorted(names), train, evaluation)


def _draw_lines(path: Path, names: Sequence[str], train: Sequence[dict], evaluation: Sequence[dict]) -> None:
    across = min(len(names), 4)
    down = -(-len(names) // across)
    figure, panels = _figure(3.5 * max(across, 2), 2.5 * down + 1.5, down, across)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels.flat, names, strict=False):
        for rows, style, label in ((train, "-", "training"), (evaluation, "o--", "held back")):
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, markersize=4, label=f"{name}, {label}")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)


def draw_batch(batch: Batch, labels: Sequence[str] | None, folder: Path, patch_size: int | None = None) -> list[Path]:
    """`inputs.png`, and `rows.png` for packed rows: every image in a colour of its own, padding white.

    Args:
        batch: numpy, of either kind.
        labels: class names.
        folder: where the pictures go.
        patch_size: see `packed_images`.

    Returns:
        The files drawn; none for a batch that holds neither images nor patches.
    """
    drawn = []
    if "patches" in batch:
        images, numbers = packed_images(batch, _SHOWN, patch_size)
        _draw_rows(folder / "rows.png", batch["segments"])
        drawn.append(folder / "rows.png")
    elif "image" in batch:
        images, numbers = list(batch["image"][:_SHOWN]), list(batch.get("label", ()))[:_SHOWN]
    else:
        return drawn
    if images:
        _draw_images(folder / "inputs.png", images, [_name(number, labels) for number in numbers])
        drawn.append(folder / "inputs.png")
    return drawn


def packed_images(batch: Batch, most: int, patch_size: int | None = None) -> tuple[list[np.ndarray], list[int]]:
    """The first images of packed rows put together from their patches, dropped tokens grey; and their labels.

    Of a clip, the middle frames of its tubelets stand side by side.

    Args:
        batch: with uint8 `patches` [B, N, P], a patch flattened (row, column, channel), a tubelet with time in front.
        most: images returned at most.
        patch_size: side of a patch, pixels; by default that of square patches.
    """
    values = batch["patches"].shape[-1]
    square = 3 if math.isqrt(values // 3) ** 2 * 3 == values else 1
    size = patch_size or math.isqrt(values // square)
    channels = 3 if values % (3 * size**2) == 0 else 1
    # [B, N, rows, columns, channels] of the middle frame
    blocks = batch["patches"].reshape(*batch["patches"].shape[:2], -1, size, size, channels)
    patches = blocks[:, :, blocks.shape[2] // 2]
    images, labels = [], []
    for row, slot in np.argwhere(batch["image_mask"])[:most]:
        tokens = batch["segments"][row] == slot + 1
        rows, columns = batch["grid_sizes"][row, slot][-2:]
        times = math.prod(batch["grid_sizes"][row, slot][:-2].tolist())
        canvas = np.full((rows, times, columns, size, size, channels), 128, np.uint8)
        at = batch["positions"][row][tokens]
        time = at[:, 0] if at.shape[1] == 3 else 0
        canvas[at[:, -2], time, at[:, -1]] = patches[row][tokens]
        images.append(canvas.transpose(0, 3, 1, 2, 4, 5).reshape(rows * size, times * columns * size, channels))
        labels.append(int(batch["label"][row, slot]) if "label" in batch else -1)
    return images, labels


def _draw_rows(path: Path, segments: np.ndarray) -> None:
    from matplotlib import colormaps

    colours = np.concatenate([np.ones((1, 3)), colormaps["tab20"].colors])  # pyright: ignore[reportAttributeAccessIssue]
    shown = segments[:_SHOWN]
    picture = colours[np.where(shown > 0, (shown - 1) % 20 + 1, 0)]
    figure, panels = _figure(10.0, 1 + 0.25 * len(shown))
    axes = panels[0, 0]
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    axes.set_xlabel("token")
    axes.set_ylabel("row")
    axes.set_title(f"packed rows, {float(np.mean(segments == 0)):.1%} padding (white)", fontsize=9)
    figure.savefig(path, dpi=100)


def _draw_images(path: Path, images: Sequence[np.ndarray], titles: Sequence[str]) -> None:
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure, panels = _figure(1.3 * columns, 1.5 * rows, rows, columns)
    for axes in panels.flat:
        axes.set_axis_off()
    for number, (axes, image) in enumerate(zip(panels.flat, images, strict=False)):
        axes.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)
        axes.set_title(titles[number] if number < len(titles) else "", fontsize=8)
    figure.savefig(path, dpi=100)


def _figure(width: float, height: float, down: int = 1, across: int = 1) -> tuple[Any, np.ndarray]:
    """A figure that needs no display and no global state, and its panels `[down, across]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(down, across, squeeze=False)


def _name(label: Any, labels: Sequence[str] | None) -> str:
    number = np.asarray(label)
    if number.ndim or not np.issubdtype(number.dtype, np.integer):
        return ""
    return labels[int(number)] if labels and 0 <= int(number) < len(labels) else str(int(number))
