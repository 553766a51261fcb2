"""transformers' MobileViT, MobileViTv2 and ResNet, and DeepLabv3 on the first two: `config.json` as keywords of ours.

Defaults are those of its config classes.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_types import Description, need, one_if_equal
from vitjax.inference.huggingface_parts import check_class, labels_of, size_of
from vitjax.inference.huggingface_processors import preparation_of
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.mobilevit import MobileViT, MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2, MobileViTV2Trunk
from vitjax.models.resnet import ResNet
from vitjax.tasks.segmentation import Segmentation

__all__ = ["read_mobilevit", "read_mobilevit_v2", "read_resnet"]

_FIXED: Mapping[str, tuple[Any, ...]] = {
    # Of both: what the networks here have built in.
    "patch_size": (2, [2, 2]),
    "conv_kernel_size": (3,),
    "layer_norm_eps": (1e-5,),
    "hidden_act": ("silu", "swish"),
}


_TRUNKS: Mapping[Any, tuple[Any, int]] = {MobileViT: (MobileViTTrunk, 256), MobileViTV2: (MobileViTV2Trunk, 512)}
"""Model -> its trunk, and how wide transformers makes the pyramid on it unless told otherwise."""


def read_mobilevit(config: dict[str, Any], file: Path) -> Description:
    """`MobileViTForImageClassification`, and `MobileViTModel` without a head.

    Raises:
        UserError: another class, or a value that is missing, out of range or of another network.
    """
    _check_fixed(config, file, {**_FIXED, "mlp_ratio": (2.0,), "qkv_bias": (True,)})
    widths = _numbers(config, "neck_hidden_sizes", 7, file, (16, 32, 64, 96, 128, 160, 640))
    keywords = {
        "widths": widths[:6],
        "final_width": widths[6],
        "transformer_widths": _numbers(config, "hidden_sizes", 3, file, (144, 192, 240)),
        "num_heads": need(config, "num_attention_heads", int, file, 4),
        "expansion": need(config, "expand_ratio", (int, float), file, 4.0),
        "dropout_rate": _rate(config, "classifier_dropout_prob", file, 0.1),
        "transformer_dropout_rate": _rate(config, "hidden_dropout_prob", file, 0.1),
    }
    return _describe(config, file, MobileViT, keywords, ("attention_probs_dropout_prob",))


def read_mobilevit_v2(config: dict[str, Any], file: Path) -> Description:
    """`MobileViTV2ForImageClassification`, and `MobileViTV2Model` without a head.

    Raises:
        UserError: as `read_mobilevit`.
    """
    fixed = {"expand_ratio": (2.0,), "ffn_multiplier": (2,), "base_attn_unit_dims": ([128, 192, 256],)}
    _check_fixed(config, file, {**_FIXED, **fixed})
    keywords = {
        "width_multiplier": float(need(config, "width_multiplier", (int, float), file, 1.0)),
        "depths": _numbers(config, "n_attn_blocks", 3, file, (2, 4, 3)),
    }
    return _describe(config, file, MobileViTV2, keywords, ("attn_dropout", "ffn_dropout"))


def _describe(
    config: dict[str, Any], file: Path, target: Any, keywords: dict[str, Any], in_training: tuple[str, ...]
) -> Description:
    """The rest, which both have alike."""
    name = target.__name__
    classes = (f"{name}ForImageClassification", f"{name}ForSemanticSegmentation", f"{name}Model")
    kind = check_class(config, file, classes)
    notes: list[str] = []
    labels = () if kind == classes[2] else labels_of(config, file, notes)
    if lost := [name for name in in_training if config.get(name)]:
        notes.append(f"of use in training only, and not taken over: {', '.join(lost)}")
    size = size_of(config, "image_size", 256, file)
    pair = (size, size) if isinstance(size, int) else size
    # The published files', but for the order of channels, which nobody can know then.
    usual = {"image_processor_type": "MobileViTImageProcessor", "resample": 2, "do_flip_channel_order": None}
    usual |= {"size": {"shortest_edge": min(pair) * 288 // 256}, "crop_size": {"height": pair[0], "width": pair[1]}}
    task, batches, order = preparation_of(file.parent, pair, notes, otherwise=usual)
    keywords |= {
        "num_classes": len(labels),
        "image_size": size,
        "output_stride": need(config, "output_stride", int, file, 32),
    }
    found = Description(
        target, keywords, "huggingface", task, batches, labels, notes=tuple(notes), channel_order=order
    )  # fmt: skip
    return _with_deeplab(found, config, file) if kind == classes[1] else found


def _with_deeplab(found: Description, config: dict[str, Any], file: Path) -> Description:
    """The segmentation model on the same trunk."""
    trunk, width = _TRUNKS[found.target]
    of_trunk = {name: value for name, value in found.keywords.items() if name in trunk.__dataclass_fields__}
    stride = of_trunk.pop("output_stride")
    keywords = {
        "backbone": functools.partial(trunk, **of_trunk),
        "num_classes": found.keywords["num_classes"],
        "image_size": found.keywords["image_size"],
        "output_stride": stride,
        "aspp_width": need(config, "aspp_out_channels", int, file, width),
        "rates": _numbers(config, "atrous_rates", 3, file, (6, 12, 18)),
        "dropout_rate": _rate(config, "classifier_dropout_prob", file, 0.1),
    }
    task = Segmentation(mean=found.task.mean, std=found.task.std)
    seen = "class maps are of the prepared picture, stretched to the original's size: of the middle if it is cropped"
    return dataclasses.replace(found, target=DeepLabV3, keywords=keywords, task=task, notes=(*found.notes, seen))


def read_resnet(config: dict[str, Any], file: Path) -> Description:
    """`ResNetForImageClassification` with bottlenecks, and `ResNetModel` without a head.

    Raises:
        UserError: as `read_mobilevit`.
    """
    fixed = {"hidden_act": ("relu",), "downsample_in_first_stage": (False,), "downsample_in_bottleneck": (False,)}
    _check_fixed(config, file, {**fixed, "layer_type": ("bottleneck",)})
    kind = check_class(config, file, ("ResNetForImageClassification", "ResNetModel"))
    notes: list[str] = []
    labels = labels_of(config, file, notes) if kind == "ResNetForImageClassification" else ()
    width = need(config, "embedding_size", int, file, 64)
    hidden = _numbers(config, "hidden_sizes", 4, file, (256, 512, 1024, 2048))
    if hidden != tuple(4 * width * 2**stage for stage in range(4)):
        raise UserError(f"{file}: `hidden_sizes` (={hidden}) must begin with 4 `embedding_size` (={width}) and double")
    usual = {"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 0.875}
    usual |= {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
    task, batches, order = preparation_of(file.parent, None, notes, otherwise=usual)
    keywords = {
        "num_classes": len(labels),
        "image_size": one_if_equal(batches.transforms[-1].size),
        "depths": _numbers(config, "depths", 4, file, (3, 4, 6, 3)),
        "width": width,
    }
    return Description(
        ResNet, keywords, "huggingface", task, batches, labels, notes=tuple(notes), channel_order=order
    )  # fmt: skip


def _check_fixed(config: Mapping[str, Any], file: Path, fixed: Mapping[str, tuple[Any, ...]]) -> None:
    for name, allowed in fixed.items():
        value = config.get(name, allowed[0])
        if value not in allowed:
            raise UserError(f"{file}: `{name}` (={value!r}): only {allowed[0]!r} is known here")


def _numbers(config: Mapping[str, Any], key: str, count: int, file: Path, default: tuple[int, ...]) -> tuple[int, ...]:
    values = need(config, key, (list, tuple), file, default)
    if len(values) != count or not all(isinstance(value, int) and value > 0 for value in values):
        raise UserError(f"{file}: `{key}` (={values!r}) must be {count} positive whole numbers")
    return tuple(values)


def _rate(config: Mapping[str, Any], key: str, file: Path, default: float) -> float:
    return float(need(config, key, (int, float), file, default))
