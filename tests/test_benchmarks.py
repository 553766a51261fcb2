"""The benchmarks' own machinery: rows and ratios, the command line, two processes in turns, the README's table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import available, main
from benchmarks.comparison import Difference, misfits, worst
from benchmarks.parity import readme_table, write_table
from benchmarks.peers import Side, measure_in_turns
from benchmarks.report import Options, Row, format_row, header, print_rows, write_json

_ROOT = Path(__file__).resolve().parents[1]
FIELDS = ["case", "ours", "peer", "ratio", "min", "max", "unit"]


def test_a_ratio_above_one_means_that_ours_is_better():
    time = Row.faster("t", ours=[1.0, 2.0, 4.0], peer=[2.0, 8.0, 4.0], unit="ms")
    assert (time.ours, time.peer, time.ratio, time.min, time.max) == (2.0, 4.0, 2.0, 1.0, 4.0)
    rate = Row.higher("r", ours=[4.0, 8.0, 2.0], peer=[2.0, 1.0, 2.0], unit="images/s")
    assert (rate.ours, rate.peer, rate.ratio, rate.min, rate.max) == (4.0, 2.0, 2.0, 1.0, 8.0)
    assert Row.lower("padding", [0.01], [0.02], "share").ratio == 2.0


def test_rounds_belong_together():
    with pytest.raises(ValueError):
        Row.faster("t", ours=[1.0], peer=[1.0, 2.0], unit="ms")


def test_a_figure_alone_has_no_ratio():
    row = Row.alone("padding", [0.02, 0.01, 0.03], "share", peer=0.05)
    assert (row.ours, row.peer, row.ratio, row.min, row.max) == (0.02, 0.05, None, 0.01, 0.03)
    assert Row.alone("seconds", 3, "s").ours == 3.0


def test_rows_are_aligned_and_written_for_machines(tmp_path, capsys):
    rows = [Row.faster("short", [1.0], [2.0], "ms"), Row.alone("a" * 60, 123456.0, "images/s")]
    assert print_rows(iter(rows), sys.stdout) == rows
    printed = capsys.readouterr().out.splitlines()
    assert printed == [header(), *map(format_row, rows)]
    assert len({line.index(unit) for line, unit in zip(printed, ("unit", "ms", "images/s"), strict=True)}) == 1
    write_json(rows, tmp_path / "rows.json")
    stored = json.loads((tmp_path / "rows.json").read_text())
    assert [list(row) for row in stored] == [FIELDS, FIELDS]
    assert stored[1]["ratio"] is None


def test_cases_are_chosen_by_part_or_pattern():
    assert Options().wants("anything")
    assert Options(case="batch 8").wants("ViT-S/16 batch 8 forward")
    assert Options(case="ViT-*forward").wants("ViT-S/16 batch 8 forward")
    assert not Options(case="ViT-*forward").wants("NaViT forward")


def test_every_benchmark_says_in_a_line_what_it_measures():
    found = available()
    assert {"first_run", "parity", "speed"} <= set(found)
    assert all(line.endswith((".", "…")) and len(line) < 160 for line in found.values()), found
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=_ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert len(listed.splitlines()) == len(found)
    assert all(name in listed for name in found)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["parity", "--wrong-flag"], ["parity", "--repeats", "0"], ["--wrong-flag"]]
)
def test_a_wrong_command_line_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_pattern_without_a_case_is_an_error(capsys):
    assert main(["first_run", "--case", "no such case"]) == 1
    assert "no such case" in capsys.readouterr().err


SIDE = """
import sys, time
from benchmarks.peers import serve
def build(settings):
    def iteration():
        with open(settings["log"], "a") as log:
            log.write(settings["name"])
        return settings["units"]
    return iteration
serve(build, warm_up=1)
"""


def test_two_processes_take_turns(tmp_path):
    (tmp_path / "fake_side.py").write_text(SIDE)
    log = tmp_path / "log"
    environment = {"PYTHONPATH": f"{tmp_path}:{_ROOT}"}
    sides = [
        Side("fake_side", {"name": name, "units": units, "log": str(log)}, environment)
        for name, units in (("A", 1), ("B", 10**9))
    ]
    ours, peer = measure_in_turns(sides, repeats=3, round_seconds=0.0)
    assert log.read_text() == "AB" + "AB" * 3  # both warm up, then in turns
    assert len(ours) == len(peer) == 3
    assert max(peer) < min(ours)  # the same time for far more units of work


def test_a_side_that_fails_is_an_error_and_leaves_no_process(tmp_path):
    (tmp_path / "broken_side.py").write_text("raise SystemExit(3)")
    side = Side("broken_side", {}, {"PYTHONPATH": str(tmp_path)})
    with pytest.raises(RuntimeError, match="'broken_side' ended with code 3"):
        measure_in_turns([side], repeats=1)


def test_readme_gets_the_table_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- parity:begin -->\nold\n<!-- parity:end -->\nafter\n")
    forward = Difference("logits", "logits", 2e-6, 1e-6, 3.0)
    gradient = Difference("gradient of x", "gradient", 5e-6, 1e-6, 3.0)
    table = readme_table([("ViT vs timm", {"forward": forward, "gradient": gradient})], seeds=2)
    for _ in range(2):
        write_table(readme, table)
    text = readme.read_text()
    assert text.startswith("before\n<!-- parity:begin -->\n")
    assert text.endswith("<!-- parity:end -->\nafter\n")
    assert "| ViT vs timm | 2.0e-06 (1.0e-06) | 5.0e-06 (1.0e-06) |" in text
    assert "old" not in text
    assert text.count("ViT vs timm") == 1


@pytest.mark.parametrize("text", ["", "<!-- parity:end --> <!-- parity:begin -->", "<!-- parity:begin -->"])
def test_a_readme_without_its_marks_is_an_error(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match="once each and in this order"):
        write_table(tmp_path / "README.md", "table")


def test_the_allowance_is_a_multiple_of_the_noise():
    within = Difference("a", "stage", 29e-6, 1e-6, 1.0)
    beyond = Difference("b", "stage", 31e-6, 1e-6, 1.0)
    nothing = Difference("c", "stage", float("nan"), 1e-6, 1.0)
    assert [line[0] for line in misfits([within, beyond, nothing])] == ["b", "c"]
    assert worst([within, beyond]) is beyond
