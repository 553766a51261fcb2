"""Every model beside its PyTorch references, at sizes that take seconds.

`python -m benchmarks parity` prints these cases and `tests/parity` asserts them, so table and tests cannot disagree.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.comparison import Case, Stages
from vitjax.models import navit_tables, vit_tables
from vitjax.models.navit_pytorch import vit_pytorch_nested, vit_pytorch_packed
from vitjax.models.vit import AttentionPooling, AveragePooling, LearnedPositions, ViT
from vitjax.ops.positions import resample_bicubic
from vitjax.paths import flatten
from vitjax.weights.rules import Table

__all__ = ["NAVIT_CASES", "VIT_CASES"]

_DEPTH, _WIDTH, _HEADS = 2, 32, 4


def _shapes(module: Any, *inputs: Any, **keywords: Any) -> dict[str, tuple[int, ...]]:
    variables = jax.eval_shape(partial(module.init, **keywords), jax.random.key(0), *inputs)
    return {path: leaf.shape for path, leaf in flatten({"params": variables["params"]}).items()}


def _our_stages(module: Any, variables: Any, *inputs: Any, **keywords: Any) -> Stages:
    """Everything that the module sows, and its outputs as `logits`."""
    logits, state = module.apply(variables, *inputs, mutable=["intermediates"], **keywords)
    return {name: values[0] for name, values in state["intermediates"].items() if name != "features"} | {
        "logits": logits
    }


class _Hooks:
    """Notes what passes through some submodules of a torch module."""

    def __init__(self) -> None:
        self.stages: Stages = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "_Hooks":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def output(self, name: str, module: Any) -> None:
        """Notes the module's output as the stage `name`."""
        self._handles.append(module.register_forward_hook(lambda _, inputs, output: self.stages.update({name: output})))

    def input(self, name: str, module: Any) -> None:
        """Notes the module's first argument as the stage `name`."""
        self._handles.append(module.register_forward_pre_hook(lambda _, inputs: self.stages.update({name: inputs[0]})))


# --------------------------------------------------------------------------------------------------------- ViT


def _draw_images(seed: int, *, height: int, width: int, batch: int = 2) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(batch, height, width, 3)).astype(np.float32)}


def _vit_case(  # noqa: PLR0917
    name: str, reference: Any, stages: Callable[..., Stages], module: ViT, table: Table, size: tuple[int, int]
) -> Case:
    draw = partial(_draw_images, height=size[0], width=size[1])
    return Case(
        name=name,
        reference=reference.eval(),
        reference_stages=lambda model, inputs: stages(model, inputs["images"].permute(0, 3, 1, 2)),
        inputs=draw,
        variables=_shapes(module, draw(0)["images"]),
        stages=lambda variables, inputs: _our_stages(module, variables, inputs["images"]),
        table=table,
    )


def _timm_stages(model: Any, images: Any) -> Stages:
    with _Hooks() as hooks:
        hooks.output("embedded", model.pos_drop)
        for number, block in enumerate(model.blocks):
            hooks.output(f"block_{number}_output", block)
        if any(True for _ in model.norm.parameters()):
            hooks.output("normed", model.norm)
        hooks.input("pooled", model.head_drop)
        logits = model(images)
    return hooks.stages | {"logits": logits}


def _timm(
    name: str,
    *,
    patch_size: int = 8,
    image_size: int = 32,
    size: tuple[int, int] | None = None,
    theirs: Mapping[str, Any] | None = None,
    ours: Mapping[str, Any] | None = None,
    final_norm: str = "norm",
) -> Case:
    """A timm ViT made for `image_size`, run on images of `size`."""
    from timm.models.vision_transformer import VisionTransformer

    reference = VisionTransformer(
        img_size=image_size, patch_size=patch_size, embed_dim=_WIDTH, depth=_DEPTH, num_heads=_HEADS, num_classes=7,
        **(theirs or {}),
    )  # fmt: skip
    module = ViT(
        num_classes=7, image_size=image_size, patch_size=patch_size, width=_WIDTH, depth=_DEPTH, num_heads=_HEADS,
        mlp_width=4 * _WIDTH, **(ours or {}),
    )  # fmt: skip
    table = vit_tables.timm(final_norm=final_norm)
    return _vit_case(name, reference, _timm_stages, module, table, size or (image_size, image_size))


