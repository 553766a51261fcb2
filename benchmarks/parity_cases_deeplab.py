"""DeepLabv3 beside transformers', on small MobileViTs of both versions."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.comparison import Case, Stages, our_stages, shapes_of
from vitjax.inference.foreign_files import merge_settings
from vitjax.models.deeplab import DeepLabV3
from vitjax.models.deeplab_tables import LAYOUTS
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk

__all__ = ["DEEPLAB_CASES", "LAYOUT", "small"]

LAYOUT = {layout.name: layout for layout in LAYOUTS}

_V1: dict[str, Any] = {
    "widths": (8, 8, 16, 24, 24, 32),
    "transformer_widths": (16, 24, 32),
    "depths": (1, 1, 1),
    "expansion": 2,
    "transformer_dropout_rate": 0.0,
}
_V2: dict[str, Any] = {"width_multiplier": 0.25, "depths": (1, 1, 1)}
_HEAD: dict[str, Any] = {"num_classes": 5, "aspp_width": 12, "rates": (1, 2, 3), "dropout_rate": 0.0}


def small(trunk: type, *, layout: str = "huggingface", **settings: Any) -> DeepLabV3:
    """A DeepLabv3 on a small trunk, as the layout computes it."""
    sizes = {MobileViTTrunk: _V1, MobileViTV2Trunk: _V2}[trunk]
    keywords = {"backbone": partial(trunk, **sizes), **_HEAD, **settings}
    return DeepLabV3(**merge_settings(LAYOUT[layout].settings, keywords))


def _huggingface(trunk: type, output_stride: int) -> Any:
    """The network of transformers; version 1's depths cannot be chosen, and layers are taken away."""
    import transformers

    shared = {
        "num_labels": _HEAD["num_classes"],
        "aspp_out_channels": _HEAD["aspp_width"],
        "atrous_rates": list(_HEAD["rates"]),
        "aspp_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.0,
        "output_stride": output_stride,
    }
    if trunk is MobileViTV2Trunk:
        config = transformers.MobileViTV2Config(
            width_multiplier=_V2["width_multiplier"], n_attn_blocks=list(_V2["depths"]), **shared
        )
        return transformers.MobileViTV2ForSemanticSegmentation(config)
    config = transformers.MobileViTConfig(
        hidden_sizes=list(_V1["transformer_widths"]),
        neck_hidden_sizes=[*_V1["widths"], 4 * _V1["widths"][-1]],
        expand_ratio=float(_V1["expansion"]),
        hidden_dropout_prob=0.0,
        **shared,
    )
    model = transformers.MobileViTForSemanticSegmentation(config)
    for stage, depth in zip(model.mobilevit.encoder.layer[2:], _V1["depths"], strict=True):
        stage.transformer.layer = stage.transformer.layer[:depth]
    return model


def _their_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    found: Stages = {}
    body = getattr(model, model.base_model_prefix)
    parts = {"stem_output": body.conv_stem, "pyramid": model.segmentation_head.aspp.project}
    parts |= {f"stage_{number}": stage for number, stage in enumerate(body.encoder.layer, start=1)}
    handles = []
    for name, part in parts.items():

        def note(_: Any, __: Any, output: Any, name: str = name) -> None:
            found[name] = output.permute(0, 2, 3, 1)

        handles.append(part.register_forward_hook(note))
    logits = model(inputs["images"].permute(0, 3, 1, 2)).logits
    for handle in handles:
        handle.remove()
    return found | {"logits": logits.permute(0, 2, 3, 1)}


def _our_stages(module: DeepLabV3, training: bool, variables: Any, inputs: Mapping[str, Any]) -> Stages:
    found = our_stages(module, variables, inputs["images"], train=training)
    return found | {"logits": found["logits"]["logits"]}


def _draw(seed: int, *, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(4, *size, 3)).astype(np.float32)}


def _case(
    name: str,
    *,
    trunk: type = MobileViTTrunk,
    size: tuple[int, int] = (64, 96),
    output_stride: int = 16,
    training: bool = False,
) -> Case:
    module, draw = small(trunk, output_stride=output_stride), partial(_draw, size=size)
    return Case(
        name=name,
        reference=_huggingface(trunk, output_stride).eval(),
        reference_stages=_their_stages,
        inputs=draw,
        variables=shapes_of(module, draw(0)["images"]),
        stages=partial(_our_stages, module, training),
        table=LAYOUT["huggingface"].rules(module),
        training=training,
    )


_CASES: dict[str, Callable[[str], Case]] = {
    "DeepLabv3 on MobileViT vs Hugging Face": partial(_case, output_stride=8),
    "DeepLabv3 on MobileViT vs Hugging Face, odd maps": partial(_case, size=(40, 72)),
    "DeepLabv3 on MobileViT vs Hugging Face, training": partial(_case, training=True),
    # transformers cuts the last row and column off odd maps of version 2: only even ones are comparable.
    "DeepLabv3 on MobileViTv2 vs Hugging Face": partial(_case, trunk=MobileViTV2Trunk, output_stride=8),
    "DeepLabv3 on MobileViTv2 vs Hugging Face, training": partial(_case, trunk=MobileViTV2Trunk, training=True),
}

DEEPLAB_CASES = {name: cache(partial(make, name)) for name, make in _CASES.items()}
"""Name -> what makes the case, once."""
