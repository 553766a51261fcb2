"""Hybrid ViT's weights in the layouts of timm and google-research/vision_transformer ("vit_jax").

Behind the residual network the layouts are ViT's. The network's numerics differ:

========================= ============================= ==============================
setting                   timm                          vit_jax
========================= ============================= ==============================
`standardise`             divide by sqrt(var + 1e-8)    divide by std + 1e-5
`group_norm_epsilon`      1e-5                          1e-6
========================= ============================= ==============================

timm counts stages and units from 0 as we do, vit_jax from 1.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from vitjax.layers.convolution import standardise_by_deviation, standardise_by_variance
from vitjax.models import vit_tables
from vitjax.models.bit_resnet import BitResNet
from vitjax.models.vit import LearnedPositions, ViT
from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.ops.positions import resample_corners
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, axes, conv

__all__ = ["LAYOUTS", "timm", "vit_jax", "vit_jax_names"]

_NETWORK = "params/patch_embedding/network"
_UNIT = f"{_NETWORK}/stage_{{stage}}_unit_{{unit}}"


def _backbone(module: ViT) -> BitResNet:
    embedding: Any = module.embedding(patch_size=module.patch_size, width=module.width, parent=None)
    return embedding.backbone(parent=None)


def timm(module: ViT) -> Table:
    """`VisionTransformer` of timm with its post-activation `ResNetV2` as embedding."""
    backbone = _backbone(module)
    side = module.patch_size // backbone.stride
    network = "patch_embed.backbone"
    root = f"{network}.stem" if backbone.stages else network
    unit = f"{network}.stages.{{stage}}.blocks.{{unit}}"
    number = "{number:1|2|3}"
    return (
        *vit_tables.timm(patches=axes("d c h w -> (h w c) d", h=side, w=side)),
        Rule(f"{root}.conv.weight", f"{_NETWORK}/root_conv/kernel", conv),
        *_timm_norm(f"{root}.norm", f"{_NETWORK}/root_norm"),
        Rule(f"{unit}.conv{number}.weight", f"{_UNIT}/conv_{{number}}/kernel", conv),
        *_timm_norm(f"{unit}.norm{number}", f"{_UNIT}/norm_{{number}}"),
        Rule(f"{unit}.downsample.conv.weight", f"{_UNIT}/shortcut_conv/kernel", conv),
        *_timm_norm(f"{unit}.downsample.norm", f"{_UNIT}/shortcut_norm"),
    )


def _timm_norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/scale"), Rule(f"{key}.bias", f"{path}/bias")


def vit_jax(module: ViT) -> Table:
    """Files of google-research/vision_transformer and AugReg, with `vit_jax_names`."""
    backbone = _backbone(module)
    rules = [
        *vit_tables.vit_jax(num_heads=module.num_heads, patch_size=module.patch_size // backbone.stride),
        Rule("conv_root/kernel", f"{_NETWORK}/root_conv/kernel"),
        *_flax_norm("gn_root", f"{_NETWORK}/root_norm"),
    ]
    number = "{number:1|2|3}"
    for stage, units in enumerate(backbone.stages):
        for unit in range(units):
            key, path = f"block{stage + 1}/unit{unit + 1}", f"{_NETWORK}/stage_{stage}_unit_{unit}"
            rules += [
                Rule(f"{key}/conv{number}/kernel", f"{path}/conv_{{number}}/kernel"),
                *_flax_norm(f"{key}/gn{number}", f"{path}/norm_{{number}}"),
                Rule(f"{key}/conv_proj/kernel", f"{path}/shortcut_conv/kernel"),
                *_flax_norm(f"{key}/gn_proj", f"{path}/shortcut_norm"),
            ]
    return rules


def _flax_norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}/scale", f"{path}/scale"), Rule(f"{key}/bias", f"{path}/bias")


def vit_jax_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As for ViT; the group norms of old files lose the axes of size 1 that they are stored with."""

    def flat(key: str, array: np.ndarray) -> np.ndarray:
        is_norm = re.fullmatch(r"(.*/)?gn(\d+|_root|_proj)/(scale|bias)", key)
        return array.reshape(-1) if is_norm and array.size == array.shape[-1] else array

    return {key: flat(key, array) for key, array in vit_tables.vit_jax_names(arrays).items()}


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "timm",
        timm,
        {
            "norm_epsilon": 1e-6,
            "activation": gelu,
            "standardise": standardise_by_variance,
            "group_norm_epsilon": 1e-5,
        },
    ),
    Layout(
        "vit_jax",
        vit_jax,
        {
            "norm_epsilon": 1e-6,
            "activation": gelu_tanh,
            "positions": partial(LearnedPositions, resampling=resample_corners),
            "standardise": standardise_by_deviation,
            "group_norm_epsilon": 1e-6,
        },
        vit_jax_names,
    ),
)
"""Everybody's files of a Hybrid ViT; `settings` are keywords of `hybrid_vit`."""
