"""Rows, the table that is printed, and the file that machines read.

A benchmark is a module `benchmarks/NAME.py` whose docstring's first line says what it measures and that has

    def rows(options: Options) -> Iterable[Row]:

It yields a row as soon as it has one, asks `options.wants(case)` before it starts a case, and takes at least
`options.repeats` measurements of each side. A `rows()` without argument, which returns all figures as dicts with the
fields of `Row`, is taken as well. `python -m benchmarks NAME` does the rest: command line, table, JSON file. Words of
the command line that only this benchmark understands are listed in a tuple `FLAGS` and arrive in `options.flags`.

A ratio above 1 always means that ours is better, whatever the unit: `Row.faster` for times, `Row.higher` for figures
where more is better, `Row.lower` where less is better. A figure without a peer is `Row.alone` and has no ratio; its
`peer` may still hold the bound that it is held to, and then the case says so.
"""

import fnmatch
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

__all__ = ["Options", "Row", "format_row", "header", "print_rows", "write_json"]


@dataclass(frozen=True)
class Options:
    """What the command line says to a benchmark.

    Attributes:
        repeats: measurements of each side of a case, at least.
        case: a shell pattern that a case's name has to match, or a part of the name; "" for all.
        flags: words of the command line that only this benchmark understands, such as `--write-readme`.
    """

    repeats: int = 5
    case: str = ""
    flags: tuple[str, ...] = ()

    def wants(self, case: str) -> bool:
        """Whether the case is to be run."""
        return self.case in case or fnmatch.fnmatchcase(case, self.case)


@dataclass(frozen=True)
class Row:
    """One figure. `min` and `max` bound the ratio over the rounds, or `ours` where there is no ratio."""

    case: str
    ours: float
    peer: float | None
    ratio: float | None
    min: float | None
    max: float | None
    unit: str

    @classmethod
    def alone(cls, case: str, ours: float | Sequence[float], unit: str, *, peer: float | None = None) -> "Row":
        """A figure without a ratio; of several measurements the median counts."""
        values = [float(ours)] if isinstance(ours, int | float) else [float(value) for value in ours]
        return cls(case, statistics.median(values), peer, None, min(values), max(values), unit)

    @classmethod
    def faster(cls, case: str, ours: Sequence[float], peer: Sequence[float], unit: str) -> "Row":
        """Times (less is better), measured in turns: `ours[i]` and `peer[i]` belong to one round."""
        ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
        mine, theirs = statistics.median(ours), statistics.median(peer)
        return cls(case, mine, theirs, theirs / mine, min(ratios), max(ratios), unit)

    lower = faster
    """The same for any figure of which less is better."""

    @classmethod
    def higher(cls, case: str, ours: Sequence[float], peer: Sequence[float], unit: str) -> "Row":
        """Figures of which more is better (images/s), measured in turns."""
        ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
        mine, theirs = statistics.median(ours), statistics.median(peer)
        return cls(case, mine, theirs, mine / theirs, min(ratios), max(ratios), unit)


_WIDTHS = (10, 10, 7, 7, 7)


def header(case_width: int = 72) -> str:
    """The table's first line."""
    names = ("ours", "peer", "ratio", "min", "max")
    return " ".join(
        ["case".ljust(case_width), *(name.rjust(width) for name, width in zip(names, _WIDTHS, strict=True)), "unit"]
    )


def format_row(row: Row, case_width: int = 72) -> str:
    """One aligned line; "-" where a row has no such figure."""
    values = (row.ours, row.peer, row.ratio, row.min, row.max)
    cells = (_number(value, width).rjust(width) for value, width in zip(values, _WIDTHS, strict=True))
    return " ".join([row.case.ljust(case_width), *cells, row.unit])


def _number(value: float | None, width: int) -> str:
    if value is None:
        return "-"
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text if len(text) <= width else f"{value:.2e}"


def write_json(rows: Iterable[Row], file: Path) -> None:
    """Writes a list of `{case, ours, peer, ratio, min, max, unit}`; a figure that a row lacks is null."""
    file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def print_rows(rows: Iterable[Row], out: TextIO, case_width: int = 72) -> list[Row]:
    """Prints the table line by line while it is measured, and returns all rows."""
    print(header(case_width), file=out, flush=True)
    done = []
    for row in rows:
        print(format_row(row, case_width), file=out, flush=True)
        done.append(row)
    return done
