"""transformers' `config.json` and preprocessing file, read: model, numerics, preprocessing, labels."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitjax.data.batching import ImageBatches
from vitjax.data.transforms import Resize, ResizeShorterSide
from vitjax.errors import UserError
from vitjax.inference.evaluation_modes import CropOrPad
from vitjax.inference.foreign_types import Arrays, Description, need
from vitjax.inference.preparation import numbered_labels
from vitjax.models.vit import ViT
from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.tasks.classification import Classification

__all__ = ["ACTIVATIONS", "RESAMPLING", "read_huggingface"]

ACTIVATIONS = {"gelu": gelu, "gelu_pytorch_tanh": gelu_tanh, "gelu_python": gelu, "gelu_new": gelu_tanh}
"""transformers' `hidden_act` -> ours; the first name of a function is the one that is written."""

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""`resample`, a number of `PIL.Image.Resampling`, -> ours."""

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def read_huggingface(config: dict[str, Any], file: Path) -> Description:
    """What transformers' `config.json`, and the preprocessing file beside it, say.

    Args:
        config: the file's content.
        file: its path.

    Raises:
        UserError: an unknown model or class, or a value that is missing or out of range.
    """
    kind = need(config, "model_type", str, file)
    if kind not in _MODELS:
        raise UserError(f"{file}: `model_type` (={kind!r}) is unknown here; known: {', '.join(_MODELS)}")
    return _MODELS[kind](config, file)


def _read_vit(config: dict[str, Any], file: Path) -> Description:
    """`ViTForImageClassification`, and `ViTModel` without a head; defaults are `ViTConfig`'s."""
    known = ("ViTForImageClassification", "ViTModel")
    classes = config.get("architectures") or [known[0]]
    if classes[0] not in known:
        raise UserError(f"{file}: `architectures` (={classes}) must be one of {', '.join(known)}")
    if need(config, "num_channels", int, file, 3) != 3:
        raise UserError(f"{file}: `num_channels` (={config['num_channels']}); pictures have 3 here")
    act = need(config, "hidden_act", str, file, "gelu")
    if act not in ACTIVATIONS:
        raise UserError(f"{file}: `hidden_act` (={act!r}) must be one of {', '.join(ACTIVATIONS)}")
    notes: list[str] = []
    labels = _labels(config, file, notes) if classes[0] == known[0] else ()
    keywords = {
        "num_classes": len(labels),
        "image_size": _size(config, "image_size", 224, file),
        "patch_size": _size(config, "patch_size", 16, file),
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
    task, batches = _preparation(file.parent, pair, notes)
    pooler = functools.partial(_pooler, act=config.get("pooler_act", "tanh"), file=file)
    return Description(
        ViT, keywords, "huggingface", task, batches, labels, from_arrays=pooler, notes=tuple(notes)
    )  # fmt: skip


def _pooler(arrays: Arrays, *, act: str, file: Path) -> dict[str, Any]:
    """`ViTModel` may have the dense layer that the original's pre-training has in front of its head."""
    kernel = arrays.get("vit.pooler.dense.weight")
    if kernel is None:
        return {}
    if act != "tanh":
        raise UserError(f"{file}: `pooler_act` (={act!r}) must be 'tanh'")
    return {"representation_size": int(kernel.shape[0])}


_MODELS: Mapping[str, Callable[[dict[str, Any], Path], Description]] = {"vit": _read_vit}
"""`model_type` -> what reads it."""


def _size(config: Mapping[str, Any], key: str, default: int, file: Path) -> int | tuple[int, int]:
    size = need(config, key, (int, list, tuple), file, default)
    if isinstance(size, int):
        return size
    if len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise UserError(f"{file}: `{key}` (={size}) must be a side or (rows, columns)")
    return size[0] if size[0] == size[1] else (size[0], size[1])


def _labels(config: Mapping[str, Any], file: Path, notes: list[str]) -> tuple[str, ...]:
    """`id2label`, in the order of its numbers; transformers has two classes where a file says nothing."""
    names = config.get("id2label")
    if names is None:
        count = need(config, "num_labels", int, file, 2)
        notes.append(f"it names none of its {count} classes; they are called class 0, class 1, ...; give labels=")
        return numbered_labels(count)
    if not isinstance(names, Mapping) or sorted(names, key=str) != sorted((str(n) for n in range(len(names))), key=str):
        raise UserError(f"{file}: `id2label` must name the classes 0 to n - 1, found {', '.join(list(names)[:8])}")
    if config.get("num_labels") not in (None, len(names)):
        raise UserError(f"{file}: `id2label` has {len(names)} names, `num_labels` is {config['num_labels']}")
    return tuple(str(names[str(number)]) for number in range(len(names)))


# ---------------------------------------------------------------------------------------- preprocessing


def _preparation(folder: Path, size: tuple[int, int], notes: list[str]) -> tuple[Any, Any]:
    """Task and batches from the image processor's file; without one, what `ViTImageProcessor` does by itself.

    Raises:
        UserError: the file is damaged, or says something that cannot be done.
    """
    present = [folder / name for name in _PROCESSORS if (folder / name).is_file()]
    processor: dict[str, Any] = {}
    file = folder / _PROCESSORS[0]
    if present:
        file = present[0]
        try:
            processor = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file}: the file is damaged, it is no JSON: {error}") from error
        if not isinstance(processor, dict):
            raise UserError(f"{file}: expected a JSON object, found a {type(processor).__name__}")
        processor = processor.get("image_processor", processor)
    else:
        notes.append(
            f"there is no {_PROCESSORS[0]} beside it; pictures are stretched to {size[0]}x{size[1]} px, bilinear, mean "
            "and std 0.5, as transformers' ViTImageProcessor does by itself"
        )
    transforms = _transforms(processor, size, file, notes)
    mean, std = _statistics(processor, file)
    try:
        return Classification(mean=mean, std=std), ImageBatches(source=None, transforms=transforms, batch_size=16)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _transforms(processor: Mapping[str, Any], size: tuple[int, int], file: Path, notes: list[str]) -> tuple[Any, ...]:
    number = need(processor, "resample", int, file, 2)
    if number not in RESAMPLING:
        raise UserError(f"{file}: `resample` (={number}) must be one of {RESAMPLING}")
    asked = processor.get("size", {"height": size[0], "width": size[1]})
    if isinstance(asked, int):
        asked = {"height": asked, "width": asked}
    found: list[Any] = []
    if not need(processor, "do_resize", bool, file, True):
        notes.append(f"{file.name} says `do_resize`: false; pictures are stretched to {size[0]}x{size[1]} px")
        found.append(Resize(size, RESAMPLING[number]))
        made = size
    elif set(asked) == {"shortest_edge"}:
        found.append(ResizeShorterSide(int(asked["shortest_edge"]), RESAMPLING[number]))
        made = None
    elif set(asked) == {"height", "width"}:
        made = (int(asked["height"]), int(asked["width"]))
        found.append(Resize(made, RESAMPLING[number]))
    else:
        raise UserError(f"{file}: `size` (={asked}) must have height and width, or shortest_edge")
    if need(processor, "do_center_crop", bool, file, False):
        crop = processor.get("crop_size", {"height": size[0], "width": size[1]})
        made = (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))
        found.append(CropOrPad(made, halves_down=True))
    if made is None:
        raise UserError(f"{file}: `size` (={asked}) without `do_center_crop` leaves pictures of different shapes")
    if made != size:
        notes.append(
            f"{file.name} makes pictures of {made[0]}x{made[1]} px, config.json says `image_size` {size[0]}x{size[1]}; "
            "positions are resampled for every batch; give image_size= to settle it"
        )
    return tuple(found)


def _statistics(processor: Mapping[str, Any], file: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in units of the brightest value, whatever `rescale_factor` the file multiplies by."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if need(processor, "do_normalize", bool, file, True):
        mean, std = (_triple(processor, key, file) for key in ("image_mean", "image_std"))
        if min(std) <= 0:
            raise UserError(f"{file}: `image_std` (={std}) must be positive")
    factor = 1.0
    if need(processor, "do_rescale", bool, file, True):
        factor = float(need(processor, "rescale_factor", (int, float), file, 1 / 255))
    brightest = 255 * factor
    if abs(brightest - 1) < 1e-6:
        return mean, std
    return tuple(value / brightest for value in mean), tuple(value / brightest for value in std)


def _triple(processor: Mapping[str, Any], key: str, file: Path) -> tuple[float, ...]:
    values = processor.get(key, (0.5, 0.5, 0.5))
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise UserError(f"{file}: `{key}` (={values!r}) must be three numbers, one per channel")
    return tuple(float(value) for value in values)
