"""SIGTERM and Ctrl-C as a request to save and stop."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

__all__ = ["EXIT_INTERRUPTED", "stop_requests"]

EXIT_INTERRUPTED = 75
"""The process's exit code after SIGTERM or Ctrl-C: EX_TEMPFAIL of sysexits.h, "try again later"."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Inside, the first SIGTERM or SIGINT is only noted; a second one has its usual effect.

    Yields:
        A function of the step number that says whether to stop after it. Every process of a run gets the same answer,
        so they all save the same step.
    """
    if jax.process_count() > 1:
        # jax's own service notes the signal in one process and picks a step that all can still reach.
        yield lambda step: bool(multihost_utils.reached_preemption_sync_point(step))
        return
    received: list[int] = []
    previous = {}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        for caught, handler in previous.items():
            signal.signal(caught, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:  # not the main thread, as in some notebooks and servers: signals are the host's business
            break
    try:
        yield lambda step: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
