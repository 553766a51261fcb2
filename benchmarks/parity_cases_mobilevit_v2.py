"""MobileViTv2 beside timm's and transformers', small ones with one unit or two in a block, and timm's own seven."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from benchmarks.comparison import Case, Stages, our_stages, shapes_of
from benchmarks.parity_cases import _draw_images, _Hooks
from vitjax.models.mobilevit_v2 import VARIANTS, MobileViTV2
from vitjax.models.mobilevit_v2_tables import LAYOUTS

__all__ = ["MOBILEVIT_V2_CASES", "MOBILEVIT_V2_VARIANTS"]

_LAYOUTS = {layout.name: layout for layout in LAYOUTS}


def _timm_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    with _Hooks() as hooks:
        hooks.output("stem_output", model.stem)
        for number, stage in enumerate(model.stages, start=1):
            hooks.output(f"stage_{number}", stage)
        logits = model(inputs["images"].permute(0, 3, 1, 2))
    return _channels_last(hooks.stages) | {"logits": logits}


def _huggingface_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    with _Hooks() as hooks:
        hooks.output("stem_output", model.mobilevitv2.conv_stem)
        for number, stage in enumerate(model.mobilevitv2.encoder.layer, start=1):
            hooks.output(f"stage_{number}", stage)
        logits = model(inputs["images"].permute(0, 3, 1, 2)).logits
    return _channels_last(hooks.stages) | {"logits": logits}


def _channels_last(stages: Stages) -> Stages:
    return {name: value.permute(0, 2, 3, 1) for name, value in stages.items()}


def _case(
    name: str,
    layout: str,
    reference: Any,
    module: MobileViTV2,
    *,
    stages: Callable[..., Stages],
    size: tuple[int, int],
    training: bool = False,
) -> Case:
    draw = partial(_draw_images, height=size[0], width=size[1])
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


def _small_timm(depths: tuple[int, int, int], output_stride: int) -> Any:
    """The network of timm at a quarter of the width; the stem is not made narrower than the paper's."""
    from timm.models.byobnet import ByobNet, ByoModelCfg
    from timm.models.mobilevit import _inverted_residual_block, _mobilevitv2_block

    residuals = _inverted_residual_block(d=1, c=16, s=1, br=2.0), _inverted_residual_block(d=2, c=32, s=2, br=2.0)
    blocks = (_mobilevitv2_block(1, width, 2, depth) for width, depth in zip((64, 96, 128), depths, strict=True))
    config = ByoModelCfg(
        blocks=(*residuals, *blocks), stem_chs=16, stem_type="3x3", stem_pool="", downsample="", act_layer="silu"
    )
    return ByobNet(config, num_classes=7, output_stride=output_stride)


def _timm(
    name: str,
    *,
    size: tuple[int, int] = (64, 64),
    depths: tuple[int, int, int] = (1, 1, 1),
    output_stride: int = 32,
    training: bool = False,
) -> Case:
    module = MobileViTV2(num_classes=7, width_multiplier=0.25, depths=depths, output_stride=output_stride)
    return _case(
        name, "timm", _small_timm(depths, output_stride), module, stages=_timm_stages, size=size, training=training
    )


def _timm_variant(name: str, *, variant: str) -> Case:
    import timm

    module = MobileViTV2(**{**VARIANTS[variant], "num_classes": 7})
    reference = timm.create_model(variant, num_classes=7)
    return _case(name, "timm", reference, module, stages=_timm_stages, size=(64, 96))


def _huggingface(name: str, *, training: bool = False) -> Case:
    from transformers import MobileViTV2Config, MobileViTV2ForImageClassification

    depths = (1, 2, 1)
    config = MobileViTV2Config(width_multiplier=0.25, n_attn_blocks=list(depths))
    config.num_labels = 7
    module = MobileViTV2(
        num_classes=7, width_multiplier=0.25, depths=depths, **_LAYOUTS["huggingface"].settings
    )  # fmt: skip
    # Its blocks cut the last row and column off odd maps: only even ones are comparable.
    reference = MobileViTV2ForImageClassification(config)
    return _case(name, "huggingface", reference, module, stages=_huggingface_stages, size=(64, 128), training=training)


_CASES: dict[str, Callable[[str], Case]] = {
    "MobileViTv2 vs timm": _timm,
    "MobileViTv2 vs timm, odd maps": partial(_timm, size=(72, 104), depths=(2, 1, 1)),
    "MobileViTv2 vs timm, training, odd maps": partial(_timm, size=(72, 104), training=True),
    "MobileViTv2 vs timm, output stride 16": partial(_timm, output_stride=16),
    "MobileViTv2 vs timm, output stride 8": partial(_timm, output_stride=8),
    "MobileViTv2 vs Hugging Face": _huggingface,
    "MobileViTv2 vs Hugging Face, training": partial(_huggingface, training=True),
}

MOBILEVIT_V2_CASES = {name: cache(partial(make, name)) for name, make in _CASES.items()}
"""Name -> what makes the case, once."""

MOBILEVIT_V2_VARIANTS = {
    f"{name} vs timm": cache(partial(_timm_variant, f"{name} vs timm", variant=name))
    for name in VARIANTS
    if not name.endswith("_384")  # the same network
}
"""The seven of the paper, whole."""
