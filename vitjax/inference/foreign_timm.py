"""timm's `config.json`, read and written: architecture, arguments, preprocessing, labels.

What timm's keys mean is in its `VisionTransformer.__init__`, `PretrainedCfg` and `_parse_model_cfg`.
"""

import functools
import inspect
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import INTERPOLATIONS
from vitjax.errors import UserError
from vitjax.inference.evaluation_modes import EvaluationMode, transforms_of
from vitjax.inference.foreign_types import Arrays, Description, need
from vitjax.inference.preparation import numbered_labels
from vitjax.models import list_models, variant_of
from vitjax.models.vit import AttentionPooling, AveragePooling, ClassTokenPooling, LearnedPositions
from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.tasks.classification import Classification

__all__ = ["ACTIVATIONS", "read_timm"]

ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh}
"""timm's `act_layer` -> ours."""

_SIGLIP = {"class_token": False, "global_pool": "map"}
_ALIASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # Architectures of timm that are one of ours with other arguments: `deit.py` and `vision_transformer.py`.
    "deit_tiny_patch16_224": ("vit_tiny_patch16_224", {}),
    "deit_small_patch16_224": ("vit_small_patch16_224", {}),
    "deit_base_patch16_224": ("vit_base_patch16_224", {}),
    "deit_base_patch16_384": ("vit_base_patch16_384", {}),
    "vit_base_patch16_224_miil": ("vit_base_patch16_224", {"qkv_bias": False}),
    "vit_base_patch16_siglip_224": ("vit_base_patch16_224", _SIGLIP),
    "vit_base_patch16_siglip_256": ("vit_base_patch16_224", {**_SIGLIP, "img_size": 256}),
    "vit_base_patch16_siglip_384": ("vit_base_patch16_384", _SIGLIP),
    "vit_large_patch16_siglip_256": ("vit_large_patch16_224", {**_SIGLIP, "img_size": 256}),
    "vit_large_patch16_siglip_384": ("vit_large_patch16_384", _SIGLIP),
}

_WITHOUT_EFFECT = (
    # How timm starts, runs or adapts a model; nothing of what it computes with given weights on images of its size.
    "num_classes", "weight_init", "fix_init", "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "scriptable",
    "exportable", "pretrained_strict", "pool_include_prefix", "final_norm",
)  # fmt: skip
_ONLY_IN_TRAINING = ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate")
_MUST_BE: Mapping[str, tuple[Any, ...]] = {
    # Arguments of parts that ViT here does not have, with the values that leave them out.
    "in_chans": (3, None),
    "qk_norm": (False, None),
    "scale_attn_norm": (False, None),
    "scale_mlp_norm": (False, None),
    "proj_bias": (True, None),
    "init_values": (None,),
    "pos_embed": ("learn", None),
    "reg_tokens": (0, None),
    "pre_norm": (False, None),
    "pool_include_prefix": (False, None),
    "final_norm": (True, None),
    "embed_norm_layer": (None,),
    "norm_layer": (None,),
}


def read_timm(config: dict[str, Any], file: Path) -> Description:
    """What timm's `config.json` says.

    Args:
        config: the file's content, of today's form or of the flat one of old.
        file: for messages.

    Raises:
        UserError: an unknown architecture or argument, or a value that is missing or out of range.
    """
    if "pretrained_cfg" not in config:
        config = {"architecture": config.get("architecture"), "pretrained_cfg": config, **_top(config)}
    pretrained = need(config, "pretrained_cfg", dict, file)
    architecture = need(config, "architecture", str, file)
    target, keywords, aliased = _find(architecture, file)
    arguments = {**aliased, **need(config, "model_args", dict, file, {})}
    num_classes = config.get("num_classes", pretrained.get("num_classes", keywords.get("num_classes", 1000)))
    if not isinstance(num_classes, int) or num_classes < 0:
        raise UserError(f"{file}: `num_classes` (={num_classes!r}) must be a whole number from 0 on")
    if pretrained.get("global_pool"):
        arguments.setdefault("global_pool", pretrained["global_pool"])
    notes: list[str] = []
    size = _input_size(pretrained, arguments, keywords, file, notes)
    if arguments.get("num_classes") not in (None, num_classes):
        notes.append(f"`num_classes` is {num_classes}, in `model_args` it is {arguments['num_classes']}")
    if pretrained.get("fixed_input_size") and "img_size" not in arguments:
        arguments["img_size"] = list(size)
    keywords = keywords | _keywords(target, arguments, keywords, file, notes)
    keywords["num_classes"] = num_classes
    mean, std = (_triple(pretrained, key, file) for key in ("mean", "std"))
    mode = EvaluationMode(
        mode=pretrained.get("crop_mode") or "center",
        size=size,
        crop_share=float(need(pretrained, "crop_pct", (int, float), file, 0.875)),
        interpolation=_interpolation(pretrained, file),
    )
    try:
        batches = ImageBatches(source=None, transforms=transforms_of(mode, mean), batch_size=16)
        task = Classification(mean=mean, std=std)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    labels = _labels(config, pretrained, num_classes, file, notes)
    return Description(
        target, keywords, "timm", task, batches, labels, rename=_unwrap, notes=tuple(notes)
    )  # fmt: skip


