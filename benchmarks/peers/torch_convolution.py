"""torch's convolution in `channels_last`, forward or with its gradient."""

from collections.abc import Callable
from typing import Any

from benchmarks.peers import serve
from benchmarks.torch_side import import_torch


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: those of `ours_convolution` but `form`; shapes in our order of axes."""
    torch = import_torch()
    torch.manual_seed(0)
    batch, height, width, inputs = settings["images"]
    rows, columns, depth, outputs = settings["kernel"]
    images = torch.randn(batch, inputs, height, width).to(memory_format=torch.channels_last)
    kernel = torch.randn(outputs, depth, rows, columns).to(memory_format=torch.channels_last)
    steps = {"stride": settings["stride"], "padding": rows // 2, "groups": settings["groups"]}

    def forward() -> Any:
        return torch.nn.functional.conv2d(images, kernel, **steps)

    if not settings["gradient"]:

        def infer() -> int:
            with torch.inference_mode():
                forward()
            return 1

        return infer
    wanted = [kernel] if inputs == 3 else [images, kernel]
    for tensor in wanted:
        tensor.requires_grad_()
    outer = torch.randn_like(forward())

    def gradient() -> int:
        torch.autograd.grad(forward(), wanted, outer)
        return 1

    return gradient


if __name__ == "__main__":
    serve(build)
