"""DETR's weights in the authors' layout (facebookresearch/detr) and in transformers' two.

=================================== ======================================= ==================================
ours                                authors                                 transformers
=================================== ======================================= ==================================
`backbone`                          `backbone.0.body`, torchvision's names  `model.backbone.conv_encoder.model`
`projection`                        `input_proj`                            `model.input_projection`
`query_embedding`                   `query_embed`                           `model.query_position_embeddings`
`encoder/block_0`                   `transformer.encoder.layers.0`          `model.encoder.layers.0`
`.../attention/query`, key, value   `.../self_attn.in_proj`                 `.../self_attn.q_proj`, k, v
`.../cross_attention/out`           `.../multihead_attn.out_proj`           `.../encoder_attn.out_proj`
`.../mlp/expand`, `contract`        `.../linear1`, `linear2`                `.../fc1`, `fc2`
`.../norm_1`, (`norm_2`), the last  `.../norm1`, ...                        `.../self_attn_layer_norm`,
                                                                            (`encoder_attn_...`), `final_...`
`decoder/norm`                      `transformer.decoder.norm`              `model.decoder.layernorm`
`class_head`, `box_head/layer_0`    `class_embed`, `bbox_embed.layers.0`    `class_labels_classifier`,
                                                                            `bbox_predictor.layers.0`
=================================== ======================================= ==================================

transformers' files have the names of its release 4, which release 5 renames as it reads and writes; a `state_dict()` of
release 5 is read as well. The backbone has timm's names, or those of transformers' own ResNet: one layout for each.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.models.resnet import ResNetTrunk
from vitjax.models.resnet_tables import huggingface_trunk, timm_trunk
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, conv, fused, identity, linear

__all__ = ["LAYOUTS", "authors", "huggingface", "huggingface_timm", "release_4_names", "sizes_of"]


def authors(module: Any, *, prefix: str = "") -> Table:
    """The authors' rules.

    Args:
        module: a `DETR`, or what has its `backbone`.
        prefix: in front of every foreign key, with its dot.

    Raises:
        UserError: the backbone is no ResNet.
    """
    rules = [*timm_trunk(_trunk_of(module), prefix=f"{prefix}backbone.0.body.", path="backbone")]
    rules += _ends(f"{prefix}input_proj", f"{prefix}query_embed", f"{prefix}class_embed", f"{prefix}bbox_embed")
    for side, attentions in _ATTENTIONS.items():
        key, ours = f"{prefix}transformer.{side}.layers.{{block}}", f"params/{side}/block_{{block}}"
        for path in attentions.values():
            theirs = _AUTHORS_ATTENTIONS[path]
            parts = [f"{ours}/{path}/{part}" for part in ("query", "key", "value")]
            rules += [
                Rule(f"{key}.{theirs}.in_proj_weight", tuple(f"{part}/kernel" for part in parts), fused(linear, 3)),
                Rule(f"{key}.{theirs}.in_proj_bias", tuple(f"{part}/bias" for part in parts), fused(identity, 3)),
                *_linear(f"{key}.{theirs}.out_proj", f"{ours}/{path}/out"),
            ]
        rules += [*_linear(f"{key}.linear1", f"{ours}/mlp/expand"), *_linear(f"{key}.linear2", f"{ours}/mlp/contract")]
        for number in range(1, len(attentions) + 2):
            rules += _norm(f"{key}.norm{number}", f"{ours}/norm_{number}")
    return (*rules, *_norm(f"{prefix}transformer.decoder.norm", "params/decoder/norm"))


def huggingface(module: Any, *, prefix: str = "") -> Table:
    """Those of transformers on its own ResNet; arguments and errors as for `authors`."""
    return _huggingface(huggingface_trunk, module, prefix)


def huggingface_timm(module: Any, *, prefix: str = "") -> Table:
    """Those of transformers on timm's ResNet; arguments and errors as for `authors`."""
    return _huggingface(timm_trunk, module, prefix)