def _top(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What lies at the top of today's form, from the flat one."""
    names = {"num_classes": "num_classes", "labels": "label_names", "label_names": "label_names"}
    return {new: flat[old] for old, new in names.items() if old in flat}


def _find(architecture: str, file: Path) -> tuple[Any, dict[str, Any], Mapping[str, Any]]:
    name, aliased = _ALIASES.get(architecture, (architecture, {}))
    try:
        return *variant_of(name), aliased
    except UserError as error:
        close = get_close_matches(architecture, [*list_models(), *_ALIASES], n=2)
        hint = f"the nearest known: {', '.join(close)}" if close else "vitjax.list_models() has all that are known"
        raise UserError(f"{file}: `architecture` (={architecture!r}) is unknown here; {hint}") from error


def _unwrap(arrays: Arrays) -> Arrays:
    """Without the prefix that transformers' `TimmWrapperModel` puts in front of timm's own keys."""
    return {key.removeprefix("timm_model."): array for key, array in arrays.items()}


def _input_size(
    pretrained: Mapping[str, Any], arguments: Mapping[str, Any], keywords: Mapping[str, Any], file: Path,
    notes: list[str],
) -> tuple[int, int]:  # fmt: skip
    """Rows and columns of the pictures that the model is fed.

    `model_args.img_size`, where there is one, is what timm builds.
    """
    own = keywords.get("image_size", 224)
    given = pretrained.get("input_size", (3, *_pair(own)))
    if not isinstance(given, list | tuple) or len(given) != 3 or not all(isinstance(n, int) and n > 0 for n in given):
        raise UserError(f"{file}: `pretrained_cfg.input_size` (={given!r}) must be (channels, rows, columns)")
    if given[0] != 3:
        raise UserError(f"{file}: `pretrained_cfg.input_size` (={given}) has {given[0]} channels; pictures have 3 here")
    size = (given[1], given[2])
    built = arguments.get("img_size")
    if built is not None and _pair(built) != size:
        notes.append(f"`input_size` is {list(given)}, `img_size` of `model_args` is {built}; took the latter")
        size = _pair(built)
    return size


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _one_if_equal(size: Any) -> int | tuple[int, int]:
    pair = _pair(size)
    return pair[0] if pair[0] == pair[1] else pair


def _triple(pretrained: Mapping[str, Any], key: str, file: Path) -> tuple[float, ...]:
    # timm's IMAGENET_DEFAULT_MEAN and _STD, which it takes where a file says nothing.
    defaults = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    values = pretrained.get(key) or defaults[key]
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise UserError(f"{file}: `pretrained_cfg.{key}` (={values!r}) must be three numbers, one per channel")
    if key == "std" and min(values) <= 0:
        raise UserError(f"{file}: `pretrained_cfg.std` (={values!r}) must be positive")
    return tuple(float(value) for value in values)


def _interpolation(pretrained: Mapping[str, Any], file: Path) -> str:
    name = pretrained.get("interpolation") or "bicubic"
    if name not in INTERPOLATIONS:
        raise UserError(
            f"{file}: `pretrained_cfg.interpolation` (={name!r}) must be one of {', '.join(INTERPOLATIONS)}"
        )
    return name


def _labels(
    config: Mapping[str, Any], pretrained: Mapping[str, Any], num_classes: int, file: Path, notes: list[str]
) -> tuple[str, ...]:
    names = config.get("label_names") or pretrained.get("label_names")
    if not names:
        if num_classes:
            notes.append(
                f"it names none of its {num_classes} classes; they are called class 0, class 1, ...; give labels="
            )
        return numbered_labels(num_classes)
    if isinstance(names, Mapping):
        try:
            names = [names[key] for key in sorted(names, key=int)]
        except ValueError as error:
            raise UserError(f"{file}: `label_names` must be a list, or be named by class numbers") from error
    if len(names) != num_classes:
        raise UserError(f"{file}: `label_names` has {len(names)} names, `num_classes` is {num_classes}")
    return tuple(str(name) for name in names)


# ---------------------------------------------------------------------------------------------- arguments


_PLAIN = {
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "num_heads",
    "qkv_bias": "use_qkv_bias",
    "class_token": "use_class_token",
    "drop_path_rate": "drop_path_rate",
    "attn_drop_rate": "attention_dropout_rate",
}
"""Arguments of timm's `VisionTransformer` that only have another name here."""


def _keywords(
    target: Any, arguments: Mapping[str, Any], variant: Mapping[str, Any], file: Path, notes: list[str]
) -> dict[str, Any]:
    """Arguments of timm's `VisionTransformer` as keywords of ours.

    Raises:
        UserError: an argument is unknown, or asks for a part that the model here does not have.
    """
    left = _without_absent_parts(arguments, file, notes)
    found = {ours: left.pop(theirs) for theirs, ours in _PLAIN.items() if left.get(theirs) is not None}
    for theirs, ours in {"img_size": "image_size", "patch_size": "patch_size"}.items():
        if (value := left.pop(theirs, None)) is not None:
            found[ours] = _one_if_equal(value)
    ratio = left.pop("mlp_ratio", None)
    if ratio is not None or "width" in found:
        found["mlp_width"] = _mlp_width(found.get("width", variant.get("width", 768)), ratio, variant)
    found |= _forms(left, {**variant, **found}, file)
    known = inspect.signature(target).parameters
    foreign = [name for name, value in left.items() if value is not None] + [
        name for name in found if name not in known
    ]
    if foreign:
        raise UserError(f"{file}: `model_args.{foreign[0]}` is unknown for this model here")
    return found


def _without_absent_parts(arguments: Mapping[str, Any], file: Path, notes: list[str]) -> dict[str, Any]:
    """The arguments without those that have no effect, once they have been found to have none."""
    left = {name: value for name, value in arguments.items() if name not in _WITHOUT_EFFECT or name in _MUST_BE}
    for name, allowed in _MUST_BE.items():
        value = left.pop(name, allowed[0])
        if value not in allowed:
            raise UserError(f"{file}: `model_args.{name}` (={value!r}): only {allowed[0]!r} is known here")
    lost = [name for name in _ONLY_IN_TRAINING if left.pop(name, None)]
    if lost:
        notes.append(f"of use in training only, and not taken over: {', '.join(lost)}")
    return left


def _forms(left: dict[str, Any], sizes: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Activation, positions and pooling; what is understood is taken out of `left`."""
    found: dict[str, Any] = {}
    act = left.pop("act_layer", None) or "gelu"
    if act not in ACTIVATIONS:
        raise UserError(f"{file}: `model_args.act_layer` (={act!r}) must be one of {', '.join(ACTIVATIONS)}")
    if act != "gelu":
        found["activation"] = ACTIVATIONS[act]
    if left.pop("no_embed_class", None):
        found["positions"] = functools.partial(LearnedPositions, embed_class=False)
    pool, fc_norm = left.pop("global_pool", None), left.pop("fc_norm", None)
    if pool is not None or fc_norm is not None:
        found |= _pooling(pool or "token", fc_norm, sizes, ACTIVATIONS[act], file)
    return found


def _mlp_width(width: int, ratio: float | None, variant: Mapping[str, Any]) -> int:
    """As timm, rounded down; a ratio that the file leaves out is the architecture's."""
    if ratio is not None:
        return int(width * ratio)
    if width == variant.get("width"):
        return variant["mlp_width"]
    return math.floor(width * variant.get("mlp_width", 4) / variant.get("width", 1) + 1e-6)


def _pooling(name: str, fc_norm: bool | None, sizes: Mapping[str, Any], activation: Any, file: Path) -> dict[str, Any]:
    attention = functools.partial(
        AttentionPooling, num_heads=sizes["num_heads"], mlp_width=sizes["mlp_width"], activation=activation
    )
    pools: dict[str, Any] = {"token": ClassTokenPooling, "avg": AveragePooling, "map": attention}
    if name not in pools:
        raise UserError(f"{file}: `global_pool` (={name!r}) must be one of {', '.join(pools)} for this model here")
    # timm moves the norm behind an average unless told otherwise.
    return {"pool": pools[name], "norm_after_pooling": name == "avg" if fc_norm is None else fc_norm}
