"""A NaFlexViT in the words of timm's `config.json`, and in those of transformers for SigLIP 2."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import SequenceBudget
from vitjax.inference import huggingface_parts
from vitjax.inference.foreign_timm_naflex import POSITIONS
from vitjax.inference.foreign_timm_vit import ACTIVATIONS
from vitjax.inference.foreign_types import Holding, Parts, demand
from vitjax.inference.huggingface_processors import RESAMPLING
from vitjax.inference.writing_preparation import labels_of
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid, longer_side, own_sides
from vitjax.models.naflex import AttentionPooling, AveragePooling, ClassTokenPooling
from vitjax.ops.activations import gelu
from vitjax.ops.axis_weights import bicubic_antialias, bilinear, bilinear_antialias

__all__ = ["naflex_to_huggingface", "naflex_to_timm"]


def naflex_to_timm(bundle: Holding) -> tuple[Parts, set[str]]:
    """Any of timm's that this module can be; another of its architectures with arguments.

    Raises:
        UserError: timm has no words for a setting or for the preparation.
    """
    module, batches = bundle.module, bundle.batches
    _check_naflex(bundle)
    arguments = {
        "patch_size": module.patch_size,
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.num_heads,
        "mlp_ratio": _ratio(module.mlp_width, module.width),
        "qkv_bias": module.use_qkv_bias,
        "qk_norm": module.use_qk_norm,
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


def naflex_to_huggingface(bundle: Holding) -> tuple[Parts, set[str]]:
    """`Siglip2VisionModel`, whose outputs are the pooling's vectors, or `Siglip2ForImageClassification`.

    Raises:
        UserError: transformers has no words for a setting or for the preparation.
    """
    module, batches = bundle.module, bundle.batches
    _check_naflex(bundle)
    _check_siglip2(module)
    numbers = {name: number for number, name in RESAMPLING.items()}
    demand(batches.interpolation in numbers, f"`interpolation` (={batches.interpolation!r}) has no number there")
    vision = {
        "model_type": "siglip2_vision_model",
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.num_heads,
        "intermediate_size": module.mlp_width,
        "hidden_act": _name_of(huggingface_parts.ACTIVATIONS, module.activation, "activation"),
        "layer_norm_eps": module.norm_epsilon,
        "num_channels": 3,
        "num_patches": module.table_grid[0] ** 2,
        "patch_size": module.patch_size,
        "vision_use_head": not module.num_classes,
    }
    config = {"architectures": ["Siglip2VisionModel"], **vision, "dtype": "float32"}
    if module.num_classes:
        config = {
            "architectures": ["Siglip2ForImageClassification"],
            "model_type": "siglip2",
            "vision_config": vision,
            **labels_of(bundle),
            "dtype": "float32",
        }
    processor = {
        "image_processor_type": "Siglip2ImageProcessor",
        "do_resize": True,
        "resample": numbers[batches.interpolation],
        "patch_size": module.patch_size,
        "max_num_patches": batches.resolution.tokens,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(bundle.task.mean),
        "image_std": list(bundle.task.std),
    }
    settings = {"activation", "norm_epsilon", "positions"}
    return {"config.json": config, "preprocessor_config.json": processor}, settings


def _check_naflex(bundle: Holding) -> None:
    """What neither format has."""
    batches = bundle.batches
    demand(
        isinstance(batches, PackedBatches) and type(batches.resolution) is SequenceBudget and not batches.transforms,
        "the preparation is not that of NaFlex: pictures resized to a budget of patches, and nothing else",
    )
    demand(bundle.module.representation_size is None, "`representation_size`: it has no layer in front of the head")


def _check_siglip2(module: Any) -> None:
    """What transformers' SigLIP 2 cannot be told."""
    for name, wanted in (
        ("use_class_token", False),
        ("num_registers", 0),
        ("layer_scale", None),
        ("use_qkv_bias", True),
        ("use_qk_norm", False),
        ("norm_after_pooling", False),
    ):
        demand(getattr(module, name) == wanted, f"`{name}` (={getattr(module, name)}) is {wanted} there")
    kind, given = _opened(module.positions)
    own = _opened(given.get("weights", bicubic_antialias))[0], _opened(given.get("sides", own_sides))[0]
    demand(
        kind is ResampledGrid and own == (bilinear_antialias, own_sides) and len(set(module.table_grid)) == 1,
        "`positions`: it has one square table, resized to each grid by antialiased lines",
    )
    kind, given = _opened(module.pool)
    if module.num_classes:
        demand(kind is AveragePooling, f"`pool` (={kind.__name__}): its classifier reads the mean of the patches")
        return
    demand(kind is AttentionPooling, f"`pool` (={kind.__name__}): without classes it pools by attention")
    _demand_of_pooling(module, given, ("num_heads", "mlp_width", "activation", "norm_epsilon"))


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
    _demand_of_pooling(module, given, ("activation", "norm_epsilon"))
    return {
        "global_pool": "map",
        "pool_include_prefix": given.get("include_prefix", False),
        "attn_pool_num_heads": given["num_heads"],
        "attn_pool_mlp_ratio": _ratio(given["mlp_width"], module.width),
    }


def _demand_of_pooling(module: Any, given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Settings that a pooling by attention has to share with the blocks."""
    usual = {"activation": gelu, "norm_epsilon": 1e-6}
    for name in names:
        own, trunk = (_opened(value)[0] for value in (given.get(name, usual.get(name)), getattr(module, name)))
        demand(own == trunk, f"`{name}` of the pooling (={own}) is the blocks' there (={trunk})")


def _opened(factory: Any) -> tuple[Any, Mapping[str, Any]]:
    """What a factory makes, and with which keywords; a function that a config stored is a factory too."""
    return (factory.func, factory.keywords) if isinstance(factory, functools.partial) else (factory, {})


def _name_of(table: Mapping[Any, Any], value: Any, setting: str) -> Any:
    found = [name for name, known in table.items() if known is _opened(value)[0]]
    demand(bool(found), f"`{setting}` (={getattr(value, '__name__', value)}) has no name there")
    return found[0]
