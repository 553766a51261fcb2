"""FlexiViT beside timm's, and beside the paper's formula where timm has a fixed patch; cf. `parity_cases`."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.comparison import Case, Stages
from benchmarks.parity_cases import _draw_images, _our_stages, _shapes, _timm_stages
from vitjax.models import flexivit_tables
from vitjax.models.flexivit import flexivit

__all__ = ["FLEXIVIT_CASES", "paper_kernel"]

_KERNEL, _POSITIONS, _WIDTH, _DEPTH, _HEADS = 8, 4, 32, 1, 4


def paper_kernel(weight: Any, size: tuple[int, int]) -> Any:
    """PI-resize of a torch convolution `[D, C, p, p]` as section 3.4 states it, differentiable.

    B column by column: each unit patch through torch's own bilinear resize, without antialiasing; then
    `pinv(B^T) @ w`, with the pseudo-inverse in float64.
    """
    import torch

    old = tuple(weight.shape[-2:])
    units = torch.eye(old[0] * old[1], dtype=torch.float64).reshape(-1, 1, *old)
    resized = torch.nn.functional.interpolate(units, size=size, mode="bilinear", align_corners=False, antialias=False)
    matrix = resized.reshape(len(units), -1).T  # B
    inverse = torch.linalg.pinv(matrix.T, rtol=1e-15).to(weight.dtype)
    return (weight.flatten(2) @ inverse.T).reshape(*weight.shape[:2], *size)


def _flexible(image_size: tuple[int, int], grid: tuple[int, int]) -> Any:
    """The model of timm, but that kernel and positions are resized at every call, by torch's operators."""
    import torch
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    patch = (image_size[0] // grid[0], image_size[1] // grid[1])

    class Embedding(PatchEmbed):
        def forward(self, x: Any) -> Any:
            kernel = paper_kernel(self.proj.weight, patch)
            return torch.nn.functional.conv2d(x, kernel, self.proj.bias, patch).flatten(2).transpose(1, 2)

    class Flexible(VisionTransformer):
        def _pos_embed(self, x: Any) -> Any:
            table = self.pos_embed.reshape(1, _POSITIONS, _POSITIONS, -1).permute(0, 3, 1, 2)
            table = torch.nn.functional.interpolate(table, size=grid, mode="bilinear", antialias=True)
            x = x + table.flatten(2).transpose(1, 2)
            return self.pos_drop(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1))

    return Flexible(embed_layer=Embedding, **_sizes(_KERNEL * _POSITIONS, _KERNEL))


def _sizes(image_size: int, patch_size: int) -> dict[str, Any]:
    return {
        "img_size": image_size, "patch_size": patch_size, "embed_dim": _WIDTH, "depth": _DEPTH, "num_heads": _HEADS,
        "num_classes": 7, "no_embed_class": True,
    }  # fmt: skip


def _case(name: str, reference: Any, image_size: tuple[int, int], grid: tuple[int, int] | None) -> Case:
    module = flexivit(
        image_size=image_size, kernel_size=_KERNEL, position_grid=_POSITIONS, patch_size=_KERNEL, width=_WIDTH,
        depth=_DEPTH, num_heads=_HEADS, mlp_width=4 * _WIDTH, num_classes=7,
    )  # fmt: skip
    draw = partial(_draw_images, height=image_size[0], width=image_size[1])

    def stages(variables: Any, inputs: dict[str, Any]) -> Stages:
        # The way a batch carries the grid: an array's shape.
        asked = None if grid is None else jnp.ones((len(inputs["images"]), *grid), bool)
        return _our_stages(module, variables, inputs["images"], grid=asked)

    return Case(
        name=name,
        reference=reference.eval(),
        reference_stages=lambda model, inputs: _timm_stages(model, inputs["images"].permute(0, 3, 1, 2)),
        inputs=draw,
        variables=_shapes(module, np.zeros((1, *image_size, 3), np.float32)),
        stages=stages,
        table=flexivit_tables.timm(module),
    )


def _timm(name: str) -> Case:
    """At its own size: nothing is resized."""
    from timm.models.vision_transformer import VisionTransformer

    side = _KERNEL * _POSITIONS
    return _case(name, VisionTransformer(**_sizes(side, _KERNEL)), (side, side), None)


def _resized(name: str, image_size: tuple[int, int], grid: tuple[int, int]) -> Case:
    return _case(name, _flexible(image_size, grid), image_size, grid)


_FLEXIVIT: dict[str, Callable[[str], Case]] = {
    "FlexiViT vs timm, fixed patch": _timm,
    "FlexiViT vs the paper's formula, larger patches": partial(_resized, image_size=(48, 48), grid=(3, 3)),
    "FlexiViT vs the paper's formula, smaller patches": partial(_resized, image_size=(32, 32), grid=(8, 8)),
    "FlexiViT vs the paper's formula, 5x12 px": partial(_resized, image_size=(40, 48), grid=(8, 4)),
}

FLEXIVIT_CASES = {name: cache(partial(make, name)) for name, make in _FLEXIVIT.items()}
"""Name -> what makes the case, once."""
