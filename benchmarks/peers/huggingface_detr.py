"""transformers' DETR of the same sizes: one forward pass."""

from collections.abc import Callable
from typing import Any

from benchmarks.peers import serve
from benchmarks.torch_side import import_torch


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: those of `ours_detr`, and `channels_last`. A unit of work is a batch."""
    torch = import_torch()
    from transformers import DetrConfig, DetrForObjectDetection

    name, *dilated = settings["model"].removeprefix("detr_").split("_")
    config: Any = DetrConfig(  # pyright: ignore[reportCallIssue]
        use_timm_backbone=True, use_pretrained_backbone=False, backbone=name, dilation=bool(dilated), num_labels=91
    )  # fmt: skip
    torch.manual_seed(0)
    layout = torch.channels_last if settings["channels_last"] else torch.contiguous_format
    model: Any = DetrForObjectDetection(config).eval().to(memory_format=layout)
    images = torch.randn(settings["batch"], 3, *settings["size"]).to(memory_format=layout)

    def iteration() -> int:
        with torch.inference_mode():
            model(images)
        return 1

    return iteration


if __name__ == "__main__":
    serve(build)
