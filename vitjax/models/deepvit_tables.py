"""DeepViT's weights in the layouts of the authors' repository and of vit-pytorch.

The two are different functions, and neither's weights fit the other's:

=========================== =========================================== ====================================
what                        authors (zhoudaquan/dvit_repo)              vit-pytorch, `deepvit.py`
=========================== =========================================== ====================================
Θ                           1x1 convolution, `[new, old, 1, 1]`         matrix `[old, new]`
bias of Θ                   yes                                         none
norm of the mixed maps      batch norm per head, over batch and N x N   layer norm over the heads
biases of q, k and v        yes                                         none
patch embedding             linear, or convolutions with batch norm     linear between two layer norms
epsilon of the layer norms  1e-6                                        1e-5
final norm                  on all tokens                               on the pooled vector
=========================== =========================================== ====================================

torch counts the batches behind each batch norm; with a fixed momentum nothing reads that number, so it is dropped.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.models.deepvit import vit_pytorch_settings
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, axes, conv, conv_patches, fused, identity, linear

__all__ = ["LAYOUTS", "authors", "sizes_of", "vit_pytorch"]

_BLOCK = "block_{block}"


def _dense(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/kernel", linear), Rule(f"{key}.bias", f"params/{path}/bias")


def _norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/scale"), Rule(f"{key}.bias", f"params/{path}/bias")


def _batch_norm(key: str, path: str) -> tuple[Rule, ...]:
    return (
        *_norm(key, path),
        Rule(f"{key}.running_mean", f"batch_stats/{path}/mean"),
        Rule(f"{key}.running_var", f"batch_stats/{path}/var"),
        Rule(f"{key}.num_batches_tracked", None),
    )


def _qkv(leaf: str) -> tuple[str, ...]:
    return tuple(f"params/{_BLOCK}/attention/{part}/{leaf}" for part in ("query", "key", "value"))


def _tokens(cls: str, positions: str) -> tuple[Rule, Rule]:
    return (
        Rule(cls, "params/class_token", axes("1 1 d -> 1 d")),
        Rule(positions, "params/position_embedding/table", axes("1 n d -> n d")),
    )


def authors(*, patch_channels: int = 3) -> Table:
    """The authors' models: pure transformers, S, L.

    Args:
        patch_channels: of what the patch projection reads: 3 of an image, 64 of the convolutional stem.
    """
    key = "blocks.{block}"
    return (
        *_tokens("cls_token", "pos_embed"),
        Rule("patch_embed.conv{layer}.weight", "params/patch_embedding/convolution_{layer}/kernel", conv),
        *_batch_norm("patch_embed.bn{layer}", "patch_embedding/norm_{layer}"),
        Rule("patch_embed.proj.weight", "params/patch_embedding/projection/kernel", conv_patches(patch_channels)),
        Rule("patch_embed.proj.bias", "params/patch_embedding/projection/bias"),
        *_norm(f"{key}.norm1", f"{_BLOCK}/attention_norm"),
        Rule(f"{key}.attn.qkv.weight", _qkv("kernel"), fused(linear, 3)),
        Rule(f"{key}.attn.qkv.bias", _qkv("bias"), fused(identity, 3)),
        Rule(f"{key}.attn.reatten_matrix.weight", f"params/{_BLOCK}/reattention/kernel", axes("g h 1 1 -> h g")),
        Rule(f"{key}.attn.reatten_matrix.bias", f"params/{_BLOCK}/reattention/bias"),
        *_batch_norm(f"{key}.attn.var_norm", f"{_BLOCK}/reattention/norm"),
        *_dense(f"{key}.attn.proj", f"{_BLOCK}/attention/out"),
        *_norm(f"{key}.norm2", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{key}.mlp.fc1", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{key}.mlp.fc2", f"{_BLOCK}/mlp/contract"),
        *_norm("norm", "final_norm"),
        *_dense("head", "head"),
    )


def vit_pytorch() -> Table:
    """`vit_pytorch.deepvit.DeepViT`, whose patches are flattened (row, column, channel) as ours are."""
    attention, mlp = "transformer.layers.{block}.0", "transformer.layers.{block}.1.net"
    return (
        *_tokens("cls_token", "pos_embedding"),
        *_norm("to_patch_embedding.1", "patch_embedding/patch_norm"),
        *_dense("to_patch_embedding.2", "patch_embedding/projection"),
        *_norm("to_patch_embedding.3", "patch_embedding/token_norm"),
        *_norm(f"{attention}.norm", f"{_BLOCK}/attention_norm"),
        Rule(f"{attention}.to_qkv.weight", _qkv("kernel"), fused(linear, 3)),
        Rule(f"{attention}.reattn_weights", f"params/{_BLOCK}/reattention/kernel"),
        *_norm(f"{attention}.reattn_norm.1", f"{_BLOCK}/reattention/norm"),
        *_dense(f"{attention}.to_out.0", f"{_BLOCK}/attention/out"),
        *_norm(f"{mlp}.0", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{mlp}.1", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{mlp}.4", f"{_BLOCK}/mlp/contract"),
        *_norm("mlp_head.0", "final_norm"),
        *_dense("mlp_head.1", "head"),
    )


def _authors_of(module: Any) -> Table:
    return authors(patch_channels=getattr(module.embed(), "channels", 3))


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Files of models that were trained on several devices."""
    return {key.removeprefix("module."): array for key, array in arrays.items()}


def sizes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """What a file of vit-pytorch says of its model, which has no name: all of it.

    Nothing for the authors' files, whose models have names.
    """
    layers, layer = "transformer.layers", "transformer.layers.0"
    needed = (f"{layer}.0.reattn_weights", f"{layer}.0.to_qkv.weight", f"{layer}.1.net.1.weight", "pos_embedding")
    if not all(key in arrays for key in (*needed, "to_patch_embedding.1.weight")):
        return {}
    theta, qkv, expand, positions = (arrays[key].shape for key in needed)
    patch_size = math.isqrt(arrays["to_patch_embedding.1.weight"].size // 3)
    return {
        "image_size": math.isqrt(positions[1] - 1) * patch_size,
        "patch_size": patch_size,
        "width": positions[2],
        "depth": len([key for key in arrays if key.startswith(layers) and key.endswith("reattn_weights")]),
        "num_heads": theta[0],
        "head_size": qkv[0] // 3 // theta[0],
        "mlp_width": expand[0],
    }


LAYOUTS = (
    Layout("authors", _authors_of, prepare=_without_prefix),
    Layout("vit_pytorch", lambda module: vit_pytorch(), settings=vit_pytorch_settings()),
)
"""How the files of others hold a DeepViT."""
