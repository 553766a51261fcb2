"""SSDLite beside a statement of the authors' form in torch's own layers, keys included.

The authors' repository cannot be installed. What its `ssd.py` computes is written down here from its description, in
the words of `nn.Conv2d` and `nn.BatchNorm2d`: on two convolutions in place of the trunk, and on transformers'
MobileViT.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen
from torch import nn

from benchmarks.comparison import Case, Stages, our_stages, shapes_of
from vitjax.layers.conv_norm import ConvNorm
from vitjax.models import mobilevit_tables
from vitjax.models.mobilevit import MobileViTTrunk
from vitjax.models.ssdlite import SSDLite
from vitjax.models.ssdlite_tables import detector
from vitjax.ops.anchors import SSDAnchors
from vitjax.weights.rules import Rule, Table, conv

__all__ = ["SSDLITE_CASES", "AuthorsSSDLite", "TwoConvolutions", "small"]

_CLASSES = 3
_RATIOS = ((2, 3), (2,), (2,), (2,))
_WIDTHS = (8, 12)  # of the two maps of the trunk
_SIZES: dict[str, Any] = {
    "num_classes": _CLASSES,
    "extra_widths": (10,),
    "pooled_width": 6,
    "head_widths": (16, 12, 10),  # with projection, without, without
    "anchors": SSDAnchors(_RATIOS),
}


class TwoConvolutions(linen.Module):
    """As little as can stand for a trunk: maps at 1/4 and 1/8 of the image."""

    conv_norm: Callable[..., linen.Module] = ConvNorm
    dtype: str = "float32"

    @linen.compact
    def __call__(self, images: Any, *, train: bool = False) -> dict[str, Any]:
        """`stage_4` and `stage_5`."""
        conv_norm = partial(self.conv_norm, kernel_size=3, activation=linen.relu, dtype=self.dtype)
        x = conv_norm(_WIDTHS[0], stride=4, name="first")(images, train)
        return {"stage_4": x, "stage_5": conv_norm(_WIDTHS[1], stride=2, name="second")(x, train)}


class _Layer(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride=1, groups=1, norm=True, bias=False, act=True
    ):
        super().__init__()
        parts: dict[str, nn.Module] = {
            "conv": nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
        }
        parts |= {"norm": nn.BatchNorm2d(outputs)} if norm else {}
        parts |= {"act": nn.ReLU()} if act else {}
        self.block = nn.Sequential(OrderedDict(parts))

    def forward(self, x):
        return self.block(x)


class _Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride=1, last: bool = False):
        super().__init__()
        self.dw_conv = _Layer(inputs, inputs, 3, stride=stride, groups=inputs, act=False)
        self.pw_conv = _Layer(inputs, outputs, norm=not last, act=not last, bias=last)

    def forward(self, x):
        return self.pw_conv(self.dw_conv(x))


class _Head(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.proj_layer = _Layer(inputs, width) if width != inputs else nn.Identity()
        self.loc_cls_layer = _Separable(width, outputs, last=True)

    def forward(self, x):
        return self.loc_cls_layer(self.proj_layer(x))


class _PooledHead(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.loc_cls_layer = _Layer(inputs, outputs, norm=False, bias=True, act=False)

    def forward(self, x):
        return self.loc_cls_layer(x)


class AuthorsSSDLite(nn.Module):
    """The form of apple/ml-cvnets; images `[B, C, H, W]`.

    Args:
        encoder: from images to the two last maps of a trunk.
        widths: channels of these maps.
    """

    def __init__(self, encoder: nn.Module, widths: tuple[int, int]):
        super().__init__()
        extra, pooled = _SIZES["extra_widths"][0], _SIZES["pooled_width"]
        self.encoder = encoder
        self.extra_layers = nn.ModuleDict(
            {
                "os_64": _Separable(widths[1], extra, stride=2),
                "os_-1": nn.Sequential(nn.AdaptiveAvgPool2d(1), _Layer(extra, pooled, norm=False)),
            }
        )
        outputs = [(2 + 2 * len(ratios)) * (4 + 1 + _CLASSES) for ratios in _RATIOS]
        inputs = (*widths, extra)
        heads = [_Head(*sizes) for sizes in zip(inputs, _SIZES["head_widths"], outputs[:-1], strict=True)]
        self.ssd_heads = nn.ModuleList([*heads, _PooledHead(pooled, outputs[-1])])

    def stages(self, images) -> Stages:
        """The maps, and offsets and scores of all anchors as logits."""
        maps = list(self.encoder(images))
        for layer in self.extra_layers.values():
            maps.append(layer(maps[-1]))
        found: Stages = {f"level_{level}": x.permute(0, 2, 3, 1) for level, x in enumerate(maps)}
        predictions = [
            head(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 5 + _CLASSES))
            for head, x in zip(self.ssd_heads, maps, strict=True)
        ]
        return found | {"logits": torch.cat(predictions, dim=1)}


class _Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = _Layer(3, _WIDTHS[0], 3, stride=4)
        self.second = _Layer(_WIDTHS[0], _WIDTHS[1], 3, stride=2)

    def forward(self, images):
        x = self.first(images)
        return x, self.second(x)


class _MobileViT(nn.Module):
    """transformers' network without what follows its last stage; depths cannot be chosen, layers are taken away."""

    def __init__(self, sizes: Mapping[str, Any]):
        super().__init__()
        import transformers

        config = transformers.MobileViTConfig(
            hidden_sizes=list(sizes["transformer_widths"]),
            neck_hidden_sizes=[*sizes["widths"], 4 * sizes["widths"][-1]],
            expand_ratio=float(sizes["expansion"]),
            hidden_dropout_prob=0.0,
        )
        self.mobilevit = transformers.MobileViTModel(config, expand_output=False)
        layers: Any = self.mobilevit.encoder.layer
        for stage, depth in zip(layers[2:], sizes["depths"], strict=True):
            stage.transformer.layer = stage.transformer.layer[:depth]

    def forward(self, images):
        x, maps = self.mobilevit.conv_stem(images), []
        for stage in self.mobilevit.encoder.layer:
            x = stage(x)
            maps.append(x)
        return maps[-2:]


