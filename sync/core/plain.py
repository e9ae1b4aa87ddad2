"""Plain Python values in a document: written natively, and read back, whatever they hold.

Native: a map or a list is an Automerge object, each leaf a scalar; strings are registers (`Str`, an ImmutableString in
JavaScript), never text objects. Values come from kernels, files and peers, so neither direction fails on one:

- written: a lone surrogate is U+FFFD, an integer of 2**64 and more, or below -2**63, a float, and what nests deeper than
  64 or has an empty key is left out (null in a list, so that indexes hold);
- read: a text object is a string, a date its ISO 8601 form; what the binding cannot read (`OPAQUE`) and what lies
  deeper than 64 is left out. Reading does not recurse: a peer's maps may nest 200 000 deep.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from automerge.core import ScalarType

from sync.core.binding import OPAQUE, Found, Kind, ObjId, ObjType, Reader, Transaction, Value
from sync.core.identifiers import Heads
from sync.core.json_text import clean
from sync.core.limits import MAX_DEPTH

# Values read from one object: 0.2 s. Metadata of real notebooks have up to some hundred.
MAX_VALUES = 100_000
_OPAQUE_COST = 50  # in values: finding that one cannot be read takes 15 to 60 us, more with a backtrace
_SEARCHED_ITEMS = 1000

# Looked up once: each access to a member of the binding's enums makes an object.
MAP, LIST, TEXT = ObjType.Map, ObjType.List, ObjType.Text
STR, INT, FLOAT, NULL = ScalarType.Str, ScalarType.Int, ScalarType.F64, ScalarType.Null
_KINDS: dict[type, ScalarType] = {
    str: STR,
    int: INT,  # Uint, which is a BigInt in JavaScript whatever it holds, only for what an Int does not
    float: FLOAT,
    bool: ScalarType.Boolean,
    type(None): NULL,
    bytes: ScalarType.Bytes,
}
# `dict` first: asking the abstract class costs 0.2 us.
_MAPS = (dict, Mapping)
_CONTAINERS = (list, tuple, dict, Mapping)


def put_value(tx: Transaction, obj: ObjId, key: str | int, value: Any, depth: int = 0) -> None:
    """Writes a value at a key of a map or at an index of a list; `depth` containers are around it.

    A value is `str`, `int`, `float`, `bool`, None, `bytes`, or a map, list or tuple of such.

    Raises:
        TypeError: a value of another type, which no kernel, file or peer can send.
    """
    kind = _KINDS.get(type(value))
    if kind is not None:
        try:
            tx.put(obj, key, kind, value)
        except (UnicodeEncodeError, OverflowError):
            tx.put(obj, key, *_repaired(value))
    elif isinstance(value, _MAPS):
        if depth < MAX_DEPTH:
            put_map(tx, tx.put_object(obj, key, MAP), value, depth + 1)
    elif isinstance(value, list | tuple):
        if depth < MAX_DEPTH:
            append_values(tx, tx.put_object(obj, key, LIST), value, 0, depth + 1)
    else:
        put_value(tx, obj, key, _base(value), depth)


def put_map(tx: Transaction, obj: ObjId, values: Mapping[str, Any], depth: int = 1) -> None:
    """Writes each key of `values` into a map that is there."""
    for key, value in values.items():
        usable = _usable_key(key)
        if usable:
            put_value(tx, obj, usable, value, depth)


def append_values(tx: Transaction, obj: ObjId, values: Sequence[Any], length: int, depth: int = 1) -> None:
    """Appends to a list that has `length` items."""
    for index, value in enumerate(values, length):
        insert_value(tx, obj, index, value, depth)


def insert_value(tx: Transaction, obj: ObjId, index: int, value: Any, depth: int = 1) -> None:
    """Inserts a value before an index of a list; `depth` containers are around it, the list included."""
    kind = _KINDS.get(type(value))
    if kind is not None:
        try:
            tx.insert(obj, index, kind, value)
        except (UnicodeEncodeError, OverflowError):
            tx.insert(obj, index, *_repaired(value))
    elif isinstance(value, _CONTAINERS):
        if depth >= MAX_DEPTH:
            tx.insert(obj, index, NULL, None)
        elif isinstance(value, _MAPS):
            put_map(tx, tx.insert_object(obj, index, MAP), value, depth + 1)
        else:
            append_values(tx, tx.insert_object(obj, index, LIST), value, 0, depth + 1)
    else:
        insert_value(tx, obj, index, _base(value), depth)


def update_map(tx: Transaction, obj: ObjId, values: Mapping[str, Any], depth: int = 1) -> None:
    """Makes a map hold `values`, and writes only what differs, so that edits of others beside it stay.

    What a reader is not shown (opaque and binary values) is kept, unless `values` has its key.
    """
    wanted = {usable: value for key, value in values.items() if (usable := _usable_key(key))}
    for key in tx.keys(obj):
        found = tx.get(obj, key)
        if key not in wanted and found is not None and _is_shown(found[0]):
            tx.delete(obj, key)
    for key, value in wanted.items():
        found = tx.get(obj, key)
        if found is not None and found[0] is Kind.MAP and isinstance(value, Mapping) and depth < MAX_DEPTH:
            update_map(tx, found[1], value, depth + 1)
        elif found is None or not _is_shown(found[0]) or not same(read_found(tx, found), value):
            put_value(tx, obj, key, value, depth)


def is_key(key: str) -> bool:
    """Whether a document takes this as a map's key just as it is."""
    return bool(key) and _usable_key(key) == key


