"""MobileViTv2's weights in the layouts of timm, transformers and the authors (apple/ml-cvnets).

All three hold the same arrays, each kernel as a convolution's, under other names:

========================== ================================= =====================================================
ours                       timm                              transformers, behind `mobilevitv2.`
========================== ================================= =====================================================
`stem`                     `stem`                            `conv_stem`
`stage_2_residual_1`       `stages.1.1`                      `encoder.layer.1.layer.1`
`stage_3_residual`         `stages.2.0`                      `encoder.layer.2.downsampling_layer`
`stage_3_block`            `stages.2.1`                      `encoder.layer.2`
`…/unit_0`                 `….transformer.0`                 `….transformer.layer.0`
`head`                     `head.fc`                         `classifier`, without prefix
========================== ================================= =====================================================

One array has query, key and value: 1 row, D rows, D rows. transformers' blocks ignore the dilation of a smaller output
stride. timm's and the authors' weights expect RGB, pixels divided by 255; so do transformers' own, which are the
authors', but its processor makes BGR of the pictures.
"""

from dataclasses import dataclass

import numpy as np

from vitjax.models.mobilevit_v2 import MobileViTV2, MobileViTV2Trunk
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, Transform, axes, conv, linear

__all__ = ["AUTHORS", "HUGGINGFACE", "LAYOUTS", "TIMM", "Names", "trunk"]

_pointwise = axes("o i 1 1 -> i o")


def _split_qkv(array: np.ndarray) -> tuple[np.ndarray, ...]:
    """Query, key and value along the first axis, for kernels with two further axes of 1 or for biases."""
    width, odd = divmod(array.shape[0] if array.ndim else 0, 2)
    if not odd or not width or array.shape[2:] not in ((), (1, 1)):
        raise ValueError("needs rows 1 + 2 D")
    parts = array[:1], array[1 : width + 1], array[width + 1 :]
    return tuple(part[:, :, 0, 0].T for part in parts) if array.ndim == 4 else parts


