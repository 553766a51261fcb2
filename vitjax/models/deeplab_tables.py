"""DeepLabv3's weights in the layouts of transformers and the authors (apple/ml-cvnets), on MobileViT and MobileViTv2.

The trunk's rules are those of `mobilevit_tables` and `mobilevit_v2_tables`, channel order of the images included.

======================== ============================================= ==========================================
ours                     transformers, behind `segmentation_head.`     authors, behind `seg_head.`
======================== ============================================= ==========================================
`aspp/branch_0` to `3`   `aspp.convs.0` to `3`                         `aspp.aspp_layer.convs.0` to `3`
`aspp/pooled`            `aspp.convs.4.conv_1x1`                       `aspp.aspp_layer.convs.4.aspp_pool.conv_1x1`
`aspp/project`           `aspp.project`                                `aspp.aspp_layer.project`
`head`                   `classifier.convolution`                      `classifier.block.conv`
`auxiliary_head`         has none                                      `aux_head.0`, `aux_head.2`
======================== ============================================= ==========================================

What the same weights compute differs: transformers returns logits at the output stride, the authors enlarge them to
the images' size with corners kept in place; and transformers leaves MobileViTv2's blocks undilated.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.layers.segmentation_head import as_they_are, to_corners
from vitjax.models import mobilevit_tables, mobilevit_v2_tables
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.mobilevit_v2 import MobileViTV2Trunk
from vitjax.weights.layouts import Layout
from vitjax.weights.rules import Rule, Table, conv

__all__ = ["LAYOUTS", "authors", "authors_names", "huggingface"]

_TRUNKS: Mapping[type, tuple[Any, str]] = {
    MobileViTTrunk: (mobilevit_tables, "mobilevit."),
    MobileViTV2Trunk: (mobilevit_v2_tables, "mobilevitv2."),
}
"""Trunk -> its tables, and what transformers calls it."""


def _trunk(module: Any) -> tuple[Any, Any, str]:
    """The module's trunk, its tables, and transformers' prefix."""
    trunk = module.backbone(parent=None)
    if type(trunk) not in _TRUNKS:
        raise UserError(f"DeepLabV3 on {type(trunk).__name__}: nobody else's files hold it")
    return trunk, *_TRUNKS[type(trunk)]


def _conv(key: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{key}.weight", f"params/{path}/kernel", conv), Rule(f"{key}.bias", f"params/{path}/bias")


def _pair(names: Any, key: str, path: str) -> tuple[Rule, ...]:
    """A convolution and its batch norm."""
    norm = f"{key}.{names.norm}"
    return (
        Rule(f"{key}.{names.conv}.weight", f"params/{path}/conv/kernel", conv),
        Rule(f"{norm}.weight", f"params/{path}/norm/scale"),
        Rule(f"{norm}.bias", f"params/{path}/norm/bias"),
        Rule(f"{norm}.running_mean", f"batch_stats/{path}/norm/mean"),
        Rule(f"{norm}.running_var", f"batch_stats/{path}/norm/var"),
        Rule(f"{norm}.num_batches_tracked", None),
    )


def huggingface(module: Any) -> Table:
    """`MobileViTForSemanticSegmentation` and `MobileViTV2ForSemanticSegmentation`."""
    trunk, tables, prefix = _trunk(module)
    names, aspp = tables.HUGGINGFACE, "segmentation_head.aspp"
    return (
        *tables.trunk(names, trunk, prefix=prefix),
        *_pair(names, f"{aspp}.convs.{{branch}}", "aspp/branch_{branch}"),
        *_pair(names, f"{aspp}.convs.{len(module.rates) + 1}.conv_1x1", "aspp/pooled"),
        *_pair(names, f"{aspp}.project", "aspp/project"),
        *_conv(f"segmentation_head.classifier.{names.conv}", "head"),
    )


def authors(module: Any) -> Table:
    """The authors' models, with `authors_names`; an auxiliary head is dropped if the module has none."""
    trunk, tables, _ = _trunk(module)
    names, aspp, extra = tables.AUTHORS, "seg_head.aspp.aspp_layer", "seg_head.aux_head"
    auxiliary = (
        *_pair(names, f"{extra}.0.block", "auxiliary_head/hidden"),
        *_conv(f"{extra}.2.block.{names.conv}", "auxiliary_head/classifier"),
    )
    return (
        *tables.trunk(names, trunk, prefix="encoder."),
        *_pair(names, f"{aspp}.convs.{{branch}}.block", "aspp/branch_{branch}"),
        *_pair(names, f"{aspp}.convs.{len(module.rates) + 1}.aspp_pool.conv_1x1.block", "aspp/pooled"),
        *_pair(names, f"{aspp}.project.block", "aspp/project"),
        *_conv(f"seg_head.classifier.block.{names.conv}", "head"),
        *(auxiliary if module.auxiliary is not None else [Rule(rule.key, None) for rule in auxiliary]),
    )


def authors_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Files of models that were trained on several devices, and of the first release, whose classifier is nested."""

    def plain(key: str) -> str:
        return key.removeprefix("module.").replace("seg_head.classifier.classifier.", "seg_head.classifier.")

    return {plain(key): array for key, array in arrays.items()}


LAYOUTS = (
    Layout(
        "huggingface",
        huggingface,
        {"upsample": as_they_are, "backbone": partial(MobileViTV2Trunk, dilate_blocks=False)},
    ),
    Layout("authors", authors, {"upsample": to_corners}, authors_names),
)
"""How the files of others hold a DeepLabv3. Settings of a trunk are merged with the model's own if it is that trunk."""
