"""ViT-B/16 from a safetensors file to device arrays: seconds, and peak extra memory over the size of the file.

The file has random weights, lies in a temporary folder and thus in the kernel's cache. Each measurement is a process of
its own, which has imported everything, started jax and knows the model's shapes before the clock and the memory count
begin; what the device arrays take themselves is counted, as on the CPU they lie in the same memory. Memory is counted
twice: anonymous memory (`RssAnon`, looked at all the time from outside) is what the process really takes; with the
mapped file's pages (`VmHWM`) come those that the kernel holds anyway and drops when it needs the room. Linux alone has
these figures.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Options, Row

__all__ = ["rows"]

_ROOT = Path(__file__).resolve().parents[1]
_NAME = "vit_base_patch16_224"
_SECONDS, _TIMES_FILE = 3.0, 1.3
"""What the project allows."""


def rows(options: Options) -> Iterator[Row]:
    """Three rows from the same processes."""
    cases = {
        "seconds": (f"{_NAME} file to device arrays; peer: allowed", _SECONDS, "s"),
        "anonymous": (f"{_NAME} peak extra anonymous memory; peer: allowed", _TIMES_FILE, "x file"),
        "resident": (f"{_NAME} the same with the mapped file's pages", None, "x file"),
    }
    if not any(options.wants(case) for case, _, _ in cases.values()):
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        _write_random_weights(file)
        found = [_measure(file) for _ in range(options.repeats)]
    for name, (case, allowed, unit) in cases.items():
        if options.wants(case):
            yield Row.alone(case, [figures[name] for figures in found], unit, peer=allowed)


def _layout_and_shapes() -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The table of timm's layout for the model, and the shapes of its variables."""
    import jax

    from vitjax.models import create_model
    from vitjax.models.vit_tables import LAYOUTS
    from vitjax.paths import flatten

    module = create_model(_NAME)
    images = jax.ShapeDtypeStruct((1, *module.image_shape, 3), np.float32)
    variables = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)
    layout = next(layout for layout in LAYOUTS if layout.name == "timm")
    return layout.rules(module), {path: leaf.shape for path, leaf in flatten({"params": variables["params"]}).items()}


def _write_random_weights(file: Path) -> None:
    from vitjax.weights.files import write_safetensors
    from vitjax.weights.rules import export_weights

    table, shapes = _layout_and_shapes()
    draw = np.random.default_rng(0)
    ours = {path: draw.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    write_safetensors(file, export_weights(table, ours))


def _measure(file: Path) -> dict[str, float]:
    """One process's seconds and peaks, as parts of the file's size."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.weights", str(file)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None  # noqa: PT018
    try:
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the process that loads {file} ended with code {child.wait()}")
        before = _memory(child.pid)
        child.stdin.write(b"go\n")
        child.stdin.flush()
        peak = 0
        # The child waits for a last word before it ends, so that its figures can be read when all is loaded.
        while not (Path(f"{file}.done")).exists():
            peak = max(peak, _memory(child.pid)["RssAnon"])
            time.sleep(0.0005)
            if child.poll() is not None:
                raise RuntimeError(f"the process that loads {file} ended with code {child.returncode}")
        after = _memory(child.pid)
        child.stdin.write(b"end\n")
        child.stdin.flush()
        seconds = float(json.loads(child.stdout.readline()))
    finally:
        child.kill()
        child.wait()
        Path(f"{file}.done").unlink(missing_ok=True)
    size = file.stat().st_size
    return {
        "seconds": seconds,
        "anonymous": (max(peak, after["RssAnon"]) - before["RssAnon"]) / size,
        "resident": (after["VmHWM"] - before["VmRSS"]) / size,
    }


def _memory(process: int | str) -> dict[str, int]:
    """Bytes by the kernel's names."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(kilobytes) for name, kilobytes, _ in fields}


def _load(file: Path) -> None:
    """The process that is measured."""
    import jax

    from vitjax.weights.files import put_on_device, read_weights
    from vitjax.weights.rules import import_weights

    table, shapes = _layout_and_shapes()
    jax.block_until_ready(jax.device_put(np.ones(3, np.float32)))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    placed = put_on_device(import_weights(table, read_weights(file), shapes))
    seconds = time.perf_counter() - started
    Path(f"{file}.done").touch()
    sys.stdin.readline()
    assert len(placed) == len(shapes)
    print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    _load(Path(sys.argv[1]))
