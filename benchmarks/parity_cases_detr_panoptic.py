"""Panoptic DETR beside transformers' `DetrForSegmentation`, on its own ResNet and on timm's."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, cast

import numpy as np

from benchmarks.comparison import Case, Stages, shapes_of
from benchmarks.parity_cases_detr import small_timm_trunk
from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.detr import DETR
from vitjax.models.detr_panoptic import PanopticDETR
from vitjax.models.detr_panoptic_tables import LAYOUTS
from vitjax.models.resnet import ResNetTrunk
from vitjax.paths import flatten
from vitjax.weights.rules import Rule, Table, conv, linear

__all__ = ["DETR_PANOPTIC_CASES", "LAYOUT", "small", "small_huggingface"]

LAYOUT = {layout.name: layout for layout in LAYOUTS}

_WIDTH, _DEPTHS, _CLASSES = 8, (1, 1, 2, 2), 5  # those of `small_timm_trunk`
_SIZES: dict[str, Any] = {
    "num_queries": 5, "width": 32, "num_heads": 8, "mlp_width": 48, "encoder_depth": 1, "decoder_depth": 2,
    "dropout_rate": 0.0,
}  # fmt: skip


def small(*, query_chunk: int | None = 2, isolate_padding: bool = False) -> PanopticDETR:
    """Our side."""
    norm = partial(BatchNorm, frozen=True)
    trunk = partial(ResNetTrunk, depths=_DEPTHS, width=_WIDTH, norm=norm)
    detector = partial(DETR, backbone=trunk, isolate_padding=isolate_padding, **_SIZES)
    return PanopticDETR(num_classes=_CLASSES, detector=detector, query_chunk=query_chunk)


def small_huggingface(*, use_timm: bool = False) -> Any:
    """The network of transformers, as it comes: all but its backbone trainable, or parts of that."""
    from transformers import DetrConfig, DetrForSegmentation, ResNetConfig
    from transformers.models.detr.modeling_detr import replace_batch_norm

    body = cast(Any, ResNetConfig)(
        embedding_size=_WIDTH, hidden_sizes=[4 * _WIDTH * 2**stage for stage in range(4)], depths=list(_DEPTHS),
        out_features=[f"stage{stage}" for stage in (1, 2, 3, 4)],
    )  # fmt: skip
    config = cast(Any, DetrConfig)(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=body,
        d_model=_SIZES["width"], encoder_layers=_SIZES["encoder_depth"], decoder_layers=_SIZES["decoder_depth"],
        encoder_attention_heads=_SIZES["num_heads"], decoder_attention_heads=_SIZES["num_heads"],
        encoder_ffn_dim=_SIZES["mlp_width"], decoder_ffn_dim=_SIZES["mlp_width"], num_queries=_SIZES["num_queries"],
        num_labels=_CLASSES, dropout=0.0,
    )  # fmt: skip
    model = DetrForSegmentation(config)
    if use_timm:
        # Its configuration has no sizes of timm's network: one of the right sizes takes the place of its own.
        import torch

        trunk = small_timm_trunk()
        with torch.no_grad():
            replace_batch_norm(trunk)
        model.detr.model.backbone.model = trunk
    return model


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


def _in_memory(table: Table) -> Table:
    """Transformers' table with the names that its release 5 has in memory."""

    def renamed(key: str) -> str:
        key = key.replace("backbone.conv_encoder.", "backbone.").replace("_attn.out_proj.", "_attn.o_proj.")
        return key.replace(".fc1.", ".mlp.fc1.").replace(".fc2.", ".mlp.fc2.")

    rules = [replace(rule, key=renamed(rule.key)) for rule in table if rule.key.startswith("detr.")]
    kernels = {"bbox_attention.q_proj": "mask_attention/query", "bbox_attention.k_proj": "mask_attention/key"}
    convolutions, norms = {"mask_head.output_conv": "mask_head/out"}, {}
    for number in range(1, 6):
        key = f"mask_head.conv{number}" if number < 3 else f"mask_head.fpn_stages.{number - 3}.refine"
        convolutions[f"{key}.conv"] = f"mask_head/conv_{number}"
        norms[f"{key}.norm"] = f"mask_head/norm_{number}"
        if number < 4:
            convolutions[f"mask_head.fpn_stages.{number - 1}.fpn_adapter"] = f"mask_head/adapter_{number}"
    for pairs, transform in ((kernels, linear), (convolutions, conv)):
        for key, path in pairs.items():
            rules += [
                Rule(f"{key}.weight", f"params/{path}/kernel", transform),
                Rule(f"{key}.bias", f"params/{path}/bias"),
            ]
    for key, path in norms.items():
        rules += [Rule(f"{key}.weight", f"params/{path}/scale"), Rule(f"{key}.bias", f"params/{path}/bias")]
    return tuple(rules)


