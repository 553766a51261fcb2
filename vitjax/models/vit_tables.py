"""ViT's weights in the layouts of timm, Hugging Face, google-research/vision_transformer ("vit_jax") and big_vision.

Same weights, same function, with these settings of `ViT`, which `LAYOUTS` carries:

===================== ======================= =============================== ==============================
setting               timm                    Hugging Face                    vit_jax and big_vision
===================== ======================= =============================== ==============================
`norm_epsilon`        1e-6                    1e-12 (`layer_norm_eps`)        1e-6
`activation`          exact GELU              exact GELU (`hidden_act`)       GELU by tanh
resampled positions   bicubic, antialiased    bicubic, kernel a = -0.75       bilinear, corners on corners
class token's place   in the table, or none   in the table                    vit_jax: in the table;
                      (`no_embed_class`)                                      big_vision: none
average pooling       then norm (`fc_norm`)   none                            norm, then average
===================== ======================= =============================== ==============================

timm keeps query, key and value as one matrix, rows in this order; heads are one after another everywhere. It resamples
positions in float32 even in a float64 model. An `AttentionPooling` has an activation and an epsilon of its own; they
must be set like the trunk's, which `LAYOUTS` checks.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.models.vit import LearnedPositions
from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.ops.positions import resample_bicubic, resample_corners
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, Transform, axes, conv_patches, fused, identity, linear

__all__ = [
    "LAYOUTS",
    "big_vision",
    "big_vision_names",
    "checked_pool_heads",
    "huggingface",
    "huggingface_module",
    "huggingface_names",
    "timm",
    "timm_average_pooling",
    "vit_jax",
    "vit_jax_names",
]

_logger = logging.getLogger("vitjax")

_BLOCK = "params/block_{block}"
_MAP = "params/pooling/attention"


def _dense(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/kernel", linear), Rule(f"{key}.bias", f"{path}/bias")


def _norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/scale"), Rule(f"{key}.bias", f"{path}/bias")


def _fused(key: str, path: str, *parts: str) -> tuple[Rule, Rule]:
    kernels, biases = (tuple(f"{path}/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
    return (
        Rule(f"{key}.weight", kernels, fused(linear, len(parts))),
        Rule(f"{key}.bias", biases, fused(identity, len(parts))),
    )


def _embedding(projection: str, cls: str, positions: str, patches: Transform) -> tuple[Rule, ...]:
    return (
        Rule(f"{projection}.weight", "params/patch_embedding/kernel", patches),
        Rule(f"{projection}.bias", "params/patch_embedding/bias"),
        Rule(cls, "params/class_token", axes("1 1 d -> 1 d")),
        Rule(positions, "params/position_embedding/table", axes("1 n d -> n d")),
    )


def timm(*, final_norm: str = "norm", channels: int = 3, patches: Transform | None = None) -> Table:
    """`VisionTransformer` of timm: class token or not, any pooling, with or without qkv biases.

    Args:
        final_norm: timm's name for the last norm: "norm" in front of the pooling, "fc_norm" behind it.
        channels: of the images.
        patches: of the patch projection's kernel, where it is no square convolution on `channels`.
    """
    return (
        *_embedding("patch_embed.proj", "cls_token", "pos_embed", patches or conv_patches(channels)),
        *_norm("blocks.{block}.norm1", f"{_BLOCK}/attention_norm"),
        *_fused("blocks.{block}.attn.qkv", f"{_BLOCK}/attention", "query", "key", "value"),
        *_dense("blocks.{block}.attn.proj", f"{_BLOCK}/attention/out"),
        *_norm("blocks.{block}.norm2", f"{_BLOCK}/mlp_norm"),
        *_dense("blocks.{block}.mlp.fc1", f"{_BLOCK}/mlp/expand"),
        *_dense("blocks.{block}.mlp.fc2", f"{_BLOCK}/mlp/contract"),
        *_norm(final_norm, "params/final_norm"),
        Rule("attn_pool.latent", f"{_MAP}/probe", axes("1 1 d -> 1 d")),
        *_dense("attn_pool.q", f"{_MAP}/query"),
        *_fused("attn_pool.kv", _MAP, "key", "value"),
        *_dense("attn_pool.proj", f"{_MAP}/out"),
        *_norm("attn_pool.norm", f"{_MAP}/norm"),
        *_dense("attn_pool.mlp.fc1", f"{_MAP}/mlp/expand"),
        *_dense("attn_pool.mlp.fc2", f"{_MAP}/mlp/contract"),
        # Files of timm before 0.9; later versions drop this layer when they read the originals.
        *_dense("pre_logits.fc", "params/pre_logits"),
        *_dense("head", "params/head"),
    )


def timm_average_pooling(*, channels: int = 3) -> Table:
    """Models of timm with `global_pool="avg"`, whose norm acts on the average: `ViT(norm_after_pooling=True)`."""
    return timm(final_norm="fc_norm", channels=channels)


def huggingface(*, channels: int = 3, patches: Transform | None = None) -> Table:
    """`ViTForImageClassification` as it is stored: `model.safetensors` of the hub and of `save_pretrained`.

    Args:
        channels: of the images.
        patches: as for `timm`.
    """
    layer = "vit.encoder.layer.{block}"
    attention = f"{layer}.attention.attention.{{part:query|key|value}}"
    return (
        *_embedding(
            "vit.embeddings.patch_embeddings.projection",
            "vit.embeddings.cls_token",
            "vit.embeddings.position_embeddings",
            patches or conv_patches(channels),
        ),
        *_norm(f"{layer}.layernorm_before", f"{_BLOCK}/attention_norm"),
        *_dense(attention, f"{_BLOCK}/attention/{{part}}"),
        *_dense(f"{layer}.attention.output.dense", f"{_BLOCK}/attention/out"),
        *_norm(f"{layer}.layernorm_after", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{layer}.intermediate.dense", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{layer}.output.dense", f"{_BLOCK}/mlp/contract"),
        *_norm("vit.layernorm", "params/final_norm"),
        # For masked training; nothing that classifies has a use for it.
        Rule("vit.embeddings.mask_token", None),
        # Only files of ImageNet-21k models with their pre-training head have it; it acts on the class token with tanh.
        *_dense("vit.pooler.dense", "params/pre_logits"),
        *_dense("classifier", "params/head"),
    )


def huggingface_module(*, channels: int = 3) -> Table:
    """The same model in memory, from transformers 5 on: `state_dict()` names modules otherwise than the file does."""
    layer = "vit.layers.{block}"
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    attention = [_dense(f"{layer}.attention.{key}", f"{_BLOCK}/attention/{path}") for key, path in parts.items()]
    return (
        *_embedding(
            "vit.embeddings.patch_embeddings.projection",
            "vit.embeddings.cls_token",
            "vit.embeddings.position_embeddings",
            conv_patches(channels),
        ),
        *_norm(f"{layer}.layernorm_before", f"{_BLOCK}/attention_norm"),
        *(rule for pair in attention for rule in pair),
        *_norm(f"{layer}.layernorm_after", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{layer}.mlp.fc1", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{layer}.mlp.fc2", f"{_BLOCK}/mlp/contract"),
        *_norm("vit.layernorm", "params/final_norm"),
        *_dense("classifier", "params/head"),
    )


def huggingface_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keys of a bare `ViTModel` (no `vit.`) and of transformers 5 in memory, as `huggingface` has them."""
    if not any(key.startswith("vit.") for key in arrays):
        arrays = {key if key.startswith("classifier.") else f"vit.{key}": array for key, array in arrays.items()}

    def name(key: str) -> str:
        found = re.fullmatch(r"vit\.layers\.(\d+)\.(.+)\.(\w+)", key)
        return f"vit.encoder.layer.{found[1]}.{_HUGGINGFACE_5.get(found[2], found[2])}.{found[3]}" if found else key

    return _renamed(arrays, name)


