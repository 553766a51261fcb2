"""EfficientViT's weights in the layouts of timm and of the authors' repository (Cream), which differ in names only.

The authors' files also hold, for each block, the number of each pair's bias, which is checked and left out; and may
hold kernels of 1x1 convolutions as matrices. torch counts the batches behind each batch norm; with a fixed momentum
nothing reads that number, so it is dropped.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.layers.cascaded_attention import offset_numbers
from vitjax.ops.positions import resample_bicubic_antialias
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, axes, conv, linear

__all__ = ["LAYOUTS", "authors", "timm"]

_POINTWISE = axes("o i 1 1 -> i o")


def timm(module: Any) -> Table:
    """`timm.models.efficientvit_msra`."""
    blocks, samples = {}, {}
    for stage, depth in enumerate(module.depths):
        blocks |= {f"stages.{stage}.blocks.{number}": f"stage_{stage + 1}_block_{number}" for number in range(depth)}
        if stage:
            samples[f"stages.{stage}.downsample"] = f"stage_{stage + 1}_subsample"
    embedding = [f"patch_embed.conv{number + 1}" for number in range(4)]
    parts = ("res1", "patchmerge", "res2")
    return _table(embedding, blocks, samples, parts, convolution="conv", head=("head", "linear"))


def authors(module: Any) -> Table:
    """`EfficientViT/classification/model` of Cream: the stages are three lists, which begin with the subsampling."""
    blocks, samples = {}, {}
    for stage, depth in enumerate(module.depths):
        first = 3 if stage else 0
        blocks |= {
            f"blocks{stage + 1}.{first + number}": f"stage_{stage + 1}_block_{number}" for number in range(depth)
        }
        if stage:
            samples[f"blocks{stage + 1}"] = f"stage_{stage + 1}_subsample"
    embedding = [f"patch_embed.{2 * number}" for number in range(4)]
    return (
        *_table(embedding, blocks, samples, ("0", "1", "2"), convolution="c", head=("head", "l")),
        *_head("head_dist", "l", "distillation_norm", "distillation_head"),
    )


def _table(
    embedding: list[str], blocks: Mapping[str, str], samples: Mapping[str, str], parts: tuple[str, str, str],
    *, convolution: str, head: tuple[str, str],
) -> Table:  # fmt: skip
    """The rules of both: names of the embedding's convolutions, of blocks and subsampling with ours, of its parts."""

    def conv_norm(key: str, path: str) -> tuple[Rule, ...]:
        return Rule(f"{key}.{convolution}.weight", f"params/trunk/{path}/conv/kernel", conv), *_norm(
            f"{key}.bn", f"trunk/{path}/norm"
        )

    def half(depthwise: str, ffn: str, path: str, number: int) -> tuple[Rule, ...]:
        return (
            *conv_norm(f"{depthwise}.m", f"{path}/interaction_{number}/residual"),
            *conv_norm(f"{ffn}.m.pw1", f"{path}/ffn_{number}/expand"),
            *conv_norm(f"{ffn}.m.pw2", f"{path}/ffn_{number}/contract"),
        )

    rules = [rule for n, key in enumerate(embedding) for rule in conv_norm(key, f"patch_embedding/conv_{n}")]
    for key, path in blocks.items():
        mixer, windows = f"{key}.mixer.m.attn", f"{path}/attention/windows"
        rules += [
            *half(f"{key}.dw0", f"{key}.ffn0", path, 0),
            *half(f"{key}.dw1", f"{key}.ffn1", path, 1),
            *conv_norm(f"{mixer}.qkvs.{{head}}", f"{windows}/qkv_{{head}}"),
            *conv_norm(f"{mixer}.dws.{{head}}", f"{windows}/query_{{head}}"),
            *conv_norm(f"{mixer}.proj.1", f"{windows}/out"),
            Rule(f"{mixer}.attention_biases", f"params/trunk/{windows}/biases"),
        ]
    before, merge, after = parts
    for key, path in samples.items():
        excite, ours = f"{key}.{merge}.se", f"params/trunk/{path}/squeeze_excite"
        rules += [
            *half(f"{key}.{before}.0", f"{key}.{before}.1", path, 0),
            *half(f"{key}.{after}.0", f"{key}.{after}.1", path, 1),
            *conv_norm(f"{key}.{merge}.conv1", f"{path}/expand"),
            *conv_norm(f"{key}.{merge}.conv2", f"{path}/depthwise"),
            *conv_norm(f"{key}.{merge}.conv3", f"{path}/reduce"),
            Rule(f"{excite}.fc1.weight", f"{ours}/reduce/kernel", _POINTWISE),
            Rule(f"{excite}.fc1.bias", f"{ours}/reduce/bias"),
            Rule(f"{excite}.fc2.weight", f"{ours}/expand/kernel", _POINTWISE),
            Rule(f"{excite}.fc2.bias", f"{ours}/expand/bias"),
        ]
    return (*rules, *_head(*head, "head_norm", "head"))


def _norm(key: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{key}.weight", f"params/{path}/scale"),
        Rule(f"{key}.bias", f"params/{path}/bias"),
        Rule(f"{key}.running_mean", f"batch_stats/{path}/mean"),
        Rule(f"{key}.running_var", f"batch_stats/{path}/var"),
        Rule(f"{key}.num_batches_tracked", None),
    )


def _head(key: str, dense: str, norm: str, head: str) -> tuple[Rule, ...]:
    return (
        *_norm(f"{key}.bn", norm),
        Rule(f"{key}.{dense}.weight", f"params/{head}/kernel", linear),
        Rule(f"{key}.{dense}.bias", f"params/{head}/bias"),
    )


def _plain(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without prefix and pair numbers, kernels with all their axes.

    Raises:
        UserError: biases are numbered in another way than `|dy| * resolution + |dx|`.
    """
    plain = {}
    for name, array in arrays.items():
        key = name.removeprefix("model.").removeprefix("module.")
        if key.endswith(".attention_bias_idxs"):
            if not np.array_equal(array, offset_numbers(math.isqrt(math.isqrt(array.size)))):
                raise UserError(f"{key} {array.shape} does not number the offsets of a window row by row")
        else:
            kernel = key.endswith((".c.weight", ".fc1.weight", ".fc2.weight"))
            plain[key] = array[:, :, None, None] if kernel and array.ndim == 2 else array
    return plain


LAYOUTS = (
    Layout("timm", timm, settings={"bias_resampling": resample_bicubic_antialias}),
    Layout("authors", authors, prepare=_plain),
)
"""How the files of others hold an EfficientViT."""