def _huggingface_stages(model: Any, images: Any, *, interpolate: bool) -> Stages:
    with _Hooks() as hooks:
        hooks.output("embedded", model.vit.embeddings)
        for number, layer in enumerate(model.vit.layers):
            hooks.output(f"block_{number}_output", layer)
        hooks.output("normed", model.vit.layernorm)
        hooks.input("pooled", model.classifier)
        logits = model(images, interpolate_pos_encoding=interpolate).logits
    return hooks.stages | {"logits": logits}


def _huggingface(name: str, *, patch_size: int = 8, size: tuple[int, int] = (32, 32)) -> Case:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=patch_size, hidden_size=_WIDTH, num_hidden_layers=_DEPTH,
        num_attention_heads=_HEADS, intermediate_size=4 * _WIDTH, num_labels=7,
    )  # fmt: skip
    reference = ViTForImageClassification(config)
    module = ViT(
        num_classes=7, image_size=32, patch_size=patch_size, width=_WIDTH, depth=_DEPTH, num_heads=_HEADS,
        mlp_width=4 * _WIDTH, norm_epsilon=1e-12,
        positions=partial(LearnedPositions, resampling=resample_bicubic),
    )  # fmt: skip
    stages = partial(_huggingface_stages, interpolate=size != (32, 32))
    return _vit_case(name, reference, stages, module, vit_tables.huggingface_module(), size)


_AVERAGE = {"use_class_token": False, "pool": AveragePooling}
_MAP_POOLING = partial(AttentionPooling, num_heads=_HEADS, mlp_width=4 * _WIDTH)

_VIT: dict[str, Callable[[], Case]] = {
    "ViT vs timm, class token": partial(_timm, "ViT vs timm, class token"),
    "ViT vs timm, patch 16": partial(_timm, "ViT vs timm, patch 16", patch_size=16, image_size=48),
    "ViT vs timm, patch 4": partial(_timm, "ViT vs timm, patch 4", patch_size=4, image_size=24),
    "ViT vs timm, no position for the class token": partial(
        _timm,
        "ViT vs timm, no position for the class token",
        theirs={"no_embed_class": True},
        ours={"positions": partial(LearnedPositions, embed_class=False)},
    ),
    "ViT vs timm, average pooling, then norm": partial(
        _timm,
        "ViT vs timm, average pooling, then norm",
        theirs={"global_pool": "avg"},
        ours={"pool": AveragePooling, "norm_after_pooling": True},
        final_norm="fc_norm",
    ),
    "ViT vs timm, norm, then average pooling": partial(
        _timm,
        "ViT vs timm, norm, then average pooling",
        theirs={"global_pool": "avg", "class_token": False, "fc_norm": False},
        ours=_AVERAGE,
    ),
    "ViT vs timm, no biases of q, k and v": partial(
        _timm,
        "ViT vs timm, no biases of q, k and v",
        theirs={"qkv_bias": False},
        ours={"use_qkv_bias": False},
    ),
    "ViT vs timm, attention pooling": partial(
        _timm,
        "ViT vs timm, attention pooling",
        theirs={"global_pool": "map", "class_token": False},
        ours={"use_class_token": False, "pool": _MAP_POOLING},
    ),
    "ViT vs timm, positions of 4x4 at 6x5": partial(
        _timm, "ViT vs timm, positions of 4x4 at 6x5", size=(48, 40), theirs={"dynamic_img_size": True}
    ),
    "ViT vs timm, positions of 6x6 at 3x5": partial(
        _timm, "ViT vs timm, positions of 6x6 at 3x5", image_size=48, size=(24, 40), theirs={"dynamic_img_size": True}
    ),
    "ViT vs Hugging Face": partial(_huggingface, "ViT vs Hugging Face"),
    "ViT vs Hugging Face, patch 16": partial(_huggingface, "ViT vs Hugging Face, patch 16", patch_size=16),
    "ViT vs Hugging Face, positions of 4x4 at 6x5": partial(
        _huggingface, "ViT vs Hugging Face, positions of 4x4 at 6x5", size=(48, 40)
    ),
    "ViT vs Hugging Face, positions of 8x8 at 3x5": partial(
        _huggingface, "ViT vs Hugging Face, positions of 8x8 at 3x5", patch_size=4, size=(12, 20)
    ),
}


