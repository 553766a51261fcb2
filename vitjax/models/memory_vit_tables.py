"""The weights of vit-pytorch's `learnable_memory_vit`; the module that computes the same is `vit_pytorch_adapter`.

============================== ====================================== =======================================
what                           the paper                              vit-pytorch
============================== ====================================== =======================================
memory                         normalised with the tokens (Fig. 2)    joins behind the norm
position of a new class token  that of the backbone's own (Fig. 3)    none; the token stands first
norm in front of a new head    the final norm, shared                 one of its own; the final norm is the head's
start of memory, class token   standard deviation 0.02                1
patches                        one linear map                         with a norm in front and behind
============================== ====================================== =======================================

The order of tokens plays no part: attention does not see it, and each task's row is kept apart here. The backbone's own
weights, in any layout that ViT's tables know, are read by these: `params/...` of a `MemoryViT` are those of ViT, beside
`params/memory` and `params/task_{name}/...`.
"""

from vitjax.models import memory_vit_pytorch as composed
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, axes, fused, linear

__all__ = ["LAYOUTS", "vit_pytorch"]

_BLOCK = "params/block_{block}"


def _dense(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/kernel", linear), Rule(f"{key}.bias", f"{path}/bias")


def _norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/scale"), Rule(f"{key}.bias", f"{path}/bias")


def vit_pytorch(*, prefix: str = "vit.", task: str = "adapter") -> Table:
    """`Adapter` with the `ViT` in it.

    Args:
        prefix: of the ViT's keys; "" for the state dict of the ViT alone.
        task: what the adapter's task is called here.
    """
    layer, embedding, mine = f"{prefix}transformer.layers.{{block}}", "params/patch_embedding", f"params/task_{task}"
    attention = f"{_BLOCK}/attention"
    head = (*_norm(f"{prefix}mlp_head.0", "params/final_norm"), *_dense(f"{prefix}mlp_head.1", "params/head"))
    return (
        *_norm(f"{prefix}to_patch_embedding.1", f"{embedding}/patch_norm"),
        *_dense(f"{prefix}to_patch_embedding.2", f"{embedding}/projection"),
        *_norm(f"{prefix}to_patch_embedding.3", f"{embedding}/token_norm"),
        Rule(f"{prefix}pos_embedding", "params/position_embedding/table", axes("1 n d -> n d")),
        Rule(f"{prefix}cls_token", "params/class_token", axes("1 1 d -> 1 d")),
        *_norm(f"{layer}.0.norm", f"{_BLOCK}/attention_norm"),
        Rule(f"{layer}.0.to_q.weight", f"{attention}/query/kernel", linear),
        Rule(f"{layer}.0.to_kv.weight", (f"{attention}/key/kernel", f"{attention}/value/kernel"), fused(linear, 2)),
        *_dense(f"{layer}.0.to_out.0", f"{attention}/out"),
        *_norm(f"{layer}.1.net.0", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{layer}.1.net.1", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{layer}.1.net.4", f"{_BLOCK}/mlp/contract"),
        *head,
        *(_task(mine) if prefix else ()),
    )


def _task(mine: str) -> tuple[Rule, ...]:
    return (
        Rule("memory_cls_token", f"{mine}/class_token", axes("d -> 1 d")),
        Rule("memories_per_layer", f"{mine}/memory"),
        *_norm("mlp_head.0", f"{mine}/norm"),
        *_dense("mlp_head.1", f"{mine}/head"),
        Rule("attn_mask", None),  # follows from the shapes
    )


LAYOUTS = (
    Layout(
        "vit_pytorch",
        rules=lambda module: vit_pytorch(),
        settings={
            "prepare_memory": composed.plain_memory,
            "place_class_token": composed.no_position,
            "task_norm": composed.torch_norm,
            "embedding": composed.NormedPatchEmbedding,
            "use_qkv_bias": False,
            "norm_epsilon": 1e-5,
        },
    ),
)