def read_plain(
    reader: Reader, obj: ObjId, heads: Heads | None = None, *, binary: bool = True, max_values: int = MAX_VALUES
) -> Any:
    """The content of an object as plain Python: `dict` (keys sorted), `list` or, for a text, `str`.

    About 2 us a value. After `max_values` keys and items the rest is left out. Without `binary`, bytes are left out as
    opaque values are: JSON has none.
    """
    kind = reader.kind(obj)
    if kind is Kind.TEXT:
        return reader.text(obj, heads)
    top: dict[str, Any] | list[Any] = {} if kind is Kind.MAP else []
    unread: list[tuple[ObjId, Any, int]] = [(obj, top, 1)]
    while unread:
        obj, container, depth = unread.pop()
        entries = _entries(reader, obj, heads) if isinstance(container, dict) else _items(reader, obj, heads)
        for key, (value, child) in entries:
            max_values -= _OPAQUE_COST if value is OPAQUE else 1
            if max_values < 0:
                return top
            item: Any
            if not isinstance(value, Kind):
                if not _is_shown(value, binary):
                    continue
                item = _leaf(value)
            elif value is Kind.TEXT:
                item = reader.text(child, heads)
            elif depth >= MAX_DEPTH:
                continue
            else:
                item = {} if value is Kind.MAP else []
                unread.append((child, item, depth + 1))
            if key is None:
                container.append(item)
            else:
                container[key] = item
    return top


def _entries(reader: Reader, obj: ObjId, heads: Heads | None) -> Iterator[tuple[str, Found]]:
    for key in reader.keys(obj, heads):
        found = reader.get(obj, key, heads)
        if found is not None:
            yield key, found


def _items(reader: Reader, obj: ObjId, heads: Heads | None) -> Iterator[tuple[None, Found]]:
    found = reader.items(obj, heads)
    if found is None:
        # At heads the cost is quadratic, and a peer chooses the length: no more than this of a list with opaque items.
        length = min(reader.length(obj, heads), _SEARCHED_ITEMS)
        found = [item for index in range(length) if (item := reader.get(obj, index, heads)) is not None]
    for item in found:
        yield None, item


def read_found(reader: Reader, found: Found, heads: Heads | None = None) -> Any:
    """What `get` found, as plain Python; OPAQUE stays."""
    value, obj = found
    return read_plain(reader, obj, heads) if isinstance(value, Kind) else _leaf(value)


def read_string(
    reader: Reader, obj: ObjId, key: str, heads: Heads | None = None, *, longest: int | None = None
) -> str | None:
    """A string at a key, whether it is a text object (as JavaScript writes strings) or a register; else None.

    One of more than `longest` code points is not read, and counts as none.
    """
    found = reader.get(obj, key, heads)
    if found is None:
        return None
    value, child = found
    if value is Kind.TEXT:
        if longest is not None and reader.length(child, heads) > longest:
            return None
        value = reader.text(child, heads)
    if not isinstance(value, str) or (longest is not None and len(value) > longest):
        return None
    return value


def count_operations(value: Any) -> int:
    """How many operations writing this value takes."""
    count, level = 0, [value]
    for _ in range(MAX_DEPTH + 1):
        count += len(level)
        containers = [item for item in level if isinstance(item, Mapping | list | tuple)]
        level = [item for one in containers for item in (one.values() if isinstance(one, Mapping) else one)]
    return count


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; 1 and 1.0 are (JavaScript has no other), 1 and true are not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    equal = one == other or (one != one and other != other)  # NaN
    return bool(equal) and isinstance(one, bool) == isinstance(other, bool)


def _is_shown(value: Value, binary: bool = False) -> bool:
    return value is not OPAQUE and (binary or not isinstance(value, bytes))


def _leaf(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def _usable_key(key: object) -> str:
    """The key as the core takes it, "" if it takes none; a lone surrogate in a key is a panic."""
    if not isinstance(key, str):
        return ""
    return key if key.isascii() else clean(key)


def _repaired(value: str | int) -> tuple[ScalarType, str | int | float]:
    if isinstance(value, str):
        return STR, clean(value)
    if 0 < value < 1 << 64:
        return ScalarType.Uint, value
    try:
        return FLOAT, float(value)
    except OverflowError:
        return FLOAT, float("inf") if value > 0 else float("-inf")


def _base(value: Any) -> Any:
    """The value as the plain type that it extends (an enum's member, a NewType of a library's)."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a {type(value).__name__} cannot be written to a document")
