"""Learnable-memory ViT beside vit-pytorch's `Adapter`, whose ViT is asked as well: both tasks at once."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.comparison import Case, Stages
from vitjax.models import memory_vit_tables
from vitjax.models.memory_vit import BASE, MemoryViT
from vitjax.models.memory_vit_pytorch import vit_pytorch_adapter
from vitjax.paths import flatten

__all__ = ["MEMORY_VIT_CASES"]


def _draw_images(seed: int, *, height: int, width: int) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(2, height, width, 3)).astype(np.float32)}


def _reference_stages(model: Any, inputs: dict[str, Any]) -> Stages:
    """Rows of the added class token and of the ViT's tokens apart; the ViT's logits behind the adapter's."""
    import torch

    images, stages, handles = inputs["images"].permute(0, 3, 1, 2), {}, []

    def note(number: int) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            del module
            tokens = output + arguments[0]
            stages[f"block_{number}_tasks"], stages[f"block_{number}_output"] = tokens[:, :1], tokens[:, 1:]

        return hook

    for number, (_, mlp) in enumerate(model.vit.transformer.layers):
        handles.append(mlp.register_forward_hook(note(number)))
    adapted = model(images)
    for handle in handles:
        handle.remove()
    return stages | {"logits": torch.cat([model.vit(images), adapted], dim=-1)}


def _our_stages(module: MemoryViT, variables: Any, inputs: dict[str, Any]) -> Stages:
    logits, state = module.apply(variables, inputs["images"], mutable=["intermediates"], method="every_task")
    assert isinstance(logits, dict)
    blocks = {name: values[0] for name, values in state["intermediates"].items() if name.startswith("block_")}
    return blocks | {"logits": jnp.concatenate([logits[BASE], logits["adapter"]], axis=-1)}


def _adapter(name: str, *, size: tuple[int, int] = (32, 32), cells: int = 5, head_size: int = 8) -> Case:
    from vit_pytorch.learnable_memory_vit import Adapter, ViT

    sizes: dict[str, Any] = {
        "image_size": size, "patch_size": 8, "num_classes": 7, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48,
        "dim_head": head_size,
    }  # fmt: skip
    reference = Adapter(vit=ViT(**sizes), num_memories_per_layer=cells, num_classes=3)
    for parameter in reference.parameters():
        parameter.requires_grad_(True)  # the adapter freezes its ViT; here its gradients are compared too
    module = vit_pytorch_adapter(**sizes, adapter_classes=3, num_memories_per_layer=cells)
    draw = partial(_draw_images, height=size[0], width=size[1])
    shapes = jax.eval_shape(module.init, jax.random.key(0), draw(0)["images"])
    return Case(
        name=name,
        reference=reference.eval(),
        reference_stages=_reference_stages,
        inputs=draw,
        variables={path: leaf.shape for path, leaf in flatten({"params": shapes["params"]}).items()},
        stages=partial(_our_stages, module),
        table=memory_vit_tables.vit_pytorch(),
    )


_CASES: dict[str, dict[str, Any]] = {
    "Memory ViT vs vit-pytorch, 5 cells": {},
    "Memory ViT vs vit-pytorch, 1 cell, heads of 16": {"cells": 1, "head_size": 16},
    "Memory ViT vs vit-pytorch, 10 cells, 48x24 px": {"cells": 10, "size": (48, 24)},
}

MEMORY_VIT_CASES = {name: cache(partial(_adapter, name, **keywords)) for name, keywords in _CASES.items()}
"""Name -> what makes the case, once."""
