"""The columns of a change, read as far as a check needs it: one byte for each operation, or the largest number.

Columns are run-length encoded, so a few bytes can stand for millions of rows. Every function here takes the number of
rows that there may be and stops with `Malformed` at the first run beyond it; so time and memory are bounded by that
number, whatever the column claims.
"""

from sync.core.leb128 import Malformed, read_sleb, read_uleb


def count_rows(data: bytes, position: int, end: int, limit: int) -> int:
    """How many rows a run-length encoded column of unsigned integers has, without expanding it.

    Raises:
        Malformed: more than `limit`, or not such a column.
    """
    rows = 0
    while position < end:
        size, position = read_sleb(data, position, end)
        if size > 0:
            rows += size
            _, position = read_uleb(data, position, end)
        elif size < 0:
            rows -= size
            if rows > limit:
                break
            for _ in range(-size):
                _, position = read_uleb(data, position, end)
        else:
            size, position = read_uleb(data, position, end)
            rows += size
        if rows > limit:
            break
    if rows > limit:
        raise Malformed(f"more than {limit} operations")
    return rows


def read_codes(data: bytes, position: int, end: int, rows: int, limit: int) -> bytes:
    """A column of unsigned integers below `limit` (256 at most), none of them null: one byte for each row."""
    values = bytearray()
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            raise Malformed("a null where a value must be")
        _limit(len(values) + abs(size), rows)
        for _ in range(1 if size > 0 else -size):
            value, position = read_uleb(data, position, end)
            if value >= limit:
                raise Malformed("a code that nobody uses")
            values += bytes((value,)) * max(size, 1)
    return _whole(values, rows)


def read_optional(data: bytes, position: int, end: int, rows: int, limit: int) -> bytes:
    """A column of unsigned integers or nulls: for each row 1 where there is a value and 0 for null.

    An empty column is nulls alone.

    Raises:
        Malformed: a value >= `limit`, or another number of rows.
    """
    present = bytearray()
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            size, position = _null_run(data, position, end)
            _limit(len(present) + size, rows)
            present += bytes(size)
            continue
        _limit(len(present) + abs(size), rows)
        for _ in range(1 if size > 0 else -size):
            value, position = read_uleb(data, position, end)
            if value >= limit:
                raise Malformed("an actor or an operation that the change can't know")
        present += b"\x01" * abs(size)
    return _whole(present, rows) if present else bytes(rows)


def read_optional_deltas(data: bytes, position: int, end: int, rows: int, limit: int) -> bytes:
    """A column of unsigned integers stored as differences, or nulls: for each row 2 for zero, 1 for more, 0 for null.

    An empty column is nulls alone.

    Raises:
        Malformed: a value >= `limit`, or another number of rows.
    """
    present = bytearray()
    value = 0
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            size, position = _null_run(data, position, end)
            _limit(len(present) + size, rows)
            present += bytes(size)
            continue
        _limit(len(present) + abs(size), rows)
        for _ in range(1 if size > 0 else -size):
            delta, position = read_sleb(data, position, end)
            if size > 1 and delta:
                # A run goes one way only: its ends are the extremes, and zero can only be the first or the last.
                first, value = value + delta, value + size * delta
                if not (0 <= first < limit and 0 <= value < limit):
                    raise Malformed("an operation that the change can't know")
                present += (b"\x01" if first else b"\x02") + b"\x01" * (size - 2) + (b"\x01" if value else b"\x02")
                continue
            value += delta
            if not 0 <= value < limit:
                raise Malformed("an operation that the change can't know")
            present += (b"\x01" if value else b"\x02") * max(size, 1)
    return _whole(present, rows) if present else bytes(rows)


def read_booleans(data: bytes, position: int, end: int, rows: int) -> bytes:
    """A column of booleans: one byte for each row, 0 or 1."""
    values = bytearray()
    value = 0
    first = True
    while position < end:
        size, position = read_uleb(data, position, end)
        if size == 0 and not first:
            raise Malformed("an empty run of booleans")
        _limit(len(values) + size, rows)
        values += (b"\x01" if value else b"\x00") * size
        value ^= 1
        first = False
    return _whole(values, rows)


