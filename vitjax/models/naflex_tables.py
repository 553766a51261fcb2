"""NaFlexViT's weights in the layouts of timm and of transformers' SigLIP 2.

Same weights, same function, with these settings of `NaFlexViT`:

===================== ===================================== ==========================================
setting               timm                                  transformers
===================== ===================================== ==========================================
`positions`           bicubic, antialiased; SigLIP 2's      bilinear, antialiased
                      architectures bilinear
`activation`          exact GELU; SigLIP 2's by tanh        GELU by tanh (`hidden_act`)
`norm_epsilon`        1e-6                                  1e-6 (`layer_norm_eps`)
pooling               as the architecture says              the head; a classifier reads the patches' mean
===================== ===================================== ==========================================

Both flatten a patch as (row, column, channel), as here. transformers keeps one table for all positions, row by row, and
queries, keys and values of the pooling in one matrix; timm's keys of blocks, pooling and head are those of its ViT.
"""

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from vitjax.layers.resampled_positions import ResampledGrid
from vitjax.models import vit_tables
from vitjax.ops.activations import gelu_tanh
from vitjax.ops.axis_weights import bilinear_antialias
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, axes, fused, identity, linear

__all__ = ["LAYOUTS", "huggingface", "huggingface_names", "sizes_of", "timm"]

_logger = logging.getLogger("vitjax")

_BLOCK = "params/block_{block}"
_MAP = "params/pooling/attention"
_POSITIONS = "params/position_embedding"


def _dense(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/kernel", linear), Rule(f"{key}.bias", f"{path}/bias")


def _norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/scale"), Rule(f"{key}.bias", f"{path}/bias")


def timm(*, final_norm: str = "norm") -> Table:
    """`NaFlexVit` of timm with a linear patch projection.

    Args:
        final_norm: timm's name for the last norm: "norm" in front of the pooling, "fc_norm" behind it.
    """
    embedding = ("patch_embed", "cls_token", "pos_embed")
    trunk = [rule for rule in vit_tables.timm(final_norm=final_norm) if rule.key.split(".")[0] not in embedding]
    return (
        *_dense("embeds.proj", "params/patch_embedding"),
        Rule("embeds.cls_token", "params/class_token", axes("1 1 d -> 1 d")),
        Rule("embeds.reg_token", "params/register_tokens", axes("1 r d -> r d")),
        Rule("embeds.pos_embed", f"{_POSITIONS}/table", axes("1 h w d -> h w d")),
        Rule("embeds.pos_embed_y", f"{_POSITIONS}/row_table", axes("1 h d -> h d")),
        Rule("embeds.pos_embed_x", f"{_POSITIONS}/column_table", axes("1 w d -> w d")),
        Rule("blocks.{block}.ls1.gamma", f"{_BLOCK}/attention_scale"),
        Rule("blocks.{block}.ls2.gamma", f"{_BLOCK}/mlp_scale"),
        *trunk,
    )


def huggingface(*, table_grid: tuple[int, int] = (16, 16)) -> Table:
    """The vision half of transformers' SigLIP 2, and its classifier, with `huggingface_names`.

    Args:
        table_grid: rows and columns of the table of positions.
    """
    layer, attention = "encoder.layers.{block}", "head.attention"
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    projections = [_dense(f"{layer}.self_attn.{key}", f"{_BLOCK}/attention/{path}") for key, path in parts.items()]
    kernels, biases = ([f"{_MAP}/{part}/{leaf}" for part in ("query", "key", "value")] for leaf in ("kernel", "bias"))
    return (
        *_dense("embeddings.patch_embedding", "params/patch_embedding"),
        Rule(
            "embeddings.position_embedding.weight",
            f"{_POSITIONS}/table",
            axes("(h w) d -> h w d", h=table_grid[0], w=table_grid[1]),
        ),
        *_norm(f"{layer}.layer_norm1", f"{_BLOCK}/attention_norm"),
        *(rule for pair in projections for rule in pair),
        *_norm(f"{layer}.layer_norm2", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{layer}.mlp.fc1", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{layer}.mlp.fc2", f"{_BLOCK}/mlp/contract"),
        *_norm("post_layernorm", "params/final_norm"),
        Rule("head.probe", f"{_MAP}/probe", axes("1 1 d -> 1 d")),
        Rule(f"{attention}.in_proj_weight", tuple(kernels), fused(linear, 3)),
        Rule(f"{attention}.in_proj_bias", tuple(biases), fused(identity, 3)),
        *_dense(f"{attention}.out_proj", f"{_MAP}/out"),
        *_norm("head.layernorm", f"{_MAP}/norm"),
        *_dense("head.mlp.fc1", f"{_MAP}/mlp/expand"),
        *_dense("head.mlp.fc2", f"{_MAP}/mlp/contract"),
        *_dense("classifier", "params/head"),
    )


def huggingface_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The vision half alone, without its prefix, with a classifier if there is one; the rest is counted in the log."""
    prefix = "vision_model."
    if not any(key.startswith(prefix) for key in arrays):
        return dict(arrays)
    kept = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith((prefix, "classifier."))}
    if len(kept) < len(arrays):
        others = sorted({key.split(".")[0] for key in arrays if not key.startswith((prefix, "classifier."))})
        _logger.info("%d arrays are not of the vision model and not read: %s", len(arrays) - len(kept), others)
    return kept


def sizes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`table_grid`, which only the shapes in a file tell."""
    if "embeds.pos_embed" in arrays and arrays["embeds.pos_embed"].ndim == 4:
        return {"table_grid": tuple(arrays["embeds.pos_embed"].shape[1:3])}
    if "embeds.pos_embed_y" in arrays and "embeds.pos_embed_x" in arrays:
        return {"table_grid": (arrays["embeds.pos_embed_y"].shape[1], arrays["embeds.pos_embed_x"].shape[1])}
    if "embeddings.position_embedding.weight" in arrays:
        side = math.isqrt(arrays["embeddings.position_embedding.weight"].shape[0])
        return {"table_grid": (side, side)}
    return {}


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "timm",
        lambda module: timm(final_norm="fc_norm" if module.norm_after_pooling else "norm"),
        {"norm_epsilon": 1e-6},
    ),
    Layout(
        "huggingface",
        lambda module: huggingface(table_grid=module.table_grid),
        {
            "norm_epsilon": 1e-6,
            "activation": gelu_tanh,
            "positions": partial(ResampledGrid, weights=bilinear_antialias),
        },
        huggingface_names,
    ),
)
