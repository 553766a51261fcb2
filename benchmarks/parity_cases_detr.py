"""DETR beside transformers', on timm's ResNet and on its own, and beside the authors' form in torch's layers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, cast

import numpy as np

from benchmarks.comparison import Case, Stages, shapes_of
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.detr_tables import LAYOUTS
from vitjax.models.resnet import ResNetTrunk
from vitjax.paths import flatten
from vitjax.weights.rules import Table

__all__ = ["DETR_CASES", "LAYOUT", "SMALL", "authors_form", "small", "small_huggingface", "small_timm_trunk"]

LAYOUT = {layout.name: layout for layout in LAYOUTS}

_WIDTH, _DEPTHS = 8, (1, 1, 2, 2)
SMALL: dict[str, Any] = {
    "num_classes": 5, "num_queries": 7, "width": 32, "num_heads": 4, "mlp_width": 48, "encoder_depth": 2,
    "decoder_depth": 3, "isolate_padding": False,
}  # fmt: skip
"""Keywords of the model that all cases compare, without the backbone."""


def small(output_stride: int = 32, **settings: Any) -> DETR:
    """Our side."""
    norm = partial(BatchNorm, frozen=True)
    trunk = partial(ResNetTrunk, depths=_DEPTHS, width=_WIDTH, output_stride=output_stride, norm=norm)
    return DETR(**{**SMALL, "backbone": trunk, **settings})


def small_timm_trunk(output_stride: int = 32) -> Any:
    """A ResNet of timm that gives the maps of its stages; what reads its stem of always 64 channels is made anew."""
    import timm
    import torch

    trunk = cast(Any, timm).create_model(
        "resnet50", features_only=True, out_indices=(1, 2, 3, 4), output_stride=output_stride, layers=_DEPTHS,
        channels=tuple(_WIDTH * 2**stage for stage in range(4)),
    )  # fmt: skip
    first = trunk.layer1[0]
    trunk.conv1 = torch.nn.Conv2d(3, _WIDTH, 7, 2, 3, bias=False)
    trunk.bn1 = torch.nn.BatchNorm2d(_WIDTH)
    first.conv1 = torch.nn.Conv2d(_WIDTH, _WIDTH, 1, bias=False)
    first.downsample[0] = torch.nn.Conv2d(_WIDTH, 4 * _WIDTH, 1, bias=False)
    return trunk


def small_huggingface(*, use_timm: bool = False, output_stride: int = 32) -> Any:
    """The network of transformers, all of it trainable."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
    from transformers.models.detr.modeling_detr import replace_batch_norm

    widths = [4 * _WIDTH * 2**stage for stage in range(4)]
    body = cast(Any, ResNetConfig)(
        embedding_size=_WIDTH, hidden_sizes=widths, depths=list(_DEPTHS), out_features=["stage4"]
    )
    config = cast(Any, DetrConfig)(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=body,
        d_model=SMALL["width"], encoder_layers=SMALL["encoder_depth"], decoder_layers=SMALL["decoder_depth"],
        encoder_attention_heads=SMALL["num_heads"], decoder_attention_heads=SMALL["num_heads"],
        encoder_ffn_dim=SMALL["mlp_width"], decoder_ffn_dim=SMALL["mlp_width"], num_queries=SMALL["num_queries"],
        num_labels=SMALL["num_classes"],
    )  # fmt: skip
    model = DetrForObjectDetection(config)
    if use_timm:
        # Its configuration has no sizes of timm's network: one of the right sizes takes the place of its own.
        import torch

        trunk = small_timm_trunk(output_stride)
        with torch.no_grad():
            replace_batch_norm(trunk)
        model.model.backbone.model = trunk
    return _all_trained(model)


def _all_trained(model: Any) -> Any:
    """Frozen weights, and what frozen norms hold as buffers, as parameters with gradients."""
    import torch

    for part in model.modules():
        if hasattr(part, "running_var") and not isinstance(part.weight, torch.nn.Parameter):
            for name in ("weight", "bias"):
                values = getattr(part, name).detach().clone()
                delattr(part, name)
                part.register_parameter(name, torch.nn.Parameter(values))
    return model.requires_grad_(True)


