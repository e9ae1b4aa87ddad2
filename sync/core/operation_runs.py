"""The operations of a checked change in runs: a pasted text is three runs, whatever its length.

All rows of a run act on one object in one way; their counters go up by one, and the elements and predecessors that they name
go up (or down) by the same step.
"""

from collections.abc import Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from sync.core.change_rows import (
    ABSENT,
    ACTION,
    INSERT,
    KEY_ACTOR,
    KEY_COUNTER,
    KEY_STRING,
    OBJECT_ACTOR,
    OBJECT_COUNTER,
    PRED_ACTOR,
    PRED_COUNTER,
    PRED_GROUP,
    VALUE_META,
)
from sync.core.column_runs import boolean_runs, number_runs, step_runs, string_runs

T = TypeVar("T")


class Ids(NamedTuple):
    """Ids of operations: `actor` by its place among those that the change names, counters `first`, `first + step`, ..."""

    actor: int
    first: int
    step: int


class OperationRun(NamedTuple):
    """Operations of one kind, one behind the other.

    Attributes:
        rows: how many.
        counter: of the first; each has one more than the one before it.
        action: what they do.
        obj: the object that they act on, None for the root.
        key: in UTF-8, where they act on the key of a map.
        elements: where they act on elements, or insert behind them; None for the head of a list, and for keys.
        inserts: whether they make elements.
        preds: what they overwrite or delete, an entry for each predecessor.
        size: bytes of their values.
    """

    rows: int
    counter: int
    action: int
    obj: Ids | None
    key: bytes | None
    elements: Ids | None
    inserts: bool
    preds: tuple[Ids, ...]
    size: int


def operation_runs(
    body: bytes, columns: Mapping[int, tuple[int, int]], start_op: int, rows: int
) -> Iterator[OperationRun]:
    """Reads the operations of a change.

    Args:
        body: the change's, inflated and checked.
        columns: start and end of each in the body.
        start_op: the counter of its first operation.
        rows: how many operations it has.
    """

    def numbers(column: int) -> "_Column[int]":
        return _Column(number_runs(body, *columns.get(column, ABSENT)), rows)

    def steps(column: int) -> "_Column[int]":
        return _Column(step_runs(body, *columns.get(column, ABSENT)), rows)

    actions, inserts = numbers(ACTION), _Column(boolean_runs(body, *columns.get(INSERT, ABSENT)), rows)
    objects, object_counters = numbers(OBJECT_ACTOR), numbers(OBJECT_COUNTER)
    keys = _Column(string_runs(body, *columns.get(KEY_STRING, ABSENT)), rows)
    elements, element_counters = numbers(KEY_ACTOR), steps(KEY_COUNTER)
    groups, preds, pred_counters = numbers(PRED_GROUP), numbers(PRED_ACTOR), steps(PRED_COUNTER)
    values = numbers(VALUE_META)
    acting = (actions, inserts, objects, object_counters, keys, elements, element_counters, groups)
    done = 0
    while done < rows:
        count = min(column.rows for column in acting)
        group = groups.value or 0
        if group > 1:
            count = 1
        elif group:
            count = min(count, preds.rows, pred_counters.rows)
        overwritten = []
        for _ in range(group):
            overwritten.append(Ids(preds.value or 0, pred_counters.value or 0, pred_counters.step))
            preds.skip(count)
            pred_counters.skip(count)
        yield OperationRun(
            count,
            start_op + done,
            actions.value or 0,
            None if objects.value is None else Ids(objects.value, object_counters.value or 0, 0),
            keys.value,
            None if elements.value is None else Ids(elements.value, element_counters.value or 0, element_counters.step),
            bool(inserts.value),
            tuple(overwritten),
            _skip_values(values, count),
        )
        for column in acting:
            column.skip(count)
        done += count


def _skip_values(values: "_Column[int]", rows: int) -> int:
    """How many bytes the values of so many rows have: a length stands above the 4 bits of its value's type."""
    size = 0
    while rows:
        count = min(rows, values.rows)
        size += count * ((values.value or 0) >> 4)
        values.skip(count)
        rows -= count
    return size


class _Column(Generic[T]):
    """Where reading a column has come to: `value` stands in the next row, and goes on by `step` for `rows` of them."""

    __slots__ = ("_runs", "rows", "step", "value")

    def __init__(self, runs: Iterator[tuple[int, T | None, int]], rows: int) -> None:
        self._runs = runs
        # A column that is not there is nulls alone.
        self.rows, self.value, self.step = next(runs, (rows, None, 0))

    def skip(self, count: int) -> None:
        """Goes on by so many rows, `self.rows` at most."""
        if count < self.rows:
            self.rows -= count
            if self.step:
                self.value = self.value + self.step * count  # type: ignore[operator, assignment]  # numbers have steps
        else:
            self.rows, self.value, self.step = next(self._runs, _OVER)


_OVER = (1 << 62, None, 0)
