"""One side of ours against several peers, a row each."""

from collections.abc import Iterator

from benchmarks.peers import Side, measure_in_turns
from benchmarks.report import Options, Row

__all__ = ["against"]


def against(
    options: Options, what: str, ours: Side, peers: dict[str, Side], *, milliseconds: bool, at_once: int = 2
) -> Iterator[Row]:
    """One row per peer that is asked for: times per unit of work, or units per second.

    Args:
        options: of the command line; only wanted cases are started.
        what: name of the case, to which ` vs PEER` is added.
        ours: our side.
        peers: the others by name.
        milliseconds: of a unit of work, which is a step; otherwise units, which are images, per second.
        at_once: peers that are held in memory beside ours.
    """
    wanted = {f"{what} vs {name}": side for name, side in peers.items() if options.wants(f"{what} vs {name}")}
    for start in range(0, len(wanted), at_once):
        cases = list(wanted)[start : start + at_once]
        seconds, *others = measure_in_turns(
            [ours, *(wanted[case] for case in cases)],
            repeats=options.repeats,
            round_seconds=1.0 if milliseconds else 4.0,
        )
        for case, theirs in zip(cases, others, strict=True):
            if milliseconds:
                yield Row.faster(case, [1000 * value for value in seconds], [1000 * value for value in theirs], "ms")
            else:
                yield Row.higher(case, [1 / value for value in seconds], [1 / value for value in theirs], "images/s")