def authors_form(output_stride: int = 32) -> Any:
    """DETR in torch's own layers, written after the paper's appendix A.3 with the authors' names of variables.

    transformers cannot say what the auxiliary outputs are: with `auxiliary_loss` it hands the normed state on from one
    layer of the decoder to the next.
    """
    import torch
    from torch import nn

    width, heads, hidden = SMALL["width"], SMALL["num_heads"], SMALL["mlp_width"]

    class Layer(nn.Module):
        def __init__(self, crosses: bool) -> None:
            super().__init__()
            self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
            self.crosses = crosses
            if crosses:
                self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
            self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
            for number in range(2 + crosses):
                setattr(self, f"norm{number + 1}", nn.LayerNorm(width))

        def forward(self, x: Any, places: Any, hidden: Any, memory: Any = None, memory_places: Any = None) -> Any:
            # `hidden` is True for padding: of the memory in the decoder, of `x` itself in the encoder.
            own = None if self.crosses else hidden
            found = self.self_attn(x + places, x + places, x, key_padding_mask=own, need_weights=False)[0]
            x = self.norm1(x + found)
            if self.crosses:
                keys = memory + memory_places
                found = self.multihead_attn(x + places, keys, memory, key_padding_mask=hidden, need_weights=False)[0]
                x = self.norm2(x + found)
            last = self.norm3 if self.crosses else self.norm2
            return last(x + self.linear2(torch.relu(self.linear1(x))))

    def stack(depth: int, crosses: bool) -> Any:
        return nn.ModuleDict({"layers": nn.ModuleList(Layer(crosses) for _ in range(depth))})

    class Form(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            body = small_timm_trunk(output_stride)
            self.backbone = nn.ModuleList([nn.ModuleDict({"body": body})])
            self.input_proj = nn.Conv2d(32 * _WIDTH, width, 1)
            self.query_embed = nn.Embedding(SMALL["num_queries"], width)
            encoder, decoder = stack(SMALL["encoder_depth"], False), stack(SMALL["decoder_depth"], True)
            decoder["norm"] = nn.LayerNorm(width)
            self.transformer = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
            self.class_embed = nn.Linear(width, SMALL["num_classes"] + 1)
            layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])
            self.bbox_embed = nn.ModuleDict({"layers": layers})

        def places(self, real: Any) -> Any:
            """Sinusoids of the share of the picture above and left of a pixel, rows first."""
            parts = []
            for axis in (1, 2):
                count = real.cumsum(axis)
                share = 2 * np.pi * count / (count.select(axis, -1).unsqueeze(axis) + 1e-6)
                powers = torch.arange(width // 4, dtype=real.dtype) * (2 / (width // 2))
                angles = share[..., None] / 10000.0**powers
                parts.append(torch.stack([angles.sin(), angles.cos()], -1).flatten(-2))
            return torch.cat(parts, -1).flatten(1, 2)

        def forward(self, images: Any, real: Any) -> Stages:
            """`real`: 1 for pixels that are picture, `[B, H, W]`."""
            maps = self.backbone[0]["body"](images)
            found: Stages = {f"stage_{n}": x.permute(0, 2, 3, 1) for n, x in enumerate(maps, start=1)}
            x = self.input_proj(maps[-1])
            found["projected"] = x.permute(0, 2, 3, 1)
            real = nn.functional.interpolate(real[:, None], size=x.shape[-2:])[:, 0]
            places, padding, x = self.places(real), real.flatten(1) == 0, x.flatten(2).transpose(1, 2)
            for number, layer in enumerate(self.transformer["encoder"]["layers"]):
                x = found[f"encoder/block_{number}_output"] = layer(x, places, padding)
            queries = self.query_embed.weight.expand(len(x), -1, -1)
            targets, states = torch.zeros_like(queries), []
            for number, layer in enumerate(self.transformer["decoder"]["layers"]):
                targets = layer(targets, queries, padding, x, places)
                found[f"decoder/block_{number}_output"] = targets
                states.append(self.transformer["decoder"]["norm"](targets))
            state = torch.stack(states)
            found["boxes"] = torch.sigmoid(_through(self.bbox_embed["layers"], state))
            return found | {"logits": torch.cat([self.class_embed(state), found["boxes"]], -1)}

    return Form()


def _through(layers: Any, x: Any) -> Any:
    import torch

    *first, last = layers
    for layer in first:
        x = torch.relu(layer(x))
    return last(x)


def _authors_stages(mask: np.ndarray, model: Any, inputs: Mapping[str, Any]) -> Stages:
    import torch

    images = inputs["images"]
    return model(images.permute(0, 3, 1, 2), torch.tensor(mask).to(images.dtype))


def _huggingface_stages(mask: np.ndarray, model: Any, inputs: Mapping[str, Any]) -> Stages:
    import torch

    body, found, handles = model.model, {}, []
    parts = {"projected": body.input_projection}
    for side in ("encoder", "decoder"):
        parts |= {f"{side}/block_{n}_output": layer for n, layer in enumerate(getattr(body, side).layers)}
    for name, part in parts.items():

        def note(_: Any, __: Any, output: Any, name: str = name) -> None:
            found[name] = output.permute(0, 2, 3, 1) if output.ndim == 4 else output

        handles.append(part.register_forward_hook(note))
    made = model(inputs["images"].permute(0, 3, 1, 2), pixel_mask=torch.tensor(mask).long())
    for handle in handles:
        handle.remove()
    return found | {"boxes": made.pred_boxes, "logits": torch.cat([made.logits, made.pred_boxes], -1)}


def _our_stages(
    module: DETR, content_size: np.ndarray | None, layers: Any, variables: Any, inputs: Mapping[str, Any]
) -> Stages:
    """`layers` of the decoder whose outputs are compared. Loss and `logits` are of both heads."""
    import jax.numpy as jnp

    made, state = module.apply(variables, inputs["images"], content_size, mutable=["intermediates"])
    outputs = {name: value[layers] for name, value in cast(Any, made).items()}
    sown = {
        path.removeprefix("backbone/").removesuffix("/0"): leaf
        for path, leaf in flatten(state["intermediates"]).items()
    }
    found = {path: leaf for path, leaf in sown.items() if path != "stem_output"}
    return found | {"boxes": outputs["boxes"], "logits": jnp.concatenate([outputs["logits"], outputs["boxes"]], -1)}


def _draw(seed: int, *, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(np.float32)}


def _case(
    name: str,
    *,
    layout: str,
    reference: Callable[[], Any],
    size: tuple[int, int] = (64, 96),
    content: tuple[tuple[int, int], ...] | None = None,
    output_stride: int = 32,
) -> Case:
    """`content`: the sizes of padded pictures. Their padding holds noise, which reaches into both sides' pictures."""
    module, draw = small(output_stride), partial(_draw, size=size)
    mask = np.ones((2, *size), np.float32)
    for picture, (rows, columns) in enumerate(content or ()):
        mask[picture, rows:] = mask[picture, :, columns:] = 0
    table, is_authors = LAYOUT[layout].rules(module), layout == "authors"
    backbones = {f"stage_{number}" for number in (1, 2, 3, 4)}
    sizes = None if content is None else np.asarray(content, np.int32)

    def stages(variables: Any, inputs: Mapping[str, Any]) -> Stages:
        found = _our_stages(module, sizes, slice(None) if is_authors else -1, variables, inputs)
        return {path: value for path, value in found.items() if is_authors or path not in backbones}

    return Case(
        name=name,
        reference=_all_trained(reference()).eval(),
        reference_stages=partial(_authors_stages if is_authors else _huggingface_stages, mask),
        inputs=draw,
        variables=shapes_of(module, draw(0)["images"]),
        stages=stages,
        table=table if is_authors else _in_memory(table),
    )


def _in_memory(table: Table) -> Table:
    """The table with the names that transformers has in memory since release 5."""

    def renamed(key: str) -> str:
        key = key.replace("backbone.conv_encoder.", "backbone.").replace("_attn.out_proj.", "_attn.o_proj.")
        return key.replace(".fc1.", ".mlp.fc1.").replace(".fc2.", ".mlp.fc2.")

    return tuple(replace(rule, key=renamed(rule.key)) for rule in table)


_TIMM: dict[str, Any] = {"layout": "huggingface_timm", "reference": partial(small_huggingface, use_timm=True)}
_NATIVE: dict[str, Any] = {"layout": "huggingface", "reference": small_huggingface}
_AUTHORS: dict[str, Any] = {"layout": "authors", "reference": authors_form}
_PADDED: dict[str, Any] = {"size": (96, 100), "content": ((50, 100), (96, 61))}
_CASES: dict[str, dict[str, Any]] = {
    "DETR vs Hugging Face, timm's ResNet": _TIMM,
    "DETR vs Hugging Face, timm's ResNet, padded": _TIMM | _PADDED,
    "DETR vs Hugging Face, its own ResNet": _NATIVE,
    "DETR vs Hugging Face, its own ResNet, padded": _NATIVE | _PADDED,
    "DETR vs authors' form, all layers of the decoder": _AUTHORS | _PADDED,
    "DETR vs authors' form, dilated (DC5)": _AUTHORS | {"reference": partial(authors_form, 16), "output_stride": 16},
}

DETR_CASES = {name: cache(partial(_case, name, **settings)) for name, settings in _CASES.items()}
"""Name -> what makes the case, once."""
