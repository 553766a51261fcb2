"""Memory allocation on CPU, seen to before jax starts.

XLA on CPU takes its temporary buffer from the C library anew at every step. glibc gives blocks of that size back to the
system each time, so that each step faults every page in again: 200,000 faults and a third of the time of a ViT-S step.
Told to keep the memory, it does not. The setting holds for the whole process and is read when it starts, so `train.py`
starts itself again with it, says so, and says how to switch it off.

Nothing here imports jax.
"""

import glob
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence

from vitjax.errors import UserError

__all__ = ["SETTINGS", "has_accelerator", "restart_with_allocator"]

SETTINGS = {
    "MALLOC_ARENA_MAX": "1",  # one heap for all threads, so that freed memory is found again
    "MALLOC_MMAP_MAX_": "0",  # large blocks from the heap as well, not from the system
    "MALLOC_TRIM_THRESHOLD_": str(2**40),  # bytes kept free at the end of the heap before any go back
}
SWITCH = "VITJAX_ALLOCATOR"
_DEVICE_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")
_TPU_VARIABLES = ("TPU_NAME", "COLAB_TPU_ADDR", "TPU_WORKER_ID")


def has_accelerator(environment: Mapping[str, str], find: Callable[[str], list[str]] = glob.glob) -> bool:
    """Whether jax may find a GPU or TPU, judged by device files and the environment."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms != "cpu"
    return any(name in environment for name in _TPU_VARIABLES) or any(find(pattern) for pattern in _DEVICE_FILES)


def restart_with_allocator(
    arguments: Sequence[str],
    environment: Mapping[str, str] = os.environ,
    *,
    execute: Callable[[str, list[str], dict[str, str]], object] = os.execve,
    say: Callable[[str], object] = lambda line: print(line, flush=True),
) -> None:
    """Replaces this process by one whose allocator keeps its memory, where that helps and is not done yet.

    Args:
        arguments: of the command line; `--allocator=system` leaves the allocator alone, `keep` is the default.
        environment: variables of this process; `VITJAX_ALLOCATOR` has the flag's meaning.
        execute: starts the new process in this one's place.
        say: shows a line.

    Raises:
        UserError: the flag is neither `keep` nor `system`.
    """
    choice = environment.get(SWITCH, "keep")
    for number, argument in enumerate(arguments):
        if argument == "--allocator":
            choice = arguments[number + 1] if number + 1 < len(arguments) else ""
        elif argument.startswith("--allocator="):
            choice = argument.partition("=")[2]
    if choice not in ("keep", "system"):
        raise UserError(f"--allocator={choice}: expected keep or system")
    off = "--allocator=system (or VITJAX_ALLOCATOR=system) switches it off"
    if choice == "system" or has_accelerator(environment):
        return
    if all(environment.get(name) == value for name, value in SETTINGS.items()):
        say(f"allocator: glibc keeps its memory ({' '.join(f'{k}={v}' for k, v in SETTINGS.items())}); {off}")
        return
    preloaded = environment.get("LD_PRELOAD", "")
    if "jemalloc" in preloaded or "tcmalloc" in preloaded:
        say(f"allocator: {preloaded}, left as it is")
        return
    own = [name for name in environment if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if own:
        say(f"allocator: the environment sets {', '.join(sorted(own))}, left as it is")
        return
    if platform.libc_ver()[0] != "glibc":
        return  # macOS, Windows, musl: these settings are glibc's
    sys.stdout.flush()
    execute(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, **SETTINGS})
