"""Arguments of timm's `NaFlexVit` as keywords of ours; what they mean is in its `NaFlexVitCfg`."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_timm_vit import ACTIVATIONS, mlp_width
from vitjax.inference.foreign_types import Asked, left_after, one_if_equal, refuse_unknown
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid, longer_side, own_sides
from vitjax.models.naflex import AttentionPooling, AveragePooling, ClassTokenPooling
from vitjax.ops.activations import gelu
from vitjax.ops.axis_weights import bicubic, bicubic_antialias, bilinear, bilinear_antialias

__all__ = ["POSITIONS", "read_naflex"]

_WITHOUT_EFFECT = (
    # How timm starts or adapts a model, what the arrays tell, what padding is told, and what only rotary positions use.
    "num_classes", "img_size", "weight_init", "fix_init", "dynamic_img_pad", "enable_patch_interpolator",
    "pos_embed_grid_size", "use_key_only_attn_mask", "rope_temperature", "rope_ref_feat_shape", "rope_grid_offset",
    "rope_grid_indexing", "rope_rotate_half", "rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords",
    "rope_mrope_section", "swiglu_align_to", "pretrained_strict",
)  # fmt: skip
_ONLY_IN_TRAINING = ("drop_rate", "attn_drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate")
_MUST_BE: Mapping[str, tuple[Any, ...]] = {
    # Arguments of parts that NaFlexViT here does not have, with the values that leave them out.
    "in_chans": (3, None),
    "embed_proj_type": ("linear",),
    "patchify_channels_last": (True,),
    "pos_embed_align_corners": (False, None),
    "pos_embed_use_grid_sample": (False, None),
    "rope_type": ("", "none", None),
    "attn_type": ("standard", None),
    "num_kv_heads": (None,),
    "proj_bias": (True, None),
    "qkv_fused": (True, None),
    "attn_gated": (False, None),
    "attn_only_layer_scale": (False, None),
    "scale_attn_inner_norm": (False, None),
    "scale_mlp_norm": (False, None),
    "swiglu_mlp": (False, None),
    "pre_norm": (False, None),
    "final_norm": (True, None),
    "input_norm_layer": (None,),
    "embed_norm_layer": (None,),
    "norm_layer": (None,),
    "block_fn": (None,),
    "mlp_layer": (None,),
    "attn_layer": (None,),
}

_PLAIN = {
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "num_heads",
    "qkv_bias": "use_qkv_bias",
    "qk_norm": "use_qk_norm",
    "class_token": "use_class_token",
    "reg_tokens": "num_registers",
    "init_values": "layer_scale",
    "drop_path_rate": "drop_path_rate",
}
"""Arguments of timm's `NaFlexVit` that only have another name here."""

POSITIONS: Mapping[tuple[str, bool], Any] = {
    ("bicubic", True): bicubic_antialias,
    ("bilinear", True): bilinear_antialias,
    ("bicubic", False): bicubic,
    ("bilinear", False): bilinear,
}
"""`pos_embed_interp_mode` and `pos_embed_antialias` -> how the table is resized."""


def read_naflex(asked: Asked) -> dict[str, Any]:
    """Arguments of timm's `NaFlexVit` as keywords of ours.

    Raises:
        UserError: an argument is unknown, or asks for a part that the model here does not have.
    """
    variant, file = asked.variant, asked.file
    left = left_after(asked, _WITHOUT_EFFECT, _MUST_BE, _ONLY_IN_TRAINING)
    found = {ours: left.pop(theirs) for theirs, ours in _PLAIN.items() if theirs in left}
    if (patch := left.pop("patch_size", None)) is not None:
        found["patch_size"] = one_if_equal(patch)
        if not isinstance(found["patch_size"], int):
            raise UserError(f"{file}: `model_args.patch_size` (={patch}): only square patches are known here")
    ratio = left.pop("mlp_ratio", None)
    if ratio is not None or "width" in found:
        found["mlp_width"] = mlp_width(found.get("width", variant["width"]), ratio, variant)
    act = left.pop("act_layer", None)
    if act is not None and act not in ACTIVATIONS:
        raise UserError(f"{file}: `model_args.act_layer` (={act!r}) must be one of {', '.join(ACTIVATIONS)}")
    if act is not None:
        found["activation"] = ACTIVATIONS[act]
    found |= _positions(left, variant, file)
    found |= _pooling(left, {**variant, **found}, ratio, file)
    refuse_unknown(asked, list(left))
    return found


def _positions(left: dict[str, Any], variant: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The table of positions; what the arguments leave open is the architecture's."""
    names = ("pos_embed", "pos_embed_interp_mode", "pos_embed_antialias", "pos_embed_ar_preserving")
    kind, mode, antialias, preserving = given = [left.pop(name, None) for name in names]
    if given == [None] * 4:
        return {}
    own = variant.get("positions", ResampledGrid)
    own = own if isinstance(own, functools.partial) else functools.partial(own)
    kind = kind or ("factorized" if own.func is ResampledAxes else "learned")
    sides = own.keywords.get("sides", own_sides) if preserving is None else longer_side if preserving else own_sides
    if kind == "factorized":
        return {"positions": functools.partial(ResampledAxes, sides=sides)}
    weights = own.keywords.get("weights", bicubic_antialias)
    usual_mode, usual_antialias = next((key for key, value in POSITIONS.items() if value is weights), ("bicubic", True))
    wanted = (mode or usual_mode, usual_antialias if antialias is None else antialias)
    if kind != "learned" or wanted not in POSITIONS:
        raise UserError(f"{file}: `model_args` ask for positions {kind!r}, resized by {wanted}; unknown here")
    return {"positions": functools.partial(ResampledGrid, weights=POSITIONS[wanted], sides=sides)}


def _pooling(left: dict[str, Any], sizes: Mapping[str, Any], ratio: float | None, file: Path) -> dict[str, Any]:
    """How tokens become one vector, and where the final norm is."""
    name, fc_norm = left.pop("global_pool", None), left.pop("fc_norm", None)
    prefix, heads = left.pop("pool_include_prefix", None), left.pop("attn_pool_num_heads", None)
    pool_ratio = left.pop("attn_pool_mlp_ratio", None)
    if name is None:
        own = sizes["pool"]
        kind = own.func if isinstance(own, functools.partial) else own
        name = {AttentionPooling: "map", AveragePooling: "avg", ClassTokenPooling: "token"}[kind]
    attention = functools.partial(
        AttentionPooling,
        num_heads=heads or sizes["num_heads"],
        mlp_width=int(sizes["width"] * pool_ratio) if pool_ratio else sizes["mlp_width"],
        activation=sizes.get("activation", gelu),
        include_prefix=bool(prefix),
    )
    pools: dict[str, Any] = {"map": attention, "avg": AveragePooling, "token": ClassTokenPooling}
    if name not in pools:
        raise UserError(f"{file}: `global_pool` (={name!r}) must be one of {', '.join(pools)} for this model here")
    if prefix and name != "map":
        raise UserError(f"{file}: `pool_include_prefix` (=True) is known for `global_pool` 'map' only, not {name!r}")
    return {"pool": pools[name], "norm_after_pooling": name == "avg" if fc_norm is None else bool(fc_norm)}
