"""timm's `config.json`: architecture, preprocessing, labels; what `model_args` mean, each family's reader says.

What timm's other keys mean is in its `PretrainedCfg` and `_parse_model_cfg`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import INTERPOLATIONS
from vitjax.errors import UserError
from vitjax.inference.evaluation_modes import EvaluationMode, transforms_of
from vitjax.inference.foreign_timm_mobile import read_efficientvit, read_mobilevit, read_resnet
from vitjax.inference.foreign_timm_naflex import read_naflex
from vitjax.inference.foreign_timm_vit import ALIASES, read_vit
from vitjax.inference.foreign_types import Arrays, Asked, Description, need
from vitjax.inference.naflex_preparation import naflex_preparation
from vitjax.inference.preparation import numbered_labels
from vitjax.models import list_models, variant_of
from vitjax.tasks.classification import Classification

__all__ = ["READERS", "read_timm"]

READERS: Mapping[str, Callable[[Asked], dict[str, Any]]] = {
    "vit_": read_vit,
    "deit_": read_vit,
    "flexivit_": read_vit,
    "mobilevit_": read_mobilevit,
    "mobilevitv2_": read_mobilevit,
    "efficientvit_m": read_efficientvit,
    "resnet": read_resnet,
    "naflexvit_": read_naflex,
}
"""Beginning of an architecture's name -> from its arguments to keywords of the module."""


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
    target, keywords, aliased, read = _find(architecture, file)
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
    keywords = keywords | read(Asked(target, arguments, keywords, size, file, notes))
    keywords["num_classes"] = num_classes
    mean, std = (_triple(pretrained, key, file) for key in ("mean", "std"))
    mode = EvaluationMode(
        mode=pretrained.get("crop_mode") or "center",
        size=size,
        crop_share=float(need(pretrained, "crop_pct", (int, float), file, 0.875)),
        interpolation=_interpolation(pretrained, file),
    )
    prepare = next((make for start, make in _PREPARATIONS.items() if architecture.startswith(start)), _whole_pictures)
    try:
        task, batches = prepare(mode, mean, std, keywords)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    labels = _labels(config, pretrained, num_classes, file, notes)
    return Description(
        target, keywords, "timm", task, batches, labels, rename=_unwrap, notes=tuple(notes)
    )  # fmt: skip


def _whole_pictures(
    mode: EvaluationMode, mean: tuple[float, ...], std: tuple[float, ...], keywords: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Pictures of one size."""
    return Classification(mean=mean, std=std), ImageBatches(
        source=None, batch_size=16, transforms=transforms_of(mode, mean)
    )


def _packed_pictures(
    mode: EvaluationMode, mean: tuple[float, ...], std: tuple[float, ...], keywords: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Pictures of any size in rows, of as many patches as the file's size has; timm's evaluation crops nothing."""
    patch_size = keywords["patch_size"]
    tokens = (mode.size[0] // patch_size) * (mode.size[1] // patch_size)
    return naflex_preparation(
        tokens=tokens, patch_size=patch_size, mean=mean, std=std, interpolation=mode.interpolation
    )


_PREPARATIONS: Mapping[str, Callable[..., tuple[Any, Any]]] = {"naflexvit_": _packed_pictures}
"""Beginning of an architecture's name -> how its pictures are prepared, where it is not `_whole_pictures`."""


def _top(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What lies at the top of today's form, from the flat one."""
    names = {"num_classes": "num_classes", "labels": "label_names", "label_names": "label_names"}
    return {new: flat[old] for old, new in names.items() if old in flat}


def _find(architecture: str, file: Path) -> tuple[Any, dict[str, Any], Mapping[str, Any], Callable[[Asked], Any]]:
    """What makes the module, the name's own keywords and arguments, and what reads the file's arguments."""
    name, aliased = ALIASES.get(architecture, (architecture, {}))
    readers = [read for start, read in READERS.items() if name.startswith(start)]
    known = [name for name in list_models() if name.startswith(tuple(READERS))]
    if not readers or name not in known:
        close = get_close_matches(architecture, [*known, *ALIASES], n=2)
        hint = f"the nearest known: {', '.join(close)}" if close else "vitjax.list_models() has all that are known"
        raise UserError(f"{file}: `architecture` (={architecture!r}) is unknown here; {hint}")
    return *variant_of(name), aliased, readers[0]


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
