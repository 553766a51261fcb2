"""NaFlexViT on packed rows beside timm and transformers, which pad one image a row; in the form of `parity_cases`."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.comparison import Case, Stages
from benchmarks.parity_cases import (
    _GRIDS,
    _LENGTH,
    _PATCH,
    _ROWS,
    _SLOTS,
    _buckets,
    _draw_packed_images,
    _Hooks,
    _layout,
    _our_stages,
    _packed_patches,
    _shapes,
)
from vitjax.layers.resampled_positions import ResampledAxes, ResampledGrid, longer_side
from vitjax.models import naflex_tables
from vitjax.models.naflex import AttentionPooling, AveragePooling, ClassTokenPooling, NaFlexViT
from vitjax.ops.activations import gelu_tanh
from vitjax.ops.axis_weights import bicubic, bilinear_antialias

__all__ = ["NAFLEX_CASES"]

_WIDTH, _HEADS = 32, 4
_TABLE = (5, 4)
"""No image here has it: timm does not stretch a table that is no square over an image of its own grid."""
_LONGEST = max(rows * columns for rows, columns in _GRIDS)


def _padded_rows(inputs: Mapping[str, Any]) -> tuple[Any, np.ndarray, np.ndarray]:
    """One image a row as the references take it: `[images, longest, P]`, (row, column) of each patch, what is real."""
    import torch

    rows = []
    for image in inputs.values():
        grid = image.shape[0] // _PATCH, image.shape[1] // _PATCH
        patches = image.reshape(grid[0], _PATCH, grid[1], _PATCH, 3).permute(0, 2, 1, 3, 4).flatten(2).flatten(0, 1)
        rows.append(torch.nn.functional.pad(patches, (0, 0, 0, _LONGEST - len(patches))))
    places = np.zeros((len(rows), _LONGEST, 2), np.int64)
    real = np.zeros((len(rows), _LONGEST), bool)
    for number, (high, wide) in enumerate(_GRIDS):
        places[number, : high * wide] = np.indices((high, wide)).reshape(2, -1).T
        real[number, : high * wide] = True
    return torch.stack(rows), places, real


def _real_tokens(value: Any, num_prefix: int) -> Any:
    """Each image's own tokens, prefix and patches, one image after another."""
    import torch

    counts = [num_prefix + rows * columns for rows, columns in _GRIDS]
    return torch.cat([row[:count] for row, count in zip(value, counts, strict=True)])


def _naflex_stages(module: Any, variables: Any, inputs: Mapping[str, Any], *, with_buckets: bool) -> Stages:
    """The same of ours, whose rows hold several images."""
    layout = _layout()
    buckets = _buckets(layout["segments"]) if with_buckets else None
    stages = _our_stages(module, variables, _packed_patches(inputs), buckets=buckets, **layout)
    front = _SLOTS * module.num_prefix
    tokens, images = [], []
    for number, row in enumerate(_ROWS):
        for slot in range(len(row)):
            start = number * (front + _LENGTH)
            tokens.append(start + slot * module.num_prefix + np.arange(module.num_prefix))
            tokens.append(start + front + np.flatnonzero(layout["segments"][number] == slot + 1))
            images.append(number * _SLOTS + slot)
    index = {True: np.array(images), False: np.concatenate(tokens)}
    return {
        name: value.reshape(-1, value.shape[-1])[index[name in ("pooled", "logits")]] for name, value in stages.items()
    }


def _timm_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    import torch

    patches, places, real = _padded_rows(inputs)
    with _Hooks() as hooks:
        hooks.output("embedded", model.embeds)
        for number, block in enumerate(model.blocks):
            hooks.output(f"block_{number}_output", block)
        if any(True for _ in model.norm.parameters()):
            hooks.output("normed", model.norm)
        hooks.input("pooled", model.head_drop)
        logits = model(patches, patch_coord=torch.tensor(places), patch_valid=torch.tensor(real))
    stages = hooks.stages | {"embedded": hooks.stages["embedded"][0]}
    return {
        name: value if name == "pooled" else _real_tokens(value, model.num_prefix_tokens)
        for name, value in stages.items()
    } | {"logits": logits}


def _case(name: str, reference: Any, stages: Any, module: NaFlexViT, table: Any, *, buckets: bool) -> Case:
    values = np.zeros((len(_ROWS), _LENGTH, _PATCH**2 * 3), np.float32)
    return Case(
        name=name,
        reference=reference.eval(),
        reference_stages=stages,
        inputs=_draw_packed_images,
        variables=_shapes(module, values, **_layout()),
        stages=partial(_naflex_stages, module, with_buckets=buckets),
        table=table,
    )


