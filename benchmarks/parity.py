"""Largest difference to each PyTorch reference, forward and gradient, beside the reference's own noise.

    python -m benchmarks parity --write-readme

writes the table into README.md between `<!-- parity:begin -->` and `<!-- parity:end -->`. `ours` is the largest
difference and `peer` the reference's own |float64 - float32|, both on the quantity that uses up most of its allowance;
the ratio is allowance / difference. `--repeats` is the number of draws of weights and images. Preprocessing of a
library's own folder is compared pixel by pixel, in grey levels of 0 to 255, of which 1 is allowed.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.comparison import TIMES_NOISE, Difference, compare, worst
from benchmarks.report import Options, Row
from benchmarks.torch_side import import_torch

FLAGS = ("--write-readme",)

_README = Path(__file__).resolve().parents[1] / "README.md"
_MARKS = ("<!-- parity:begin -->", "<!-- parity:end -->")
_KINDS = {"forward": ("logits", "stage"), "gradient": ("gradient",)}


def rows(options: Options) -> Iterator[Row]:
    """Two rows a case, `forward` (outputs and every stage) and `gradient` (by every parameter and input); pixels."""
    import_torch()
    from benchmarks.all_parity_cases import CASES

    done: list[tuple[str, dict[str, Difference]]] = []
    for name, make in CASES.items():
        if not any(options.wants(f"{name} {kind}") for kind in _KINDS):
            continue
        found = [difference for seed in range(options.repeats) for difference in compare(make(), seed)]
        largest = {
            title: worst([difference for difference in found if difference.kind in kinds])
            for title, kinds in _KINDS.items()
        }
        done.append((name, largest))
        for title, difference in largest.items():
            if options.wants(f"{name} {title}"):
                yield _row(f"{name} {title}", difference)
    levels: dict[str, float] = {}
    for row in _pixel_rows(options):
        levels[row.case] = row.ours
        yield row
    if "--write-readme" in options.flags:
        write_table(_README, readme_table(done, options.repeats, levels))


def _pixel_rows(options: Options) -> Iterator[Row]:
    import vitjax
    from benchmarks.parity_preprocessing import PREPROCESSING, pixel_difference

    for name, write in PREPROCESSING.items():
        case = f"preprocessing of {name}; peer: allowed"
        if options.wants(case):
            with tempfile.TemporaryDirectory() as folder:
                theirs = write(Path(folder))
                yield Row.alone(case, pixel_difference(vitjax.load(folder), theirs), "grey levels", peer=1.0)


def _row(case: str, difference: Difference) -> Row:
    ratio = TIMES_NOISE * difference.noise / difference.difference if difference.difference else None
    return Row(case, difference.difference, difference.noise, ratio, None, None, "largest difference")


def readme_table(
    cases: Sequence[tuple[str, dict[str, Difference]]], seeds: int, levels: Mapping[str, float] | None = None
) -> str:
    """The Markdown tables of all cases, and of the pixels' differences by case."""
    lines = [
        f"Largest |ours - reference| in float32 over {seeds} draws of weights and images, in brackets the reference's",
        f"own |float64 - float32| on the same quantity. Allowed are {TIMES_NOISE:.0f} times the latter.",
        "",
        "| model and reference | outputs and stages | gradients |",
        "|---|---|---|",
    ]
    for name, largest in cases:
        cells = [f"{d.difference:.1e} ({d.noise:.1e})" for d in largest.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if levels:
        lines += ["", "| pixels | largest difference, grey levels of 255 |", "|---|---|"]
        lines += [f"| {case.split(';')[0]} | {level:.2g} |" for case, level in levels.items()]
    return "\n".join(lines)


def write_table(file: Path, table: str, marks: tuple[str, str] = _MARKS) -> None:
    """Replaces what stands between the two marks.

    Raises:
        ValueError: the file does not have both marks, once each and in order.
    """
    begin, end = marks
    text = file.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{file} needs the lines {begin} and {end}, once each and in this order")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    file.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
