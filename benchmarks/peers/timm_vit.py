"""timm's ViT: one forward pass or one AdamW step on a batch that stays the same."""

from collections.abc import Callable
from typing import Any

from benchmarks.peers import serve
from benchmarks.torch_side import import_torch


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `model` (timm's name), `batch`, `train`, `channels_last`, `compile`."""
    torch = import_torch()
    import timm

    torch.manual_seed(0)
    layout = torch.channels_last if settings["channels_last"] else torch.contiguous_format
    model: Any = timm.create_model(settings["model"], num_classes=1000)
    model = model.to(memory_format=layout)
    images = torch.randn(settings["batch"], 3, 224, 224).to(memory_format=layout)
    labels = torch.randint(0, 1000, (settings["batch"],))
    call = torch.compile(model) if settings["compile"] else model
    if not settings["train"]:
        model.eval()

        def forward() -> int:
            with torch.inference_mode():
                call(images)
            return 1

        return forward
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(call(images), labels).backward()
        optimizer.step()
        return 1

    return step


if __name__ == "__main__":
    serve(build)
