"""Pictures of attention maps and of their similarity; matplotlib is imported when the first one is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.analysis.attention_maps import PictureMaps
from vitjax.errors import UserError

__all__ = ["draw_cross_head_similarity", "draw_heads", "draw_layer_similarity", "draw_rollouts"]


def draw_layer_similarity(shares: Mapping[str, np.ndarray], path: str | Path, *, title: str = "") -> None:
    """Heat maps of layer by layer, one per model, in one colour scale.

    Args:
        shares: `[L, L]` by the name of the model, from `similar_share` or `layer_similarity`.
        path: of the picture.
        title: over all of them.
    """
    figure = _figure(1.2 + 3.6 * len(shares), 3.9)
    grid = figure.subplots(1, len(shares), squeeze=False)[0]
    low = min(0.0, *(float(share.min()) for share in shares.values()))
    shown = None
    for axes, (name, share) in zip(grid, shares.items(), strict=True):
        shown = axes.imshow(share, cmap="viridis", vmin=low, vmax=1.0, origin="lower")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("block")
        axes.set_ylabel("block")
        step = max(1, len(share) // 8)
        axes.set_xticks(range(0, len(share), step))
        axes.set_yticks(range(0, len(share), step))
    figure.colorbar(shown, ax=list(grid), shrink=0.85)
    if title:
        figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_cross_head_similarity(similarities: Mapping[str, np.ndarray], path: str | Path) -> None:
    """A curve over the blocks for each model.

    Args:
        similarities: `[L]` by the name of the model, from `cross_head_similarity`.
        path: of the picture.
    """
    figure = _figure(6.0, 3.5)
    axes = figure.subplots()
    for name, values in similarities.items():
        axes.plot(range(len(values)), values, "o-", markersize=4, label=name)
    axes.set_xlabel("block")
    axes.set_ylabel("similarity to the other heads")
    axes.set_ylim(min(0.0, *(float(values.min()) for values in similarities.values())) - 0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def draw_heads(picture: PictureMaps, path: str | Path, *, layers: Sequence[str] | None = None) -> None:
    """The image, and a row per layer with each head's attention over it.

    What is drawn is what the class token takes from each patch, or the average of all tokens where there is none; each
    map in its own scale, from nothing to its largest magnitude.

    Args:
        picture: one of `attention_of_pictures`.
        path: of the picture.
        layers: paths of the layers to draw; the first, the middle and the last one if not given.

    Raises:
        UserError: the picture has no such layer.
    """
    names = _chosen_layers(picture, layers)
    heads = max(picture.maps[name].shape[0] for name in names)
    figure = _figure(1.6 * (heads + 1), 0.4 + 1.75 * len(names))
    grid = figure.subplots(len(names), heads + 1, squeeze=False)
    for row, name in zip(grid, names, strict=True):
        for axes in row:
            axes.axis("off")
        row[0].imshow(_shown(picture.image))
        row[0].set_title(name, fontsize=8)
        for head, (axes, weights) in enumerate(zip(row[1:], picture.maps[name], strict=False)):
            reader = weights[0] if picture.num_prefix else weights.mean(axis=0)
            patches = reader[picture.num_prefix : weights.shape[-2]]
            _overlay(axes, picture, patches.reshape(picture.grid))
            axes.set_title(f"head {head}", fontsize=8)
    _save(figure, path)


def draw_rollouts(pictures: Sequence[PictureMaps], path: str | Path) -> None:
    """Each picture, and beside it its rollout drawn over it, each in its own scale.

    Args:
        pictures: of `attention_of_pictures`.
        path: of the picture.
    """
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = _figure(3.4 * columns, 2.0 * rows)
    grid = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    for axes in grid.flat:
        axes.axis("off")
    for (plain, over), picture in zip(grid, pictures, strict=False):
        plain.imshow(_shown(picture.image))
        plain.set_title(Path(picture.name).name[:24], fontsize=8)
        _overlay(over, picture, picture.rollout())
        over.set_title("rollout", fontsize=8)
    _save(figure, path)


def _chosen_layers(picture: PictureMaps, layers: Sequence[str] | None) -> Sequence[str]:
    known = list(picture.maps)
    if layers is None:
        return [known[number] for number in sorted({0, len(known) // 2, len(known) - 1})]
    missing = [name for name in layers if name not in picture.maps]
    if missing:
        raise UserError(f"`layers`: no map of {', '.join(missing)}; there are {', '.join(known)}")
    return layers


def _overlay(axes: Any, picture: PictureMaps, weights: np.ndarray) -> None:
    """Grey image under patches coloured by weight: dark is nothing, bright the most of this map."""
    image = _shown(picture.image)
    height, width = image.shape[:2]
    grey = image.reshape(height, width, -1)[..., :3].mean(axis=-1)
    extent = (0, width, height, 0)
    strength = np.abs(weights) / max(float(np.abs(weights).max()), 1e-12)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent)
    axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.6, extent=extent)


def _shown(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _figure(width: float, height: float) -> Any:
    """A figure that needs no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
