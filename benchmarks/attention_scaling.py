"""Time of MobileViTv2's separable attention against MobileViT's multi-head attention over 64 to 4096 tokens.

    python -m benchmarks attention_scaling --plot

Both layers are ours, with their projections, width 128, one image, forward, float32, jitted; the multi-head one has 4
heads. `ours` is the separable layer, in ms. `--plot` also draws `attention_scaling.png` in the working folder: the
shortest times, both axes logarithmic, each line's slope over the last four octaves in the title; 1 is linear.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.report import Options, Row
from vitjax.layers.attention import SelfAttention
from vitjax.layers.separable_attention import SeparableSelfAttention
from vitjax.ops.attention import attend_images

__all__ = ["FLAGS", "TOKENS", "draw", "layers", "rows", "slope"]

FLAGS = ("--plot",)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096)

_WIDTH, _HEADS = 128, 4
_PLOT = Path("attention_scaling.png")
_SEPARABLE, _MULTI_HEAD = "separable (MobileViTv2)", "multi-head (MobileViT)"


def rows(options: Options) -> Iterator[Row]:
    """One row for each number of tokens."""
    times: dict[str, dict[int, float]] = {_SEPARABLE: {}, _MULTI_HEAD: {}}
    for tokens in TOKENS:
        case = f"separable attention, {tokens} tokens vs multi-head"
        if not options.wants(case):
            continue
        separable, multi_head = _in_turns(layers(tokens), options.repeats)
        times[_SEPARABLE][tokens], times[_MULTI_HEAD][tokens] = min(separable), min(multi_head)
        yield Row.faster(case, separable, multi_head, "ms")
    if "--plot" in options.flags and len(times[_SEPARABLE]) > 1:
        draw(times, _PLOT)
        print(f"drawn: {_PLOT.resolve()}")


def layers(tokens: int) -> tuple[Callable[[], jax.Array], Callable[[], jax.Array]]:
    """Calls of the two layers on one image of that many tokens, compiled."""
    image = np.random.default_rng(0).normal(size=(1, tokens, 1, _WIDTH)).astype(np.float32)
    separable, multi_head = SeparableSelfAttention(), SelfAttention(num_heads=_HEADS)
    attend, flat = attend_images(1), image.reshape(tokens, _WIDTH)

    def call(module: SeparableSelfAttention | SelfAttention, *inputs: object) -> Callable[[], jax.Array]:
        variables = module.init(jax.random.key(0), *inputs)
        arrays = jax.device_put((variables, inputs[0]))
        program = jax.jit(lambda variables, x: module.apply(variables, x, *inputs[1:])).lower(*arrays).compile()
        return lambda: program(*arrays)

    return call(separable, image), call(multi_head, flat, attend)


def _in_turns(calls: Sequence[Callable[[], jax.Array]], repeats: int) -> list[list[float]]:
    """Milliseconds of each call, `repeats` rounds in turns; a measurement is of as many calls as take 20 ms."""
    counts = [max(1, round(0.02 / _seconds(call, 3))) for call in calls]
    return [list(times) for times in zip(*([1000 * _seconds(*pair) for pair in zip(calls, counts, strict=True)]
                                           for _ in range(repeats)), strict=True)]  # fmt: skip


def _seconds(call: Callable[[], jax.Array], count: int) -> float:
    jax.block_until_ready(call())
    started = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return (time.perf_counter() - started) / count


def slope(times: Mapping[int, float]) -> float:
    """Of log time over log tokens, from a sixteenth of the largest number of tokens on."""
    kept = {tokens: value for tokens, value in times.items() if tokens >= max(times) / 16}
    return float(np.polyfit(np.log(list(kept)), np.log(list(kept.values())), 1)[0])


def draw(times: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Draws the milliseconds of each layer over its tokens, both logarithmic, the slopes in the title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in times.items():
        axes.loglog(list(values), list(values.values()), "o-", base=2, label=name)
    axes.set_yscale("log", base=10)
    axes.set(xlabel="tokens", ylabel=f"ms per image (width {_WIDTH}, {jax.default_backend()})")
    slopes = ", ".join(f"{name} {slope(values):.2f}" for name, values in times.items())
    axes.set_title(f"Slopes: {slopes}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
