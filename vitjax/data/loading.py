"""Streams of batches whose position can be saved, and the counting of files that cannot be read.

`BatchStream` runs whatever makes the batches in a thread of its own and hands each batch out together with the position
after it, so reading ahead never enters the state.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from vitjax.errors import UserError

__all__ = [
    "Batch",
    "BatchStream",
    "Broken",
    "BrokenFiles",
    "Produced",
    "Shards",
    "Stream",
    "check_reading",
    "in_background",
    "merge_states",
]

_logger = logging.getLogger("vitjax")

Batch = dict[str, Any]
"""Named numpy arrays with a leading batch axis; see ARCHITECTURE.md for the keys."""


@dataclass(frozen=True)
class Shards:
    """Which part of the global batch this process makes.

    Attributes:
        process_index: number of this process.
        process_count: number of processes; each makes an equal, contiguous slice of every batch.
        groups: data shards of the mesh in this process, over which its slice is divided again.
        buckets: whether attention has a use for the length buckets of packed batches: on CPU.
    """

    process_index: int = 0
    process_count: int = 1
    groups: int = 1
    buckets: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.process_index < self.process_count:
            raise UserError(
                f"`process_index` (={self.process_index}) is one of 0 ... `process_count` (={self.process_count}) - 1"
            )
        if self.groups < 1:
            raise UserError(f"`groups` (={self.groups}) is at least 1: the data shards of this process")

    def local_size(self, size: int, setting: str) -> int:
        """This process's share of `size` images or rows.

        Raises:
            UserError: `size` cannot be divided by the processes and their data shards.
        """
        shards = self.process_count * self.groups
        if size % shards:
            raise UserError(
                f"`{setting}` (={size}) is not divisible by {shards}, the data shards of the mesh "
                f"({self.process_count} processes with {self.groups} each); use {setting}={-(-size // shards) * shards}"
            )
        return size // self.process_count


@runtime_checkable
class Stream(Protocol):
    """Endless batches with a position that can be saved."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def state(self) -> dict[str, Any]:
        """The position after the batch last handed out, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on after a position that `state` returned, here or in another process."""
        ...

    def statistics(self) -> dict[str, float]:
        """Figures of the batches handed out since the last call."""
        ...

    def close(self) -> None:
        """Ends threads and worker processes."""
        ...


# ---------------------------------------------------------------------------------------------------- reading


class Broken(NamedTuple):
    """Stands in the stream for an example that could not be read."""

    name: str
    reason: str


def check_reading(owner: str, *, threads: int, workers: int, prefetch: int, max_broken: float | int) -> None:
    """Checks the settings that every description of batches has for reading."""
    for setting, value, least in (("threads", threads, 1), ("workers", workers, 0), ("prefetch", prefetch, 0)):
        if value < least:
            raise UserError(f"{owner}: `{setting}` (={value}) is at least {least}")
    if not 0 <= max_broken <= 1:
        raise UserError(f"{owner}: `max_broken` (={max_broken}) is a share of the examples in [0, 1]")


class BrokenFiles:
    """Counts and names examples that could not be read, and stops a run that has too many.

    The first ones are logged one by one, later ones whenever their number has doubled, always with the total.

    Args:
        owner: what is being read, for the log.
        max_broken: the share of examples read that may be broken; fewer than `least` files never stop a run.
        least: see `max_broken`.
    """

    def __init__(self, owner: str, max_broken: float | int, *, least: int = 10):
        self._owner = owner
        self._max_broken = max_broken
        self._least = least
        self._read = 0
        self._total = 0
        self._taken = 0
        self._names: dict[str, str] = {}

    def taken(self) -> int:
        """Unreadable examples met since the last call."""
        new, self._taken = self._total - self._taken, self._total
        return new

    def passes(self, example: Any) -> bool:
        """Whether the example could be read.

        Raises:
            UserError: more than the allowed share could not.
        """
        self._read += 1
        if not isinstance(example, Broken):
            return True
        self._total += 1
        new = example.name not in self._names
        self._names[example.name] = example.reason
        count = len(self._names)
        if new and (count <= 5 or count & (count - 1) == 0):
            _logger.warning(
                "%s: skipped %s: %s (%d broken files so far, %d of %d reads)",
                self._owner, example.name, example.reason, count, self._total, self._read,
            )  # fmt: skip
        if count >= self._least and self._total > self._max_broken * self._read:
            first = "; ".join(f"{name}: {reason}" for name, reason in list(self._names.items())[:3])
            raise UserError(
                f"{self._owner}: {self._total} of {self._read} examples read so far are broken ({count} files), more "
                f"than `max_broken` (={self._max_broken}) allows; the first: {first}; mend or remove them, or raise "
                "`max_broken`"
            )
        return False


