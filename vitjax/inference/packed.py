"""A plain ViT's weights on packed rows: the same numbers for the same pictures, and any size and aspect ratio besides.

The ViT becomes a `NaFlexViT` with the paths and weights it has; its positions are read at each picture's own grid by
the rule with which its weights are resampled, and pictures share rows.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vitjax.data.batching import ImageBatches
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import NativeSize, NoDrop, SequenceBudget, TokenBudget
from vitjax.data.transforms import CentreCrop, Resize, ResizeShorterSide, ReverseChannels
from vitjax.errors import UserError
from vitjax.inference.evaluation_modes import CropOrPad, ResizeKeepingRatio
from vitjax.inference.foreign_types import Arrays, demand
from vitjax.layers.resampled_positions import ResampledGrid
from vitjax.models import naflex, vit
from vitjax.models.deepvit import DeepViT
from vitjax.models.memory_vit import MemoryViT
from vitjax.models.naflex import NaFlexViT
from vitjax.models.navit import NaViT
from vitjax.models.vit import ViT
from vitjax.ops import axis_weights, positions
from vitjax.tasks.classification import Classification
from vitjax.tasks.packed_classification import PackedClassification

__all__ = ["budgeted", "packed_parts"]

_ROW = 4  # pictures: of 256 tokens, the rows of 1024 that accelerators fill well

_RULES: Mapping[Callable[..., Any], Any] = {
    positions.resample_bicubic_antialias: axis_weights.bicubic_antialias,
    positions.resample_bilinear_antialias: axis_weights.bilinear_antialias,
    positions.resample_bicubic: axis_weights.bicubic,
    positions.resample_bilinear: axis_weights.bilinear,
    positions.resample_corners: axis_weights.corners,
}
"""How a ViT's whole table is resampled -> the same, token by token."""

_POOLS: Mapping[Callable[..., Any], Any] = {
    vit.ClassTokenPooling: naflex.ClassTokenPooling,
    vit.AveragePooling: naflex.AveragePooling,
    # A plain ViT's probe attends to the class token too.
    vit.AttentionPooling: functools.partial(naflex.AttentionPooling, include_prefix=True),
}

_REASONS: Mapping[type, str] = {
    MemoryViT: "the mask of its memory tokens says who sees which task of one picture, not which picture of a row",
    DeepViT: "re-attention mixes the heads' maps and normalises them over all places, those between pictures included",
    **dict.fromkeys(
        (NaFlexViT, NaViT), "its rows are packed already; predict(pictures, tokens=...) sets each picture's budget"
    ),
}
"""Why a model cannot be packed here."""

_SAME = (
    "num_classes", "patch_size", "width", "depth", "num_heads", "mlp_width", "use_class_token", "norm_after_pooling",
    "representation_size", "zero_init_head", "head_bias", "use_qkv_bias", "activation", "norm_epsilon", "dropout_rate",
    "drop_path_rate", "remat", "dtype",
)  # fmt: skip
"""Settings that both have. Attention dropout, which acts in training only, NaFlexViT has not."""


def packed_parts(module: Any, arrays: Arrays, task: Any, batches: Any, tokens: int | None) -> tuple[Any, ...]:
    """Module, variables by path, task and batches of the packed model.

    Args:
        module: a `ViT` whose patches are embedded by one linear map.
        arrays: its variables by path.
        task: a `Classification`.
        batches: `ImageBatches`.
        tokens: budget of patches per picture, which keeps its aspect ratio and is not cropped; `None` prepares pictures
            as before, all of one size.

    Raises:
        UserError: the model, or its preparation, cannot be packed; the message says why.
    """
    target = _packed_module(module)
    _demand_images(task, batches, type(module).__name__)
    packed_task = PackedClassification(mean=task.mean, std=task.std, criterion=task.criterion)
    own: Any = NativeSize()
    transforms, interpolation, count = batches.transforms, "bicubic", math.prod(module.grid)
    if tokens is not None:
        own, count = SequenceBudget(tokens), tokens
        transforms, interpolation = _whole_pictures(batches.transforms)
    packed_batches = PackedBatches(
        source=None,
        patch_size=module.patch_size,
        length=_ROW * count,
        rows=4,
        packers=1,
        max_images=2 * _ROW,
        resolution=own,
        transforms=transforms,
        interpolation=interpolation,
    )
    return target, _packed_arrays(module, arrays), packed_task, packed_batches


