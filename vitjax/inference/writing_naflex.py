"""A NaFlexViT in the words of timm's `config.json`."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import SequenceBudget
from vitjax.inference.foreign_timm_naflex import POSITIONS
from vitjax.inference.foreign_timm_vit import ACTIVATIONS
from vitjax.inference.foreign_types import Holding, Parts, demand
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid, longer_side, own_sides
from vitjax.models.naflex import AttentionPooling, AveragePooling, ClassTokenPooling
from vitjax.ops.activations import gelu
from vitjax.ops.axis_weights import bicubic_antialias, bilinear

__all__ = ["naflex_to_timm"]


def naflex_to_timm(bundle: Holding) -> tuple[Parts, set[str]]:
    """Any of timm's that this module can be; another of its architectures with arguments.

    Raises:
        UserError: timm has no words for a setting or for the preparation.
    """
    module, batches = bundle.module, bundle.batches
    demand(
        isinstance(batches, PackedBatches) and type(batches.resolution) is SequenceBudget and not batches.transforms,
        "the preparation is not that of NaFlex: pictures resized to a budget of patches, and nothing else",
    )
    demand(module.representation_size is None, "`representation_size`: it has no layer in front of the head")
    arguments = {
        "patch_size": module.patch_size,
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.num_heads,
        "mlp_ratio": _ratio(module.mlp_width, module.width),
        "qkv_bias": module.use_qkv_bias,
        "class_token": module.use_class_token,
        "reg_tokens": module.num_registers,
        "act_layer": _name_of(ACTIVATIONS, module.activation, "activation"),
        "pos_embed_grid_size": list(module.table_grid),
        "fc_norm": module.norm_after_pooling,
        **_positions(module),
        **_pooling(module),
    }
    # timm drops arguments that are None, so the architecture says whether there is LayerScale.
    architecture = "naflexvit_base_patch16_siglip"
    if module.layer_scale is not None:
        architecture, arguments["init_values"] = "naflexvit_base_patch16_gap", module.layer_scale
    tokens = batches.resolution.tokens
    rows = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
    size = [3, rows * module.patch_size, tokens // rows * module.patch_size]
    config = {
        "architecture": architecture,
        "num_classes": module.num_classes,
        "num_features": module.width,
        "global_pool": arguments["global_pool"],
        "label_names": list(bundle.labels),
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "vitjax",
            "custom_load": False,
            "input_size": size,
            "fixed_input_size": False,
            "interpolation": batches.interpolation,
            "crop_pct": 1.0,
            "mean": list(bundle.task.mean),
            "std": list(bundle.task.std),
            "num_classes": module.num_classes,
            "pool_size": None,
            "first_conv": "embeds.proj",
            "classifier": "head",
        },
    }
    return {"config.json": config}, {"activation", "positions"}


def _ratio(mlp_width: int, width: int) -> float:
    """Of which int(width * ratio), which timm takes, is the width again."""
    ratio = mlp_width / width
    return ratio if int(width * ratio) == mlp_width else math.nextafter(ratio, math.inf)


def _positions(module: Any) -> dict[str, Any]:
    kind, given = _opened(module.positions)
    demand(kind in (ResampledGrid, ResampledAxes), f"`positions` (={kind.__name__}): it resizes learned tables only")
    found = {"pos_embed_ar_preserving": _opened(given.get("sides", own_sides))[0] is longer_side}
    if kind is ResampledAxes:
        weights = _opened(given.get("weights", bilinear))[0]
        demand(weights is bilinear, "`positions`: its factorised tables are resized by lines")
        return found | {"pos_embed": "factorized"}
    mode, antialias = _name_of(POSITIONS, given.get("weights", bicubic_antialias), "positions")
    return found | {"pos_embed": "learned", "pos_embed_interp_mode": mode, "pos_embed_antialias": antialias}


def _pooling(module: Any) -> dict[str, Any]:
    kind, given = _opened(module.pool)
    names = {AttentionPooling: "map", AveragePooling: "avg", ClassTokenPooling: "token"}
    demand(kind in names, f"`pool` (={kind.__name__}) has no name there")
    if kind is not AttentionPooling:
        return {"global_pool": names[kind]}
    for name, default in (("activation", gelu), ("norm_epsilon", 1e-6)):
        own, trunk = (_opened(value)[0] for value in (given.get(name, default), getattr(module, name)))
        demand(own == trunk, f"`{name}` of the pooling (={own}) is the blocks' there (={trunk})")
    return {
        "global_pool": "map",
        "pool_include_prefix": given.get("include_prefix", False),
        "attn_pool_num_heads": given["num_heads"],
        "attn_pool_mlp_ratio": _ratio(given["mlp_width"], module.width),
    }


def _opened(factory: Any) -> tuple[Any, Mapping[str, Any]]:
    """What a factory makes, and with which keywords; a function that a config stored is a factory too."""
    return (factory.func, factory.keywords) if isinstance(factory, functools.partial) else (factory, {})


def _name_of(table: Mapping[Any, Any], value: Any, setting: str) -> Any:
    found = [name for name, known in table.items() if known is _opened(value)[0]]
    demand(bool(found), f"`{setting}` (={getattr(value, '__name__', value)}) has no name there")
    return found[0]
