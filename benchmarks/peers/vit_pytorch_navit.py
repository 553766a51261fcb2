"""vit-pytorch's NaViT, packed (its own next-fit packing is part of the iteration) or on nested tensors.

Its images are float tensors that lie ready: decoding to floats and normalising, which our side does within the
iteration, cost this side nothing.
"""

from collections.abc import Callable
from itertools import cycle
from typing import Any

from benchmarks.peers import serve
from benchmarks.peers.navit_images import MOST_PATCHES, PATCH_SIZE, images
from benchmarks.torch_side import import_torch


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: `form` (packed, nested), `sizes`, `length`, `images_per_step`, `train`, `width`, `depth`, `classes`."""
    torch = import_torch()
    torch.manual_seed(0)
    per_step = settings["images_per_step"]
    pool = [
        torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1
        for image in images(settings["sizes"], 10 * per_step)
    ]
    batches = cycle([pool[start : start + per_step] for start in range(0, len(pool), per_step)])
    labels = torch.randint(0, settings["classes"], (per_step,))
    model, call = _FORMS[settings["form"]](settings)
    if not settings["train"]:
        model.eval()

        def forward() -> int:
            with torch.inference_mode():
                call(next(batches))
            return per_step

        return forward
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(call(next(batches)), labels).backward()
        optimizer.step()
        return per_step

    return step


def _sizes(settings: dict[str, Any]) -> dict[str, Any]:
    width = settings["width"]
    return {
        "image_size": MOST_PATCHES * PATCH_SIZE, "patch_size": PATCH_SIZE, "num_classes": settings["classes"],
        "dim": width, "depth": settings["depth"], "heads": width // 64, "dim_head": 64, "mlp_dim": 4 * width,
    }  # fmt: skip


def _packed(settings: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    from vit_pytorch.na_vit import NaViT

    model = NaViT(**_sizes(settings))
    length = settings["length"]
    return model, lambda batch: model(batch, group_images=True, group_max_seq_len=length)


def _nested(settings: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    from vit_pytorch.na_vit_nested_tensor import NaViT

    model = NaViT(**_sizes(settings), token_dropout_prob=0.0)
    return model, model


_FORMS = {"packed": _packed, "nested": _nested}


if __name__ == "__main__":
    serve(build)
