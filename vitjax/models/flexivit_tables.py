"""FlexiViT's weights in the layouts of big_vision and timm.

big_vision's files hold the underlying kernel and positions, of whatever size they were trained with (`sizes_of` reads
it off their shapes). timm's hold both as resized, once, to patches of 16 px on images of 240 px: kernel 16x16 and
positions 15x15. Here those are underlying parameters like any others: at 15x15 patches nothing is resized and the model
is timm's.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.models import vit_tables
from vitjax.models.vit import ViT
from vitjax.ops.activations import gelu, gelu_tanh
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Table, axes

__all__ = ["LAYOUTS", "big_vision", "sizes_of", "timm"]


def _kernel_size(module: ViT) -> tuple[int, int]:
    embedding: Any = module.embedding(patch_size=module.patch_size, width=module.width, parent=None)
    size = embedding.kernel_size
    return (size, size) if isinstance(size, int) else size


def timm(module: ViT) -> Table:
    """`flexivit_*` of timm: a ViT whose class token has no position."""
    rows, columns = _kernel_size(module)
    return vit_tables.timm(patches=axes("d c h w -> (h w c) d", h=rows, w=columns))


def big_vision(module: ViT) -> Table:
    """`big_vision.models.proj.flexi.vit`, with `vit_tables.big_vision_names`; its kernels are square."""
    return vit_tables.big_vision(num_heads=module.num_heads, patch_size=_kernel_size(module)[0])


def sizes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, int | tuple[int, int]]:
    """Keywords of `flexivit` that only a file's shapes tell: `kernel_size` and `position_grid`.

    Args:
        arrays: of either layout, prepared by its `prepare`.

    Raises:
        UserError: the kernel or the positions are missing, or the positions are no square.
    """
    layouts = (
        ("embedding/kernel", "pos_embedding", slice(0, 2)),
        ("patch_embed.proj.weight", "pos_embed", slice(2, 4)),
    )
    for kernel, positions, sides in layouts:
        if kernel in arrays and positions in arrays:
            rows, columns = arrays[kernel].shape[sides]
            count = arrays[positions].shape[1]
            side = math.isqrt(count)
            if side * side != count:
                raise UserError(f"FlexiViT: `{positions}` has {count} positions, which are no square grid")
            return {"kernel_size": rows if rows == columns else (rows, columns), "position_grid": side}
    raise UserError(
        "FlexiViT: expected `embedding/kernel` and `pos_embedding`, or `patch_embed.proj.weight` and `pos_embed`, "
        f"among {', '.join(list(arrays)[:8])}"
    )


LAYOUTS: tuple[Layout, ...] = (
    Layout("timm", timm, {"norm_epsilon": 1e-6, "activation": gelu, "kernel_size": 16, "position_grid": 15}),
    Layout("big_vision", big_vision, {"norm_epsilon": 1e-6, "activation": gelu_tanh}, vit_tables.big_vision_names),
)
"""Everybody's files of a FlexiViT; `settings` are keywords of `flexivit`, to which `sizes_of` adds."""
