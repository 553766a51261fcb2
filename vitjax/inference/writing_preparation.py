"""The preparation of pictures in the words of timm's `pretrained_cfg` and of transformers' image processors."""

import logging
from collections.abc import Mapping
from typing import Any

from vitjax.data.transforms import CentreCrop, Resize, ResizeShorterSide
from vitjax.inference.channel_order import channel_order_of, without_reversal
from vitjax.inference.evaluation_modes import CropOrPad, evaluation_mode
from vitjax.inference.foreign_types import Holding, demand
from vitjax.inference.huggingface_processors import RESAMPLING

__all__ = ["demand_rgb", "labels_of", "processor_of", "timm_config"]

_logger = logging.getLogger("vitjax")


def timm_config(
    bundle: Holding,
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    num_features: int,
    fixed_input_size: bool,
    first_conv: str,
    classifier: str,
) -> dict[str, Any]:
    """The `config.json` of timm.

    Raises:
        UserError: timm has no words for the preparation.
    """
    demand_rgb(bundle)
    transforms = bundle.batches.transforms
    mode = evaluation_mode(transforms)
    _say_of_halves(transforms[-1], down=False)
    return {
        "architecture": architecture,
        "num_classes": bundle.module.num_classes,
        "num_features": num_features,
        "global_pool": arguments.get("global_pool", "avg"),
        "label_names": list(bundle.labels),
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "tag": "vitjax",
            "custom_load": False,
            "input_size": [3, *mode.size],
            "fixed_input_size": fixed_input_size,
            "interpolation": mode.interpolation,
            "crop_pct": mode.crop_share,
            "crop_mode": mode.mode,
            "mean": list(bundle.task.mean),
            "std": list(bundle.task.std),
            "num_classes": bundle.module.num_classes,
            "pool_size": None,
            "first_conv": first_conv,
            "classifier": classifier,
        },
    }


def demand_rgb(bundle: Holding) -> None:
    """Raises `UserError` for weights that expect channels in the other order than timm feeds them in."""
    demand(
        channel_order_of(getattr(bundle.batches, "transforms", ())) == "rgb",
        "its weights expect blue, green, red, and timm feeds red, green, blue; format='huggingface' has a word for it",
    )


def labels_of(bundle: Holding) -> dict[str, Any]:
    """Names of classes as transformers writes them."""
    return {
        "id2label": {str(number): label for number, label in enumerate(bundle.labels)},
        "label2id": {label: number for number, label in enumerate(bundle.labels)},
    }


def processor_of(bundle: Holding, size: tuple[int, int]) -> dict[str, Any]:
    """The `preprocessor_config.json` of transformers.

    Args:
        bundle: with the preparation.
        size: rows and columns that the model takes.

    Raises:
        UserError: no image processor does the same.
    """
    transforms = without_reversal(bundle.batches.transforms)
    kinds = tuple(type(transform) for transform in transforms)
    crops = (CentreCrop, CropOrPad)
    known = kinds == (Resize,) or (len(kinds) == 2 and kinds[0] in (Resize, ResizeShorterSide) and kinds[1] in crops)
    demand(known, f"the preparation {tuple(transforms)} has no words there")
    resize = transforms[0]
    numbers = {name: number for number, name in RESAMPLING.items()}
    asked = {"shortest_edge": resize.size} if kinds[0] is ResizeShorterSide else _sides(resize.size)
    made = transforms[-1].size
    _say_of_halves(transforms[-1], down=True)
    demand(_sides(made) == _sides(size), f"the preparation makes {made} px, the model takes {size}")
    words = {
        "do_resize": True,
        "size": asked,
        "resample": numbers[resize.interpolation],
        "do_center_crop": len(transforms) == 2,
        **({"crop_size": _sides(made)} if len(transforms) == 2 else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
    }
    plain = tuple(bundle.task.mean) == (0, 0, 0) and tuple(bundle.task.std) == (1, 1, 1)
    if plain or channel_order_of(bundle.batches.transforms) == "bgr":
        demand(plain, "its processor that turns channels round knows no mean and deviation")
        turned = channel_order_of(bundle.batches.transforms) == "bgr"
        return {"image_processor_type": "MobileViTImageProcessor", **words, "do_flip_channel_order": turned}
    # The slow and fast forms of the other both crop; ViTImageProcessor does not.
    kind = "ViTImageProcessor" if len(transforms) == 1 else "BitImageProcessor"
    numbers = {"image_mean": list(bundle.task.mean), "image_std": list(bundle.task.std)}
    return {"image_processor_type": kind, **words, "do_normalize": True, **numbers}


def _say_of_halves(crop: Any, *, down: bool) -> None:
    """A crop that leaves an odd rest is one pixel elsewhere in the other library."""
    if isinstance(crop, CentreCrop | CropOrPad) and getattr(crop, "halves_down", False) != down:
        _logger.warning("the format's crop lies one pixel beside this one's where the rest of a picture is odd")


def _sides(size: int | tuple[int, int]) -> dict[str, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    return {"height": int(rows), "width": int(columns)}
