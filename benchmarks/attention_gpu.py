"""Which attention kernels honour segment ids on this GPU, how exactly, and how fast.

    python benchmarks/attention_gpu.py [--quick] [--rows 64] [--heads 12]

Prints one JSON object per kernel, type, length and head size. For each: largest error of output and gradients against
float64 numpy; what reaches an image from another one (`leak`, must be exactly 0, unless `run_to_run`, the difference
between two runs on the same numbers, is not 0 either); whether padding rows are free of NaN (`padding_finite`);
milliseconds forward and forward + backward. A kernel that raises gives a row with `error`, and the run goes on. Needs
jax, flax, numpy and this checkout.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops import attention_kernels as kernels


def segments_of(rng, rows: int, length: int) -> np.ndarray:
    """Images of 16 to 256 tokens one after another, some padding at the end; one row holds padding only."""
    segments = np.zeros((rows, length), np.int32)
    for row in segments[:-1]:
        start, image = 0, 1
        end = length - rng.integers(0, length // 16 + 1)
        while start < end:
            size = min(int(rng.integers(16, 257)), end - start)
            row[start : start + size] = image
            start, image = start + size, image + 1
    return segments


def reference(arrays, segments, scale):
    """Output and the three gradients in float64, image by image."""
    results = [np.zeros(arrays[0].shape) for _ in range(4)]
    for row in range(segments.shape[0]):
        for image in range(1, segments[row].max() + 1):
            at = (row, np.flatnonzero(segments[row] == image))
            q, k, v, d_out = (x[at].transpose(1, 0, 2).astype(np.float64) for x in arrays)
            logits = q @ k.transpose(0, 2, 1) * scale
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            d_weights = d_out @ v.transpose(0, 2, 1)
            d_logits = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) * scale
            parts = (weights @ v, d_logits @ k, d_logits.transpose(0, 2, 1) @ q, weights.transpose(0, 2, 1) @ d_out)
            for result, part in zip(results, parts, strict=True):
                result[at] = part.transpose(1, 0, 2)
    return results


def xla_nn(query, key, value, segments, scale):
    """jax.nn.dot_product_attention under a mask, XLA's form."""
    mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale, implementation="xla")


def triton_blocks(forward: int, backward: int):
    def call(query, key, value, segments, scale):
        from jax.experimental.pallas.ops.gpu import attention

        sizes = attention.BlockSizes(forward, forward, backward, backward, backward, backward)
        return attention.mha(query, key, value, segments, scale, False, sizes)

    return call


def cudnn_bias(query, key, value, segments, scale):
    """CuDNN with the mask written as an additive bias, in case the mask itself is ignored."""
    same = (segments[:, :, None] == segments[:, None, :])[:, None]
    bias = jnp.where(same, 0.0, -1e9 if query.dtype != jnp.float16 else -6e4).astype(query.dtype)
    bias = jnp.broadcast_to(bias, (query.shape[0], query.shape[2], query.shape[1], query.shape[1]))
    return jax.nn.dot_product_attention(query, key, value, bias, scale=scale, implementation="cudnn")


CANDIDATES = {
    "segment_mask": kernels.segment_mask,
    "xla_nn": xla_nn,
    "triton": kernels.triton,
    "triton 64/32": triton_blocks(64, 32),
    "triton 64/64": triton_blocks(64, 64),
    "triton 128/64": triton_blocks(128, 64),
    "cudnn": kernels.cudnn,
    "cudnn_bias": cudnn_bias,
    "tokamax": kernels.tokamax,
}


def milliseconds(function, arguments, repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repeats):
            result = function(*arguments)
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - start) / repeats)
    return best * 1e3


def measure(function, dtype, shape, repeats) -> dict:
    rows, length, _, head_size = shape
    rng = np.random.default_rng(length + head_size)
    segments = segments_of(rng, rows, length)
    # Rounded to the type first, so that the reference sees the numbers the kernel sees.
    arrays = [np.array(jnp.asarray(rng.standard_normal(shape), dtype), np.float32) for _ in range(4)]
    arrays[3] *= (segments > 0)[..., None, None]
    scale = head_size**-0.5
    few = min(rows, 3)
    chosen = np.r_[0 : few - 1, rows - 1]  # the reference is slow: two ordinary rows and the row of padding
    expected = reference([x[chosen] for x in arrays], segments[chosen], scale)
    device = [jnp.asarray(x, dtype) for x in arrays]
    ids = jnp.asarray(segments)

    forward = jax.jit(lambda q, k, v: function(q, k, v, ids, scale))

    @jax.jit
    def both(q, k, v, d_out):
        out, pull = jax.vjp(lambda *qkv: function(*qkv, ids, scale), q, k, v)
        return out, *pull(d_out)

    got = [np.asarray(x, np.float32) for x in both(*device)]
    real = (segments > 0)[..., None, None]
    row = {}
    for name, ours, wanted in zip(("out", "d_query", "d_key", "d_value"), got, expected, strict=True):
        row[f"error_{name}"] = float(np.abs((ours * real)[chosen] - wanted * real[chosen]).max())
    row["padding_finite"] = bool(all(np.isfinite(x).all() for x in got))
    row["padding_gradient"] = float(max(np.abs(np.where(real, 0, x)).max() for x in got[1:]))
    again = [np.asarray(x, np.float32) for x in both(*device)]
    row["run_to_run"] = float(max(np.abs(a - b).max() for a, b in zip(got, again, strict=True)))
    row["leak"] = leakage(both, arrays, segments, dtype, got)
    row["ms_forward"] = milliseconds(forward, device[:3], repeats)
    row["ms_both"] = milliseconds(both, device, repeats)
    return row


def leakage(both, arrays, segments, dtype, before) -> float:
    """Changes the first image of every row: nothing of the other images may change, gradients included."""
    changed = (segments == 1)[..., None, None]
    others = (segments > 1)[..., None, None]
    device = [jnp.asarray(np.where(changed, 3.0 - x, x), dtype) for x in arrays]
    after = [np.asarray(x, np.float32) for x in both(*device)]
    return float(max(np.abs((a - b) * others).max() for a, b in zip(after, before, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that the script runs")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--only", default="", help="comma-separated kernels")
    options = parser.parse_args()
    rows, heads, lengths, repeats = options.rows, options.heads, (256, 1024), 20
    if options.quick:
        rows, heads, lengths, repeats = 3, 2, (128,), 1
    names = options.only.split(",") if options.only else list(CANDIDATES)
    print(json.dumps({"jax": jax.__version__, "devices": str(jax.devices())}), flush=True)
    cases = [(dtype, n, k) for dtype in ("bfloat16", "float32") for n in lengths for k in (64, 80)]
    for dtype, length, head_size in cases:
        for name in names:
            case = {"kernel": name, "dtype": dtype, "length": length, "head_size": head_size}
            try:
                run = functools.partial(measure, CANDIDATES[name])
                case |= run(dtype, (rows, length, heads, head_size), repeats)
            except Exception as error:
                case["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
            print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