def _timm(
    name: str, *, theirs: Mapping[str, Any], ours: Mapping[str, Any], depth: int = 1, buckets: bool = False
) -> Case:
    from timm.models.naflexvit import NaFlexVit

    reference = NaFlexVit(
        patch_size=_PATCH, embed_dim=_WIDTH, depth=depth, num_heads=_HEADS, num_classes=7, pos_embed_grid_size=_TABLE,
        **theirs,
    )  # fmt: skip
    module = NaFlexViT(
        num_classes=7, patch_size=_PATCH, table_grid=_TABLE, width=_WIDTH, depth=depth, num_heads=_HEADS,
        mlp_width=4 * _WIDTH, **ours,
    )  # fmt: skip
    table = naflex_tables.timm(final_norm="fc_norm" if module.norm_after_pooling else "norm")
    return _case(name, reference, _timm_stages, module, table, buckets=buckets)


def _huggingface_stages(model: Any, inputs: Mapping[str, Any]) -> Stages:
    import torch

    patches, _, real = _padded_rows(inputs)
    with _Hooks() as hooks:
        hooks.output("embedded", model.embeddings)
        for number, layer in enumerate(model.encoder.layers):
            hooks.output(f"block_{number}_output", layer)
        hooks.output("normed", model.post_layernorm)
        mask, shapes = torch.tensor(real).to(torch.int64), torch.tensor(_GRIDS)
        pooled = model(patches, pixel_attention_mask=mask, spatial_shapes=shapes).pooler_output
    stages = {name: value[0] if isinstance(value, tuple) else value for name, value in hooks.stages.items()}
    return {name: _real_tokens(value, 0) for name, value in stages.items()} | {"pooled": pooled, "logits": pooled}


def _huggingface(name: str) -> Case:
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    config = Siglip2VisionConfig(
        patch_size=_PATCH, hidden_size=_WIDTH, num_hidden_layers=1, num_attention_heads=_HEADS,
        intermediate_size=2 * _WIDTH, num_patches=16,
    )  # fmt: skip
    module = NaFlexViT(
        num_classes=0, patch_size=_PATCH, table_grid=(4, 4), width=_WIDTH, depth=1, num_heads=_HEADS,
        mlp_width=2 * _WIDTH, activation=gelu_tanh, positions=partial(ResampledGrid, weights=bilinear_antialias),
        pool=partial(AttentionPooling, num_heads=_HEADS, mlp_width=2 * _WIDTH, activation=gelu_tanh),
    )  # fmt: skip
    table = naflex_tables.huggingface(table_grid=(4, 4), prefix="")
    return _case(name, Siglip2VisionModel(config), _huggingface_stages, module, table, buckets=False)


_AVERAGE: dict[str, Any] = {
    "theirs": {"global_pool": "avg", "reg_tokens": 2, "init_values": 0.1, "fc_norm": True},
    "ours": {"pool": AveragePooling, "norm_after_pooling": True, "num_registers": 2, "layer_scale": 0.1},
}
_MAP = partial(AttentionPooling, num_heads=_HEADS, mlp_width=4 * _WIDTH)

_SETTINGS: dict[str, dict[str, Any]] = {
    "NaFlex vs timm, registers, LayerScale, average": {**_AVERAGE, "depth": 2},
    "NaFlex vs timm, registers, LayerScale, average, buckets": {**_AVERAGE, "depth": 2, "buckets": True},
    "NaFlex vs timm, factorised positions, aspect kept": {
        "theirs": {"global_pool": "avg", "pos_embed": "factorized", "pos_embed_ar_preserving": True, "fc_norm": False},
        "ours": {"pool": AveragePooling, "positions": partial(ResampledAxes, sides=longer_side)},
    },
    "NaFlex vs timm, one table, aspect kept, class token, no antialiasing, QK norm": {
        "theirs": {
            "global_pool": "token", "class_token": True, "pos_embed_ar_preserving": True, "pos_embed_antialias": False,
            "qkv_bias": False, "qk_norm": True,
        },
        "ours": {
            "pool": ClassTokenPooling, "use_class_token": True, "use_qkv_bias": False, "use_qk_norm": True,
            "positions": partial(ResampledGrid, weights=bicubic, sides=longer_side),
        },
    },
    "NaFlex vs timm, SigLIP 2": {
        "theirs": {"global_pool": "map", "act_layer": "gelu_tanh", "pos_embed_interp_mode": "bilinear"},
        "ours": {
            "pool": partial(_MAP, activation=gelu_tanh), "activation": gelu_tanh,
            "positions": partial(ResampledGrid, weights=bilinear_antialias),
        },
    },
    "NaFlex vs timm, attention pooling over registers too": {
        "theirs": {"global_pool": "map", "reg_tokens": 1, "pool_include_prefix": True},
        "ours": {"pool": partial(_MAP, include_prefix=True), "num_registers": 1},
    },
}  # fmt: skip

_NAFLEX: dict[str, Callable[[], Case]] = {
    **{name: partial(_timm, name, **settings) for name, settings in _SETTINGS.items()},
    "NaFlex vs transformers, SigLIP 2": partial(_huggingface, "NaFlex vs transformers, SigLIP 2"),
}

NAFLEX_CASES = {name: cache(make) for name, make in _NAFLEX.items()}
