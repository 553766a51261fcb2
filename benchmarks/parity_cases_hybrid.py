"""Hybrid ViT beside timm's, at sizes that take seconds; in the form of `parity_cases`."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.comparison import Case, Stages
from benchmarks.parity_cases import _draw_images, _Hooks, _shapes, _timm_stages
from vitjax.layers.convolution import standardise_by_deviation, standardise_by_variance
from vitjax.models import hybrid_tables
from vitjax.models.hybrid import hybrid_vit

__all__ = ["HYBRID_CASES"]

_GROUPS, _STEM, _WIDTH, _DEPTH = 4, 8, 32, 1


def _authors_convolution() -> Any:
    """The convolution of timm, its kernel standardised as in the authors' code: std + 1e-5, population variance."""
    import torch
    from timm.layers import StdConv2dSame, pad_same

    class AuthorsConv(StdConv2dSame):
        def forward(self, x: Any) -> Any:
            if self.same_pad:
                x = pad_same(x, self.kernel_size, self.stride, self.dilation)
            mean, std = (
                self.weight.mean((1, 2, 3), keepdim=True),
                self.weight.std((1, 2, 3), correction=0, keepdim=True),
            )
            weight = (self.weight - mean) / (std + 1e-5)
            return torch.nn.functional.conv2d(x, weight, None, self.stride, self.padding)

    return AuthorsConv


def _reference(stages: tuple[int, ...], image_size: tuple[int, int], side: int, *, authors: bool) -> Any:
    """The model of timm with these stages, with its own numerics or the authors'."""
    from timm.layers import GroupNormAct, HybridEmbed, StdConv2dSame
    from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
    from timm.models.vision_transformer import VisionTransformer

    conv = _authors_convolution() if authors else partial(StdConv2dSame, eps=1e-8)
    norm = partial(GroupNormAct, num_groups=_GROUPS, eps=1e-6 if authors else 1e-5)
    parts = {"stem_type": "same", "preact": False, "conv_layer": conv, "norm_layer": norm}
    if stages:
        channels = tuple(4 * _STEM * 2**stage for stage in range(len(stages)))
        backbone = ResNetV2(
            layers=list(stages), channels=channels, stem_chs=_STEM, num_classes=0, global_pool="", **parts
        )
    else:
        backbone = create_resnetv2_stem(3, _STEM, **parts)
    return VisionTransformer(
        img_size=image_size, patch_size=side, embed_dim=_WIDTH, depth=_DEPTH, num_heads=4, num_classes=7,
        embed_layer=partial(HybridEmbed, backbone=backbone),
    )  # fmt: skip


def _their_stages(model: Any, inputs: dict[str, Any]) -> Stages:
    backbone = model.patch_embed.backbone
    stages = getattr(backbone, "stages", ())
    with _Hooks() as hooks:
        hooks.output("root", getattr(backbone, "stem", backbone))
        for number, stage in enumerate(stages):
            hooks.output(f"stage_{number}", stage)
        later = _timm_stages(model, inputs["images"].permute(0, 3, 1, 2))
    return {name: value.permute(0, 2, 3, 1) for name, value in hooks.stages.items()} | later


def _our_stages(module: Any, variables: Any, inputs: dict[str, Any]) -> Stages:
    logits, state = module.apply(variables, inputs["images"], mutable=["intermediates"])
    found = dict(state["intermediates"])
    network = found.pop("patch_embedding")["network"]
    kept = {name: value for name, value in {**network, **found}.items() if name != "features"}
    return {name: value[0] for name, value in kept.items()} | {"logits": logits}


def _hybrid(
    name: str, stages: tuple[int, ...], image_size: tuple[int, int], patch_size: int, *, authors: bool = False
) -> Case:
    module = hybrid_vit(
        stages=stages,
        stem_width=_STEM,
        num_groups=_GROUPS,
        standardise=standardise_by_deviation if authors else standardise_by_variance,
        group_norm_epsilon=1e-6 if authors else 1e-5,
        image_size=image_size, patch_size=patch_size, width=_WIDTH, depth=_DEPTH, num_heads=4, mlp_width=4 * _WIDTH,
        num_classes=7,
    )  # fmt: skip
    side = patch_size // (4 * 2 ** max(len(stages) - 1, 0))
    draw = partial(_draw_images, height=image_size[0], width=image_size[1])
    return Case(
        name=name,
        reference=_reference(stages, image_size, side, authors=authors).eval(),
        reference_stages=_their_stages,
        inputs=draw,
        variables=_shapes(module, np.zeros((1, *image_size, 3), np.float32)),
        stages=partial(_our_stages, module),
        table=hybrid_tables.timm(module),
    )


_HYBRID: dict[str, Callable[[str], Case]] = {
    "Hybrid vs timm, two stages": partial(_hybrid, stages=(2, 1), image_size=(32, 48), patch_size=16),
    "Hybrid vs timm, root only": partial(_hybrid, stages=(), image_size=(64, 32), patch_size=32),
    "Hybrid vs timm with the authors' epsilons": partial(
        _hybrid, stages=(1, 1), image_size=(24, 32), patch_size=8, authors=True
    ),
}

HYBRID_CASES = {name: cache(partial(make, name)) for name, make in _HYBRID.items()}
"""Name -> what makes the case, once."""
