"""DeepViT's experiment: does re-attention keep the attention maps of deep blocks apart (Zhou et al. 2021)?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vitjax.analysis.attention_maps import attention_maps, attention_of_pictures
from vitjax.analysis.plots import draw_cross_head_similarity, draw_heads, draw_layer_similarity, draw_rollouts
from vitjax.analysis.similarity import cross_head_similarity, layer_similarity, similar_blocks, similar_share
from vitjax.arrays import Array
from vitjax.config import build, override
from vitjax.data.loading import Shards
from vitjax.inference.bundle import Bundle, load
from vitjax.training.fit import RunSummary, fit

__all__ = ["Comparison", "compare_reattention"]

_NAMES = {"plain": 0, "re-attention": None}
"""Name -> `model.num_reattention`."""


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        workdir: with a run folder per model, `table.json` and `plots/`.
        runs: how each model's training ended.
        rows: the table: one row per model.
        interrupted: whether a run was; the same command goes on with it.
    """

    workdir: Path
    runs: dict[str, RunSummary]
    rows: tuple[dict[str, Any], ...]
    interrupted: bool


def compare_reattention(
    config: ConfigDict, *, images: int = 64, threshold: float = 0.9, limit: float = 0.9
) -> Comparison:
    """Trains the config's DeepViT without and with re-attention and compares the attention maps of their blocks.

    Args:
        config: of a run whose model is a `DeepViT`; each model trains in a folder of its own below `workdir`.
        images: of the evaluation data whose maps are compared.
        threshold: of the column similarity, see `similar_share`.
        limit: share of similar columns from which on a block counts as similar to the one before.
    """
    workdir = Path(str(config.workdir))
    runs: dict[str, RunSummary] = {}
    for name, active in _NAMES.items():
        print(f"-- {name} blocks", flush=True)
        runs[name] = fit(_arm(config, workdir / name, active))
        if runs[name].interrupted:
            return Comparison(workdir, runs, (), interrupted=True)
    bundles = {name: load(workdir / name) for name in runs}
    maps = {name: _maps(bundle, config, images) for name, bundle in bundles.items()}
    shares = {name: similar_share(own, threshold=threshold) for name, own in maps.items()}
    rows = tuple(
        {
            "model": name,
            "blocks": len(maps[name]),
            "similar_blocks": similar_blocks(shares[name], limit=limit),
            "neighbour_similarity": _neighbours(layer_similarity(maps[name])),
            "top1": runs[name].scores["top1"],
        }
        for name in runs
    )
    title = f"share of columns with a cosine above {threshold:g}"
    draw_layer_similarity(shares, workdir / "plots" / "layer_similarity.png", title=title)
    heads = {name: cross_head_similarity(own) for name, own in maps.items()}
    draw_cross_head_similarity(heads, workdir / "plots" / "head_similarity.png")
    _draw_pictures(bundles, config, workdir / "plots")
    (workdir / "table.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(_table(rows))
    print(f"look at {workdir}/plots/*.png and {workdir}/table.json", flush=True)
    return Comparison(workdir, runs, rows, interrupted=False)


def _arm(config: ConfigDict, folder: Path, active: int | None) -> ConfigDict:
    own = config.copy_and_resolve_references()
    override(own, "workdir", str(folder))
    override(own, "model.num_reattention", active)
    return own


def _maps(bundle: Bundle, config: ConfigDict, images: int) -> list[Array]:
    batch = next(iter(build(config.evaluation).epoch(Shards())))
    real = np.flatnonzero(batch["image_mask"])[:images]
    inputs = bundle.task.inputs({name: leaf[real] for name, leaf in batch.items()})
    return list(attention_maps(bundle.module, bundle.variables, **inputs).values())


def _neighbours(similarity: np.ndarray) -> float | None:
    neighbours = np.diagonal(similarity, offset=-1)
    return float(neighbours.mean()) if neighbours.size else None


def _draw_pictures(bundles: dict[str, Bundle], config: ConfigDict, folder: Path) -> None:
    source = build(config.evaluation).source
    pictures = [source[number]["image"] for number in range(min(8, len(source)))]
    for name, bundle in bundles.items():
        seen = attention_of_pictures(bundle, pictures)
        draw_heads(seen[0], folder / f"heads_{name}.png")
        draw_rollouts(seen, folder / f"rollout_{name}.png")


def _table(rows: tuple[dict[str, Any], ...]) -> str:
    lines = [f"{'blocks':<14}{'similar blocks':>16}{'similarity of neighbours':>26}{'top-1':>8}"]
    for row in rows:
        similar, neighbours = f"{row['similar_blocks']} of {row['blocks']}", row["neighbour_similarity"]
        shown = "none" if neighbours is None else f"{neighbours:.3f}"
        lines.append(f"{row['model']:<14}{similar:>16}{shown:>26}{row['top1']:>8.3f}")
    return "\n".join(lines)
