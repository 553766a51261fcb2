"""NaViT's weights in the layouts of vit-pytorch's two implementations.

`vitjax.models.navit_pytorch` composes the models that these weights belong to; `NaViT` itself is the paper's. Where the
two depart from the paper (Dehghani et al. 2023) and from each other:

=========================== ============================ ============================== ============================
what                        the paper                    `na_vit.py` (packed)           `na_vit_nested_tensor.py`
=========================== ============================ ============================== ============================
query and key norm          layer norm (ViT-22B)         to length sqrt(K), per head    layer norm, one for all heads
factor of the logits        1 / sqrt(K)                  1                              1 / sqrt(K)
biases in MLP, patches      none                         yes                            yes
norms around the patches    none                         scale only                     scale and bias
pooling                     MAP, with norm and MLP       attention and the query added  attention alone
packing                     first-fit over the batch     next-fit                       none: nested tensors
epsilon of the norms        not printed; ours 1e-6       1e-5                           1e-5
=========================== ============================ ============================== ============================

As published, the nested one trains neither its patch embedding nor its positions nor its pooling query: it copies them
into nested tensors, and no gradient passes (vit-pytorch 1.26). Ours trains them.

Both flatten a patch as (channel, row, column). The packed one saves each norm's zero bias as a buffer: checked on the
way in, written on the way out.
"""

from vitjax.weights.rules import (
    Fixed,
    Rule,
    Table,
    Transform,
    axes,
    fused,
    identity,
    linear,
    linear_patches,
    patch_vector,
)

__all__ = ["vit_pytorch_nested", "vit_pytorch_packed"]

_LAYER, _BLOCK = "transformer.layers.{block}", "params/block_{block}"
_POOL = "params/pooling"


def _mlp() -> tuple[Rule, ...]:
    return (
        Rule(f"{_LAYER}.1.1.weight", f"{_BLOCK}/mlp/expand/kernel", linear),
        Rule(f"{_LAYER}.1.1.bias", f"{_BLOCK}/mlp/expand/bias"),
        Rule(f"{_LAYER}.1.4.weight", f"{_BLOCK}/mlp/contract/kernel", linear),
        Rule(f"{_LAYER}.1.4.bias", f"{_BLOCK}/mlp/contract/bias"),
    )


def _ends(channels: int) -> tuple[Rule, ...]:
    return (
        Rule("to_patch_embedding.1.weight", "params/patch_embedding/projection/kernel", linear_patches(channels)),
        Rule("to_patch_embedding.1.bias", "params/patch_embedding/projection/bias"),
        Rule("pos_embed_height", "params/position_embedding/rows/table"),
        Rule("pos_embed_width", "params/position_embedding/columns/table"),
        Rule("attn_pool_queries", f"{_POOL}/probe", axes("d -> 1 d")),
        Rule("mlp_head.1.weight", "params/head/kernel", linear),
    )


def vit_pytorch_packed(*, channels: int = 3) -> Table:
    """`vit_pytorch.na_vit.NaViT`."""

    def norm(key: str, path: str, transform: Transform = identity) -> tuple[Rule, Fixed]:
        return Rule(f"{key}.gamma", f"{path}/scale", transform), Fixed(f"{key}.beta", 0.0, like=f"{key}.gamma")

    def attention(key: str, path: str) -> tuple[Rule, ...]:
        per_head = axes("a 1 k -> a k")
        return (
            Rule(f"{key}.q_norm.gamma", f"{path}/query_norm/scale", per_head),
            Rule(f"{key}.k_norm.gamma", f"{path}/key_norm/scale", per_head),
            Rule(f"{key}.to_q.weight", f"{path}/query/kernel", linear),
            Rule(f"{key}.to_kv.weight", (f"{path}/key/kernel", f"{path}/value/kernel"), fused(linear, 2)),
            Rule(f"{key}.to_out.0.weight", f"{path}/out/kernel", linear),
        )

    return (
        *_ends(channels),
        *norm("to_patch_embedding.0", "params/patch_embedding/patch_norm", patch_vector(channels)),
        *norm("to_patch_embedding.2", "params/patch_embedding/token_norm"),
        *norm(f"{_LAYER}.0.norm", f"{_BLOCK}/attention_norm"),
        *attention(f"{_LAYER}.0", f"{_BLOCK}/attention"),
        *norm(f"{_LAYER}.1.0", f"{_BLOCK}/mlp_norm"),
        *_mlp(),
        *norm("transformer.norm", "params/final_norm"),
        *norm("attn_pool.norm", f"{_POOL}/probe_norm"),
        *attention("attn_pool", _POOL),
        *norm("mlp_head.0", "params/head_norm"),
    )


def vit_pytorch_nested(*, channels: int = 3) -> Table:
    """`vit_pytorch.na_vit_nested_tensor.NaViT`, with or without its query and key norms."""

    def norm(key: str, path: str) -> Rule:
        return Rule(f"{key}.weight", f"{path}/scale")

    def attention(key: str, path: str) -> tuple[Rule, ...]:
        parts = {"to_queries": "query", "to_keys": "key", "to_values": "value", "to_out": "out"}
        return (
            *(Rule(f"{key}.{theirs}.weight", f"{path}/{ours}/kernel", linear) for theirs, ours in parts.items()),
            norm(f"{key}.query_norm", f"{path}/query_norm"),
            norm(f"{key}.key_norm", f"{path}/key_norm"),
        )

    return (
        *_ends(channels),
        Rule("to_patch_embedding.0.weight", "params/patch_embedding/patch_norm/scale", patch_vector(channels)),
        Rule("to_patch_embedding.0.bias", "params/patch_embedding/patch_norm/bias", patch_vector(channels)),
        norm("to_patch_embedding.2", "params/patch_embedding/token_norm"),
        Rule("to_patch_embedding.2.bias", "params/patch_embedding/token_norm/bias"),
        norm(f"{_LAYER}.0.norm", f"{_BLOCK}/attention_norm"),
        *attention(f"{_LAYER}.0", f"{_BLOCK}/attention"),
        norm(f"{_LAYER}.1.0", f"{_BLOCK}/mlp_norm"),
        *_mlp(),
        norm("transformer.norm", "params/final_norm"),
        norm("attn_pool.norm", f"{_POOL}/probe_norm"),
        *attention("attn_pool", _POOL),
        norm("mlp_head.0", "params/head_norm"),
    )
