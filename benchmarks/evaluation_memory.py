"""Memory of an evaluation beside the number of its images: what each more image adds to the peak.

Each measurement is a process of its own, which reads its resident memory every millisecond (Linux): above what it was
after a first evaluation of 32 images. `ours` of a growth is the difference between 1024 and 256 images, for each
image; `peer` is what the detections themselves and the objects of the truth take, six and seven numbers of 8 bytes. The
model costs nothing, but has as many outputs as a DETR: 100 boxes of an image, and 100 masks of 64 by 64, 1.6 MB.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import Options, Row

__all__ = ["measure", "rows"]

_COUNTS = (64, 256, 1024)
_QUERIES, _MASK, _SIDE = 100, 64, 64
_KIB, _MIB = 2**10, 2**20


def rows(options: Options) -> Iterator[Row]:
    """Peaks of each number of images, and growth."""
    for kind in _CASES:
        names = {
            **{count: f"{kind}, peak above the start, {count} images" for count in _COUNTS},
            "gathered": f"{kind}, growth while images are added (peer: detections)",
            "peak": f"{kind}, growth with the scores (peer: detections)",
        }
        if not any(map(options.wants, names.values())):
            continue
        found = {count: [_in_a_process(kind, count) for _ in range(options.repeats)] for count in _COUNTS}
        for name, case in names.items():
            if not options.wants(case):
                continue
            if name in found:
                yield Row.alone(case, [one["peak"] / _MIB for one in found[name]], "MiB")
                continue
            few, many = _COUNTS[1:]
            pairs = zip(found[many], found[few], strict=True)
            growth = [(more[name] - less[name]) / (many - few) / _KIB for more, less in pairs]
            yield Row.alone(case, growth, "KiB per image", peer=found[many][0]["detections"] / many / _KIB)


def _in_a_process(kind: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.evaluation_memory", kind, str(count)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root, env=clean)
    return json.loads(done.stdout.splitlines()[-1])


# --------------------------------------------------------------------------------------------- one measurement


class Guesses(nn.Module):
    """Boxes, classes and masks that depend on the picture's mean alone."""

    num_classes: int
    masks: bool

    def __call__(self, images: Any, content_size: Any = None, select: Any = None, *, train: bool = False) -> Any:
        del content_size, select, train
        phase = 1000 * images.mean(axis=(1, 2, 3))

        def drawn(*shape: int) -> jax.Array:
            numbers = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
            return jnp.sin(phase.reshape(-1, *[1] * len(shape)) + 7 * jnp.sin(numbers))

        outputs = {"logits": 4 * drawn(_QUERIES, self.num_classes + 1)[None]}
        centres, sides = 0.5 + 0.3 * drawn(_QUERIES, 2), 0.3 + 0.2 * drawn(_QUERIES, 2)
        outputs["boxes"] = jnp.concatenate([centres, sides], axis=-1)[None]
        return outputs | ({"masks": 5 * drawn(_QUERIES, _MASK, _MASK)} if self.masks else {})


def _boxes(count: int) -> tuple[Any, Any, nn.Module]:
    """Batches, task and model of an evaluation by COCO's AP."""
    from vitjax.data.coco import FakeBoxes
    from vitjax.data.scene_batching import BoxTargets, SceneBatches
    from vitjax.data.scene_transforms import SceneResize
    from vitjax.tasks.set_prediction import SetPrediction

    source = FakeBoxes(count, num_classes=10, shapes=((_SIDE, _SIDE), (48, 80)), most_boxes=7)
    batches = SceneBatches(source, 8, BoxTargets(8), (SceneResize(_SIDE),))
    return batches, SetPrediction(), Guesses(10, masks=False)


def _segments(count: int) -> tuple[Any, Any, nn.Module]:
    """The same of an evaluation by panoptic quality, which has AP too."""
    from vitjax.data.digit_panoptic import DigitPanoptic
    from vitjax.data.panoptic_targets import KeepSegmentMap, PanopticTargets
    from vitjax.data.scene_batching import SceneBatches
    from vitjax.data.scene_transforms import SceneResize
    from vitjax.tasks.panoptic import Panoptic

    source = DigitPanoptic("validation", count, sides=(48, 80), digit_sides=(16, 40))
    targets = PanopticTargets(max_segments=7, map_size=(80, 80))
    batches = SceneBatches(source, 8, targets, (KeepSegmentMap(), SceneResize(_SIDE)))
    return batches, Panoptic(stuff=source.stuff, threshold=0.2), Guesses(13, masks=True)


_CASES = {"COCO AP": _boxes, "panoptic quality": _segments}


class _Watch:
    """The most memory seen while it is on, in bytes above the start."""

    def __init__(self) -> None:
        self.start, self.most = _resident(), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.001):
            self.most = max(self.most, _resident() - self.start)

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return self.most


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Counting:
    """A task's meter, and a task that has it: counts what is handed to it, and notes the peak before the scores."""

    def __init__(self, task: Any, watch: _Watch):
        self._meter, self._watch = task.meter(), watch
        self.noted = {"gathered": 0, "detections": 0}

    def meter(self) -> "_Counting":
        return self

    def add(self, metrics: Any, predictions: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
        real = batch["image_mask"]
        self.noted["detections"] += 48 * int(predictions["mask"][real].sum()) + 56 * int(batch["box_mask"][real].sum())
        self._meter.add(metrics, predictions, batch)

    def scores(self) -> dict[str, float]:
        self.noted["gathered"] = self._watch.most
        return self._meter.scores()


def measure(kind: str, count: int) -> dict[str, float]:
    """Bytes above the start: `gathered`, the peak before the scores, and `peak`; and those of the `detections`."""
    from vitjax.data.loading import Shards
    from vitjax.training.devices import make_mesh
    from vitjax.training.evaluation import evaluate, make_evaluation_step

    batches, task, model = _CASES[kind](count)
    first, _, _ = _CASES[kind](32)
    step, mesh = jax.jit(make_evaluation_step(model, task)), make_mesh(-1, 1, 1)
    evaluate(step, {}, first.epoch(Shards()), task, mesh)
    watch = _Watch()
    counting: Any = _Counting(task, watch)
    evaluate(step, {}, batches.epoch(Shards()), counting, mesh)
    return {**counting.noted, "peak": watch.end()}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
