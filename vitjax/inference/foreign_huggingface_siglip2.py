"""transformers' SigLIP 2 with NaFlex: the vision model alone, the vision half of the whole one, or a classifier."""

import functools
import logging
import math
from pathlib import Path
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_types import Arrays, Description, need
from vitjax.inference.huggingface_parts import ACTIVATIONS, check_class, labels_of
from vitjax.inference.huggingface_processors import RESAMPLING, read_processor, statistics_of
from vitjax.inference.naflex_preparation import naflex_preparation
from vitjax.layers.resampled_positions import ResampledGrid
from vitjax.models.naflex import AttentionPooling, AveragePooling, NaFlexViT
from vitjax.ops.axis_weights import bilinear_antialias
from vitjax.tasks.packed_classification import PackedClassification

__all__ = ["read_siglip2"]

_logger = logging.getLogger("vitjax")
_CLASSIFIER = "Siglip2ForImageClassification"


def read_siglip2(config: dict[str, Any], file: Path) -> Description:
    """`Siglip2VisionModel`, `Siglip2Model` (its vision half) and `Siglip2ForImageClassification`.

    Defaults are those of `Siglip2VisionConfig` and of `Siglip2ImageProcessor`. Without a classifier the outputs are the
    head's vectors, as transformers' `pooler_output`.

    Raises:
        UserError: a value is missing, out of range, or asks for what is unknown here.
    """
    notes: list[str] = []
    kind = check_class(config, file, ("Siglip2Model", "Siglip2VisionModel", _CLASSIFIER))
    vision = need(config, "vision_config", dict, file, {}) if config["model_type"] == "siglip2" else config
    classifies = kind == _CLASSIFIER
    labels = labels_of(config, file, notes) if classifies else ()
    keywords = _keywords(vision, file)
    if not classifies and not need(vision, "vision_use_head", bool, file, True):
        raise UserError(f"{file}: `vision_use_head` (=False): the model gives no vector for a picture, only tokens")
    if classifies:
        keywords["pool"] = AveragePooling
    task, batches = _preparation(file.parent, keywords["patch_size"], notes)
    rename = _without_head if classifies else dict
    return Description(
        NaFlexViT,
        keywords | {"num_classes": len(labels)},
        "huggingface",
        task,
        batches,
        labels,
        rename=rename,
        notes=tuple(notes),
    )


def _keywords(vision: dict[str, Any], file: Path) -> dict[str, Any]:
    act = need(vision, "hidden_act", str, file, "gelu_pytorch_tanh")
    if act not in ACTIVATIONS:
        raise UserError(f"{file}: `hidden_act` (={act!r}) must be one of {', '.join(ACTIVATIONS)}")
    if need(vision, "num_channels", int, file, 3) != 3:
        raise UserError(f"{file}: `num_channels` (={vision['num_channels']}); pictures have 3 here")
    patches = need(vision, "num_patches", int, file, 256)
    if math.isqrt(patches) ** 2 != patches:
        raise UserError(f"{file}: `num_patches` (={patches}) must be a square: it is the size of the position table")
    sizes = {
        "patch_size": need(vision, "patch_size", int, file, 16),
        "width": need(vision, "hidden_size", int, file, 768),
        "depth": need(vision, "num_hidden_layers", int, file, 12),
        "num_heads": need(vision, "num_attention_heads", int, file, 12),
        "mlp_width": need(vision, "intermediate_size", int, file, 3072),
        "norm_epsilon": float(need(vision, "layer_norm_eps", (int, float), file, 1e-6)),
        "activation": ACTIVATIONS[act],
    }
    names = ("num_heads", "mlp_width", "activation", "norm_epsilon")
    return sizes | {
        "positions": functools.partial(ResampledGrid, weights=bilinear_antialias),
        "pool": functools.partial(AttentionPooling, **{name: sizes[name] for name in names}),
    }


def _without_head(arrays: Arrays) -> Arrays:
    """A classifier takes the mean of the patches; the pooling's weights lie in the file and are not read."""
    kept = {key: array for key, array in arrays.items() if not key.removeprefix("vision_model.").startswith("head.")}
    if len(kept) < len(arrays):
        _logger.info(
            "%d arrays of the attention pooling are not read: the classifier has no use for them",
            len(arrays) - len(kept),
        )
    return kept


def _preparation(folder: Path, patch_size: int, notes: list[str]) -> tuple[PackedClassification, Any]:
    present = read_processor(folder)
    file, processor = present or (folder / "preprocessor_config.json", {})
    number = need(processor, "resample", int, file, 2)
    if number not in RESAMPLING or not need(processor, "do_resize", bool, file, True):
        raise UserError(f"{file}: `resample` (={number}) must be one of {RESAMPLING}, and `do_resize` true")
    if need(processor, "patch_size", int, file, patch_size) != patch_size:
        raise UserError(f"{file}: `patch_size` (={processor['patch_size']}) is {patch_size} in config.json")
    tokens = need(processor, "max_num_patches", int, file, 256)
    if not present:
        notes.append(f"there is no preprocessor_config.json beside it; pictures are prepared for {tokens} patches")
    mean, std = statistics_of(processor, file)
    try:
        return naflex_preparation(
            tokens=tokens, patch_size=patch_size, mean=mean, std=std, interpolation=RESAMPLING[number]
        )
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
