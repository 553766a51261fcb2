"""Arguments of timm's mobile networks and `ResNet` as keywords of ours.

timm's configs of `ByobNet` (MobileViT, v1 and v2) hold blocks that no JSON can say, so the architecture's name decides
of the sizes; `EfficientVitMsra` and `ResNet` have arguments for theirs.
"""

from collections.abc import Mapping
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_types import Asked, left_after, one_if_equal, refuse_unknown

__all__ = ["read_efficientvit", "read_mobilevit", "read_resnet"]

_WITHOUT_EFFECT = ("num_classes", "img_size", "zero_init_last", "scriptable", "exportable", "pretrained_strict")
_ONLY_IN_TRAINING = ("drop_rate", "drop_path_rate", "drop_block_rate", "drop_block_size")
_EVERYWHERE: Mapping[str, tuple[Any, ...]] = {"in_chans": (3, None), "global_pool": ("avg", "", None)}
_BYOB: Mapping[str, tuple[Any, ...]] = {
    **_EVERYWHERE,
    # timm dilates other convolutions than the authors do.
    "output_stride": (32, None),
    "width_factor": (1.0, None),
    "act_layer": ("silu", None),
    "norm_layer": ("batchnorm", None),
    "aa_layer": ("", None),
    "attn_layer": (None,),
    "self_attn_layer": (None,),
    "stem_type": ("3x3", None),
    "stem_pool": ("", None),
    "downsample": ("", None),
    "head_type": ("classifier", None),
    "head_hidden_size": (None,),
    "fixed_input_size": (False, None),
}


def read_mobilevit(asked: Asked) -> dict[str, Any]:
    """Arguments of `ByobNet` for MobileViT and MobileViTv2; the sizes are the architecture's.

    Raises:
        UserError: an argument is unknown, or asks for another network.
    """
    refuse_unknown(asked, list(left_after(asked, _WITHOUT_EFFECT, _BYOB, _ONLY_IN_TRAINING)))
    return {"image_size": one_if_equal(asked.size)}


_EFFICIENTVIT = {"embed_dim": "widths", "depth": "depths", "num_heads": "num_heads", "kernels": "query_kernels"}
"""Arguments of `EfficientVitMsra` that only have another name here."""

_ONE_FOR_ALL = {"key_dim": "key_size", "window_size": "window_size"}
"""One number per stage there, one for all stages here."""

_DOWN = (("", 1), ("subsample", 2), ("subsample", 2))


def read_efficientvit(asked: Asked) -> dict[str, Any]:
    """Arguments of `EfficientVitMsra`.

    Raises:
        UserError: an argument is unknown, or asks for a part that the model here does not have.
    """
    left = left_after(asked, _WITHOUT_EFFECT, _EVERYWHERE, _ONLY_IN_TRAINING)
    found: dict[str, Any] = {"image_size": one_if_equal(asked.size)}
    for theirs, ours in _EFFICIENTVIT.items():
        if theirs in left:
            found[ours] = _numbers(asked, theirs, left.pop(theirs))
    for theirs, ours in _ONE_FOR_ALL.items():
        if theirs not in left:
            continue
        numbers = _numbers(asked, theirs, left.pop(theirs))
        if len(set(numbers)) != 1:
            raise UserError(f"{asked.file}: `model_args.{theirs}` (={numbers}) must be one number for all stages")
        found[ours] = numbers[0]
    down = left.pop("down_ops", _DOWN)
    if tuple(tuple(step) for step in down) != _DOWN:
        raise UserError(f"{asked.file}: `model_args.down_ops` (={down}): only {_DOWN} is known here")
    refuse_unknown(asked, list(left))
    return found


_RESNET: Mapping[str, tuple[Any, ...]] = {
    **_EVERYWHERE,
    "cardinality": (1, None),
    "base_width": (64, None),
    # A plain stem has 64 channels there, and the first stage as many.
    "channels": ((64, 128, 256, 512), [64, 128, 256, 512], None),
    "stem_width": (64, None),
    "stem_type": ("", None),
    "replace_stem_pool": (False, None),
    "block_reduce_first": (1, None),
    "down_kernel_size": (1, None),
    "avg_down": (False, None),
    "act_layer": ("relu", None),
    "norm_layer": ("batchnorm", "batchnorm2d", None),
    "aa_layer": (None,),
    "block_args": (None, {}),
}


def read_resnet(asked: Asked) -> dict[str, Any]:
    """Arguments of `ResNet` with bottlenecks.

    Raises:
        UserError: as `read_efficientvit`.
    """
    left = left_after(asked, _WITHOUT_EFFECT, _RESNET, _ONLY_IN_TRAINING)
    found: dict[str, Any] = {"image_size": one_if_equal(asked.size)}
    if "layers" in left:
        found["depths"] = _numbers(asked, "layers", left.pop("layers"))
    if "output_stride" in left:
        found["output_stride"] = left.pop("output_stride")
    refuse_unknown(asked, list(left))
    return found


def _numbers(asked: Asked, name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(number, int) for number in value):
        raise UserError(f"{asked.file}: `model_args.{name}` (={value!r}) must be whole numbers")
    return tuple(value)