def read_strings(data: bytes, position: int, end: int, rows: int) -> bytes:
    """A column of strings or nulls: for each row 1 where there is a string and 0 for null."""
    present = bytearray()
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            size, position = _null_run(data, position, end)
            _limit(len(present) + size, rows)
            present += bytes(size)
            continue
        _limit(len(present) + abs(size), rows)
        for _ in range(1 if size > 0 else -size):
            length, position = read_uleb(data, position, end)
            if length > end - position:
                raise Malformed("a string is cut off")
            _require_utf8(data[position : position + length])
            position += length
        present += b"\x01" * abs(size)
    return _whole(present, rows) if present else bytes(rows)


def sum_column(data: bytes, position: int, end: int, rows: int, limit: int) -> tuple[int, bytes]:
    """The sum of a column of group sizes, without expanding it, and for each row 1 where its group is not empty.

    Raises:
        Malformed: the sum is above `limit`, a null, or another number of rows.
    """
    total = 0
    filled = bytearray()
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            raise Malformed("a null where a value must be")
        _limit(len(filled) + abs(size), rows)
        for _ in range(1 if size > 0 else -size):
            value, position = read_uleb(data, position, end)
            total += value * max(size, 1)
            if total > limit:
                raise Malformed(f"more than {limit} predecessors")
            filled += (b"\x01" if value else b"\x00") * max(size, 1)
    return total, _whole(filled, rows)


def read_value_types(data: bytes, meta: tuple[int, int], raw: tuple[int, int], rows: int) -> bytes:
    """The types of the values (one byte a row), after checking that their contents are where the lengths say.

    Args:
        data: the change's body.
        meta: start and end of the column of (length << 4 | type).
        raw: start and end of the contents, one behind the other.
        rows: the number of operations.
    """
    position, end = meta
    at, raw_end = raw
    types = bytearray()
    while position < end:
        size, position = read_sleb(data, position, end)
        if size == 0:
            raise Malformed("a null where a value must be")
        _limit(len(types) + abs(size), rows)
        for _ in range(1 if size > 0 else -size):
            value, position = read_uleb(data, position, end)
            kind, length, count = value & 0x0F, value >> 4, max(size, 1)
            if length * count > raw_end - at:
                raise Malformed("values are longer than their column")
            _check_values(data, at, kind, length, count)
            at += length * count
            types += bytes((kind,)) * count
    if at != raw_end:
        raise Malformed("bytes behind the last value")
    return _whole(types, rows)


def _check_values(data: bytes, at: int, kind: int, length: int, count: int) -> None:
    if kind in _EMPTY_VALUES:
        if length:
            raise Malformed("a null or boolean with content")
    elif kind == VALUE_UINT:
        for start in range(at, at + length * count, length) if length else (at,):
            if read_uleb(data, start, start + length)[1] != start + length:
                raise Malformed("bytes behind an integer")
    elif kind in _SIGNED_VALUES:
        for start in range(at, at + length * count, length) if length else (at,):
            if read_sleb(data, start, start + length)[1] != start + length:
                raise Malformed("bytes behind an integer")
    elif kind == VALUE_FLOAT:
        if length != _FLOAT_BYTES:
            raise Malformed("a float of another size than 8 bytes")
    elif kind == VALUE_STRING:
        content = data[at : at + length * count]
        _require_utf8(content)
        # A run of values of one length is valid if it is as a whole and no value begins inside of a character.
        starts = content[::length] if length else b""
        if not starts.isascii() and starts.translate(None, _CONTINUATIONS) != starts:
            raise Malformed("text that is not UTF-8")
    elif kind != VALUE_BYTES:
        raise Malformed("a type of value that nobody uses")


def _require_utf8(content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise Malformed("text that is not UTF-8") from error


def _null_run(data: bytes, position: int, end: int) -> tuple[int, int]:
    size, position = read_uleb(data, position, end)
    if size == 0:
        raise Malformed("an empty run")
    return size, position


def _limit(rows: int, limit: int) -> None:
    if rows > limit:
        raise Malformed("a column has more rows than there are operations")


def _whole(values: bytearray, rows: int) -> bytes:
    if len(values) != rows:
        raise Malformed("a column has fewer rows than there are operations")
    return bytes(values)


VALUE_UINT, VALUE_INT, VALUE_FLOAT, VALUE_STRING, VALUE_BYTES, VALUE_COUNTER, VALUE_TIMESTAMP = 3, 4, 5, 6, 7, 8, 9
_EMPTY_VALUES = frozenset((0, 1, 2))  # null, false, true
_SIGNED_VALUES = frozenset((VALUE_INT, VALUE_COUNTER, VALUE_TIMESTAMP))
_FLOAT_BYTES = 8
_CONTINUATIONS = bytes(range(0x80, 0xC0))
