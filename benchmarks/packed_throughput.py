"""Packed NaViT's tokens a second, rows of 1024 with 8 to 16 images, against a plain ViT's of the same size and lengths.

Both sides are ours, in turns, on batches that lie ready on the device: what `packing` measures is left out. Width,
depth, heads, MLP and number of tokens are the same. The ViT has average pooling and no class token, so that its images
are exactly as long. Rows of 1024 hold 8 images of 128 tokens, 16 of 64, or images of 36 to 144 tokens, 81 in the mean,
which is the length of that ViT's. Padding and spare places count against NaViT: only tokens of images are counted.

What else differs: NaViT is the paper's, without biases, with norms of queries and keys, and with attention pooling and
its MLP for each image; "light" is without these norms and with average pooling, so that only packing is left.

On CPU: S/16, float32, forward and training step (AdamW); the mark is a ratio of 0.95. On a GPU: B/16 and L/16,
bfloat16, and the share of the chip's peak that the training step reaches (`benchmarks.chips`), whose mark is 0.5.
"""

import os
from collections.abc import Iterator
from typing import Any

from benchmarks.chips import peak_of, training_flops
from benchmarks.peers import Side, measure_in_turns
from benchmarks.report import Options, Row
from vitjax.models.navit import VARIANTS
from vitjax.training.allocator import SETTINGS as KEEP_MEMORY

__all__ = ["rows"]

_WORK = {"forward": False, "training step": True}
_FORMS = {"": "packed", " light": "packed_light"}
_IMAGES: dict[str, dict[str, Any]] = {
    "8 images a row": {"low": (8, 16), "high": (8, 16), "grid": (8, 16), "max_images": 8},
    "16 images a row": {"low": (8, 8), "high": (8, 8), "grid": (8, 8), "max_images": 16},
    "mixed images": {"low": (6, 6), "high": (12, 12), "grid": (9, 9), "max_images": 28},
}
_SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {"S/16": {"variant": "navit_small_patch16", "dtype": "float32", "rows": 4}},
    "gpu": {
        "B/16 bfloat16": {"variant": "navit_base_patch16", "dtype": "bfloat16", "rows": 32},
        "L/16 bfloat16": {"variant": "navit_large_patch16", "dtype": "bfloat16", "rows": 16},
    },
}


def rows(options: Options) -> Iterator[Row]:
    """Tokens a second of each size, set of images and kind of work; on an accelerator shares of its peak as well."""
    backend, device = _device()
    for size, sizes in _SIZES[backend].items():
        trunk = {name: VARIANTS[sizes["variant"]][name] for name in ("width", "depth", "num_heads", "mlp_width")}
        for images, shapes in _IMAGES.items():
            for work, train in _WORK.items():
                settings = {"model": trunk | {"dtype": sizes["dtype"]}, "rows": sizes["rows"], "length": 1024}
                case = f"NaViT-{size}{{}} {work}, {images}"
                for note, speeds, plain in _speeds(options, case, settings | shapes | {"train": train}):
                    yield Row.higher(f"{case.format(note)} vs ViT", speeds, plain, "tokens/s")
                    peak = peak_of(device)
                    if train and peak is not None:
                        flops = training_flops(sizes["variant"], tuple(16 * side for side in shapes["grid"]))
                        shares = [100 * flops * speed / peak for speed in speeds]
                        yield Row.alone(f"{case.format(note)}, share of {peak / 1e12:.0f} TFLOP/s", shares, "%")


def _device() -> tuple[str, str]:
    """Backend and name of the device, whose memory is left to the sides, who share it."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return jax.default_backend(), jax.devices()[0].device_kind


def _speeds(options: Options, case: str, settings: dict[str, Any]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Note, tokens a second, and the plain ViT's in the same rounds, of each packed form that is wanted."""
    wanted = {note: form for note, form in _FORMS.items() if options.wants(f"{case.format(note)} vs ViT")}
    if not wanted:
        return
    sides = [
        Side("benchmarks.peers.ours_tokens", settings | {"form": form}, KEEP_MEMORY)
        for form in (*wanted.values(), "plain")
    ]
    times = measure_in_turns(sides, repeats=options.repeats, round_seconds=1.5)
    *packed, plain = [[1 / time for time in side] for side in times]
    for note, speeds in zip(wanted, packed, strict=True):
        yield note, speeds, plain