_HUGGINGFACE_5 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


# --------------------------------------------------------------------- files of the JAX repositories (.npz)

_FLAX_BLOCK = "Transformer/encoderblock_{block}"
_LINEN = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
"""A block's submodules: linen counts each class by itself."""
_BEFORE_LINEN = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
"""flax before linen counted all of them together; the published files of vit_jax have these names."""
_OLD_POSITIONS = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding")
_FLAX_PREFIXES = ("opt/target/", "params/img/", "params/", "img/")
"""What stands in front of the model's keys: flax's old optimizer state, the image half of a two-tower model."""


def vit_jax(*, num_heads: int, patch_size: int) -> Table:
    """Files of google-research/vision_transformer and AugReg, with `vit_jax_names`; no attention pooling there.

    Args:
        num_heads: A.
        patch_size: of the convolution that embeds patches; 1 on a hybrid's features.
    """
    return (
        *_flax_trunk(_BEFORE_LINEN, num_heads, patch_size),
        Rule("Transformer/posembed_input/pos_embedding", "params/position_embedding/table", axes("1 n d -> n d")),
    )


def big_vision(*, num_heads: int, patch_size: int, pool_heads: int | None = None) -> Table:
    """Files of big_vision, with `big_vision_names`; the position table has no row for the class token.

    Args:
        num_heads: A.
        patch_size: of the convolution that embeds patches.
        pool_heads: of the attention pooling; as many as A unless given.
    """
    head = "MAPHead_0"
    return (
        *_flax_trunk(_LINEN, num_heads, patch_size),
        Rule("pos_embedding", "params/position_embedding/table", axes("1 n d -> n d")),
        Rule(f"{head}/probe", f"{_MAP}/probe", axes("1 1 d -> 1 d")),
        *_flax_attention(f"{head}/{_LINEN[1]}", _MAP, pool_heads or num_heads),
        *_flax_norm(f"{head}/LayerNorm_0", f"{_MAP}/norm"),
        *_flax_mlp(f"{head}/MlpBlock_0", f"{_MAP}/mlp"),
    )


