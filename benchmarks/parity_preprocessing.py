"""Pixels as a model gets them beside those of timm's and transformers' own preprocessing, from the same folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PREPROCESSING", "huggingface_pixels", "picture", "pixel_difference", "prepared", "timm_pixels"]

_SIDE = 32


def picture(rows: int = 61, columns: int = 90) -> np.ndarray:
    """Slopes, edges and noise, uint8 `[rows, columns, 3]`: odd sides, so that roundings show."""
    y, x = np.mgrid[:rows, :columns]
    slopes = np.stack([255 * y / rows, 255 * x / columns, 255 * ((x // 7 + y // 5) % 2)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 40, slopes.shape)
    return np.clip(slopes + noise, 0, 255).astype(np.uint8)


def prepared(bundle: Any, image: np.ndarray) -> np.ndarray:
    """What the bundle's model would get, `[H, W, 3]`."""
    from vitjax.data.transforms import apply_transforms

    pixels = apply_transforms(bundle.batches.transforms, image, np.random.default_rng(0))
    return np.asarray(bundle.task.inputs({"image": pixels[None]})["images"])[0]


def timm_pixels(model: Any) -> np.ndarray:
    """What timm makes of `picture()` for evaluation."""
    import timm
    from PIL import Image

    config = timm.data.resolve_model_data_config(model)
    transform: Any = timm.data.create_transform(**config, is_training=False)
    return transform(Image.fromarray(picture())).numpy().transpose(1, 2, 0)


def huggingface_pixels(folder: Path) -> np.ndarray:
    """What the folder's image processor makes of `picture()`."""
    import transformers
    from PIL import Image

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return np.asarray(processor(Image.fromarray(picture()))["pixel_values"][0]).transpose(1, 2, 0)


def pixel_difference(bundle: Any, theirs: np.ndarray) -> float:
    """Largest difference to their pixels, in grey levels of 0 to 255; `inf` where the shapes differ."""
    ours = prepared(bundle, picture())
    return (
        float(np.abs((ours - theirs) * np.asarray(bundle.task.std)).max() * 255)
        if ours.shape == theirs.shape
        else np.inf
    )


def _timm(folder: Path, data: dict[str, Any]) -> np.ndarray:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=2, img_size=_SIDE, patch_size=8, embed_dim=8, depth=1, num_heads=2
    )
    timm.models.save_for_hf(model, folder, model_config={"label_names": ["a", "b"]}, data_config=data)
    return timm_pixels(timm.create_model(f"local-dir:{folder}", pretrained=True))


def _huggingface(folder: Path, processor: str, settings: dict[str, Any]) -> np.ndarray:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=_SIDE, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    getattr(transformers, processor)(**settings).save_pretrained(folder)
    return huggingface_pixels(folder)


_SQUARE = {"height": _SIDE, "width": _SIDE}

PREPROCESSING: dict[str, Callable[[Path], np.ndarray]] = {
    "timm, shorter side and centre crop, bicubic": partial(_timm, data={"crop_pct": 0.9, "interpolation": "bicubic"}),
    "timm, squash, bilinear": partial(
        _timm, data={"crop_mode": "squash", "crop_pct": 0.8, "interpolation": "bilinear"}
    ),
    "timm, border, own mean and std": partial(
        _timm, data={"crop_mode": "border", "mean": (0.2, 0.4, 0.6), "std": (0.3, 0.2, 0.1)}
    ),
    "huggingface, ViTImageProcessor": partial(_huggingface, processor="ViTImageProcessor", settings={"size": _SQUARE}),
    "huggingface, shorter side and crop": partial(
        _huggingface,
        processor="BitImageProcessor",
        settings={"size": {"shortest_edge": 40}, "resample": 3, "do_center_crop": True, "crop_size": _SQUARE},
    ),
}
"""Case -> writes a folder with the other library, and returns what that library makes of `picture()`."""
