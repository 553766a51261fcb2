"""ResNet beside timm's and transformers', small ones of one block or two a stage."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, cast

import numpy as np

from benchmarks.comparison import Case, Stages, our_stages, shapes_of
from vitjax.models.resnet import ResNet
from vitjax.models.resnet_tables import LAYOUTS

__all__ = ["RESNET_CASES", "SMALL", "small_huggingface", "small_timm"]

_LAYOUTS = {layout.name: layout for layout in LAYOUTS}

SMALL: dict[str, Any] = {"num_classes": 7, "depths": (1, 1, 2, 2), "width": 8}
"""Keywords of the model that all cases compare. Larger ones have units within a rounding of their ReLU's corner, where
gradients jump."""


def small_timm(output_stride: int = 32) -> Any:
    """A network of timm at the sizes of `SMALL`; what reads its stem, which always has 64 channels, is made anew."""
    import torch
    from timm.models.resnet import Bottleneck
    from timm.models.resnet import ResNet as TimmResNet

    width, make = SMALL["width"], cast(Any, TimmResNet)
    model = make(
        Bottleneck, SMALL["depths"], num_classes=SMALL["num_classes"], output_stride=output_stride,
        channels=tuple(width * 2**stage for stage in range(4)),
    )  # fmt: skip
    first = model.layer1[0]
    model.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)
    model.bn1 = torch.nn.BatchNorm2d(width)
    first.conv1 = torch.nn.Conv2d(width, width, 1, bias=False)
    first.downsample[0] = torch.nn.Conv2d(width, 4 * width, 1, bias=False)
    return model


def small_huggingface() -> Any:
    """A network of transformers at the sizes of `SMALL`."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = cast(Any, ResNetConfig)(
        embedding_size=SMALL["width"], hidden_sizes=[4 * SMALL["width"] * 2**stage for stage in range(4)],
        depths=list(SMALL["depths"]), num_labels=SMALL["num_classes"],
    )  # fmt: skip
    return ResNetForImageClassification(config)


def _noted(model: Any, parts: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[Stages, Any]:
    """What each part gives, channels last, and the model's outputs."""
    found: Stages = {}
    handles = []
    for name, module in parts.items():

        def note(_: Any, __: Any, output: Any, name: str = name) -> None:
            found[name] = output.permute(0, 2, 3, 1)

        handles.append(module.register_forward_hook(note))
    outputs = model(inputs["images"].permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()
    return found, outputs


def _timm_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    parts = {"stem_output": model.maxpool} | {f"stage_{n}": getattr(model, f"layer{n}") for n in (1, 2, 3, 4)}
    found, logits = _noted(model, parts, inputs)
    return found | {"logits": logits}


def _huggingface_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    stages = enumerate(model.resnet.encoder.stages, start=1)
    parts = {"stem_output": model.resnet.embedder} | {f"stage_{n}": stage for n, stage in stages}
    found, outputs = _noted(model, parts, inputs)
    return found | {"logits": outputs.logits}


def _draw(seed: int, *, size: tuple[int, int], batch: int) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(batch, *size, 3)).astype(np.float32)}


def _case(
    name: str,
    *,
    layout: str,
    reference: Callable[[], Any],
    stages: Callable[..., Stages],
    size: tuple[int, int] = (40, 48),
    batch: int = 2,
    training: bool = False,
    **settings: Any,
) -> Case:
    module = ResNet(**SMALL, **settings)
    draw = partial(_draw, size=size, batch=batch)
    return Case(
        name=name,
        reference=reference().eval(),
        reference_stages=stages,
        inputs=draw,
        variables=shapes_of(module, draw(0)["images"]),
        stages=lambda variables, inputs: our_stages(module, variables, inputs["images"], train=training),
        table=_LAYOUTS[layout].rules(module),
        training=training,
    )


_TIMM: dict[str, Any] = {"layout": "timm", "reference": small_timm, "stages": _timm_stages}
_HUGGINGFACE: dict[str, Any] = {
    "layout": "huggingface", "reference": small_huggingface, "stages": _huggingface_stages,
}  # fmt: skip
_DC5: dict[str, Any] = _TIMM | {"reference": partial(small_timm, 16), "output_stride": 16}
_CASES: dict[str, dict[str, Any]] = {
    "ResNet vs timm": _TIMM,
    "ResNet vs timm, dilated (DC5)": _DC5,
    "ResNet vs Hugging Face": _HUGGINGFACE,
    "ResNet vs Hugging Face, training": _HUGGINGFACE | {"batch": 4, "size": (64, 64), "training": True},
}

RESNET_CASES = {name: cache(partial(_case, name, **settings)) for name, settings in _CASES.items()}
"""Name -> what makes the case, once."""