def _join_qkv(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    joined = np.concatenate([array.T for array in arrays])
    return joined[:, :, None, None] if joined.ndim == 2 else joined


_qkv = Transform("query, key and value", _split_qkv, _join_qkv)


def _affine(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/scale"), Rule(f"{key}.bias", f"params/{path}/bias")


def _dense(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/kernel", _pointwise), Rule(f"{key}.bias", f"params/{path}/bias")


def _conv_norm(convolution: str, norm: str, key: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{key}.{convolution}.weight", f"params/{path}/conv/kernel", conv),
        *_affine(f"{key}.{norm}", f"{path}/norm"),
        Rule(f"{key}.{norm}.running_mean", f"batch_stats/{path}/norm/mean"),
        Rule(f"{key}.{norm}.running_var", f"batch_stats/{path}/norm/var"),
        # How many batches torch has seen: with a fixed momentum nothing reads it.
        Rule(f"{key}.{norm}.num_batches_tracked", None),
    )


@dataclass(frozen=True)
class Names:
    """What a layout calls the parts of the trunk, `{unit}` a number; see `trunk`.

    Attributes:
        conv: of the convolution in a pair with its norm.
        norm: of the norm.
        stem: pair.
        residuals: the inverted residuals: one of stage 1, two of stage 2, one each of stages 3 to 5.
        residual_parts: pairs in an inverted residual: `expand`, `depthwise`, `reduce`.
        blocks: of stages 3 to 5.
        depthwise: pair in a block.
        project_in: convolution alone.
        attention_norm: in a unit, as the next five.
        qkv: query, key and value in one.
        out: of the attention.
        mlp_norm: behind it.
        expand: of the MLP.
        contract: of the MLP.
        final_norm: in a block; `{depth}` is the number of its units.
        project_out: pair in a block.
    """

    conv: str
    norm: str
    stem: str
    residuals: tuple[str, ...]
    residual_parts: tuple[str, str, str]
    blocks: tuple[str, ...]
    depthwise: str
    project_in: str
    attention_norm: str
    qkv: str
    out: str
    mlp_norm: str
    expand: str
    contract: str
    final_norm: str
    project_out: str


TIMM = Names(
    conv="conv",
    norm="bn",
    stem="stem",
    residuals=("stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0", "stages.3.0", "stages.4.0"),
    residual_parts=("conv1_1x1", "conv2_kxk", "conv3_1x1"),
    blocks=("stages.2.1", "stages.3.1", "stages.4.1"),
    depthwise="conv_kxk",
    project_in="conv_1x1",
    attention_norm="transformer.{unit}.norm1",
    qkv="transformer.{unit}.attn.qkv_proj",
    out="transformer.{unit}.attn.out_proj",
    mlp_norm="transformer.{unit}.norm2",
    expand="transformer.{unit}.mlp.fc1",
    contract="transformer.{unit}.mlp.fc2",
    final_norm="norm",
    project_out="conv_proj",
)

_ENCODER = "encoder.layer"

HUGGINGFACE = Names(
    conv="convolution",
    norm="normalization",
    stem="conv_stem",
    residuals=(
        *(f"{_ENCODER}.{place}" for place in ("0.layer.0", "1.layer.0", "1.layer.1")),
        *(f"{_ENCODER}.{stage}.downsampling_layer" for stage in (2, 3, 4)),
    ),
    residual_parts=("expand_1x1", "conv_3x3", "reduce_1x1"),
    blocks=tuple(f"{_ENCODER}.{stage}" for stage in (2, 3, 4)),
    depthwise="conv_kxk",
    project_in="conv_1x1.convolution",
    attention_norm="transformer.layer.{unit}.layernorm_before",
    qkv="transformer.layer.{unit}.attention.qkv_proj.convolution",
    out="transformer.layer.{unit}.attention.out_proj.convolution",
    mlp_norm="transformer.layer.{unit}.layernorm_after",
    expand="transformer.layer.{unit}.ffn.conv1.convolution",
    contract="transformer.layer.{unit}.ffn.conv2.convolution",
    final_norm="layernorm",
    project_out="conv_projection",
)

AUTHORS = Names(
    conv="conv",
    norm="norm",
    stem="conv_1.block",
    residuals=tuple(f"layer_{place}.block" for place in ("1.0", "2.0", "2.1", "3.0", "4.0", "5.0")),
    residual_parts=("exp_1x1.block", "conv_3x3.block", "red_1x1.block"),
    blocks=("layer_3.1", "layer_4.1", "layer_5.1"),
    depthwise="local_rep.0.block",
    project_in="local_rep.1.block.conv",
    attention_norm="global_rep.{unit}.pre_norm_attn.0",
    qkv="global_rep.{unit}.pre_norm_attn.1.qkv_proj.block.conv",
    out="global_rep.{unit}.pre_norm_attn.1.out_proj.block.conv",
    mlp_norm="global_rep.{unit}.pre_norm_ffn.0",
    expand="global_rep.{unit}.pre_norm_ffn.1.block.conv",
    contract="global_rep.{unit}.pre_norm_ffn.3.block.conv",
    final_norm="global_rep.{depth}",
    project_out="conv_proj.block",
)


def trunk(names: Names, module: MobileViTV2 | MobileViTV2Trunk, *, prefix: str = "", path: str = "trunk") -> Table:
    """The rules of all but the classifier.

    Args:
        names: `TIMM`, `HUGGINGFACE` or `AUTHORS`.
        module: only its `depths` count.
        prefix: in front of every foreign key, with its dot.
        path: of our `MobileViTV2Trunk`.
    """
    rules = [*_pair(names, f"{prefix}{names.stem}", f"{path}/stem")]
    places = ("1_residual_0", "2_residual_0", "2_residual_1", "3_residual", "4_residual", "5_residual")
    for key, place in zip(names.residuals, places, strict=True):
        for theirs, ours in zip(names.residual_parts, ("expand", "depthwise", "reduce"), strict=True):
            rules += _pair(names, f"{prefix}{key}.{theirs}", f"{path}/stage_{place}/{ours}")
    for stage, (key, depth) in enumerate(zip(names.blocks, module.depths, strict=True), start=3):
        rules += _block(names, f"{prefix}{key}", f"{path}/stage_{stage}_block", depth)
    return tuple(rules)


def _pair(names: Names, key: str, path: str) -> tuple[Rule, ...]:
    return _conv_norm(names.conv, names.norm, key, path)


def _block(names: Names, key: str, path: str, depth: int) -> tuple[Rule, ...]:
    unit = f"{path}/unit_{{unit}}"
    kernels = tuple(f"params/{unit}/attention/{part}/kernel" for part in ("query", "key", "value"))
    biases = tuple(f"params/{unit}/attention/{part}" for part in ("query_bias", "key/bias", "value/bias"))
    return (
        *_pair(names, f"{key}.{names.depthwise}", f"{path}/depthwise"),
        Rule(f"{key}.{names.project_in}.weight", f"params/{path}/project_in/kernel", conv),
        *_affine(f"{key}.{names.attention_norm}", f"{unit}/attention_norm"),
        Rule(f"{key}.{names.qkv}.weight", kernels, _qkv),
        Rule(f"{key}.{names.qkv}.bias", biases, _qkv),
        *_dense(f"{key}.{names.out}", f"{unit}/attention/out"),
        *_affine(f"{key}.{names.mlp_norm}", f"{unit}/mlp_norm"),
        *_dense(f"{key}.{names.expand}", f"{unit}/expand"),
        *_dense(f"{key}.{names.contract}", f"{unit}/contract"),
        *_affine(f"{key}.{names.final_norm.format(depth=depth)}", f"{path}/final_norm"),
        *_pair(names, f"{key}.{names.project_out}", f"{path}/project_out"),
    )


def _head(key: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", "params/head/kernel", linear), Rule(f"{key}.bias", "params/head/bias")


def _timm(module: MobileViTV2) -> Table:
    return (*trunk(TIMM, module), *_head("head.fc"))


def _huggingface(module: MobileViTV2) -> Table:
    return (*trunk(HUGGINGFACE, module, prefix="mobilevitv2."), *_head("classifier"))


def _authors(module: MobileViTV2) -> Table:
    return (*trunk(AUTHORS, module), *_head("classifier.1"))


LAYOUTS = (
    Layout("timm", _timm),
    Layout("huggingface", _huggingface, {"dilate_blocks": False}),
    Layout("authors", _authors),
)
"""How the files of others hold a MobileViTv2."""
