"""The mobile family and ResNet-50 against timm; `python -m benchmarks speed` prints these rows after its own.

Latency of one image and throughput of 16, ours with `fuse()`; then a training step on 16 images. timm is timed as it
comes (eager), with `channels_last`, with its batch norms folded into the convolutions as ours are, and compiled by
`torch.compile`, which takes minutes a row.
"""

from collections.abc import Iterator

from benchmarks.peers import Side
from benchmarks.report import Options, Row
from benchmarks.turns import against
from vitjax.training.allocator import SETTINGS as KEEP_MEMORY

__all__ = ["mobile_rows"]

_MODELS = ("efficientvit_m0", "efficientvit_m2", "mobilevit_xxs", "mobilevit_s", "mobilevitv2_050", "mobilevitv2_100")
_AS_IT_COMES = {"channels_last": False, "folded": False, "compile": False}
_INFERENCE = {
    "timm, eager": _AS_IT_COMES,
    "timm, channels_last": _AS_IT_COMES | {"channels_last": True},
    "timm, channels_last, folded": _AS_IT_COMES | {"channels_last": True, "folded": True},
    "timm, torch.compile": _AS_IT_COMES | {"compile": True},
    "timm, torch.compile, folded": _AS_IT_COMES | {"compile": True, "folded": True},
}
_TRAINING = {name: way for name, way in _INFERENCE.items() if not way["compile"] and not way["folded"]}
_MALLOCS = {"": {}, ", same malloc": KEEP_MEMORY}


def mobile_rows(options: Options) -> Iterator[Row]:
    """Latency and throughput of each model, then training steps."""
    for model in _MODELS:
        for batch in (1, 16):
            settings = {"model": model, "batch": batch, "train": False}
            what = f"{model} batch {batch} fused {'latency' if batch == 1 else 'throughput'}"
            yield from _rows(options, what, settings, _INFERENCE, milliseconds=batch == 1)
    for model in (*_MODELS, "resnet50"):
        settings = {"model": model, "batch": 16, "train": True}
        yield from _rows(options, f"{model} batch 16 training step", settings, _TRAINING, milliseconds=False)


def _rows(options: Options, what: str, settings: dict, ways: dict[str, dict], *, milliseconds: bool) -> Iterator[Row]:
    peers = {
        f"{name}{note}": Side("benchmarks.peers.timm_mobile", settings | way, malloc)
        for note, malloc in _MALLOCS.items()
        for name, way in ways.items()
        if not (note and way["compile"])
    }
    ours = Side("benchmarks.peers.ours_mobile", settings, KEEP_MEMORY)
    yield from against(options, what, ours, peers, milliseconds=milliseconds, at_once=3)
