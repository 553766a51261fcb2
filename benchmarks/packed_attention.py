"""Time of packed attention by the images of a row and by its length, each form against whole rows under a mask.

Output and gradients of one row, 4 heads of 64, in every form that this machine can run (`vitjax doctor` checks that
they are exact): float32 on CPU, where that is `buckets`, bfloat16 elsewhere. The peer is `segment_mask`, which computes
all L² logits. A row of 1024 tokens is 1, 4 and 16 images: Σ nᵢ² falls to a quarter each time, the mask's time stays.
Rows of 1024, 2048 and 4096 tokens hold images of 64: Σ nᵢ² grows as L does, the mask's time as L². The last line of
each form is the power of L with which its time grows there, the mask's as its peer.
"""

import os
import sys
from collections.abc import Iterator

from benchmarks.peers import Side
from benchmarks.report import Options, Row
from benchmarks.turns import against
from vitjax.errors import UserError
from vitjax.training.allocator import SETTINGS as KEEP_MEMORY

__all__ = ["rows"]

_MASK = "segment_mask"
_IMAGE = 64
_ROWS = ((1024, 1), (1024, 4), (1024, 16), (2048, 32), (4096, 64))
"""(tokens, images)."""
_HEADS, _HEAD_SIZE = 4, 64


def rows(options: Options) -> Iterator[Row]:
    """A line for each form and row, and one for the growth of each form."""
    from benchmarks.attention_scaling import slope

    dtype, forms = _forms()
    for form in forms:
        times: dict[int, Row] = {}
        for length, count in _ROWS:
            sizes = {"count": count, "length": length, "dtype": dtype, "heads": _HEADS, "head_size": _HEAD_SIZE}
            ours, mask = (
                Side("benchmarks.peers.ours_attention", sizes | {"form": name}, KEEP_MEMORY) for name in (form, _MASK)
            )
            images = f"{count} image{'s' * (count > 1)} of {length // count}"
            try:
                for row in against(
                    options, f"{form}, row of {length}, {images}", ours, {_MASK: mask}, milliseconds=True
                ):
                    yield row
                    if length // count == _IMAGE:
                        times[length] = row
            except RuntimeError as error:  # a kernel that somebody else wrote, whose message stands above
                print(f"{form} does not run here: {error}", file=sys.stderr)
                break
        if len(times) > 1:
            ours, mask = (
                slope({length: getattr(row, side) for length, row in times.items()}) for side in ("ours", "peer")
            )
            yield Row.alone(f"{form}, images of {_IMAGE}: power of L; peer: {_MASK}'s", ours, "power", peer=mask)


def _forms() -> tuple[str, list[str]]:
    """The type, and the forms that this machine can run beside the mask; its memory is left to the sides."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    from vitjax.ops.attention import PACKED_FORMS, select_packed_attention

    backend = jax.default_backend()
    dtype = "float32" if backend == "cpu" else "bfloat16"
    found = []
    for form in PACKED_FORMS:
        try:
            select_packed_attention(backend, dtype, 1024, _HEAD_SIZE, has_buckets=True, implementation=form)
        except UserError:
            continue
        found.append(form)
    found.remove(_MASK)
    return dtype, found
