"""transformers' `config.json` and preprocessing file, read: by the model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitjax.errors import UserError
from vitjax.inference.foreign_huggingface_detr import read_detr
from vitjax.inference.foreign_huggingface_mobile import read_mobilevit, read_mobilevit_v2, read_resnet
from vitjax.inference.foreign_huggingface_siglip2 import read_siglip2
from vitjax.inference.foreign_huggingface_vit import read_vit
from vitjax.inference.foreign_types import Description, need

__all__ = ["read_huggingface"]


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


_MODELS: Mapping[str, Callable[[dict[str, Any], Path], Description]] = {
    "vit": read_vit,
    "mobilevit": read_mobilevit,
    "mobilevitv2": read_mobilevit_v2,
    "resnet": read_resnet,
    "detr": read_detr,
    "siglip2": read_siglip2,
    "siglip2_vision_model": read_siglip2,
}
"""`model_type` -> what reads it."""