def _packed_module(module: Any) -> NaFlexViT:
    name = type(module).__name__
    reason = _REASONS.get(type(module), "only a plain ViT can")
    demand(type(module) is ViT, f"{name} cannot run packed: {reason}")
    kind, table = _opened(module.positions)
    resampling = _opened(table.get("resampling", positions.resample_bicubic_antialias))[0]
    demand(
        _opened(module.embedding)[0] is vit.PatchEmbedding and kind is vit.LearnedPositions and resampling in _RULES,
        f"this {name} cannot run packed: only patches embedded by one linear map, with one learned table of positions",
    )
    demand(not module.channel_sizes, f"this {name} cannot run packed: it is pruned")
    pool, settings = _opened(module.pool)
    demand(
        pool in _POOLS and (module.use_class_token or pool is not vit.ClassTokenPooling),
        f"this {name} cannot run packed: `pool` (={getattr(pool, '__name__', pool)}) is unknown there",
    )
    return NaFlexViT(
        **{setting: getattr(module, setting) for setting in _SAME},
        table_grid=module.grid,
        positions=functools.partial(ResampledGrid, weights=_RULES[resampling]),
        pool=functools.partial(_POOLS[pool], **settings) if settings or pool is vit.AttentionPooling else _POOLS[pool],
    )


def _opened(factory: Any) -> tuple[Any, Mapping[str, Any]]:
    """What a factory makes, and with which keywords; a function that a config stored is a factory too."""
    return (factory.func, factory.keywords) if isinstance(factory, functools.partial) else (factory, {})


def _packed_arrays(module: Any, arrays: Arrays) -> dict[str, np.ndarray]:
    """The same variables; a position of the class token is added to it, for both are constants."""
    found = {path: np.asarray(array) for path, array in arrays.items()}
    path, token = "params/position_embedding/table", "params/class_token"
    table, count = found[path], module.grid[0] * module.grid[1]
    if len(table) > count:
        found[token] = found[token] + table[:1]
    found[path] = table[len(table) - count :].reshape(*module.grid, -1)
    return found


def _demand_images(task: Any, batches: Any, name: str) -> None:
    demand(
        type(task) is Classification and isinstance(batches, ImageBatches),
        f"{name} cannot run packed: {type(task).__name__} on {type(batches).__name__} is no classifier of pictures",
    )


def _whole_pictures(transforms: tuple[Any, ...]) -> tuple[tuple[Any, ...], str]:
    """What is left of a preparation when pictures are neither stretched nor cropped, and its interpolation."""
    sizes = (Resize, ResizeShorterSide, ResizeKeepingRatio, CentreCrop, CropOrPad)
    for transform in transforms:
        demand(
            isinstance(transform, (*sizes, ReverseChannels)),
            f"`tokens`: the preparation has {transform}, of which nobody knows whether it keeps pictures whole",
        )
    kinds = [transform.interpolation for transform in transforms if hasattr(transform, "interpolation")]
    kept = tuple(transform for transform in transforms if not isinstance(transform, sizes))
    return kept, next(iter(kinds), "bicubic")


def budgeted(batches: Any, tokens: int) -> PackedBatches:
    """The same preparation with another budget: every picture gets the largest grid of at most `tokens` patches.

    Aspect ratios are kept, small pictures are enlarged (NaViT, arXiv:2307.06304, section 3.6: better than dropping
    tokens, which `token_drop` therefore does not). Rows hold four pictures, so that time follows the budget.

    Args:
        batches: of packed rows.
        tokens: patches of a picture at most.

    Raises:
        UserError: the preparation makes pictures of one size, or the budget is not positive.
    """
    if not isinstance(batches, PackedBatches):
        raise UserError(
            f"`tokens` (={tokens}): {type(batches).__name__} makes pictures of one size, so this model has one cost; "
            "a plain ViT takes a budget after bundle.packed()"
        )
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise UserError(f"`tokens` (={tokens!r}) must be a whole number of patches, 1 or more")
    own = batches.resolution
    named = "tokens" in inspect.signature(type(own)).parameters
    resolution = replace(own, tokens=tokens) if named else TokenBudget(tokens)  # type: ignore[type-var]
    return replace(batches, resolution=resolution, token_drop=NoDrop(), length=_ROW * tokens)
