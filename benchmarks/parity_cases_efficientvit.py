"""EfficientViT beside timm's, in evaluation and in training, at sizes that take seconds."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from benchmarks.comparison import Case, Stages, our_stages, shapes_of
from benchmarks.parity_cases import _draw_images, _Hooks
from vitjax.models import efficientvit_tables
from vitjax.models.efficientvit import VARIANTS, EfficientViT

__all__ = ["EFFICIENTVIT_CASES", "EFFICIENTVIT_VARIANTS", "SMALL"]

SMALL: dict[str, Any] = {"widths": (16, 24), "depths": (1, 1), "num_heads": (1, 2), "query_kernels": (5, 3)}
"""Two stages, one of a single head and one with a cascade."""


def _their_stages(model: Any, inputs: dict[str, Any]) -> Stages:
    with _Hooks() as hooks:
        for number, stage in enumerate(model.stages):
            hooks.output(f"stage_{number + 1}", stage)
        hooks.output("pooled", model.global_pool)
        logits = model(inputs["images"].permute(0, 3, 1, 2))
    found = {name: value.permute(0, 2, 3, 1) if value.ndim == 4 else value for name, value in hooks.stages.items()}
    return found | {"logits": logits}


def _efficientvit(
    name: str, *, image_size: int, size: tuple[int, int] | None = None, training: bool = False, batch: int = 2
) -> Case:
    from timm.models.efficientvit_msra import EfficientVitMsra

    module = EfficientViT(num_classes=7, image_size=image_size, **SMALL)
    reference = EfficientVitMsra(
        img_size=image_size, num_classes=7, embed_dim=SMALL["widths"], depth=SMALL["depths"],
        num_heads=SMALL["num_heads"], kernels=SMALL["query_kernels"],
    )  # fmt: skip
    return _case(name, reference, module, size or (image_size, image_size), training=training, batch=batch)


def _variant(name: str, *, variant: str) -> Case:
    import timm

    module = EfficientViT(**{**VARIANTS[variant], "num_classes": 7})
    reference = timm.create_model(variant, num_classes=7)
    for norm in (part for part in reference.modules() if hasattr(part, "running_var")):
        norm.drawn_around = norm.weight[0].item()  # 0 at the end of a branch
    # For a batch of one torch 2.13's gradients by the query convolutions contradict its own finite differences.
    return _case(name, reference, module, (224, 224), training=False, batch=2)


def _case(
    name: str, reference: Any, module: EfficientViT, size: tuple[int, int], *, training: bool, batch: int
) -> Case:
    draw = partial(_draw_images, height=size[0], width=size[1], batch=batch)
    return Case(
        name=name,
        reference=reference.eval(),
        reference_stages=_their_stages,
        inputs=draw,
        variables=shapes_of(module, draw(0)["images"]),
        stages=lambda variables, inputs: our_stages(module, variables, inputs["images"], train=training),
        table=efficientvit_tables.timm(module),
        training=training,
    )


_CASES: dict[str, Callable[[str], Case]] = {
    "EfficientViT vs timm": partial(_efficientvit, image_size=80),
    "EfficientViT vs timm, windows filled up": partial(_efficientvit, image_size=80, size=(96, 144)),
    "EfficientViT vs timm, in training": partial(_efficientvit, image_size=80, training=True, batch=4),
}

EFFICIENTVIT_CASES = {name: cache(partial(make, name)) for name, make in _CASES.items()}
"""Name -> what makes the case, once."""

EFFICIENTVIT_VARIANTS = {
    f"{name} vs timm": cache(partial(_variant, f"{name} vs timm", variant=name)) for name in VARIANTS
}
"""The six of the paper, whole."""
