"""Panoptic DETR's weights in the authors' layout and in transformers' two: `detr.` in front of DETR's, and the head.

============================ ====================== ========================= ==============================
ours                         authors                transformers' files       transformers 5 in memory
============================ ====================== ========================= ==============================
`mask_attention/query`, key  `bbox_attention`,      `bbox_attention`,         `bbox_attention`,
                             `q_linear`, k          `q_linear`, k             `q_proj`, k
`mask_head/conv_1`, 2        `lay1`, 2              `lay1`, 2                 `conv1.conv`, 2
`mask_head/norm_1`, 2        `gn1`, 2               `gn1`, 2                  `conv1.norm`, 2
`mask_head/adapter_1` to 3   `adapter1` to 3        `adapter1` to 3           `fpn_stages.0.fpn_adapter` to 2
`mask_head/conv_3` to 5      `lay3` to 5            `lay3` to 5               `fpn_stages.0.refine.conv` to 2
`mask_head/norm_3` to 5      `gn3` to 5             `gn3` to 5                `fpn_stages.0.refine.norm` to 2
`mask_head/out`              `out_lay`              `out_lay`                 `output_conv`
============================ ====================== ========================= ==============================
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from vitjax.models import detr_tables
from vitjax.models.detr import DETR
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, conv, linear

__all__ = ["LAYOUTS", "authors", "huggingface", "huggingface_timm", "release_4_names", "sizes_of"]


def _with_head(boxes: Callable[..., Table], module: Any) -> Table:
    """The table of the boxes' part, and that of the head, which is the same in all files."""
    detector = module.detector(num_classes=module.num_classes, image_size=module.image_size, parent=None)
    rules = [*boxes(detector, prefix="detr.")]
    for letter, part in (("q", "query"), ("k", "key")):
        rules += _pair(f"bbox_attention.{letter}_linear", f"mask_attention/{part}", linear)
    for theirs, ours in (("lay{number}", "conv_{number}"), ("adapter{number}", "adapter_{number}"), ("out_lay", "out")):
        rules += _pair(f"mask_head.{theirs}", f"mask_head/{ours}", conv)
    return (
        *rules,
        Rule("mask_head.gn{number}.weight", "params/mask_head/norm_{number}/scale"),
        Rule("mask_head.gn{number}.bias", "params/mask_head/norm_{number}/bias"),
    )


def _pair(key: str, path: str, transform: Any) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/kernel", transform), Rule(f"{key}.bias", f"params/{path}/bias")


authors = partial(_with_head, detr_tables.authors)
"""The authors' rules for a `PanopticDETR` on a ResNet."""

huggingface = partial(_with_head, detr_tables.huggingface)
"""Those of transformers on its own ResNet."""

huggingface_timm = partial(_with_head, detr_tables.huggingface_timm)
"""Those of transformers on timm's ResNet."""


def release_4_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keys that transformers' release 5 has in memory, as they stand in files."""
    kinds = {"conv": "lay", "norm": "gn"}

    def renamed(key: str) -> str:
        key = re.sub(r"^bbox_attention\.([qk])_proj\.", r"bbox_attention.\1_linear.", key)
        key = re.sub(r"^mask_head\.output_conv\.", "mask_head.out_lay.", key)
        key = re.sub(r"^mask_head\.conv(\d)\.(conv|norm)\.", lambda m: f"mask_head.{kinds[m[2]]}{m[1]}.", key)
        key = re.sub(
            r"^mask_head\.fpn_stages\.(\d)\.fpn_adapter\.", lambda m: f"mask_head.adapter{int(m[1]) + 1}.", key
        )
        stage = r"^mask_head\.fpn_stages\.(\d)\.refine\.(conv|norm)\."
        return re.sub(stage, lambda m: f"mask_head.{kinds[m[2]]}{int(m[1]) + 3}.", key)

    return {renamed(key): array for key, array in detr_tables.release_4_names(arrays).items()}


def sizes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of classes and of queries, which only a file's shapes tell; the queries are the detector's."""
    found = detr_tables.sizes_of({key.removeprefix("detr."): array for key, array in arrays.items()})
    if "num_queries" in found:
        found["detector"] = partial(DETR, num_queries=found.pop("num_queries"))
    return found


LAYOUTS = (
    Layout("authors", authors),
    Layout("huggingface", huggingface, prepare=release_4_names),
    Layout("huggingface_timm", huggingface_timm, prepare=release_4_names),
)
"""How the files of others hold it; see `detr_tables.LAYOUTS`."""
