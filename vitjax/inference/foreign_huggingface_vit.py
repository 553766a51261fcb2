"""transformers' `ViTForImageClassification` and `ViTModel`."""

import functools
from pathlib import Path
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_types import Arrays, Description, need
from vitjax.inference.huggingface_parts import ACTIVATIONS, check_class, labels_of, size_of
from vitjax.inference.huggingface_processors import preparation_of
from vitjax.models.vit import ViT

__all__ = ["read_vit"]


def read_vit(config: dict[str, Any], file: Path) -> Description:
    """`ViTForImageClassification`, and `ViTModel` without a head; defaults are `ViTConfig`'s."""
    known = ("ViTForImageClassification", "ViTModel")
    kind = check_class(config, file, known)
    act = need(config, "hidden_act", str, file, "gelu")
    if act not in ACTIVATIONS:
        raise UserError(f"{file}: `hidden_act` (={act!r}) must be one of {', '.join(ACTIVATIONS)}")
    notes: list[str] = []
    labels = labels_of(config, file, notes) if kind == known[0] else ()
    keywords = {
        "num_classes": len(labels),
        "image_size": size_of(config, "image_size", 224, file),
        "patch_size": size_of(config, "patch_size", 16, file),
        "width": need(config, "hidden_size", int, file, 768),
        "depth": need(config, "num_hidden_layers", int, file, 12),
        "num_heads": need(config, "num_attention_heads", int, file, 12),
        "mlp_width": need(config, "intermediate_size", int, file, 3072),
        "use_qkv_bias": need(config, "qkv_bias", bool, file, True),
        "activation": ACTIVATIONS[act],
        "norm_epsilon": float(need(config, "layer_norm_eps", (int, float), file, 1e-12)),
        "dropout_rate": float(need(config, "hidden_dropout_prob", (int, float), file, 0.0)),
        "attention_dropout_rate": float(need(config, "attention_probs_dropout_prob", (int, float), file, 0.0)),
    }
    size = keywords["image_size"]
    pair = (size, size) if isinstance(size, int) else size
    task, batches, order = preparation_of(file.parent, pair, notes)
    pooler = functools.partial(_pooler, act=config.get("pooler_act", "tanh"), file=file)
    return Description(
        ViT, keywords, "huggingface", task, batches, labels, from_arrays=pooler, notes=tuple(notes), channel_order=order
    )


def _pooler(arrays: Arrays, *, act: str, file: Path) -> dict[str, Any]:
    """`ViTModel` may have the dense layer that the original's pre-training has in front of its head."""
    kernel = arrays.get("vit.pooler.dense.weight")
    if kernel is None:
        return {}
    if act != "tanh":
        raise UserError(f"{file}: `pooler_act` (={act!r}) must be 'tanh'")
    return {"representation_size": int(kernel.shape[0])}
