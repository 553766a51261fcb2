"""PyTorch, set up the same way for every comparison."""

import importlib
import sys
from typing import Any

__all__ = ["import_torch"]


def import_torch(threads: int = 2) -> Any:
    """Imports torch with a fixed number of threads, and sees to it that timm and transformers can be imported.

    Both import torchvision, of which the models here use nothing. Where torchvision was built for another torch its
    compiled operators are missing and its import fails while it describes two of them; their bare schemas are enough.
    """
    import torch

    torch.set_num_threads(threads)
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass  # timm and transformers find out by themselves whether they need it
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators(torch)
        importlib.import_module("torchvision")
    return torch


def _declare_operators(torch: Any) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declare_operators.library = library  # the schemas live as long as this object does
