"""`python train.py`: flags in, exit code out."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vitjax.errors import UserError
from vitjax.training.allocator import restart_with_allocator

__all__ = ["EXIT_USER_ERROR", "main"]

EXIT_USER_ERROR = 2
_FLAGS = ("allocator", "compile_cache", "no_compile_cache", "coordinator", "num_processes", "process_id")

_USAGE = """\
usage: python train.py --config FILE [--config.SETTING=VALUE ...] [flags]

  --config.steps=100 --config.optimizer.lr=1e-3 --config.workdir=runs/mine ...   any setting of the config
  --allocator=system          leave the C library's memory allocator alone (CPU only)
  --compile_cache=FOLDER      where compiled programs are kept; --no_compile_cache for nowhere
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                              one of N processes of a run; --coordinator=auto asks the cluster

The same command in the same workdir resumes an interrupted run.
exit codes: 0 done, 2 a mistake in config or data (one line says which), 75 interrupted and saved
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the trainer; the exit code.

    Args:
        arguments: of the command line, without the program's name.
    """
    if not arguments:
        print(usage(), file=sys.stderr)
        return EXIT_USER_ERROR
    if any(argument in ("-h", "--help") for argument in arguments):
        print(usage())
        return 0
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    try:
        restart_with_allocator(arguments)  # before anything imports jax
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def usage() -> str:
    """The help text, with the configs there are."""
    configs = sorted(str(path) for path in Path("configs").glob("**/*.py"))
    return _USAGE + (f"configs: {' '.join(configs)}\n" if configs else "")


def _run(arguments: Sequence[str]) -> int:
    from vitjax.config import parse_command_line

    config, flags = parse_command_line(arguments)
    unknown = sorted(set(flags) - set(_FLAGS))
    if unknown:
        raise UserError(f"unknown flag --{unknown[0]}; known are {', '.join(f'--{name}' for name in _FLAGS)}")
    from vitjax.training.devices import join_processes, use_compile_cache
    from vitjax.training.interruption import EXIT_INTERRUPTED
    from vitjax.training.program import run_config

    join_processes(flags.get("coordinator"), _number(flags, "num_processes"), _number(flags, "process_id"))
    if "no_compile_cache" not in flags:
        folder = use_compile_cache(Path(flags["compile_cache"]) if "compile_cache" in flags else None)
        print(f"compiled programs are kept in {folder}; --no_compile_cache switches that off", flush=True)
    return EXIT_INTERRUPTED if run_config(config).interrupted else 0


def _number(flags: dict[str, str], name: str) -> int | None:
    if name not in flags:
        return None
    try:
        return int(flags[name])
    except ValueError:
        raise UserError(f"--{name}={flags[name]}: expected a whole number") from None
