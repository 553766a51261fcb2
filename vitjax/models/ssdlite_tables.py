"""SSDLite's weights in the authors' layout (apple/ml-cvnets: `ssd.py`, `ssd_heads.py`), on MobileViT and MobileViTv2.

The trunk's rules are those of `mobilevit_tables` and `mobilevit_v2_tables`, behind `encoder.`; channel order of the
images included. Nobody else publishes these models: neither timm nor transformers has them.

============================ =====================================================
ours                         authors
============================ =====================================================
`extra_0`, `extra_1`, ...    `extra_layers.os_64`, `os_128`, ...: after the strides
`pooled`                     `extra_layers.os_-1.1`
`head_0/projection`          `ssd_heads.0.proj_layer`
`head_0/depthwise`           `ssd_heads.0.loc_cls_layer.dw_conv`
`head_0/pointwise`           `ssd_heads.0.loc_cls_layer.pw_conv`
`head_5`, of one pixel       `ssd_heads.5.loc_cls_layer`
============================ =====================================================

A head's channels are in the same order: anchors one after another, each with 4 offsets, then background and classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.models import mobilevit_tables, mobilevit_v2_tables
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, conv

__all__ = ["LAYOUTS", "authors", "detector"]

_TRUNKS: Mapping[type, Any] = {MobileViTTrunk: mobilevit_tables, MobileViTV2Trunk: mobilevit_v2_tables}
"""Trunk -> its tables."""


def _conv(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.block.conv.weight", f"params/{path}/kernel", conv), Rule(
        f"{key}.block.conv.bias", f"params/{path}/bias"
    )


def _pair(key: str, path: str) -> tuple[Rule, ...]:
    """A convolution and its batch norm."""
    norm = f"{key}.block.norm"
    return (
        Rule(f"{key}.block.conv.weight", f"params/{path}/conv/kernel", conv),
        Rule(f"{norm}.weight", f"params/{path}/norm/scale"),
        Rule(f"{norm}.bias", f"params/{path}/norm/bias"),
        Rule(f"{norm}.running_mean", f"batch_stats/{path}/norm/mean"),
        Rule(f"{norm}.running_var", f"batch_stats/{path}/norm/var"),
        Rule(f"{norm}.num_batches_tracked", None),
    )


def detector(module: Any) -> Table:
    """The rules of all but the trunk."""
    rules: list[Rule] = []
    stride = 2 ** int(module.stages[-1].removeprefix("stage_"))
    for number in range(len(module.extra_widths)):
        key, path = f"extra_layers.os_{stride << (number + 1)}", f"extra_{number}"
        rules += [*_pair(f"{key}.dw_conv", f"{path}/depthwise"), *_pair(f"{key}.pw_conv", f"{path}/pointwise")]
    for level in range(len(module.head_widths)):
        key, path = f"ssd_heads.{level}", f"head_{level}"
        rules += [*_pair(f"{key}.proj_layer", f"{path}/projection")]
        rules += _pair(f"{key}.loc_cls_layer.dw_conv", f"{path}/depthwise")
        rules += _conv(f"{key}.loc_cls_layer.pw_conv", f"{path}/pointwise")
    if module.pooled_width is not None:
        last = len(module.head_widths)
        rules.append(Rule("extra_layers.os_-1.1.block.conv.weight", "params/pooled/kernel", conv))
        rules += _conv(f"ssd_heads.{last}.loc_cls_layer", f"head_{last}")
    return tuple(rules)


def authors(module: Any) -> Table:
    """The authors' detectors.

    Raises:
        UserError: the module has another trunk than the authors' models.
    """
    trunk = module.backbone(parent=None)
    if type(trunk) not in _TRUNKS:
        raise UserError(f"SSDLite on {type(trunk).__name__}: nobody else's files hold it")
    tables = _TRUNKS[type(trunk)]
    return (*tables.trunk(tables.AUTHORS, trunk, prefix="encoder."), *detector(module))


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Files of models that were trained on several devices."""
    return {key.removeprefix("module."): array for key, array in arrays.items()}


LAYOUTS = (Layout("authors", authors, prepare=_without_prefix),)
"""How the files of others hold an SSDLite."""
