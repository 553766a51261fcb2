"""Each form of a convolution against torch channels_last, forward and gradient; `choose_form` follows these figures.

float32, 8 images, two threads a side, each in its own process, both with glibc told to keep its memory: where it gives
pages back, the forms that make large temporary arrays (columns) take up to three times as long. The gradient is that
of images and kernel, of the kernel alone for convolutions of the image itself, and its time holds the forward pass.
"""

from collections.abc import Iterator

from benchmarks.peers import Side, measure_in_turns
from benchmarks.report import Options, Row
from vitjax.layers.convolution import choose_form
from vitjax.training.allocator import SETTINGS as KEEP_MEMORY

_BATCH = 8
# Name -> side of the kernel, stride, inputs, outputs, groups, side of the image.
_CASES = {
    "3x3 64→64 at 56": (3, 1, 64, 64, 1, 56),
    "3x3 128→128 at 28": (3, 1, 128, 128, 1, 28),
    "3x3 256→256 at 14": (3, 1, 256, 256, 1, 14),
    "3x3 512→512 at 7": (3, 1, 512, 512, 1, 7),
    "3x3 stride 2 3→32 at 224": (3, 2, 3, 32, 1, 224),
    "7x7 stride 2 3→64 at 224": (7, 2, 3, 64, 1, 224),
    "3x3 stride 2 64→128 at 56": (3, 2, 64, 128, 1, 56),
    "1x1 256→64 at 56": (1, 1, 256, 64, 1, 56),
    "1x1 stride 2 256→512 at 56": (1, 2, 256, 512, 1, 56),
    "3x3 128→128 at 28 in 32 groups": (3, 1, 128, 128, 32, 28),
    "depthwise 3x3 192 at 14": (3, 1, 192, 192, 192, 14),
    "depthwise 5x5 192 at 14": (5, 1, 192, 192, 192, 14),
    "depthwise 7x7 192 at 14": (7, 1, 192, 192, 192, 14),
    "depthwise 3x3 64 at 112": (3, 1, 64, 64, 64, 112),
    "depthwise 3x3 stride 2 64 at 112": (3, 2, 64, 64, 64, 112),
}


def rows(options: Options) -> Iterator[Row]:
    """One row per shape, form, and forward or gradient; the chosen form is marked."""
    for name, (side, stride, inputs, outputs, groups, size) in _CASES.items():
        kernel, images = (side, side, inputs // groups, outputs), (_BATCH, size, size, inputs)
        chosen = choose_form("cpu", kernel, images, stride=stride, groups=groups).__name__
        for work, gradient in (("forward", False), ("gradient", True)):
            settings = {"kernel": kernel, "images": images, "stride": stride, "groups": groups, "gradient": gradient}
            cases = {
                f"{name} {work}, {form}{' (chosen)' if form == chosen else ''} vs torch": form
                for form in _forms(side, inputs, groups)
            }
            cases = {case: form for case, form in cases.items() if options.wants(case)}
            if cases:
                yield from _measured(options, cases, settings)


def _forms(side: int, inputs: int, groups: int) -> tuple[str, ...]:
    """Those that can, XLA's own first."""
    if groups == inputs:
        return "convolve_directly", "convolve_by_shifts"
    if groups > 1:
        return "convolve_directly", "convolve_by_columns"
    return "convolve_directly", "convolve_by_columns", "convolve_points" if side == 1 else "convolve_by_pairs"


def _measured(options: Options, cases: dict[str, str], settings: dict) -> Iterator[Row]:
    ours = [
        Side("benchmarks.peers.ours_convolution", settings | {"form": form}, KEEP_MEMORY) for form in cases.values()
    ]
    torch, *forms = measure_in_turns(
        [Side("benchmarks.peers.torch_convolution", settings, KEEP_MEMORY), *ours],
        repeats=options.repeats,
        round_seconds=0.3,
    )
    theirs = [1000 * seconds for seconds in torch]
    for case, form in zip(cases, forms, strict=True):
        yield Row.faster(case, [1000 * seconds for seconds in form], theirs, "ms")
