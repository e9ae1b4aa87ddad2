"""The table of rows, and how a row is made of samples."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from benchmarks.bench import Bench
from benchmarks.measuring import Spent, p50, summary
from benchmarks.report import Row

Measure: TypeAlias = Callable[[Bench], Awaitable[list[Row]]]
ROWS: dict[str, Measure] = {}


def measured(measure: Measure) -> Measure:
    """Enters a function into the table, under its name."""
    ROWS[measure.__name__] = measure
    return measure


def compared(
    name: str, unit: str, pairs: Sequence[tuple[Sequence[float], Sequence[float]]], *, goal: float | None
) -> Row:
    """Median against median of all rounds; the spread is of the rounds' own."""
    floor = [sample for samples, _ in pairs for sample in samples]
    ours = [sample for _, samples in pairs for sample in samples]
    ratios = [p50(second) / p50(first) for first, second in pairs]
    row = Row(name, unit, p50(ours), p50(floor), goal=goal)
    row.spread = (min(ratios), max(ratios)) if len(ratios) > 1 else None
    row.details = {"floor": summary(floor), "ours": summary(ours), "ratios": ratios}
    return row


def per(spent: Sequence[Spent], count: int) -> str:
    running = [one.running for one in spent if one.running is not None]
    waiting = [one.waiting for one in spent if one.waiting is not None]
    if not running:
        return "not known here"
    return f"{1e6 * sum(running) / count:.0f} us (and {1e6 * sum(waiting) / count:.0f} us ready without a core)"
