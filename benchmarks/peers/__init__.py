"""The two sides of a comparison, each a process of its own.

Beside JAX, in one process, torch's small operations read 10 to 100 times too slow, so that no figure of ours is taken
with both in one. A side is a module `benchmarks/peers/NAME.py` with

    def build(settings: dict) -> Callable[[], int]:

which makes a case and returns one iteration of it: it awaits its results and says how many units of work (steps,
images) it did. `serve` warms it up and then waits on standard
input: a line with a number runs that many iterations and answers with the seconds they took. A process that waits uses
no processor time, so two sides can be held ready and measured in turns, A B A B, on a machine that drifts.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Side", "measure_in_turns", "serve"]

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Side:
    """One side of a case.

    Attributes:
        module: that is run, `benchmarks.peers.NAME` for ours.
        settings: what its `build` gets; numbers, strings and lists.
        environment: variables set for its process.
    """

    module: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class _Process:
    def __init__(self, side: Side) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        self.name = side.module
        self._process = subprocess.Popen(
            [sys.executable, "-m", side.module, json.dumps(dict(side.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=clean | dict(side.environment),
        )
        self.iteration_seconds, _ = self._answer()

    def run(self, iterations: int) -> float:
        """Seconds per unit of work."""
        assert self._process.stdin is not None
        print(iterations, file=self._process.stdin, flush=True)
        seconds, units = self._answer()
        return seconds / units

    def _answer(self) -> tuple[float, int]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("took "):
                _, seconds, units = line.split()
                return float(seconds), int(units)
        raise RuntimeError(f"the side {self.name!r} ended with code {self._process.wait()}; see its message above")

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _running(side: Side) -> Iterator[_Process]:
    process = _Process(side)
    try:
        yield process
    finally:
        process.close()


def measure_in_turns(sides: Sequence[Side], *, repeats: int, round_seconds: float = 1.0) -> list[list[float]]:
    """Seconds per unit of work of each side in each round, the sides taking turns within a round.

    Args:
        sides: each gets a process; all are held ready, one at a time runs.
        repeats: rounds.
        round_seconds: about how long a side runs in a round; at least one iteration.

    Returns:
        `[side][round]`.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(_running(side)) for side in sides]
        iterations = [max(1, round(round_seconds / process.iteration_seconds)) for process in processes]
        seconds: list[list[float]] = [[] for _ in sides]
        for _ in range(repeats):
            for number, process in enumerate(processes):
                seconds[number].append(process.run(iterations[number]))
    return seconds


def serve(build: Callable[[dict[str, Any]], Callable[[], int]], *, warm_up: int = 3) -> None:
    """What a side's module calls when it is run: settings from the command line, requests from standard input."""
    iteration = build(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})
    seconds, units = [], 0
    for _ in range(warm_up):
        start = time.perf_counter()
        units = iteration()
        seconds.append(time.perf_counter() - start)
    print(f"took {statistics.median(seconds[1:] or seconds):.9f} {units}", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        units = sum(iteration() for _ in range(int(line)))
        print(f"took {time.perf_counter() - start:.9f} {units}", flush=True)
