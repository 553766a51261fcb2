"""NaFlexViT's weights in the layouts of timm, of transformers' SigLIP 2 and of big_vision.

Same weights, same function, with these settings of `NaFlexViT`:

===================== ===================================== ==========================================
setting               timm                                  transformers and big_vision
===================== ===================================== ==========================================
`positions`           bicubic, antialiased; SigLIP 2's      bilinear, antialiased
                      architectures bilinear
`activation`          exact GELU; SigLIP 2's by tanh        GELU by tanh (transformers: `hidden_act`)
`norm_epsilon`        1e-6                                  1e-6 (transformers: `layer_norm_eps`)
pooling               as the architecture says              the head; transformers' classifier reads the
                                                            patches' mean
===================== ===================================== ==========================================

All flatten a patch as (row, column, channel), as here. transformers keeps one table for all positions, row by row, and
queries, keys and values of the pooling in one matrix; timm's and big_vision's keys of blocks, pooling and head are
those of their ViTs.
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

__all__ = ["LAYOUTS", "big_vision", "huggingface", "huggingface_names", "sizes_of", "timm"]

_logger = logging.getLogger("vitjax")

_BLOCK = "params/block_{block}"
_MAP = "params/pooling/attention"
_POSITIONS = "params/position_embedding"
_VISION = "vision_model."


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
        *_norm("blocks.{block}.attn.q_norm", f"{_BLOCK}/attention/query_norm"),
        *_norm("blocks.{block}.attn.k_norm", f"{_BLOCK}/attention/key_norm"),
        *trunk,
    )


def huggingface(*, table_grid: tuple[int, int] = (16, 16), prefix: str = _VISION) -> Table:
    """The vision half of transformers' SigLIP 2, and its classifier, with `huggingface_names`.

    Args:
        table_grid: rows and columns of the table of positions.
        prefix: in front of the keys of the vision half; a `Siglip2VisionModel` in memory has none.
    """
    layer, head = f"{prefix}encoder.layers.{{block}}", f"{prefix}head"
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    projections = [_dense(f"{layer}.self_attn.{key}", f"{_BLOCK}/attention/{path}") for key, path in parts.items()]
    kernels, biases = ([f"{_MAP}/{part}/{leaf}" for part in ("query", "key", "value")] for leaf in ("kernel", "bias"))
    return (
        *_dense(f"{prefix}embeddings.patch_embedding", "params/patch_embedding"),
        Rule(
            f"{prefix}embeddings.position_embedding.weight",
            f"{_POSITIONS}/table",
            axes("(h w) d -> h w d", h=table_grid[0], w=table_grid[1]),
        ),
        *_norm(f"{layer}.layer_norm1", f"{_BLOCK}/attention_norm"),
        *(rule for pair in projections for rule in pair),
        *_norm(f"{layer}.layer_norm2", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{layer}.mlp.fc1", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{layer}.mlp.fc2", f"{_BLOCK}/mlp/contract"),
        *_norm(f"{prefix}post_layernorm", "params/final_norm"),
        Rule(f"{head}.probe", f"{_MAP}/probe", axes("1 1 d -> 1 d")),
        Rule(f"{head}.attention.in_proj_weight", tuple(kernels), fused(linear, 3)),
        Rule(f"{head}.attention.in_proj_bias", tuple(biases), fused(identity, 3)),
        *_dense(f"{head}.attention.out_proj", f"{_MAP}/out"),
        *_norm(f"{head}.layernorm", f"{_MAP}/norm"),
        *_dense(f"{head}.mlp.fc1", f"{_MAP}/mlp/expand"),
        *_dense(f"{head}.mlp.fc2", f"{_MAP}/mlp/contract"),
        *_dense("classifier", "params/head"),
    )


def huggingface_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The vision half with its prefix, and a classifier if there is one; the rest is counted in the log."""
    mine = (_VISION, "classifier.")
    if not any(key.startswith(_VISION) for key in arrays):
        return {key if key.startswith(mine) else f"{_VISION}{key}": array for key, array in arrays.items()}
    kept = {key: array for key, array in arrays.items() if key.startswith(mine)}
    if len(kept) < len(arrays):
        others = sorted({key.split(".")[0] for key in arrays if not key.startswith(mine)})
        _logger.info("%d arrays are not of the vision model and not read: %s", len(arrays) - len(kept), others)
    return kept


def big_vision(*, num_heads: int, pool_heads: int | None = None) -> Table:
    """`naflex_vit` of big_vision, with the names of `vit_tables.big_vision_names`.

    Args:
        num_heads: A.
        pool_heads: of the attention pooling; as many as A unless given.
    """
    other = ("embedding/kernel", "cls", "pos_embedding")
    trunk = vit_tables.big_vision(num_heads=num_heads, patch_size=1, pool_heads=pool_heads)
    return (
        Rule("embedding/kernel", "params/patch_embedding/kernel"),
        Rule("pos_embedding", f"{_POSITIONS}/table"),
        *(rule for rule in trunk if rule.key not in other),
    )


def sizes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`table_grid`, which only the shapes in a file tell."""
    if "embeds.pos_embed" in arrays and arrays["embeds.pos_embed"].ndim == 4:
        return {"table_grid": tuple(arrays["embeds.pos_embed"].shape[1:3])}
    if "embeds.pos_embed_y" in arrays and "embeds.pos_embed_x" in arrays:
        return {"table_grid": (arrays["embeds.pos_embed_y"].shape[1], arrays["embeds.pos_embed_x"].shape[1])}
    if (key := f"{_VISION}embeddings.position_embedding.weight") in arrays:
        side = math.isqrt(arrays[key].shape[0])
        return {"table_grid": (side, side)}
    if "pos_embedding" in arrays and arrays["pos_embedding"].ndim == 3:
        return {"table_grid": tuple(arrays["pos_embedding"].shape[:2])}
    return {}


def _huggingface_rules(module: Any) -> Table:
    vit_tables.checked_pool_heads(module)
    return huggingface(table_grid=module.table_grid)


def _big_vision_rules(module: Any) -> Table:
    return big_vision(num_heads=module.num_heads, pool_heads=vit_tables.checked_pool_heads(module))


_SIGLIP_2: Mapping[str, Any] = {
    "norm_epsilon": 1e-6,
    "activation": gelu_tanh,
    "positions": partial(ResampledGrid, weights=bilinear_antialias),
}

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "timm",
        lambda module: timm(final_norm="fc_norm" if module.norm_after_pooling else "norm"),
        {"norm_epsilon": 1e-6},
    ),
    Layout("huggingface", _huggingface_rules, _SIGLIP_2, huggingface_names),
    Layout("big_vision", _big_vision_rules, _SIGLIP_2, vit_tables.big_vision_names),
)
