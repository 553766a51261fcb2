"""MobileViT's weights in the layouts of timm, transformers and the authors (apple/ml-cvnets).

The three hold the same arrays under other names, transformers with query, key and value apart:

========================== ================================= =====================================================
ours                       timm                              transformers, behind `mobilevit.`
========================== ================================= =====================================================
`stem`                     `stem`                            `conv_stem`
`stage_2_residual_1`       `stages.1.1`                      `encoder.layer.1.layer.1`
`stage_3_residual`         `stages.2.0`                      `encoder.layer.2.downsampling_layer`
`stage_3_block`            `stages.2.1`                      `encoder.layer.2`
`…/layer_0`                `….transformer.0`                 `….transformer.layer.0`
`final_conv`               `final_conv`                      `conv_1x1_exp`
`head`                     `head.fc`                         `classifier`, without prefix
========================== ================================= =====================================================

What colours the stem expects is told by no array. Kernels keep their order of channels here; whoever prepares images
for them has to keep to it:

=============== =====================================================================================
layout          channels of the images, values 0 to 1 without mean and deviation
=============== =====================================================================================
timm            red, green, blue
huggingface     blue, green, red: its processor turns pictures round (`do_flip_channel_order`)
authors         blue, green, red in the paper's release (v0.1); red, green, blue in later ones
=============== =====================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, conv, fused, identity, linear

__all__ = ["AUTHORS", "HUGGINGFACE", "LAYOUTS", "TIMM", "Names", "trunk"]


def _affine(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/scale"), Rule(f"{key}.bias", f"params/{path}/bias")


def _dense(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/kernel", linear), Rule(f"{key}.bias", f"params/{path}/bias")


@dataclass(frozen=True)
class Names:
    """What a layout calls the parts of the trunk, `{layer}` a number; see `trunk`.

    Attributes:
        conv: of the convolution in a pair with its norm.
        norm: of the norm.
        stem: pair.
        residuals: the inverted residuals: one of stage 1, three of stage 2, one each of stages 3 to 5.
        residual_parts: pairs in an inverted residual: `expand`, `depthwise`, `reduce`.
        blocks: of stages 3 to 5.
        local: pair in a block.
        project_in: convolution alone.
        attention_norm: in a transformer layer, as the next five.
        qkv: query, key and value, in one array or apart.
        out: of the attention.
        mlp_norm: behind it.
        expand: of the MLP.
        contract: of the MLP.
        final_norm: in a block; `{depth}` is the number of its layers.
        project_out: pair in a block.
        fusion: pair in a block.
    """

    conv: str
    norm: str
    stem: str
    residuals: tuple[str, ...]
    residual_parts: tuple[str, str, str]
    blocks: tuple[str, str, str]
    local: str
    project_in: str
    attention_norm: str
    qkv: tuple[str, ...]
    out: str
    mlp_norm: str
    expand: str
    contract: str
    final_norm: str
    project_out: str
    fusion: str


TIMM = Names(
    conv="conv",
    norm="bn",
    stem="stem",
    residuals=tuple(f"stages.{place}" for place in ("0.0", "1.0", "1.1", "1.2", "2.0", "3.0", "4.0")),
    residual_parts=("conv1_1x1", "conv2_kxk", "conv3_1x1"),
    blocks=("stages.2.1", "stages.3.1", "stages.4.1"),
    local="conv_kxk",
    project_in="conv_1x1",
    attention_norm="transformer.{layer}.norm1",
    qkv=("transformer.{layer}.attn.qkv",),
    out="transformer.{layer}.attn.proj",
    mlp_norm="transformer.{layer}.norm2",
    expand="transformer.{layer}.mlp.fc1",
    contract="transformer.{layer}.mlp.fc2",
    final_norm="norm",
    project_out="conv_proj",
    fusion="conv_fusion",
)

_LAYER, _ENCODER = "transformer.layer.{layer}", "encoder.layer"

HUGGINGFACE = Names(
    conv="convolution",
    norm="normalization",
    stem="conv_stem",
    residuals=(
        *(f"{_ENCODER}.{place}" for place in ("0.layer.0", "1.layer.0", "1.layer.1", "1.layer.2")),
        *(f"{_ENCODER}.{stage}.downsampling_layer" for stage in (2, 3, 4)),
    ),
    residual_parts=("expand_1x1", "conv_3x3", "reduce_1x1"),
    blocks=(f"{_ENCODER}.2", f"{_ENCODER}.3", f"{_ENCODER}.4"),
    local="conv_kxk",
    project_in="conv_1x1.convolution",
    attention_norm=f"{_LAYER}.layernorm_before",
    qkv=tuple(f"{_LAYER}.attention.attention.{part}" for part in ("query", "key", "value")),
    out=f"{_LAYER}.attention.output.dense",
    mlp_norm=f"{_LAYER}.layernorm_after",
    expand=f"{_LAYER}.intermediate.dense",
    contract=f"{_LAYER}.output.dense",
    final_norm="layernorm",
    project_out="conv_projection",
    fusion="fusion",
)

_REP = "global_rep.{layer}"

AUTHORS = Names(
    conv="conv",
    norm="norm",
    stem="conv_1.block",
    residuals=tuple(f"layer_{place}.block" for place in ("1.0", "2.0", "2.1", "2.2", "3.0", "4.0", "5.0")),
    residual_parts=("exp_1x1.block", "conv_3x3.block", "red_1x1.block"),
    blocks=("layer_3.1", "layer_4.1", "layer_5.1"),
    local="local_rep.conv_3x3.block",
    project_in="local_rep.conv_1x1.block.conv",
    attention_norm=f"{_REP}.pre_norm_mha.0",
    qkv=(f"{_REP}.pre_norm_mha.1.qkv_proj",),
    out=f"{_REP}.pre_norm_mha.1.out_proj",
    mlp_norm=f"{_REP}.pre_norm_ffn.0",
    expand=f"{_REP}.pre_norm_ffn.1",
    contract=f"{_REP}.pre_norm_ffn.4",
    final_norm="global_rep.{depth}",
    project_out="conv_proj.block",
    fusion="fusion.block",
)


def trunk(names: Names, module: Any, *, prefix: str = "", path: str = "trunk") -> Table:
    """The rules of all but the classifier and the convolution before it.

    Args:
        names: `TIMM`, `HUGGINGFACE` or `AUTHORS`.
        module: a `MobileViT` or its trunk; only its `depths` count.
        prefix: in front of every foreign key, with its dot.
        path: of our `MobileViTTrunk`.
    """
    rules = [*_pair(names, f"{prefix}{names.stem}", f"{path}/stem")]
    places = ("1_residual_0", *(f"2_residual_{number}" for number in range(3)), *(f"{n}_residual" for n in (3, 4, 5)))
    for key, place in zip(names.residuals, places, strict=True):
        for theirs, ours in zip(names.residual_parts, ("expand", "depthwise", "reduce"), strict=True):
            rules += _pair(names, f"{prefix}{key}.{theirs}", f"{path}/stage_{place}/{ours}")
    for stage, (key, depth) in enumerate(zip(names.blocks, module.depths, strict=True), start=3):
        rules += _block(names, f"{prefix}{key}", f"{path}/stage_{stage}_block", depth)
    return tuple(rules)


def _pair(names: Names, key: str, path: str) -> tuple[Rule, ...]:
    norm = f"{key}.{names.norm}"
    return (
        Rule(f"{key}.{names.conv}.weight", f"params/{path}/conv/kernel", conv),
        *_affine(norm, f"{path}/norm"),
        Rule(f"{norm}.running_mean", f"batch_stats/{path}/norm/mean"),
        Rule(f"{norm}.running_var", f"batch_stats/{path}/norm/var"),
        # How many batches torch has seen: with a fixed momentum nothing reads it.
        Rule(f"{norm}.num_batches_tracked", None),
    )


def _block(names: Names, key: str, path: str, depth: int) -> tuple[Rule, ...]:
    layer = f"{path}/layer_{{layer}}"
    return (
        *_pair(names, f"{key}.{names.local}", f"{path}/local"),
        Rule(f"{key}.{names.project_in}.weight", f"params/{path}/project_in/kernel", conv),
        *_affine(f"{key}.{names.attention_norm}", f"{layer}/attention_norm"),
        *_qkv([f"{key}.{name}" for name in names.qkv], f"{layer}/attention"),
        *_dense(f"{key}.{names.out}", f"{layer}/attention/out"),
        *_affine(f"{key}.{names.mlp_norm}", f"{layer}/mlp_norm"),
        *_dense(f"{key}.{names.expand}", f"{layer}/mlp/expand"),
        *_dense(f"{key}.{names.contract}", f"{layer}/mlp/contract"),
        *_affine(f"{key}.{names.final_norm.format(depth=depth)}", f"{path}/final_norm"),
        *_pair(names, f"{key}.{names.project_out}", f"{path}/project_out"),
        *_pair(names, f"{key}.{names.fusion}", f"{path}/fusion"),
    )


def _qkv(keys: list[str], path: str) -> list[Rule]:
    """Three arrays of ours from one that holds their rows one after another, or from three."""
    parts = [f"{path}/{part}" for part in ("query", "key", "value")]
    if len(keys) == len(parts):
        return [rule for key, part in zip(keys, parts, strict=True) for rule in _dense(key, part)]
    kernels, biases = (tuple(f"params/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
    return [
        Rule(f"{keys[0]}.weight", kernels, fused(linear, 3)),
        Rule(f"{keys[0]}.bias", biases, fused(identity, 3)),
    ]


def _timm(module: Any) -> Table:
    return (*trunk(TIMM, module), *_pair(TIMM, "final_conv", "final_conv"), *_dense("head.fc", "head"))


def _huggingface(module: Any) -> Table:
    final = _pair(HUGGINGFACE, "mobilevit.conv_1x1_exp", "final_conv")
    return (*trunk(HUGGINGFACE, module, prefix="mobilevit."), *final, *_dense("classifier", "head"))


def _authors(module: Any) -> Table:
    final = _pair(AUTHORS, "conv_1x1_exp.block", "final_conv")
    return (*trunk(AUTHORS, module), *final, *_dense("classifier.fc", "head"))


def _with_prefix(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """`MobileViTModel` of transformers, which has no classifier, saves without the prefix."""
    if "conv_stem.convolution.weight" not in arrays:
        return arrays
    return {f"mobilevit.{key}": array for key, array in arrays.items()}


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Files of models that were trained on several devices."""
    return {key.removeprefix("module."): array for key, array in arrays.items()}


LAYOUTS = (
    Layout("timm", _timm),
    Layout("huggingface", _huggingface, prepare=_with_prefix),
    Layout("authors", _authors, prepare=_without_prefix),
)
"""How the files of others hold a MobileViT; the file's docstring says which expect blue, green, red."""
