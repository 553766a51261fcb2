"""Accuracy, calibration and cost of one NaViT over budgets of tokens, on the embedded digits, and of its cascade.

The model of `configs/navit_budgets.py`, taken from its run folder or, where there is none, trained there: minutes.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Options, Row
from vitjax.config import load_config_file
from vitjax.training.program import run_config

_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "navit_budgets.py"


def rows(options: Options) -> Iterator[Row]:
    """Five figures per budget; the program trains, or resumes a run that is complete at no cost."""
    config = load_config_file(_CONFIG, [f"program.repeats={options.repeats}"])
    for name, points in run_config(config).curves.items():
        for point in points:
            case = f"{name}, {point.tokens} tokens" + ("" if point.share is None else f" for {point.share:.0%}")
            figures = {
                "top-1": (point.top1, "share"),
                "calibration error": (point.calibration_error, "share"),
                "tokens": (point.mean_tokens, "tokens/image"),
                "multiply-adds": (point.macs / 1e6, "M/image"),
                "time": (1e3 * point.seconds, "ms/image"),
            }
            for figure, (value, unit) in figures.items():
                if options.wants(f"{case}: {figure}"):
                    yield Row.alone(f"{case}: {figure}", value, unit)
