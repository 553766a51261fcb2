"""Reading examples ahead of their use, in threads or in worker processes."""

import functools
import itertools
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from vitjax.errors import UserError

__all__ = ["LaneReader", "read_ahead", "read_now"]

_CHUNK = 8  # examples read at a time: handing a task to another process and back costs about one digit's drawing
_AHEAD = 64  # examples held ready or being read, unless there are many readers

Read = Callable[[Any], Any]


def read_ahead(
    read: Read,
    positions: Iterable[Any],
    *,
    threads: int,
    workers: int,
) -> Generator[tuple[Any, Any], None, None]:
    """Yields (position, example) for each of `positions`, in this order.

    Args:
        read: reads one example by its position; with workers it is pickled.
        positions: what to read, perhaps without end.
        threads: reading threads if there are no workers.
        workers: worker processes; 0 reads in this one.
    """
    pool = _Pool(read, threads=threads, workers=workers)
    remaining, reading = iter(positions), deque[Future[list[tuple[Any, Any]]]]()
    try:
        while True:
            while len(reading) * _CHUNK < pool.ahead and (chunk := list(itertools.islice(remaining, _CHUNK))):
                reading.append(pool.submit(chunk))
            if not reading:
                return
            yield from _result(reading.popleft())
    finally:
        pool.close()


class LaneReader:
    """Reads several lanes of one stream ahead: lane `s` is the positions that leave the remainder s by `stride`.

    Lanes are consumed in any order and at any rate; each is read ahead by the same number of examples.

    Args:
        read: as in `read_ahead`.
        starts: the next position of each lane.
        stride: number of lanes of the whole stream.
        end: the stream's length, or `None` if it has none.
        threads: as in `read_ahead`.
        workers: as in `read_ahead`.
    """

    def __init__(self, read: Read, starts: Sequence[int], *, stride: int, end: int | None, threads: int, workers: int):
        self._pool = _Pool(read, threads=threads, workers=workers)
        self._chunks = max(2, -(-self._pool.ahead // (len(starts) * _CHUNK)))
        self._remaining = {
            start % stride: itertools.count(start, stride) if end is None else iter(range(start, end, stride))
            for start in starts
        }
        self._reading: dict[int, deque[Future[list[tuple[Any, Any]]]]] = {lane: deque() for lane in self._remaining}
        self._ready: dict[int, deque[tuple[int, Any]]] = {lane: deque() for lane in self._remaining}
        self.wait_seconds = 0.0
        for lane in self._remaining:
            self._submit(lane)

    def _submit(self, lane: int) -> None:
        reading, remaining = self._reading[lane], self._remaining[lane]
        while len(reading) < self._chunks and (chunk := list(itertools.islice(remaining, _CHUNK))):
            reading.append(self._pool.submit(chunk))

    def next(self, lane: int) -> tuple[int, Any] | None:
        """The lane's next (position, example), or `None` at the end."""
        ready = self._ready[lane]
        if not ready:
            if not self._reading[lane]:
                return None
            started = time.perf_counter()
            ready.extend(_result(self._reading[lane].popleft()))
            self.wait_seconds += time.perf_counter() - started
            self._submit(lane)
        return ready.popleft()

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._pool.close()


def read_now(read: Read, positions: list[int], threads: int) -> dict[int, Any]:
    """`{position: read(position)}`, for the few examples that a restored state names."""
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(positions, pool.map(read, positions), strict=True))


class _Pool:
    """Threads or worker processes that read chunks of positions."""

    def __init__(self, read: Read, *, threads: int, workers: int):
        self.ahead = max(_AHEAD, 2 * _CHUNK * (workers or threads))
        self._executor: Executor
        if workers:
            import cloudpickle  # takes classes of a notebook as well

            self._executor = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(cloudpickle.dumps(read),),
            )
            self._task: Callable[[list[Any]], list[tuple[Any, Any]]] = _read_in_worker
        else:
            self._executor = ThreadPoolExecutor(threads, thread_name_prefix="read")
            self._task = functools.partial(_read_chunk, read)

    def submit(self, chunk: list[Any]) -> Future[list[tuple[Any, Any]]]:
        try:
            return self._executor.submit(self._task, chunk)
        except BrokenProcessPool as error:
            raise _worker_lost() from error

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def _result(future: Future[list[tuple[Any, Any]]]) -> list[tuple[Any, Any]]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _worker_lost() from error


def _worker_lost() -> UserError:
    return UserError(
        "a worker process that reads data has ended, killed from outside or out of memory (its own message, if it left "
        "one, is above); use fewer `workers`, or `workers=0` to read in this process"
    )


def _read_chunk(read: Read, chunk: list[Any]) -> list[tuple[Any, Any]]:
    return [(position, read(position)) for position in chunk]


# ---------------------------------------------------------------------------------------------- in a worker process

_worker_read: list[Read] = []


def _start_worker(pickled: bytes) -> None:
    import cloudpickle

    for stop in (signal.SIGINT, signal.SIGTERM):  # the parent saves its state first, and needs the workers for that
        signal.signal(stop, signal.SIG_IGN)
    _end_with_parent()
    _worker_read.append(cloudpickle.loads(pickled))


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: killed outright, it cannot tell."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch parent").start()


def _read_in_worker(chunk: list[Any]) -> list[tuple[Any, Any]]:
    return _read_chunk(_worker_read[0], chunk)
