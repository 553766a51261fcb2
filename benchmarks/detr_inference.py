"""DETR's inference beside transformers', batch 1 and 4 at 480x640 px.

Ours is fused, in one program; transformers' is eager, as it comes and with `channels_last`. Both have random weights of
the published sizes. Images are normalised already, and outputs are those of the model.
"""

from collections.abc import Iterator

from benchmarks.peers import Side
from benchmarks.report import Options, Row
from benchmarks.turns import against
from vitjax.training.allocator import SETTINGS as KEEP_MEMORY

__all__ = ["rows"]


def rows(options: Options) -> Iterator[Row]:
    """Milliseconds of one batch."""
    for model, batch in (("detr_resnet50", 1), ("detr_resnet50", 4), ("detr_resnet50_dc5", 1)):
        settings = {"model": model, "batch": batch, "size": [480, 640]}
        peers = {
            "transformers, eager": Side("benchmarks.peers.huggingface_detr", settings | {"channels_last": False}),
            "transformers, channels_last": Side(
                "benchmarks.peers.huggingface_detr", settings | {"channels_last": True}
            ),
            "transformers, eager, same malloc": Side(
                "benchmarks.peers.huggingface_detr", settings | {"channels_last": False}, KEEP_MEMORY
            ),
        }
        ours = Side("benchmarks.peers.ours_detr", settings, KEEP_MEMORY)
        yield from against(options, f"{model} batch {batch} fused latency", ours, peers, milliseconds=True)
