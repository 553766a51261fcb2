"""ViT and mobile networks against timm, NaViT against vit-pytorch: forward passes, training steps, packing or padding.

float32, two threads a side, AdamW on both. Ours runs as `train.py` runs it on CPU, with glibc told to keep its memory.
The peers are timed with glibc as it comes and with the same setting ("same malloc"), timm also with `channels_last`;
`torch.compile` for ViT-Ti only, because it takes minutes. Times of NaViT hold packing and patch cutting on both sides;
vit-pytorch gets float images that lie ready, ours starts from bytes. The mobile family is in `mobile_speed`.
"""

from collections.abc import Iterator

from benchmarks.mobile_speed import mobile_rows
from benchmarks.peers import Side
from benchmarks.report import Options, Row
from benchmarks.turns import against
from vitjax.training.allocator import SETTINGS as KEEP_MEMORY

_VITS = {"ViT-Ti/16": "vit_tiny_patch16_224", "ViT-S/16": "vit_small_patch16_224", "ViT-B/16": "vit_base_patch16_224"}
_MALLOCS = {"timm": {}, "timm, same malloc": KEEP_MEMORY}
_LAYOUTS = {"eager": False, "channels_last": True}

_NAVIT = {"width": 192, "depth": 6, "classes": 1000}
_PACKINGS = {
    "imagenet-like sizes, rows of 256": {
        "sizes": "imagenet-like", "length": 256, "rows": 20, "max_images": 16, "images_per_step": 48,
    },
    "imagenet-like sizes, rows of 1024": {
        "sizes": "imagenet-like", "length": 1024, "rows": 5, "max_images": 32, "images_per_step": 48,
    },
    "small sizes, rows of 128": {
        "sizes": "small", "length": 128, "rows": 20, "max_images": 32, "images_per_step": 96,
    },
}  # fmt: skip
_WORK = {"forward": False, "training step": True}


def rows(options: Options) -> Iterator[Row]:
    """ViT, NaViT, packed against padded, then the mobile family."""
    yield from _vit_rows(options)
    yield from _navit_rows(options)
    yield from _padding_rows(options)
    yield from mobile_rows(options)


def _vit_rows(options: Options) -> Iterator[Row]:
    for name, model in _VITS.items():
        for work, train in _WORK.items():
            settings = {"model": model, "batch": 8, "train": train}
            peers = {
                f"{peer}, {layout}": Side(
                    "benchmarks.peers.timm_vit", settings | {"channels_last": last, "compile": False}, malloc
                )
                for peer, malloc in _MALLOCS.items()
                for layout, last in _LAYOUTS.items()
            }
            if model == "vit_tiny_patch16_224":
                peers["timm, torch.compile"] = Side(
                    "benchmarks.peers.timm_vit", settings | {"channels_last": False, "compile": True}
                )
            ours = Side("benchmarks.peers.ours_vit", settings, KEEP_MEMORY)
            yield from against(options, f"{name} batch 8 {work}", ours, peers, milliseconds=True)


def _navit_rows(options: Options) -> Iterator[Row]:
    for packing, sizes in _PACKINGS.items():
        for form in ("packed", "nested"):
            for work, train in _WORK.items():
                settings = _NAVIT | sizes | {"form": form, "train": train}
                ours = Side("benchmarks.peers.ours_navit", settings, KEEP_MEMORY)
                peers = {
                    f"vit-pytorch {form}{note}": Side("benchmarks.peers.vit_pytorch_navit", settings, malloc)
                    for note, malloc in (("", {}), (", same malloc", KEEP_MEMORY))
                }
                yield from against(options, f"NaViT {packing} {work}", ours, peers, milliseconds=False)


def _padding_rows(options: Options) -> Iterator[Row]:
    for ready, note in ((False, "drawing the digits included"), (True, "batches ready")):
        packed, padded = (
            Side("benchmarks.peers.ours_digits", {"packed": packed, "ready": ready}, KEEP_MEMORY)
            for packed in (True, False)
        )
        peers = {"one image per row, padded to the largest": padded}
        case = f"NaViT configs/navit.py training step, {note}, packed"
        yield from against(options, case, packed, peers, milliseconds=False)
