"""A ViT in the words of timm's and transformers' configs."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.config import describe
from vitjax.data.batching import ImageBatches
from vitjax.errors import UserError
from vitjax.inference import foreign_timm_vit, huggingface_parts
from vitjax.inference.foreign_files import merge_settings
from vitjax.inference.foreign_types import Holding, Parts, demand
from vitjax.inference.preparation import image_shape_of
from vitjax.inference.writing_preparation import labels_of, processor_of, timm_config
from vitjax.models import layouts_of, list_models, variant_of
from vitjax.models.vit import AttentionPooling, AveragePooling, ClassTokenPooling, LearnedPositions, PatchEmbedding
from vitjax.tasks.classification import Classification

__all__ = ["vit_to_huggingface", "vit_to_timm"]


def _is(factory: Any, wanted: Any) -> bool:
    return (factory.func if isinstance(factory, functools.partial) else factory) is wanted


def _keyword(factory: Any, name: str) -> Any:
    """A setting of a module's factory, or its default."""
    target = factory.func if isinstance(factory, functools.partial) else factory
    given = factory.keywords if isinstance(factory, functools.partial) else {}
    return given.get(name, inspect.signature(target).parameters[name].default)


def _name_of(table: Mapping[str, Any], value: Any, setting: str) -> str:
    found = [name for name, known in table.items() if known is value]
    demand(bool(found), f"`{setting}` (={getattr(value, '__name__', value)}) has no name there")
    return found[0]


def _check_vit(module: Any, pictures: tuple[Any, Any]) -> None:
    """What neither format has."""
    demand(hasattr(module, "representation_size"), "it is no ViT")
    demand(module.representation_size is None, "`representation_size`: it has no layer in front of the head")
    demand(_is(module.positions, LearnedPositions), "`positions`: it has learned ones only")
    task, batches = pictures
    demand(isinstance(task, Classification) and isinstance(batches, ImageBatches), "it classifies images of one size")
    demand(bool(module.num_classes), "`num_classes` (=0): it needs a head")


def vit_to_timm(bundle: Holding) -> tuple[Parts, set[str]]:
    """A ViT, or a hybrid, with any pooling.

    Raises:
        UserError: timm has no words for a setting or for the preparation.
    """
    module = bundle.module
    _check_vit(module, (bundle.task, bundle.batches))
    rows, columns = image_shape_of(module)
    arguments = {
        "img_size": [rows, columns],
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.num_heads,
        "mlp_ratio": _ratio(module.mlp_width, module.width),
        "qkv_bias": module.use_qkv_bias,
        "class_token": module.use_class_token,
        "no_embed_class": not _keyword(module.positions, "embed_class"),
        **_timm_pooling(module),
    }
    architecture, patch_size = _architecture(module)
    if patch_size != module.patch_size:
        arguments["patch_size"] = module.patch_size
    act = _name_of(foreign_timm_vit.ACTIVATIONS, module.activation, "activation")
    if act != "gelu":
        arguments["act_layer"] = act
    names = {"first_conv": "patch_embed.proj", "classifier": "head"}
    config = timm_config(bundle, architecture, arguments, num_features=module.width, fixed_input_size=True, **names)
    demand(
        tuple(config["pretrained_cfg"]["input_size"][1:]) == (rows, columns),
        f"the preparation makes other pictures than the model's {(rows, columns)}",
    )
    return {"config.json": config}, {"activation", "positions"}


def _ratio(mlp_width: int, width: int) -> float:
    """Timm takes int(width * ratio)."""
    for ratio in (mlp_width / width, np.nextafter(mlp_width / width, np.inf)):
        if int(width * float(ratio)) == mlp_width:
            return float(ratio)
    raise UserError(f"`mlp_width` (={mlp_width}) is no multiple of `width` (={width})")


def _timm_pooling(module: Any) -> dict[str, Any]:
    if _is(module.pool, ClassTokenPooling):
        demand(not module.norm_after_pooling, "`norm_after_pooling` behind the class token")
        return {"global_pool": "token"}
    if _is(module.pool, AveragePooling):
        return {"global_pool": "avg", "fc_norm": module.norm_after_pooling}
    demand(_is(module.pool, AttentionPooling), f"`pool` (={module.pool}) has no name there")
    for name in ("num_heads", "mlp_width", "activation", "norm_epsilon"):
        own, trunk = _keyword(module.pool, name), getattr(module, name)
        demand(own == trunk, f"`{name}` of the pooling (={own}) is the blocks' there (={trunk})")
    return {"global_pool": "map", "fc_norm": module.norm_after_pooling}


_TIMM_HAS_NOT = ("vit_huge_patch16", "vit_medium_patch", "vit_so400m_patch")
"""Beginnings of our names that are none of timm's; their models are written as another architecture with arguments."""


def _architecture(module: Any) -> tuple[str, int]:
    """A name of timm's that makes this kind of module, the nearest in size, and its patch size.

    `model_args` says what differs; how patches are embedded it cannot say, numerics of a hybrid's network included.
    """
    sizes = ("width", "depth", "patch_size", "image_size")
    plain = _is(module.embedding, PatchEmbedding)
    found: dict[str, Any] = {}
    for name in list_models():
        target, keywords = variant_of(name)
        settings = {layout.name: layout.settings for layout in layouts_of(target)}.get("timm")
        if settings is None or name.startswith(_TIMM_HAS_NOT):
            continue
        made = target(**merge_settings(settings, keywords))
        fits = type(made) is type(module) and describe(made.embedding) == describe(module.embedding)
        if fits and (plain or made.patch_size == module.patch_size):
            found[name] = made
    demand(bool(found), "`embedding`: no architecture embeds patches like this one")
    best = min(found, key=lambda name: sum(getattr(found[name], size) != getattr(module, size) for size in sizes))
    return best, found[best].patch_size


def vit_to_huggingface(bundle: Holding) -> tuple[Parts, set[str]]:
    """`ViTForImageClassification`.

    Raises:
        UserError: transformers has no words for a setting or for the preparation.
    """
    module = bundle.module
    _check_vit(module, (bundle.task, bundle.batches))
    demand(_is(module.embedding, PatchEmbedding), "`embedding`: it embeds patches by one convolution")
    demand(_is(module.pool, ClassTokenPooling) and module.use_class_token, "`pool`: it takes the class token")
    demand(not module.norm_after_pooling, "`norm_after_pooling`: its norm is in front of the pooling")
    demand(bool(_keyword(module.positions, "embed_class")), "`positions`: its class token has a position")
    rows, columns = image_shape_of(module)
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.num_heads,
        "intermediate_size": module.mlp_width,
        "hidden_act": _name_of(huggingface_parts.ACTIVATIONS, module.activation, "activation"),
        "hidden_dropout_prob": module.dropout_rate,
        "attention_probs_dropout_prob": module.attention_dropout_rate,
        "layer_norm_eps": module.norm_epsilon,
        "image_size": rows if rows == columns else [rows, columns],
        "patch_size": module.patch_size,
        "num_channels": 3,
        "qkv_bias": module.use_qkv_bias,
        "encoder_stride": module.patch_size,
        **labels_of(bundle),
        "dtype": "float32",
    }
    return {
        "config.json": config,
        "preprocessor_config.json": processor_of(bundle, (rows, columns)),
    }, {"activation", "norm_epsilon", "positions"}