# ------------------------------------------------------------------------------------------------------- NaViT

_PATCH = 4
_ROWS = (((3, 2), (1, 4), (2, 2)), ((5, 3),), ((1, 1), (4, 3)))
"""Grid of each image in each packed row; rows of 14, 15 and 13 tokens, padded to `_LENGTH`."""
_LENGTH = 17
_GRIDS = [grid for row in _ROWS for grid in row]
_SLOTS = max(map(len, _ROWS))


def _draw_packed_images(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"image {number}": rng.normal(size=(rows * _PATCH, columns * _PATCH, 3)).astype(np.float32)
        for number, (rows, columns) in enumerate(_GRIDS)
    }


def _layout() -> dict[str, np.ndarray]:
    """Segments, positions and grid sizes of `_ROWS`."""
    segments = np.zeros((len(_ROWS), _LENGTH), np.int32)
    positions = np.zeros((len(_ROWS), _LENGTH, 2), np.int32)
    grid_sizes = np.ones((len(_ROWS), _SLOTS, 2), np.int32)
    for number, row in enumerate(_ROWS):
        start = 0
        for slot, (rows, columns) in enumerate(row):
            end = start + rows * columns
            segments[number, start:end] = slot + 1
            positions[number, start:end] = np.indices((rows, columns)).reshape(2, -1).T
            grid_sizes[number, slot] = rows, columns
            start = end
    return {"segments": segments, "positions": positions, "grid_sizes": grid_sizes}


def _buckets(segments: np.ndarray) -> tuple[np.ndarray, ...]:
    """Short images in one bucket, long ones in another, each with a slot to spare; all rows are one group."""
    nothing = segments.size
    blocks = {6: [], 15: []}
    for number, row in enumerate(segments):
        for slot in range(1, row.max() + 1):
            tokens = number * _LENGTH + np.flatnonzero(row == slot)
            blocks[6 if len(tokens) <= 6 else 15].append(tokens)
    filled = []
    for length, images in blocks.items():
        block = np.full((1, len(images) + 1, length), nothing, np.int32)
        for number, tokens in enumerate(images):
            block[0, number, : len(tokens)] = tokens
        filled.append(block)
    return tuple(filled)


def _packed_patches(inputs: Mapping[str, Any]) -> jax.Array:
    """`[B, N, P]` of the images, in (row, column, channel) order, zeros for padding."""
    images, rows = iter(inputs.values()), []
    for row in _ROWS:
        patches = [_cut(next(images)) for _ in row]
        tokens = jnp.concatenate(patches)
        rows.append(jnp.pad(tokens, ((0, _LENGTH - len(tokens)), (0, 0))))
    return jnp.stack(rows)


def _cut(image: Any) -> jax.Array:
    rows, columns = image.shape[0] // _PATCH, image.shape[1] // _PATCH
    patches = image.reshape(rows, _PATCH, columns, _PATCH, 3).transpose(0, 2, 1, 3, 4)
    return patches.reshape(rows * columns, -1)


def _navit_stages(module: Any, variables: Any, inputs: Mapping[str, Any], *, with_buckets: bool) -> Stages:
    """Real tokens of all rows one after another, then real images: what a list of images has in common with rows."""
    layout = _layout()
    buckets = _buckets(layout["segments"]) if with_buckets else None
    stages = _our_stages(module, variables, _packed_patches(inputs), buckets=buckets, **layout)
    real_tokens = np.flatnonzero(layout["segments"])
    counts = [len(row) for row in _ROWS]
    real_images = np.flatnonzero(np.arange(_SLOTS)[None] < np.array(counts)[:, None])

    def keep(name: str, value: jax.Array) -> jax.Array:
        real = real_images if name in ("pooled", "logits") else real_tokens
        return value.reshape(-1, value.shape[-1])[real]

    return {name: keep(name, value) for name, value in stages.items()}


