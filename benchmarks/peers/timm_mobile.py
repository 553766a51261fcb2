"""timm's networks of convolutions: one forward pass or one AdamW step on the same images."""

from collections.abc import Callable
from typing import Any

from benchmarks.peers import serve
from benchmarks.torch_side import import_torch


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `model` (timm's name), `batch`, `train`, `channels_last`, `folded` (batch norms), `compile`."""
    torch = import_torch()
    import timm

    torch.manual_seed(0)
    layout = torch.channels_last if settings["channels_last"] else torch.contiguous_format
    model: Any = timm.create_model(settings["model"], num_classes=1000)
    sides = model.default_cfg["input_size"][1:]
    if settings["folded"]:
        model = fold(model.eval())
    model = model.to(memory_format=layout)
    images = torch.randn(settings["batch"], 3, *sides).to(memory_format=layout)
    labels = torch.randint(0, 1000, (settings["batch"],))
    call = torch.compile(model) if settings["compile"] else model
    if not settings["train"]:
        model.eval()

        def forward() -> int:
            with torch.inference_mode():
                call(images)
            return settings["batch"]

        return forward
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    model.train()

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(call(images), labels).backward()
        optimizer.step()
        return settings["batch"]

    return step


def fold(model: Any) -> Any:
    """Batch norms folded into the convolutions before them: by timm's own way, else pair by pair.

    timm merges only models that bring a `fuse` of their own (EfficientViT); the pairs of the others are its
    `ConvNormAct` layers, whose norm holds the activation too.
    """
    import torch
    from timm.utils.model import reparameterize_model

    model = reparameterize_model(model)
    for module in model.modules():
        if isinstance(getattr(module, "bn", None), torch.nn.BatchNorm2d) and hasattr(module, "conv"):
            module.conv = torch.nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = getattr(module.bn, "act", torch.nn.Identity())
    return model


if __name__ == "__main__":
    serve(build)