def _flax_trunk(names: tuple[str, str, str, str], num_heads: int, patch_size: int) -> tuple[Rule, ...]:
    first_norm, attention, second_norm, mlp = (f"{_FLAX_BLOCK}/{name}" for name in names)
    patches = axes("h w c d -> (h w c) d", h=patch_size, w=patch_size)
    return (
        *_flax_dense("embedding", "params/patch_embedding", patches),
        Rule("cls", "params/class_token", axes("1 1 d -> 1 d")),
        *_flax_norm(first_norm, f"{_BLOCK}/attention_norm"),
        *_flax_attention(attention, f"{_BLOCK}/attention", num_heads),
        *_flax_norm(second_norm, f"{_BLOCK}/mlp_norm"),
        *_flax_mlp(mlp, f"{_BLOCK}/mlp"),
        *_flax_norm("Transformer/encoder_norm", "params/final_norm"),
        *_flax_dense("pre_logits", "params/pre_logits"),
        *_flax_dense("head", "params/head"),
    )


def _flax_dense(key: str, path: str, kernel: Transform = identity, bias: Transform = identity) -> tuple[Rule, Rule]:
    return Rule(f"{key}/kernel", f"{path}/kernel", kernel), Rule(f"{key}/bias", f"{path}/bias", bias)


def _flax_norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}/scale", f"{path}/scale"), Rule(f"{key}/bias", f"{path}/bias")


def _flax_attention(key: str, path: str, heads: int) -> tuple[Rule, ...]:
    inputs, biases = axes("d a k -> d (a k)", a=heads), axes("a k -> (a k)", a=heads)
    return (
        *_flax_dense(f"{key}/{{part:query|key|value}}", f"{path}/{{part}}", inputs, biases),
        *_flax_dense(f"{key}/out", f"{path}/out", axes("a k d -> (a k) d", a=heads)),
    )


def _flax_mlp(key: str, path: str) -> tuple[Rule, ...]:
    return *_flax_dense(f"{key}/Dense_0", f"{path}/expand"), *_flax_dense(f"{key}/Dense_1", f"{path}/contract")


def vit_jax_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A file of vit_jax as the published ones are: no prefix, submodules counted together."""
    return _renamed_blocks(_model_alone(arrays), dict(zip(_LINEN, _BEFORE_LINEN, strict=True)))


def big_vision_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A file of any age of big_vision as the present code writes it without `scan`.

    Blocks that are stacked along a first axis are taken apart, an attention pooling that lies at the top goes to its
    place, and of a position table with n*n + 1 rows the first is added to the class token: both are constants.
    """
    found = _renamed_blocks(_apart(_model_alone(arrays)), dict(zip(_BEFORE_LINEN, _LINEN, strict=True)))
    found = _renamed(found, lambda key: "pos_embedding" if key in _OLD_POSITIONS else key)
    if "probe" in found:
        inlined = ("probe", "LayerNorm_0/", "MlpBlock_0/", f"{_LINEN[1]}/")
        found = _renamed(found, lambda key: f"MAPHead_0/{key}" if key.startswith(inlined) else key)
    cls, table = found.get("cls"), found.get("pos_embedding")
    if cls is None or table is None or table.ndim != 3 or table[:, :1].shape != cls.shape:
        return found
    rows = table.shape[1]
    if rows > 1 and math.isqrt(rows - 1) ** 2 == rows - 1:
        found |= {"cls": cls + table[:, :1], "pos_embedding": table[:, 1:]}
        _logger.info("the position of the class token was added to the class token, as big_vision does")
    return found