_MOBILEVIT: dict[str, Any] = {
    "widths": (8, 8, 8, 16, *_WIDTHS),
    "transformer_widths": (8, 12, 16),
    "depths": (1, 1, 1),
    "expansion": 2,
    "transformer_dropout_rate": 0.0,
}


def small(backbone: Callable[..., linen.Module] = TwoConvolutions, **settings: Any) -> SSDLite:
    """Our detector of the same sizes."""
    return SSDLite(backbone=backbone, **{**_SIZES, **settings})


def _pair(key: str, path: str) -> Table:
    return (
        Rule(f"{key}.block.conv.weight", f"params/{path}/conv/kernel", conv),
        Rule(f"{key}.block.norm.weight", f"params/{path}/norm/scale"),
        Rule(f"{key}.block.norm.bias", f"params/{path}/norm/bias"),
        Rule(f"{key}.block.norm.running_mean", f"batch_stats/{path}/norm/mean"),
        Rule(f"{key}.block.norm.running_var", f"batch_stats/{path}/norm/var"),
        Rule(f"{key}.block.norm.num_batches_tracked", None),
    )


_TWO = (*_pair("encoder.first", "trunk/first"), *_pair("encoder.second", "trunk/second"))


def _our_stages(module: SSDLite, training: bool, variables: Any, inputs: Mapping[str, Any]) -> Stages:
    found = our_stages(module, variables, inputs["images"], train=training)
    predicted: Any = found.pop("logits")
    kept = {name: leaf for name, leaf in found.items() if name.startswith(("level_", "batch_stats/"))}
    return kept | {"logits": jnp.concatenate([predicted["offsets"], predicted["logits"]], axis=-1)}


def _draw(seed: int, *, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(4, *size, 3)).astype(np.float32)}


def _case(
    name: str,
    *,
    backbone: Callable[..., linen.Module] = TwoConvolutions,
    encoder: Callable[[], nn.Module] = _Two,
    trunk_table: Callable[[], Table] = lambda: _TWO,
    size: tuple[int, int] = (32, 48),
    training: bool = False,
) -> Case:
    module, draw = small(backbone), partial(_draw, size=size)
    return Case(
        name=name,
        reference=AuthorsSSDLite(encoder(), _WIDTHS).eval(),
        reference_stages=lambda model, inputs: model.stages(inputs["images"].permute(0, 3, 1, 2)),
        inputs=draw,
        variables=shapes_of(module, draw(0)["images"]),
        stages=partial(_our_stages, module, training),
        table=(*trunk_table(), *detector(module)),
        training=training,
    )


def _mobilevit_table() -> Table:
    return mobilevit_tables.trunk(
        mobilevit_tables.HUGGINGFACE, MobileViTTrunk(**_MOBILEVIT), prefix="encoder.mobilevit."
    )


_CASES: dict[str, Callable[[str], Case]] = {
    "SSDLite vs authors' form": _case,
    "SSDLite vs authors' form, training": partial(_case, training=True),
    "SSDLite on MobileViT vs authors' form": partial(
        _case,
        backbone=partial(MobileViTTrunk, **_MOBILEVIT),
        encoder=partial(_MobileViT, _MOBILEVIT),
        trunk_table=_mobilevit_table,
        size=(64, 96),
    ),
}

SSDLITE_CASES = {name: cache(partial(make, name)) for name, make in _CASES.items()}
"""Name -> what makes the case, once."""
