"""A model as a folder that timm or transformers opens: weights by the layout's table, config.json, preprocessing.

A format holds a model if both compute the same: what the layout's `settings` say must be what the module has, save
where the format's config has a word for it.
"""

import dataclasses
import functools
import inspect
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.config import describe
from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import CentreCrop, Resize, ResizeShorterSide
from vitjax.errors import UserError
from vitjax.inference import foreign_huggingface, foreign_timm
from vitjax.inference.evaluation_modes import CropOrPad, evaluation_mode
from vitjax.inference.foreign_files import merge_settings
from vitjax.inference.preparation import image_shape_of
from vitjax.models import layouts_of, list_models, variant_of
from vitjax.models.vit import AttentionPooling, AveragePooling, ClassTokenPooling, LearnedPositions, PatchEmbedding
from vitjax.tasks.classification import Classification
from vitjax.weights.files import write_safetensors
from vitjax.weights.rules import export_weights

__all__ = ["FORMATS", "Holding", "write_foreign"]

_logger = logging.getLogger("vitjax")

Parts = dict[str, dict[str, Any]]
"""Name of a JSON file -> its content."""

_WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Holding:
    """What is written.

    Attributes:
        module: a linen module.
        arrays: gives its variables by path, numpy; called once the format is known to hold the module.
        task: with mean and standard deviation.
        batches: with the preparation of pictures.
        labels: class names.
    """

    module: Any
    arrays: Callable[[], Mapping[str, np.ndarray]]
    task: Any
    batches: Any
    labels: tuple[str, ...]


