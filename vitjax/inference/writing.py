"""A model as a folder that timm or transformers opens: weights by the layout's table, config.json, preprocessing.

A format holds a model if both compute the same: what the layout's `settings` say must be what the module has, save
where the format's config has a word for it. The words of each family are in `writing_vit.py` and `writing_mobile.py`.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.inference import writing_mobile, writing_naflex, writing_vit
from vitjax.inference.foreign_huggingface_detr import (
    detr_to_huggingface,
    panoptic_to_huggingface,
    with_timms_resnet,
)
from vitjax.inference.foreign_types import Holding, Parts, demand
from vitjax.inference.fusing import is_fused
from vitjax.models import layouts_of
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.efficientvit import EfficientViT
from vitjax.models.mobilevit import MobileViT
from vitjax.models.mobilevit_v2 import MobileViTV2
from vitjax.models.naflex import NaFlexViT
from vitjax.models.resnet import ResNet
from vitjax.models.vit import ViT
from vitjax.weights.files import write_safetensors
from vitjax.weights.rules import export_weights

__all__ = ["FORMATS", "write_foreign"]

_WEIGHTS = "model.safetensors"


def _weights_alone(bundle: Holding) -> tuple[Parts, set[str]]:
    """For programs that are told by hand which model it is."""
    return {}, {"backbone", "detector"}


FORMATS: Mapping[str, Mapping[type, Callable[[Holding], tuple[Parts, set[str]]]]] = {
    "timm": {
        ViT: writing_vit.vit_to_timm,
        NaFlexViT: writing_naflex.naflex_to_timm,
        MobileViT: writing_mobile.mobilevit_to_timm,
        MobileViTV2: writing_mobile.mobilevit_to_timm,
        EfficientViT: writing_mobile.efficientvit_to_timm,
        ResNet: writing_mobile.resnet_to_timm,
    },
    "huggingface": {
        ViT: writing_vit.vit_to_huggingface,
        NaFlexViT: writing_naflex.naflex_to_huggingface,
        MobileViT: writing_mobile.mobilevit_to_huggingface,
        MobileViTV2: writing_mobile.mobilevit_v2_to_huggingface,
        ResNet: writing_mobile.resnet_to_huggingface,
        DeepLabV3: writing_mobile.deeplab_to_huggingface,
        DETR: detr_to_huggingface,
        PanopticDETR: panoptic_to_huggingface,
    },
    "huggingface_timm": {
        DETR: partial(detr_to_huggingface, backbone=with_timms_resnet),
        PanopticDETR: partial(panoptic_to_huggingface, backbone=with_timms_resnet),
    },
    "authors": {DETR: _weights_alone, PanopticDETR: _weights_alone},
}
"""Format -> class of the module -> what makes its JSON files, and names the settings that these say."""

_FROZEN_NORMS: tuple[type, ...] = (DETR, PanopticDETR)
"""Models whose norms are frozen there and count no batches."""

_AT_OTHER_SIZES = ("positions", "bias_resampling")
"""Settings of how tables are resampled, which play no part at the model's own size."""


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
        demand(not is_fused(module), "it is fused, its batch norms are gone; save the model that was fused")
        demand(
            not getattr(module, "channel_sizes", ()), "it is pruned, and blocks of several sizes have no words there"
        )
        demand(type(module) in FORMATS[format], "its config has no words for it here")
        parts, expressed = FORMATS[format][type(module)](bundle)
        _check_numerics(module, layouts[format].settings, expressed)
        arrays = export_weights(layouts[format].rules(module), bundle.arrays())
        # torch counts a norm's batches; nothing reads the number, but both libraries miss it.
        counted = () if type(module) in _FROZEN_NORMS else arrays
        norms = [key.removesuffix("running_mean") for key in counted if key.endswith(".running_mean")]
        arrays |= {f"{key}num_batches_tracked": np.zeros((), np.int64) for key in norms}
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
    """Raises `UserError` where a setting of the layout is not the module's."""
    for name, value in settings.items():
        own = getattr(module, name, value)
        if name in expressed or name in _AT_OTHER_SIZES or own == value:
            continue
        shown = [getattr(one, "__name__", one) for one in (own, value)]
        raise UserError(f"`{name}` (={shown[0]}) is {shown[1]} there; vitjax.load(..., {name}=...) changes it")
