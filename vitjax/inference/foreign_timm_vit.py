"""Arguments of timm's `VisionTransformer` as keywords of ours; what they mean is in its `__init__`."""

import functools
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_types import Asked, left_after, one_if_equal, refuse_unknown
from vitjax.models.vit import AttentionPooling, AveragePooling, ClassTokenPooling, LearnedPositions
from vitjax.ops.activations import gelu, gelu_tanh

__all__ = ["ACTIVATIONS", "ALIASES", "mlp_width", "read_vit"]

ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh}
"""timm's `act_layer` -> ours."""

_SIGLIP = {"class_token": False, "global_pool": "map"}
ALIASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # Architectures of timm that are one of ours with other arguments: `deit.py` and `vision_transformer.py`.
    "deit_tiny_patch16_224": ("vit_tiny_patch16_224", {}),
    "deit_small_patch16_224": ("vit_small_patch16_224", {}),
    "deit_base_patch16_224": ("vit_base_patch16_224", {}),
    "deit_base_patch16_384": ("vit_base_patch16_384", {}),
    "vit_base_patch16_224_miil": ("vit_base_patch16_224", {"qkv_bias": False}),
    "vit_base_patch16_siglip_224": ("vit_base_patch16_224", _SIGLIP),
    "vit_base_patch16_siglip_256": ("vit_base_patch16_224", {**_SIGLIP, "img_size": 256}),
    "vit_base_patch16_siglip_384": ("vit_base_patch16_384", _SIGLIP),
    "vit_large_patch16_siglip_256": ("vit_large_patch16_224", {**_SIGLIP, "img_size": 256}),
    "vit_large_patch16_siglip_384": ("vit_large_patch16_384", _SIGLIP),
}

_WITHOUT_EFFECT = (
    # How timm starts, runs or adapts a model; nothing of what it computes with given weights on images of its size.
    "num_classes", "weight_init", "fix_init", "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "scriptable",
    "exportable", "pretrained_strict", "pool_include_prefix", "final_norm",
)  # fmt: skip
_ONLY_IN_TRAINING = ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate")
_MUST_BE: Mapping[str, tuple[Any, ...]] = {
    # Arguments of parts that ViT here does not have, with the values that leave them out.
    "in_chans": (3, None),
    "qk_norm": (False, None),
    "scale_attn_norm": (False, None),
    "scale_mlp_norm": (False, None),
    "proj_bias": (True, None),
    "init_values": (None,),
    "pos_embed": ("learn", None),
    "reg_tokens": (0, None),
    "pre_norm": (False, None),
    "pool_include_prefix": (False, None),
    "final_norm": (True, None),
    "embed_norm_layer": (None,),
    "norm_layer": (None,),
}

_PLAIN = {
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "num_heads",
    "qkv_bias": "use_qkv_bias",
    "class_token": "use_class_token",
    "drop_path_rate": "drop_path_rate",
    "attn_drop_rate": "attention_dropout_rate",
}
"""Arguments of timm's `VisionTransformer` that only have another name here."""


def read_vit(asked: Asked) -> dict[str, Any]:
    """Arguments of timm's `VisionTransformer` as keywords of ours.

    Raises:
        UserError: an argument is unknown, or asks for a part that the model here does not have.
    """
    variant, file = asked.variant, asked.file
    left = left_after(asked, _WITHOUT_EFFECT, _MUST_BE, _ONLY_IN_TRAINING)
    found = {ours: left.pop(theirs) for theirs, ours in _PLAIN.items() if left.get(theirs) is not None}
    for theirs, ours in {"img_size": "image_size", "patch_size": "patch_size"}.items():
        if (value := left.pop(theirs, None)) is not None:
            found[ours] = one_if_equal(value)
    ratio = left.pop("mlp_ratio", None)
    if ratio is not None or "width" in found:
        found["mlp_width"] = mlp_width(found.get("width", variant.get("width", 768)), ratio, variant)
    found |= _forms(left, {**variant, **found}, file)
    known = inspect.signature(asked.target).parameters
    refuse_unknown(asked, [*left, *(name for name in found if name not in known)])
    return found


def _forms(left: dict[str, Any], sizes: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Activation, positions and pooling; what is understood is taken out of `left`."""
    found: dict[str, Any] = {}
    act = left.pop("act_layer", None) or "gelu"
    if act not in ACTIVATIONS:
        raise UserError(f"{file}: `model_args.act_layer` (={act!r}) must be one of {', '.join(ACTIVATIONS)}")
    if act != "gelu":
        found["activation"] = ACTIVATIONS[act]
    if left.pop("no_embed_class", None):
        found["positions"] = functools.partial(LearnedPositions, embed_class=False)
    pool, fc_norm = left.pop("global_pool", None), left.pop("fc_norm", None)
    if pool is not None or fc_norm is not None:
        found |= _pooling(pool or "token", fc_norm, sizes, ACTIVATIONS[act], file)
    return found


def mlp_width(width: int, ratio: float | None, variant: Mapping[str, Any]) -> int:
    """As timm, rounded down; a ratio that the file leaves out is the architecture's."""
    if ratio is not None:
        return int(width * ratio)
    if width == variant.get("width"):
        return variant["mlp_width"]
    return math.floor(width * variant.get("mlp_width", 4) / variant.get("width", 1) + 1e-6)


def _pooling(name: str, fc_norm: bool | None, sizes: Mapping[str, Any], activation: Any, file: Path) -> dict[str, Any]:
    attention = functools.partial(
        AttentionPooling, num_heads=sizes["num_heads"], mlp_width=sizes["mlp_width"], activation=activation
    )
    pools: dict[str, Any] = {"token": ClassTokenPooling, "avg": AveragePooling, "map": attention}
    if name not in pools:
        raise UserError(f"{file}: `global_pool` (={name!r}) must be one of {', '.join(pools)} for this model here")
    # timm moves the norm behind an average unless told otherwise.
    return {"pool": pools[name], "norm_after_pooling": name == "avg" if fc_norm is None else fc_norm}