def release_4_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keys that transformers' release 5 has in memory, as they stand in files."""
    renames = (
        (r"(^|\.)model\.backbone\.model\.", r"\1model.backbone.conv_encoder.model."),
        (r"(_attn)\.o_proj\.", r"\1.out_proj."),
        (r"\.mlp\.(fc[12])\.", r".\1."),
    )
    return {functools.reduce(lambda key, pair: re.sub(*pair, key), renames, key): arrays[key] for key in arrays}


def sizes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of classes and of queries, which only a file's shapes tell."""
    found: dict[str, Any] = {}
    for classes, queries in (
        ("class_embed.bias", "query_embed.weight"),
        ("class_labels_classifier.bias", "model.query_position_embeddings.weight"),
    ):
        if classes in arrays and queries in arrays:
            found = {"num_classes": len(arrays[classes]) - 1, "num_queries": len(arrays[queries])}
    return found


_ATTENTIONS: Mapping[str, Mapping[str, str]] = {
    "encoder": {"self_attn": "attention"},
    "decoder": {"self_attn": "attention", "encoder_attn": "cross_attention"},
}
"""Side -> transformers' names of its attentions -> ours, each followed by a norm."""

_AUTHORS_ATTENTIONS = {"attention": "self_attn", "cross_attention": "multihead_attn"}


def _huggingface(trunk: Callable[..., Table], module: Any, prefix: str) -> Table:
    body = f"{prefix}model."
    rules = [*trunk(_trunk_of(module), prefix=f"{body}backbone.conv_encoder.model.", path="backbone")]
    rules += _ends(
        f"{body}input_projection", f"{body}query_position_embeddings",
        f"{prefix}class_labels_classifier", f"{prefix}bbox_predictor",
    )  # fmt: skip
    for side, attentions in _ATTENTIONS.items():
        key, ours = f"{body}{side}.layers.{{block}}", f"params/{side}/block_{{block}}"
        for number, (theirs, path) in enumerate(attentions.items(), start=1):
            for letter, part in (("q", "query"), ("k", "key"), ("v", "value")):
                rules += _linear(f"{key}.{theirs}.{letter}_proj", f"{ours}/{path}/{part}")
            rules += _linear(f"{key}.{theirs}.out_proj", f"{ours}/{path}/out")
            rules += _norm(f"{key}.{theirs}_layer_norm", f"{ours}/norm_{number}")
        rules += [*_linear(f"{key}.fc1", f"{ours}/mlp/expand"), *_linear(f"{key}.fc2", f"{ours}/mlp/contract")]
        rules += _norm(f"{key}.final_layer_norm", f"{ours}/norm_{len(attentions) + 1}")
    return (*rules, *_norm(f"{body}decoder.layernorm", "params/decoder/norm"))


def _trunk_of(module: Any) -> ResNetTrunk:
    trunk = module.backbone(parent=None)
    if not isinstance(trunk, ResNetTrunk):
        raise UserError(f"{type(module).__name__} on {type(trunk).__name__}: nobody else's files hold it")
    return trunk


def _ends(projection: str, queries: str, classes: str, boxes: str) -> tuple[Rule, ...]:
    """The projection, the queries, and the heads."""
    return (
        Rule(f"{projection}.weight", "params/projection/kernel", conv),
        Rule(f"{projection}.bias", "params/projection/bias"),
        Rule(f"{queries}.weight", "params/query_embedding"),
        *_linear(classes, "params/class_head"),
        *_linear(f"{boxes}.layers.{{layer}}", "params/box_head/layer_{layer}"),
    )


def _linear(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/kernel", linear), Rule(f"{key}.bias", f"{path}/bias")


def _norm(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"{path}/scale"), Rule(f"{key}.bias", f"{path}/bias")


LAYOUTS = (
    Layout("authors", authors),
    Layout("huggingface", huggingface, prepare=release_4_names),
    Layout("huggingface_timm", huggingface_timm, prepare=release_4_names),
)
"""How the files of others hold a DETR. That padding reaches into pictures in all of these programs is no matter of the
weights: `isolate_padding=False` has it so here."""
