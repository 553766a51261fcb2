"""Output and gradients of packed attention over one row of equal images, in one form."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.peers import serve
from vitjax.analysis.attention_check import row_of_images


def build(settings: dict[str, Any]) -> Callable[[], int]:
    """Settings: those of `row_of_images`."""
    call = row_of_images(**settings)

    def iteration() -> int:
        jax.block_until_ready(call())
        return 1

    return iteration


if __name__ == "__main__":
    serve(build)