# ---------------------------------------------------------------------------------------------------- streams


@dataclass
class Produced:
    """A batch on its way out: the state after it, and the counts that its statistics are summed from."""

    batch: Batch
    state: dict[str, Any]
    counts: dict[str, float] = field(default_factory=dict)


class BatchStream:
    """A `Stream` over anything that can start producing at a state.

    Args:
        produce: generator function from a state to what follows it. It is run in a thread, `prefetch` batches ahead.
        start: the state at the beginning.
        summarise: turns summed counts into statistics.
        prefetch: batches held ready; 0 makes each one when it is asked for, in the caller's thread.
    """

    def __init__(
        self,
        produce: Callable[[dict[str, Any]], Generator[Produced, None, None]],
        start: dict[str, Any],
        summarise: Callable[[dict[str, float]], dict[str, float]],
        prefetch: int,
    ):
        self._produce = produce
        self._state = start
        self._packers = tuple(start.get("packers", ()))
        self._summarise = summarise
        self._prefetch = prefetch
        self._counts: dict[str, float] = {}
        self._source: Generator[Produced, None, None] | None = None

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        if self._source is None:
            self._source = in_background(self._produce(self._state), self._prefetch)
        started = time.perf_counter()
        produced = next(self._source)
        counts = produced.counts | {"wait_seconds": time.perf_counter() - started, "batches": 1.0}
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0.0) + value
        self._state = produced.state
        return produced.batch

    def state(self) -> dict[str, Any]:
        """The position after the batch last handed out, as JSON."""
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on after a position that `state` returned, here or in another process.

        Raises:
            UserError: the state belongs to other data or other settings.
        """
        for name, value in self._state.items():
            if name not in ("packers", "position") and state.get(name) != value:
                raise UserError(
                    f"the saved data position has `{name}`={state.get(name)!r}, this run has {value!r}: the rest of "
                    "the stream would be another one; resume with the data and settings of the saved run, or start anew"
                )
        if missing := sorted(set(self._packers) - set(state.get("packers", ())), key=int):
            raise UserError(
                f"the saved data position lacks packers {', '.join(missing)}; "
                "give `restore` the states of all processes, put together by `merge_states`"
            )
        self.close()
        self._state = dict(state)
        if self._packers:
            self._state["packers"] = {name: state["packers"][name] for name in self._packers}
        self._counts = {}

    def statistics(self) -> dict[str, float]:
        """Figures of the batches handed out since the last call; empty if there were none."""
        counts, self._counts = self._counts, {}
        return self._summarise(counts) if counts else {}

    def close(self) -> None:
        """Ends threads and worker processes; the next batch starts them again."""
        if self._source is not None:
            self._source.close()
            self._source = None


def in_background(source: Generator[Any, None, None], size: int) -> Generator[Any, None, None]:
    """The same items, made `size` ahead in a thread; with 0 made when asked for."""
    if not size:
        yield from source
        return
    background = _Background(source, size)
    try:
        while True:
            try:
                item = next(background)
            except StopIteration:
                return
            yield item
    finally:
        background.close()


def merge_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """One state out of those of all processes, which a run with any number of processes can restore."""
    merged = dict(states[0])
    if "packers" in merged:
        merged["packers"] = {name: packer for state in states for name, packer in state["packers"].items()}
    return merged


class _Background:
    """Runs an iterator in a thread, at most `size` items ahead; errors come out where the item would have."""

    def __init__(self, source: Generator[Any, None, None], size: int):
        self._items: queue.Queue[tuple[str, Any]] = queue.Queue(size)
        self._stopping = threading.Event()
        self._source = source
        self._thread = threading.Thread(target=self._run, name="vitjax-batches", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self._source:
                self._put("item", item)
                if self._stopping.is_set():
                    break
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)
        finally:
            # generators are closed by the thread that runs them, which ends the readers below
            self._source.close()

    def _put(self, kind: str, item: Any) -> None:
        while not self._stopping.is_set():
            try:
                self._items.put((kind, item), timeout=0.1)
                return
            except queue.Full:
                continue

    def __next__(self) -> Any:
        kind, item = self._items.get()
        if kind == "item":
            return item
        self._items.put((kind, item))  # asked again, it answers the same
        raise item if kind == "error" else StopIteration

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
