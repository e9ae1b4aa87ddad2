"""The columns of a checked change as runs: what stands for many rows is read at the cost of one.

A run is (rows, value, step): the value stands in the first of these rows, None for a null, and goes up by `step` from one
to the next. Only for columns whose content was checked; what these functions refuse themselves is a second way to write
the same rows. When it saves a document Automerge writes every change anew, in the one way that its encoder has, and a change
that had been written in another then has another hash: both the Python and the JavaScript library save such a document
without an error and can never load it again (measured).
"""

from collections.abc import Iterator
from typing import TypeAlias

from sync.core.leb128 import Malformed, read_sleb, read_uleb

NumberRuns: TypeAlias = Iterator[tuple[int, int | None, int]]
StringRuns: TypeAlias = Iterator[tuple[int, bytes | None, int]]


def number_runs(data: bytes, position: int, end: int) -> NumberRuns:
    """A column of unsigned integers or nulls.

    Raises:
        Malformed: it is written in another way than Automerge's.
    """
    writing = _Writing()
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            size, position = read_uleb(data, position, end)
            writing.null()
            yield size, None, 0
            continue
        for number in range(1 if size > 0 else -size):
            value, position = read_uleb(data, position, end)
            writing.value(value, size, number)
            yield max(size, 1), value, 0
    writing.end()


def step_runs(data: bytes, position: int, end: int) -> NumberRuns:
    """A column of unsigned integers, stored as differences, or nulls.

    Raises:
        Malformed: it is written in another way than Automerge's.
    """
    writing = _Writing()
    value = 0
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            size, position = read_uleb(data, position, end)
            writing.null()
            yield size, None, 0
            continue
        for number in range(1 if size > 0 else -size):
            delta, position = read_sleb(data, position, end)
            writing.value(delta, size, number)
            rows = max(size, 1)
            yield rows, value + delta, delta
            value += delta * rows
    writing.end()


def string_runs(data: bytes, position: int, end: int) -> StringRuns:
    """A column of strings (as UTF-8) or nulls.

    Raises:
        Malformed: it is written in another way than Automerge's.
    """
    writing = _Writing()
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            size, position = read_uleb(data, position, end)
            writing.null()
            yield size, None, 0
            continue
        for number in range(1 if size > 0 else -size):
            length, position = read_uleb(data, position, end)
            value = data[position : position + length]
            position += length
            writing.value(value, size, number)
            yield max(size, 1), value, 0
    writing.end()


def boolean_runs(data: bytes, position: int, end: int) -> NumberRuns:
    """A column of booleans, which can be written in one way only."""
    value = 0
    while position < end:
        size, position = read_uleb(data, position, end)
        if size:
            yield size, value, 0
        value ^= 1


class _Writing:
    """Follows how a column is written. Automerge's encoder never writes two runs where one would do."""

    __slots__ = ("_after_literals", "_after_nulls", "_last", "_values")

    def __init__(self) -> None:
        self._last: int | bytes | None = None
        self._after_literals = self._after_nulls = self._values = False

    def null(self) -> None:
        """A run of nulls."""
        if self._after_nulls:
            raise Malformed("a column written in parts")
        self._last = None
        self._after_nulls, self._after_literals = True, False

    def value(self, value: int | bytes, size: int, number: int) -> None:
        """A run of `size` equal values, or, where that is below zero, the literal value `number` of as many."""
        if size == 1 or value == self._last or (size < 0 and number == 0 and self._after_literals):
            raise Malformed("a column written in parts")
        self._last, self._values = value, True
        self._after_nulls, self._after_literals = False, size < 0

    def end(self) -> None:
        """The column is over; one of nulls alone is left out."""
        if self._after_nulls and not self._values:
            raise Malformed("a column that says nothing")
