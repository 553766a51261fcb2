"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME` takes one's figures."""

import argparse
import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from benchmarks.report import Options, Row, print_rows, write_json

__all__ = ["available", "main"]

_FOLDER = Path(__file__).parent


def available() -> dict[str, str]:
    """Name of each benchmark and the first line of its docstring; nothing is imported."""
    found = {}
    for file in sorted((*_FOLDER.glob("*.py"), *_FOLDER.glob("claims/*.py"))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if "rows" in functions:
            found[".".join(file.relative_to(_FOLDER).with_suffix("").parts)] = (ast.get_docstring(tree) or "").split(
                "\n", 1
            )[0]
    return found


def _rows(module: ModuleType, options: Options) -> Iterator[Row]:
    """The rows that are wanted, also of a benchmark that always takes all of its figures, as dicts."""
    if inspect.signature(module.rows).parameters:
        yield from module.rows(options)
        return
    if options.repeats != Options().repeats:
        print(f"{module.__name__} takes its own number of measurements, not --repeats", file=sys.stderr)
    for fields in module.rows():
        row = Row(**fields)
        if options.wants(row.case):
            yield row


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    names = available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(names), metavar="NAME", help=", ".join(sorted(names)))
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write {case, ours, peer, ratio, min, max, unit} rows"
    )
    parser.add_argument(
        "--case", default="", metavar="PATTERN", help="only cases with this in their name, or matching *?[]"
    )
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side (default 5)")
    options, flags = parser.parse_known_args(arguments)
    if options.name is None:
        if flags:
            parser.error(f"unknown: {' '.join(flags)}; a benchmark's name comes first")
        width = max(map(len, names))
        for name, line in names.items():
            print(f"{name:{width}}  {line}")
        return 0
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it needs at least 1")
    module = importlib.import_module(f"benchmarks.{options.name}")
    unknown = [flag for flag in flags if flag not in getattr(module, "FLAGS", ())]
    if unknown:
        parser.error(
            f"{options.name} does not know {' '.join(unknown)}; its flags: {getattr(module, 'FLAGS', ()) or 'none'}"
        )
    chosen = Options(repeats=options.repeats, case=options.case, flags=tuple(flags))
    rows = print_rows(_rows(module, chosen), sys.stdout)
    if options.json is not None:
        write_json(rows, options.json)
    if not rows:
        print(f"no case of {options.name} has {options.case!r} in its name", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
