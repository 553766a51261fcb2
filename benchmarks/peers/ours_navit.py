"""Our NaViT on a steady stream of images: packing, patch cutting and normalising are in the iteration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarks.peers import serve
from benchmarks.peers.jax_step import make_forward, make_step
from benchmarks.peers.navit_images import MOST_PATCHES, PATCH_SIZE, images
from vitjax.data.loading import Shards
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import NativeSize
from vitjax.models.navit_pytorch import vit_pytorch_nested, vit_pytorch_packed
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.packed_classification import PackedClassification

_MODELS = {"packed": vit_pytorch_packed, "nested": vit_pytorch_nested}


@dataclass(frozen=True)
class _Pool:
    """Images that lie in memory."""

    images: list[np.ndarray]
    labels: tuple[str, ...]
    name: str = "pool"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": index % len(self.labels), "index": index}


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: those of `vit_pytorch_navit`, and `rows` and `max_images` of a batch."""
    classes, width = settings["classes"], settings["width"]
    pool = _Pool(images(settings["sizes"], 10 * settings["images_per_step"]), tuple(map(str, range(classes))))
    native: Any = NativeSize()
    batches = PackedBatches(
        pool, patch_size=PATCH_SIZE, length=settings["length"], rows=settings["rows"],
        max_images=settings["max_images"], resolution=native, packers=1, threads=1, prefetch=0,
    )  # fmt: skip
    stream = batches.stream(0, Shards())
    model = _MODELS[settings["form"]](
        image_size=MOST_PATCHES * PATCH_SIZE, patch_size=PATCH_SIZE, num_classes=classes, dim=width,
        depth=settings["depth"], heads=width // 64, mlp_dim=4 * width,
    )  # fmt: skip
    task = PackedClassification(criterion=SoftmaxCrossEntropy())
    variables = jax.jit(lambda key, batch: model.init(key, **task.inputs(batch)))(jax.random.key(0), next(stream))
    run = (make_step if settings["train"] else make_forward)(model, task, variables)

    def iteration() -> int:
        batch = next(stream)
        run({name: value for name, value in batch.items() if name != "example"})
        return int(batch["image_mask"].sum())

    return iteration


if __name__ == "__main__":
    serve(build)