def _packed_reference(model: Any, inputs: Mapping[str, Any]) -> Stages:
    """vit-pytorch's packed NaViT on the same rows; its padding is cut off."""
    import torch

    images = iter([image.permute(2, 0, 1) for image in inputs.values()])
    with _Hooks() as hooks:
        hooks.output("embedded", model.dropout)
        _block_hooks(hooks, model)
        logits = model([[next(images) for _ in row] for row in _ROWS])
    lengths = [sum(rows * columns for rows, columns in row) for row in _ROWS]
    cut = {
        name: torch.cat([row[:length] for row, length in zip(value, lengths, strict=True)])
        if value.ndim == 3
        else value
        for name, value in hooks.stages.items()
    }
    return cut | {"logits": logits}


def _nested_reference(model: Any, inputs: Mapping[str, Any]) -> Stages:
    """vit-pytorch's nested-tensor NaViT on the list of images.

    It makes its nested tensors by `torch.nested.nested_tensor`, which copies: no gradient reaches its patch embedding,
    its positions or its pooling query, in training neither. Here `as_nested_tensor` takes its place, the same without
    the copy, so that these gradients can be compared.
    """
    import torch
    from vit_pytorch import na_vit_nested_tensor

    with _Hooks() as hooks, mock.patch.object(na_vit_nested_tensor, "nested_tensor", torch.nested.as_nested_tensor):
        hooks.output("embedded", model.dropout)
        _block_hooks(hooks, model)
        logits = model([image.permute(2, 0, 1) for image in inputs.values()])
    values = {name: value.values() if value.is_nested else value for name, value in hooks.stages.items()}
    return values | {"logits": logits}


def _block_hooks(hooks: _Hooks, model: Any) -> None:
    layers = model.transformer.layers
    for number in range(len(layers)):
        following = layers[number + 1][0] if number + 1 < len(layers) else model.transformer.norm
        hooks.input(f"block_{number}_output", following)
    hooks.output("normed", model.transformer)
    hooks.input("pooled", model.mlp_head)


def _navit(name: str, *, nested: bool, buckets: bool) -> Case:
    sizes: dict[str, Any] = {
        "image_size": (5 * _PATCH, 4 * _PATCH), "patch_size": _PATCH, "num_classes": 7, "dim": _WIDTH, "depth": _DEPTH,
        "heads": 3, "mlp_dim": 48, "dim_head": 8,
    }  # fmt: skip
    if nested:
        from vit_pytorch.na_vit_nested_tensor import NaViT

        reference, module = NaViT(**sizes), vit_pytorch_nested(**sizes)
        table, stages = navit_tables.vit_pytorch_nested(), _nested_reference
    else:
        from vit_pytorch.na_vit import NaViT

        reference, module = NaViT(**sizes), vit_pytorch_packed(**sizes)
        table, stages = navit_tables.vit_pytorch_packed(), _packed_reference
    return Case(
        name=name,
        reference=reference.eval(),
        reference_stages=stages,
        inputs=_draw_packed_images,
        variables=_shapes(module, np.zeros((len(_ROWS), _LENGTH, _PATCH**2 * 3), np.float32), **_layout()),
        stages=partial(_navit_stages, module, with_buckets=buckets),
        table=table,
    )


_NAVIT: dict[str, Callable[[], Case]] = {
    name: partial(_navit, name, nested=nested, buckets=buckets)
    for reference, nested in (("vit-pytorch packed", False), ("vit-pytorch nested", True))
    for path, buckets in (("segment mask", False), ("buckets", True))
    for name in (f"NaViT vs {reference}, {path}",)
}

VIT_CASES = {name: cache(make) for name, make in _VIT.items()}
NAVIT_CASES = {name: cache(make) for name, make in _NAVIT.items()}

"""Name -> what makes the case, once: its program is compiled once for all seeds."""
