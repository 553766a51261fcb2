"""`vitjax doctor`: what a person asks the package about the machine it is on."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitjax.errors import UserError

if TYPE_CHECKING:
    from vitjax.analysis.attention_check import Finding

__all__ = ["main"]

_COLUMNS = (
    f"{'':2}{'form':<22}{'type':<10}{'tokens':>6}{'error':>10}{'allowed':>9}{'leak':>9}{'ms':>9}{'with grad':>11}"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code: 0 for all is well, 1 for a finding that is not, 2 for a mistake in the command."""
    parser = argparse.ArgumentParser(prog="vitjax", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor", help="runs every form of attention against float64: exactness, leaks between images, NaN, time"
    )
    doctor.add_argument("--dtypes", default="float32,bfloat16", help="default %(default)s")
    doctor.add_argument("--lengths", default="64,128,192,320", help="tokens in a row; default %(default)s")
    doctor.add_argument("--rows", type=int, default=4, help="default %(default)s")
    doctor.add_argument("--heads", type=int, default=4, help="default %(default)s")
    doctor.add_argument("--head_size", type=int, default=64, help="default %(default)s")
    doctor.add_argument("--row_of_many", type=int, default=1024, help="tokens in the row of 1, 4 and 16 images")
    options = parser.parse_args(arguments)
    try:
        return _doctor(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _doctor(options: argparse.Namespace) -> int:
    import jax

    from vitjax.analysis.attention_check import check_attention, work_by_images

    lengths = _numbers(options.lengths)
    sizes = {"heads": options.heads, "head_size": options.head_size}
    devices = jax.devices()
    print(f"jax {jax.__version__}, {len(devices)} x {devices[0].device_kind}, backend {jax.default_backend()}")
    print("errors are shares of the largest number; * is what auto takes\n")
    print(_COLUMNS)
    findings = []
    for finding in check_attention(
        dtypes=tuple(options.dtypes.split(",")), lengths=lengths, rows=options.rows, **sizes
    ):
        findings.append(finding)
        if not finding.refused:
            print(_line(finding), flush=True)
    print()
    for dtype in dict.fromkeys(finding.dtype for finding in findings):
        times = work_by_images(dtype=dtype, length=options.row_of_many, **sizes)
        shown = ", ".join(f"{time:.2f} ms as {count}" for count, time in times.items())
        print(f"a row of {options.row_of_many} tokens, {dtype}, with gradients, auto: {shown} images")
    for verb, chosen in (("auto takes", lambda f: f.auto), ("cannot run:", lambda f: f.refused)):
        said: dict[str, list[str]] = {}
        for finding in filter(chosen, findings):
            said.setdefault(f"{verb} {finding.kind} {finding.form}, {finding.reason}", []).append(finding.dtype)
        for text, dtypes in said.items():
            print(f"{text} ({', '.join(dict.fromkeys(dtypes))})")
    wrong = [finding for finding in findings if not finding.sound]
    ran = sum(not finding.refused for finding in findings)
    print(f"{ran} cases ran, {len(findings) - ran} cannot run here, {len(wrong)} unsound")
    return 1 if wrong else 0


def _line(finding: "Finding") -> str:
    name = f"{'*' if finding.auto else ' '} {finding.kind} {finding.form}"
    start = f"{name:<24}{finding.dtype:<10}{finding.length:>6}"
    times = f"{finding.forward_ms:>9.2f}{finding.both_ms:>11.2f}"
    end = "" if finding.sound else "   UNSOUND" + ("" if finding.finite else f": not finite {finding.reason}")
    return f"{start}{finding.error:>10.1e}{finding.allowed:>9.0e}{finding.leak:>9.1e}{times}{end}"


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--lengths={text}: expected whole numbers with commas between them") from None