def write_foreign(folder: Path, format: str, bundle: Holding) -> None:
    """Writes the folder beside its place and then puts it there.

    Args:
        folder: must be empty, absent, or hold a folder of the same kind, which is replaced.
        format: one of `FORMATS`.
        bundle: the model.

    Raises:
        UserError: the format cannot hold the model, or the folder holds something else.
    """
    _check_place(folder)
    module = bundle.module
    name = type(module).__name__
    layouts = {layout.name: layout for layout in layouts_of(module)}
    if format not in layouts:
        raise UserError(f"`format` (={format!r}): {name} has no such layout; it has {', '.join(layouts) or 'none'}")
    try:
        parts, expressed = FORMATS[format](bundle)
        _check_numerics(module, layouts[format].settings, expressed)
        arrays = export_weights(layouts[format].rules(module), bundle.arrays())
    except UserError as error:
        raise UserError(f"`format` (={format!r}) cannot hold this {name}: {error}") from error
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        write_safetensors(fresh / _WEIGHTS, arrays, {"format": "pt"})
        for file, content in parts.items():
            (fresh / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check_place(folder: Path) -> None:
    ours = {_WEIGHTS, "config.json", "preprocessor_config.json"}
    if folder.is_file() or (folder.exists() and {item.name for item in folder.iterdir()} - ours):
        raise UserError(f"{folder} exists and holds other things; it would be overwritten, give another folder")


def _check_numerics(module: Any, settings: Mapping[str, Any], expressed: set[str]) -> None:
    """Raises `UserError` where a setting of the layout is not the module's.

    How positions are resampled plays no part at the model's own size.
    """
    for name, value in settings.items():
        own = getattr(module, name, value)
        if name in expressed or name == "positions" or own == value:
            continue
        shown = [getattr(one, "__name__", one) for one in (own, value)]
        raise UserError(f"`{name}` (={shown[0]}) is {shown[1]} there; vitjax.load(..., {name}=...) changes it")


# ------------------------------------------------------------------------------------------ what is ours


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _is(factory: Any, wanted: Any) -> bool:
    return (factory.func if isinstance(factory, functools.partial) else factory) is wanted


def _keyword(factory: Any, name: str) -> Any:
    """A setting of a module's factory, or its default."""
    target = factory.func if isinstance(factory, functools.partial) else factory
    given = factory.keywords if isinstance(factory, functools.partial) else {}
    return given.get(name, inspect.signature(target).parameters[name].default)


def _name_of(table: Mapping[str, Any], value: Any, setting: str) -> str:
    found = [name for name, known in table.items() if known is value]
    _need(bool(found), f"`{setting}` (={getattr(value, '__name__', value)}) has no name there")
    return found[0]


def _check_vit(module: Any, pictures: tuple[Any, Any]) -> None:
    """What neither format has."""
    _need(hasattr(module, "representation_size"), "it is no ViT")
    _need(module.representation_size is None, "`representation_size`: it has no layer in front of the head")
    _need(_is(module.positions, LearnedPositions), "`positions`: it has learned ones only")
    task, batches = pictures
    _need(isinstance(task, Classification) and isinstance(batches, ImageBatches), "it classifies images of one size")
    _need(bool(module.num_classes), "`num_classes` (=0): it needs a head")


# -------------------------------------------------------------------------------------------------- timm


def _timm(bundle: Holding) -> tuple[Parts, set[str]]:
    module = bundle.module
    _check_vit(module, (bundle.task, bundle.batches))
    rows, columns = image_shape_of(module)
    mode = evaluation_mode(bundle.batches.transforms)
    _say_of_halves(bundle.batches.transforms[-1], down=False)
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
    act = _name_of(foreign_timm.ACTIVATIONS, module.activation, "activation")
    if act != "gelu":
        arguments["act_layer"] = act
    config = {
        "architecture": architecture,
        "num_classes": module.num_classes,
        "num_features": module.width,
        "global_pool": arguments["global_pool"],
        "label_names": list(bundle.labels),
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "vitjax",
            "custom_load": False,
            "input_size": [3, *mode.size],
            "fixed_input_size": True,
            "interpolation": mode.interpolation,
            "crop_pct": mode.crop_share,
            "crop_mode": mode.mode,
            "mean": list(bundle.task.mean),
            "std": list(bundle.task.std),
            "num_classes": module.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    _need(mode.size == (rows, columns), f"the preparation makes {mode.size} px, the model takes {(rows, columns)}")
    return {"config.json": config}, {"activation", "positions"}


def _ratio(mlp_width: int, width: int) -> float:
    """Timm takes int(width * ratio)."""
    for ratio in (mlp_width / width, np.nextafter(mlp_width / width, np.inf)):
        if int(width * float(ratio)) == mlp_width:
            return float(ratio)
    raise UserError(f"`mlp_width` (={mlp_width}) is no multiple of `width` (={width})")


def _timm_pooling(module: Any) -> dict[str, Any]:
    if _is(module.pool, ClassTokenPooling):
        _need(not module.norm_after_pooling, "`norm_after_pooling` behind the class token")
        return {"global_pool": "token"}
    if _is(module.pool, AveragePooling):
        return {"global_pool": "avg", "fc_norm": module.norm_after_pooling}
    _need(_is(module.pool, AttentionPooling), f"`pool` (={module.pool}) has no name there")
    for name in ("num_heads", "mlp_width", "activation", "norm_epsilon"):
        own, trunk = _keyword(module.pool, name), getattr(module, name)
        _need(own == trunk, f"`{name}` of the pooling (={own}) is the blocks' there (={trunk})")
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
    _need(bool(found), "`embedding`: no architecture embeds patches like this one")
    best = min(found, key=lambda name: sum(getattr(found[name], size) != getattr(module, size) for size in sizes))
    return best, found[best].patch_size


# ------------------------------------------------------------------------------------------ Hugging Face


def _huggingface(bundle: Holding) -> tuple[Parts, set[str]]:
    module = bundle.module
    _check_vit(module, (bundle.task, bundle.batches))
    _need(_is(module.embedding, PatchEmbedding), "`embedding`: it embeds patches by one convolution")
    _need(_is(module.pool, ClassTokenPooling) and module.use_class_token, "`pool`: it takes the class token")
    _need(not module.norm_after_pooling, "`norm_after_pooling`: its norm is in front of the pooling")
    _need(bool(_keyword(module.positions, "embed_class")), "`positions`: its class token has a position")
    rows, columns = image_shape_of(module)
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.num_heads,
        "intermediate_size": module.mlp_width,
        "hidden_act": _name_of(foreign_huggingface.ACTIVATIONS, module.activation, "activation"),
        "hidden_dropout_prob": module.dropout_rate,
        "attention_probs_dropout_prob": module.attention_dropout_rate,
        "layer_norm_eps": module.norm_epsilon,
        "image_size": rows if rows == columns else [rows, columns],
        "patch_size": module.patch_size,
        "num_channels": 3,
        "qkv_bias": module.use_qkv_bias,
        "encoder_stride": module.patch_size,
        "id2label": {str(number): label for number, label in enumerate(bundle.labels)},
        "label2id": {label: number for number, label in enumerate(bundle.labels)},
        "dtype": "float32",
    }
    return {
        "config.json": config,
        "preprocessor_config.json": _processor(bundle, (rows, columns)),
    }, {"activation", "norm_epsilon", "positions"}


def _processor(bundle: Holding, size: tuple[int, int]) -> dict[str, Any]:
    transforms = bundle.batches.transforms
    kinds = tuple(type(transform) for transform in transforms)
    crops = (CentreCrop, CropOrPad)
    known = kinds == (Resize,) or (len(kinds) == 2 and kinds[0] in (Resize, ResizeShorterSide) and kinds[1] in crops)
    _need(known, f"the preparation {tuple(transforms)} has no words there")
    resize = transforms[0]
    numbers = {name: number for number, name in foreign_huggingface.RESAMPLING.items()}
    asked = {"shortest_edge": resize.size} if kinds[0] is ResizeShorterSide else _sides(resize.size)
    made = transforms[-1].size
    _say_of_halves(transforms[-1], down=True)
    _need(_sides(made) == _sides(size), f"the preparation makes {made} px, the model takes {size}")
    return {
        # Its slow and fast forms both crop; ViTImageProcessor does not.
        "image_processor_type": "ViTImageProcessor" if len(transforms) == 1 else "BitImageProcessor",
        "do_resize": True,
        "size": asked,
        "resample": numbers[resize.interpolation],
        **({"do_center_crop": True, "crop_size": _sides(made)} if len(transforms) == 2 else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(bundle.task.mean),
        "image_std": list(bundle.task.std),
    }


def _say_of_halves(crop: Any, *, down: bool) -> None:
    """A crop that leaves an odd rest is one pixel elsewhere in the other library."""
    if isinstance(crop, CentreCrop | CropOrPad) and getattr(crop, "halves_down", False) != down:
        _logger.warning("the format's crop lies one pixel beside this one's where the rest of a picture is odd")


def _sides(size: int | tuple[int, int]) -> dict[str, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    return {"height": int(rows), "width": int(columns)}


FORMATS: Mapping[str, Callable[[Holding], tuple[Parts, set[str]]]] = {"timm": _timm, "huggingface": _huggingface}
"""Format -> what makes its JSON files, and names the settings that these say."""
