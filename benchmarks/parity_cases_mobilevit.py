"""MobileViT beside timm's and transformers', small ones with one layer or two in a block, and timm's own three."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.comparison import Case, Stages, our_stages, shapes_of
from vitjax.models.mobilevit import VARIANTS, MobileViT
from vitjax.models.mobilevit_tables import LAYOUTS

__all__ = ["MOBILEVIT_CASES", "MOBILEVIT_VARIANTS", "SMALL", "small_huggingface", "small_timm"]

_LAYOUTS = {layout.name: layout for layout in LAYOUTS}

SMALL: dict[str, Any] = {
    "num_classes": 7,
    "widths": (8, 8, 16, 24, 24, 32),
    "transformer_widths": (16, 24, 32),
    "depths": (2, 1, 1),
    "expansion": 2,
    "final_width": 40,
    "dropout_rate": 0.0,
    "transformer_dropout_rate": 0.0,
}
"""Keywords of the model that all small cases compare."""


def _draw(seed: int, *, size: tuple[int, int], batch: int = 2) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(batch, *size, 3)).astype(np.float32)}


def _noted(model: Any, stem: Any, stages: Any, inputs: Mapping[str, Any]) -> tuple[Stages, Any]:
    """What the stem and each stage give, channels last, and the model's outputs."""
    found: Stages = {}
    handles = []
    for name, module in (("stem_output", stem), *((f"stage_{n}", stage) for n, stage in enumerate(stages, start=1))):

        def note(_: Any, __: Any, output: Any, name: str = name) -> None:
            found[name] = output.permute(0, 2, 3, 1)

        handles.append(module.register_forward_hook(note))
    outputs = model(inputs["images"].permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()
    return found, outputs


def _timm_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    found, logits = _noted(model, model.stem, model.stages, inputs)
    return found | {"logits": logits}


def _huggingface_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    found, outputs = _noted(model, model.mobilevit.conv_stem, model.mobilevit.encoder.layer, inputs)
    return found | {"logits": outputs.logits}


def _case(
    name: str,
    layout: str,
    reference: Any,
    *,
    stages: Callable[..., Stages],
    module: MobileViT,
    size: tuple[int, int],
    batch: int = 2,
    training: bool = False,
) -> Case:
    draw = partial(_draw, size=size, batch=batch)
    return Case(
        name=name,
        reference=reference.eval(),
        reference_stages=stages,
        inputs=draw,
        variables=shapes_of(module, draw(0)["images"]),
        stages=lambda variables, inputs: our_stages(module, variables, inputs["images"], train=training),
        table=_LAYOUTS[layout].rules(module),
        training=training,
    )


def small_timm(output_stride: int = 32) -> Any:
    """The network of timm at the sizes of `SMALL`."""
    from timm.models.byobnet import ByobNet, ByoModelCfg
    from timm.models.mobilevit import _inverted_residual_block, _mobilevit_block

    stem, first, second, *last = SMALL["widths"]
    ratio = float(SMALL["expansion"])
    blocks = zip(last, SMALL["transformer_widths"], SMALL["depths"], strict=True)
    config = ByoModelCfg(
        blocks=(
            _inverted_residual_block(d=1, c=first, s=1, br=ratio),
            _inverted_residual_block(d=3, c=second, s=2, br=ratio),
            *(_mobilevit_block(1, c, 2, width, depth, 2, ratio) for c, width, depth in blocks),
        ),
        stem_chs=stem,
        stem_type="3x3",
        stem_pool="",
        downsample="",
        act_layer="silu",
        num_features=SMALL["final_width"],
    )
    return ByobNet(config, num_classes=SMALL["num_classes"], output_stride=output_stride)


def small_huggingface(output_stride: int = 32) -> Any:
    """The network of transformers at the sizes of `SMALL`; it cannot be given depths, so layers are taken away."""
    from transformers import MobileViTConfig, MobileViTForImageClassification

    config = MobileViTConfig(
        hidden_sizes=list(SMALL["transformer_widths"]),
        neck_hidden_sizes=[*SMALL["widths"], SMALL["final_width"]],
        expand_ratio=float(SMALL["expansion"]),
        hidden_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        num_labels=SMALL["num_classes"],  # pyright: ignore[reportCallIssue], which PreTrainedConfig takes
        output_stride=output_stride,
    )
    model: Any = MobileViTForImageClassification(config)
    for stage, depth in zip(model.mobilevit.encoder.layer[2:], SMALL["depths"], strict=True):
        stage.transformer.layer = stage.transformer.layer[:depth]
    return model


def _timm(name: str, *, size: tuple[int, int] = (64, 64), output_stride: int = 32, **keywords: Any) -> Case:
    module = MobileViT(**SMALL, output_stride=output_stride)
    reference = small_timm(output_stride)
    return _case(name, "timm", reference, stages=_timm_stages, module=module, size=size, **keywords)


def _huggingface(name: str, *, size: tuple[int, int] = (64, 64), output_stride: int = 32, **keywords: Any) -> Case:
    module = MobileViT(**SMALL, output_stride=output_stride)
    reference = small_huggingface(output_stride)
    return _case(name, "huggingface", reference, stages=_huggingface_stages, module=module, size=size, **keywords)


def _timm_variant(name: str, *, variant: str) -> Case:
    import timm

    module = MobileViT(**{**VARIANTS[variant], "num_classes": 7})
    reference = timm.create_model(variant, num_classes=7)
    return _case(name, "timm", reference, stages=_timm_stages, module=module, size=(64, 96))


_CASES: dict[str, Callable[[str], Case]] = {
    "MobileViT vs timm": _timm,
    # 72 and 104 px make maps of 9x13, 5x7 and 3x4 pixels.
    "MobileViT vs timm, odd maps": partial(_timm, size=(72, 104)),
    "MobileViT vs timm, training": partial(_timm, size=(64, 96), batch=4, training=True),
    "MobileViT vs Hugging Face": _huggingface,
    "MobileViT vs Hugging Face, output stride 16": partial(_huggingface, size=(48, 64), output_stride=16),
    "MobileViT vs Hugging Face, output stride 8": partial(_huggingface, size=(48, 40), output_stride=8),
    "MobileViT vs Hugging Face, odd maps, training": partial(_huggingface, size=(72, 104), batch=3, training=True),
}

MOBILEVIT_CASES = {name: cache(partial(make, name)) for name, make in _CASES.items()}
"""Name -> what makes the case, once."""

MOBILEVIT_VARIANTS = {
    f"{name} vs timm": cache(partial(_timm_variant, f"{name} vs timm", variant=name)) for name in VARIANTS
}
"""The three of the paper, whole."""
