"""ViT's weights in the layouts of timm and Hugging Face.

Same weights, same function, with these settings of `ViT`:

===================== ======================= =============================== ==============================
setting               timm                    Hugging Face                    vit_jax, the origin of both
===================== ======================= =============================== ==============================
`norm_epsilon`        1e-6                    1e-12 (`layer_norm_eps`)        1e-6
`activation`          exact GELU              exact GELU (`hidden_act`)       GELU by tanh
resampled positions   bicubic, antialiased    bicubic, kernel a = -0.75       bilinear, corners on corners
average pooling       then norm (`fc_norm`)   none                            norm, then average
===================== ======================= =============================== ==============================

timm keeps query, key and value as one matrix, rows in this order; heads are one after another everywhere. It resamples
positions in float32 even in a float64 model.
"""

from vitjax.weights.rules import Rule, Table, axes, conv_patches, fused, identity, linear

__all__ = ["huggingface", "huggingface_module", "timm", "timm_average_pooling"]

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


def _embedding(projection: str, cls: str, positions: str, channels: int) -> tuple[Rule, ...]:
    return (
        Rule(f"{projection}.weight", "params/patch_embedding/kernel", conv_patches(channels)),
        Rule(f"{projection}.bias", "params/patch_embedding/bias"),
        Rule(cls, "params/class_token", axes("1 1 d -> 1 d")),
        Rule(positions, "params/position_embedding/table", axes("1 n d -> n d")),
    )


def timm(*, final_norm: str = "norm", channels: int = 3) -> Table:
    """`VisionTransformer` of timm: class token or not, any pooling, with or without qkv biases.

    Args:
        final_norm: timm's name for the last norm: "norm" in front of the pooling, "fc_norm" behind it.
        channels: of the images.
    """
    return (
        *_embedding("patch_embed.proj", "cls_token", "pos_embed", channels),
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


def huggingface(*, channels: int = 3) -> Table:
    """`ViTForImageClassification` as it is stored: `model.safetensors` of the hub and of `save_pretrained`."""
    layer = "vit.encoder.layer.{block}"
    attention = f"{layer}.attention.attention.{{part:query|key|value}}"
    return (
        *_embedding(
            "vit.embeddings.patch_embeddings.projection",
            "vit.embeddings.cls_token",
            "vit.embeddings.position_embeddings",
            channels,
        ),
        *_norm(f"{layer}.layernorm_before", f"{_BLOCK}/attention_norm"),
        *_dense(attention, f"{_BLOCK}/attention/{{part}}"),
        *_dense(f"{layer}.attention.output.dense", f"{_BLOCK}/attention/out"),
        *_norm(f"{layer}.layernorm_after", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{layer}.intermediate.dense", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{layer}.output.dense", f"{_BLOCK}/mlp/contract"),
        *_norm("vit.layernorm", "params/final_norm"),
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
            channels,
        ),
        *_norm(f"{layer}.layernorm_before", f"{_BLOCK}/attention_norm"),
        *(rule for pair in attention for rule in pair),
        *_norm(f"{layer}.layernorm_after", f"{_BLOCK}/mlp_norm"),
        *_dense(f"{layer}.mlp.fc1", f"{_BLOCK}/mlp/expand"),
        *_dense(f"{layer}.mlp.fc2", f"{_BLOCK}/mlp/contract"),
        *_norm("vit.layernorm", "params/final_norm"),
        *_dense("classifier", "params/head"),
    )
