"""The picture of channels' importance: what each block keeps when a model is pruned as a whole."""

from collections.abc import Mapping
from pathlib import Path

__all__ = ["draw_kept_shares"]

_TITLES = {"query": "Q", "key": "K", "value": "V", "hidden": "FFN"}


def draw_kept_shares(shares: Mapping[str, Mapping[str, float]], path: str | Path, *, title: str = "") -> None:
    """One panel per kind of channel, one bar per block, after figure 4 of Liu et al. 2023.

    Args:
        shares: kind -> place -> share of channels kept, from `analysis.importance.kept_shares`.
        path: of the picture.
        title: over all of them.
    """
    from vitjax.analysis.plots import _figure, _save

    figure = _figure(1.0 + 2.8 * len(shares), 3.0)
    for axes, (kind, places) in zip(figure.subplots(1, len(shares), squeeze=False)[0], shares.items(), strict=True):
        numbers = range(len(places))
        axes.bar(numbers, list(places.values()), color="tab:blue")
        axes.set_ylim(0, 1)
        axes.set_title(_TITLES.get(kind, kind), fontsize=10)
        axes.set_xlabel("block")
        step = max(1, len(places) // 8)
        axes.set_xticks(numbers[::step])
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("share of channels kept")
    if title:
        figure.suptitle(title, fontsize=10)
    _save(figure, path)