def _model_alone(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays behind the prefix of the model's keys, without it."""
    prefix = next((prefix for prefix in _FLAX_PREFIXES if f"{prefix}embedding/kernel" in arrays), "")
    if others := [key for key in arrays if not key.startswith(prefix)]:
        _logger.info("%d arrays are not under `%s` and not read: %s", len(others), prefix, ", ".join(others[:8]))
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _renamed(arrays: Mapping[str, np.ndarray], name: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Every array by its other name, unless that is taken: then both stay, and the table refuses one."""
    found: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        new = name(key)
        found[key if new in arrays or new in found else new] = array
    return found


def _renamed_blocks(arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The submodules of blocks by their other names."""

    def name(key: str) -> str:
        block = re.fullmatch(r"(Transformer/encoderblock_\d+/)(\w+)(/.*)", key)
        return key if block is None else block[1] + names.get(block[2], block[2]) + block[3]

    return _renamed(arrays, name)


def _apart(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blocks that `scan` keeps in one, every leaf with a first axis for the depth, one by one; views, no copies."""
    stacked = "Transformer/encoderblock/"
    found = {}
    for key, array in arrays.items():
        depth = array.shape[0] if key.startswith(stacked) and array.ndim else 0
        names = [f"{stacked[:-1]}_{number}/{key.removeprefix(stacked)}" for number in range(depth)]
        found |= {key: array} if not names or set(names) & set(arrays) else dict(zip(names, array, strict=True))
    return found


# ------------------------------------------------------------------------------------------------- layouts


def _square_convolution(module: Any) -> Transform:
    """A torch convolution with the module's patch, on any number of channels."""
    return axes("d c h w -> (h w c) d", h=module.patch_size, w=module.patch_size)


def checked_pool_heads(module: Any) -> int:
    """The heads of the module's pooling, if it attends; its numerics have to be the trunk's, as in everybody's files.

    Raises:
        UserError: they are not.
    """
    pool = module.pool(parent=None)
    for name in ("activation", "norm_epsilon"):
        trunks = getattr(module, name)
        if getattr(pool, name, trunks) != trunks:
            shown = [getattr(value, "__name__", value) for value in (getattr(pool, name), trunks)]
            raise UserError(f"`pool` has `{name}` (={shown[0]}), expected the model's (={shown[1]}), as in such files")
    return getattr(pool, "num_heads", module.num_heads)


def _timm_rules(module: Any) -> Table:
    """By where the module has its last norm."""
    checked_pool_heads(module)
    final_norm = "fc_norm" if module.norm_after_pooling else "norm"
    return timm(final_norm=final_norm, patches=_square_convolution(module))


def _big_vision_rules(module: Any) -> Table:
    return big_vision(num_heads=module.num_heads, patch_size=module.patch_size, pool_heads=checked_pool_heads(module))


LAYOUTS: tuple[Layout, ...] = (
    # How positions are resampled is LearnedPositions' default here, and whether the class token has one is the model's.
    Layout("timm", _timm_rules, {"norm_epsilon": 1e-6, "activation": gelu}),
    Layout(
        "huggingface",
        lambda module: huggingface(patches=_square_convolution(module)),
        {
            "norm_epsilon": 1e-12,
            "activation": gelu,
            "positions": partial(LearnedPositions, resampling=resample_bicubic),
        },
        huggingface_names,
    ),
    Layout(
        "vit_jax",
        lambda module: vit_jax(num_heads=module.num_heads, patch_size=module.patch_size),
        {
            "norm_epsilon": 1e-6,
            "activation": gelu_tanh,
            "positions": partial(LearnedPositions, resampling=resample_corners),
        },
        vit_jax_names,
    ),
    Layout(
        "big_vision",
        _big_vision_rules,
        {
            "norm_epsilon": 1e-6,
            "activation": gelu_tanh,
            "positions": partial(LearnedPositions, embed_class=False, resampling=resample_corners),
        },
        big_vision_names,
    ),
)
"""Everybody's files of a ViT. What a file itself says of its model (no position for the class token) goes before
`settings`."""
