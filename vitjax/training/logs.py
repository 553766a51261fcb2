"""What a run tells: lines and a bar on the screen, `metrics.jsonl`, TensorBoard."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.training.run_folder import RunFolder, drop_rows_after

__all__ = ["RunLog", "Window", "duration"]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> duration(3725.2)
        '1:02:05'
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Window:
    """Sums over the steps since the last row of the log."""

    def __init__(self):
        self._totals: dict[str, tuple[float, float]] = {}
        self._images = 0
        self._steps = 0
        self._wait = 0.0
        self._began = time.perf_counter()
        self._paused = 0.0

    def add(self, metrics: dict[str, tuple[float, float]], images: int, *, timed: bool = True) -> None:
        """Takes (sum, count) pairs and images of a step; one that was compiled before this window is not timed."""
        for name, (total, count) in metrics.items():
            old = self._totals.get(name, (0.0, 0.0))
            self._totals[name] = (old[0] + total, old[1] + count)
        if timed:
            self._images += images
            self._steps += 1

    def wait(self, seconds: float) -> None:
        """Takes the time that the loop stood still for data."""
        self._wait += seconds

    def pause(self, seconds: float) -> None:
        """Takes time that was not training: evaluation, pictures, compilation."""
        self._paused += seconds

    def row(self) -> dict[str, float]:
        """Means of the metrics, `images_per_second`, `seconds_per_step` and `data_wait`, a share of the time."""
        seconds = max(time.perf_counter() - self._began - self._paused, 1e-9)
        means = {name: total / count for name, (total, count) in self._totals.items() if count}
        return means | {
            "images_per_second": self._images / seconds,
            "seconds_per_step": seconds / max(self._steps, 1),
            "data_wait": min(1.0, self._wait / seconds),
        }


class RunLog:
    """Writes rows and shows progress; in all processes but one it does nothing."""

    def __init__(self, folder: RunFolder, *, start: int, steps: int, active: bool, log_examples: bool = False):
        self._active = active
        self._steps = steps
        self._stream = sys.stdout
        self._bar = self._file = self._tensorboard = self._examples = None
        if not active:
            return
        from tqdm import tqdm

        for path in (folder.metrics, folder.examples):
            drop_rows_after(path, start)
        self._file = folder.metrics.open("a")
        self._examples = folder.examples.open("a") if log_examples else None
        self._make_writer = lambda: _summary_writer(folder.tensorboard, start)
        if self._stream.isatty():
            self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, file=self._stream)

    def say(self, line: str) -> None:
        """Shows a line above the bar."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def advance(self) -> None:
        """Moves the bar by a step."""
        if self._bar is not None:
            self._bar.update()

    def train(self, step: int, row: dict[str, float]) -> None:
        """A row of training metrics, on file and on the screen."""
        self._write("train", step, row)
        shown = [f"loss {row['loss']:.4f}"] if "loss" in row else []
        shown += [f"top1 {row['top1']:.3f}"] if "top1" in row else []
        shown += [f"{row['images_per_second']:.0f} images/s", f"data wait {row['data_wait']:.1%}"]
        shown += [f"padding {row['padding_share']:.1%}"] if "padding_share" in row else []
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(shown), refresh=False)
        else:
            left = duration((self._steps - step) * row["seconds_per_step"])
            self.say(f"step {step}/{self._steps}: {', '.join(shown)}, {left} left")

    def evaluation(self, step: int, row: dict[str, float]) -> None:
        """A row of evaluation scores, on file and on the screen."""
        self._write("evaluation", step, row)
        scores = ", ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "seconds")
        self.say(f"step {step}/{self._steps}: held back: {scores} ({row['seconds']:.1f} s)")

    def event(self, step: int, content: dict[str, Any]) -> None:
        """Anything else worth keeping; `content` has its own `kind`."""
        if self._file is not None:
            print(json.dumps({"step": step, **content}), file=self._file, flush=True)

    def examples(self, step: int, numbers: np.ndarray) -> None:
        """The ids that a step saw, in their order."""
        if self._examples is not None:
            print(json.dumps({"step": step, "examples": numbers.tolist()}), file=self._examples, flush=True)

    def _write(self, kind: str, step: int, row: dict[str, float]) -> None:
        self.event(step, {"kind": kind, **row})
        if self._active:
            self._tensorboard = self._tensorboard or self._make_writer()
            for name, value in row.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        """Finishes files and bar."""
        for part in (self._bar, self._file, self._examples, self._tensorboard):
            if part is not None:
                part.close()


def _summary_writer(folder: Path, start: int) -> Any:
    """TensorBoard's writer; events that a resumed run makes again are hidden.

    tensorboardX imports torch wherever it is installed, which takes seconds and gives conversions that nobody here
    uses; so torch is out of sight for that import.
    """
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