def _huggingface_stages(mask: np.ndarray, model: Any, inputs: Mapping[str, Any]) -> Stages:
    import torch

    found: Stages = {}
    hook = model.bbox_attention.register_forward_hook(
        lambda _, __, output: found.update(mask_maps=output.permute(0, 1, 3, 4, 2))
    )
    made = model(inputs["images"].permute(0, 3, 1, 2), pixel_mask=torch.tensor(mask).long())
    hook.remove()
    parts = {"boxes": made.pred_boxes, "masks": made.pred_masks}
    return found | parts | {"logits": torch.cat([made.logits, made.pred_boxes, made.pred_masks.flatten(2)], -1)}


def _our_stages(
    module: PanopticDETR, content_size: np.ndarray | None, variables: Any, inputs: Mapping[str, Any]
) -> Stages:
    """Loss and `logits` are of all three heads."""
    import jax.numpy as jnp

    made, state = module.apply(variables, inputs["images"], content_size, mutable=["intermediates"])
    outputs = cast(Any, made)
    sown = flatten(state["intermediates"])
    parts = {"boxes": outputs["boxes"][-1], "masks": outputs["masks"]}
    flat = parts["masks"].reshape(*parts["boxes"].shape[:2], -1)
    joined = jnp.concatenate([outputs["logits"][-1], parts["boxes"], flat], -1)
    return {"mask_maps": sown["mask_maps/0"]} | parts | {"logits": joined}


def _draw(seed: int, *, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(np.float32)}


def _case(
    name: str,
    *,
    layout: str,
    reference: Callable[[], Any],
    size: tuple[int, int] = (64, 96),
    content: tuple[tuple[int, int], ...] | None = None,
) -> Case:
    """`content`: the sizes of padded pictures. Their padding holds noise, which reaches into both sides' pictures."""
    module, draw = small(), partial(_draw, size=size)
    mask = np.ones((2, *size), np.float32)
    for picture, (rows, columns) in enumerate(content or ()):
        mask[picture, rows:] = mask[picture, :, columns:] = 0
    sizes = None if content is None else np.asarray(content, np.int32)
    return Case(
        name=name,
        reference=_all_trained(reference()).eval(),
        reference_stages=partial(_huggingface_stages, mask),
        inputs=draw,
        variables=shapes_of(module, draw(0)["images"]),
        stages=partial(_our_stages, module, sizes),
        table=_in_memory(LAYOUT[layout].rules(module)),
    )


_NATIVE: dict[str, Any] = {"layout": "huggingface", "reference": small_huggingface}
_TIMM: dict[str, Any] = {"layout": "huggingface_timm", "reference": partial(small_huggingface, use_timm=True)}
_CASES: dict[str, dict[str, Any]] = {
    "Panoptic DETR vs Hugging Face, its own ResNet": _NATIVE,
    "Panoptic DETR vs Hugging Face, its own ResNet, padded": _NATIVE
    | {"size": (96, 100), "content": ((50, 100), (96, 61))},
    "Panoptic DETR vs Hugging Face, timm's ResNet": _TIMM,
}

DETR_PANOPTIC_CASES = {name: cache(partial(_case, name, **settings)) for name, settings in _CASES.items()}
"""Name -> what makes the case, once."""
