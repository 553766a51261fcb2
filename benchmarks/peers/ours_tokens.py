"""One forward pass or AdamW step of our plain ViT, or of our NaViT on packed rows; its unit of work is a token.

Trunks of one size, 1000 classes, the tasks that trainers run (normalisation included), and a batch that stays the same,
on the device: nothing of the host's work. `plain` has average pooling and no class token, so that its length is the
images' own; `packed` is the paper's NaViT; `packed_light` is NaViT without norms of queries and keys, and with average
pooling.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from benchmarks.peers import serve
from benchmarks.peers.jax_step import make_forward, make_step
from vitjax.data.loading import Shards
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import NativeSize
from vitjax.models.navit import NaViT
from vitjax.models.vit import AveragePooling, ViT
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.ops.segments import segment_mean
from vitjax.tasks.classification import Classification
from vitjax.tasks.packed_classification import PackedClassification

_PATCH, _CLASSES = 16, 1000


@dataclass(frozen=True)
class _Pool:
    """Images whose numbers of patches are drawn from `low` to `high` rows and columns."""

    low: tuple[int, int]
    high: tuple[int, int]
    labels: tuple[str, ...] = tuple(map(str, range(_CLASSES)))
    name: str = "pool"

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = np.random.default_rng(index)
        rows, columns = generator.integers(self.low, self.high, endpoint=True) * _PATCH
        image = generator.integers(0, 256, (rows, columns, 3), np.uint8)
        return {"image": image, "label": index, "index": index}


class _MeanOfTokens(nn.Module):
    """Average pooling for `NaViT`."""

    @nn.compact
    def __call__(self, tokens: Any, segments: Any, num_slots: int, model: NaViT, train: bool) -> Any:
        return segment_mean(tokens, segments, num_slots).astype(tokens.dtype)


def _plain(settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any], int]:
    """Model, task, batch, and its tokens."""
    rows, columns = settings["grid"]
    count = settings["rows"] * settings["length"] // (rows * columns)
    generator = np.random.default_rng(0)
    sides = (rows * _PATCH, columns * _PATCH)
    batch = {
        "image": generator.integers(0, 256, (count, *sides, 3), np.uint8),
        "label": generator.integers(0, _CLASSES, count, np.int32),
        "image_mask": np.ones(count, bool),
    }
    model = ViT(num_classes=_CLASSES, image_size=sides, use_class_token=False, pool=AveragePooling, **settings["model"])
    return model, Classification(), batch, count * rows * columns


def _packed(settings: dict[str, Any], **changes: Any) -> tuple[Any, Any, dict[str, Any], int]:
    """As `_plain`; a batch of a stream that is under way: the first ones hold the largest images."""
    largest: Any = NativeSize(_PATCH * math.sqrt(math.prod(settings["high"])))
    batches = PackedBatches(
        _Pool(tuple(settings["low"]), tuple(settings["high"])), patch_size=_PATCH, length=settings["length"],
        rows=settings["rows"], max_images=settings["max_images"], resolution=largest, packers=1, threads=1, prefetch=0,
    )  # fmt: skip
    shards = Shards(buckets=jax.default_backend() == "cpu")
    *_, batch = itertools.islice(batches.stream(0, shards), 12)
    batch = {name: value for name, value in batch.items() if name != "example"}
    assert ("buckets" in batch) == shards.buckets
    model = NaViT(num_classes=_CLASSES, patch_size=_PATCH, **settings["model"], **changes)
    return model, PackedClassification(criterion=SoftmaxCrossEntropy()), batch, int((batch["segments"] > 0).sum())


def _packed_light(settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any], int]:
    return _packed(settings, query_norm=None, key_norm=None, pool=_MeanOfTokens)


_FORMS = {"plain": _plain, "packed": _packed, "packed_light": _packed_light}


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """One iteration of a form, and its tokens.

    Settings: `form`, `train`, `length`, `rows`, and `model`, keywords of both classes; packed forms read `low`, `high`
    and `max_images`; the plain one `grid`, and makes as many images as there is room for.
    """
    model, task, batch, tokens = _FORMS[settings["form"]](settings)
    batch = jax.device_put(batch)
    variables = jax.jit(lambda key, batch: model.init(key, **task.inputs(batch)))(jax.random.key(0), batch)
    run = (make_step if settings["train"] else make_forward)(model, task, variables)

    def iteration() -> int:
        run(batch)
        return tokens

    return iteration


if __name__ == "__main__":
    serve(build)
