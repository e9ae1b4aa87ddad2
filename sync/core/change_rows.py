"""The operations of a change: one row each, spread over columns of the change's body (docs/wire.md).

The core panics, or saves what it can't load, when columns disagree or an operation makes no sense in itself: a key and an
element at once, a delete of nothing, an increment by a string.
"""

from collections.abc import Mapping

from sync.core.columns import (
    VALUE_INT,
    VALUE_UINT,
    count_rows,
    read_booleans,
    read_codes,
    read_optional,
    read_optional_deltas,
    read_strings,
    read_value_types,
    sum_column,
)
from sync.core.leb128 import Malformed


def count_operations(body: bytes, columns: Mapping[int, tuple[int, int]], limit: int) -> int:
    """How many operations a change has, from the run lengths of its column of actions.

    Raises:
        Malformed: more than `limit`, or not such a column.
    """
    return count_rows(body, *columns.get(_ACTION, _ABSENT), limit)


def has_keys(columns: Mapping[int, tuple[int, int]]) -> bool:
    """Whether some operation acts on a key of a map."""
    start, end = columns.get(_KEY_STRING, _ABSENT)
    return end > start


def check_rows(
    body: bytes, columns: Mapping[int, tuple[int, int]], rows: int, *, actors: int, next_op: int, max_preds: int
) -> None:
    """Checks that the columns say the same number of operations, and that each operation is of a kind that exists.

    Args:
        body: the change's, inflated.
        columns: start and end of each in the body.
        rows: number of operations.
        actors: number of actors that the change names, its own included.
        next_op: the counter behind its last operation; nothing it refers to can be as high.
        max_preds: predecessors of all operations together.

    Raises:
        Malformed: they do not fit.
    """
    actions = read_codes(body, *columns.get(_ACTION, _ABSENT), rows, _ACTIONS)
    object_actors = read_optional(body, *columns.get(_OBJECT_ACTOR, _ABSENT), rows, actors)
    object_counters = read_optional(body, *columns.get(_OBJECT_COUNTER, _ABSENT), rows, next_op)
    if object_actors != object_counters:
        raise Malformed("half of an object id")
    element_actors = read_optional(body, *columns.get(_KEY_ACTOR, _ABSENT), rows, actors)
    element_counters = read_optional_deltas(body, *columns.get(_KEY_COUNTER, _ABSENT), rows, next_op)
    keys = read_strings(body, *columns.get(_KEY_STRING, _ABSENT), rows)
    # Where an operation acts: the key of a map, an element, or the head of a list, which has counter 0 and no actor.
    if not _PLACES.issuperset(_merge(rows, element_actors, element_counters, keys)):
        raise Malformed("an operation without a place, or with two")
    inserts = read_booleans(body, *columns.get(_INSERT, _ABSENT), rows)
    if not _PLACED.issuperset(_merge(rows, actions, inserts, keys)):
        raise Malformed("an operation where it can't be")
    types = read_value_types(body, columns.get(_VALUE_META, _ABSENT), columns.get(_VALUE, _ABSENT), rows)
    if not _VALUED.issuperset(_merge(rows, actions, types)):
        raise Malformed("an operation with a value that it can't have")
    preds, has_preds = sum_column(body, *columns.get(_PRED_GROUP, _ABSENT), rows, max_preds)
    pred_actors = read_optional(body, *columns.get(_PRED_ACTOR, _ABSENT), preds, actors)
    pred_counters = read_optional_deltas(body, *columns.get(_PRED_COUNTER, _ABSENT), preds, next_op)
    if 0 in pred_actors or pred_counters.strip(b"\x01"):
        raise Malformed("half of a predecessor's id")
    if not _SUCCEEDING.issuperset(_merge(rows, actions, inserts, has_preds)):
        raise Malformed("an operation that should have predecessors, or should have none")
    if _EXPAND in columns or _MARK_NAME in columns or _MARK in actions:
        expands = columns.get(_EXPAND, _ABSENT)
        expanding = read_booleans(body, *expands, rows) if expands[0] < expands[1] else bytes(rows)
        names = read_strings(body, *columns.get(_MARK_NAME, _ABSENT), rows)
        if not (
            _MARKED.issuperset(_merge(rows, actions, expanding, names))
            and _MARKED_VALUES.issuperset(_merge(rows, actions, names, types.translate(_IS_VALUE)))
        ):
            raise Malformed("half of a mark")


def _merge(rows: int, low: bytes, middle: bytes, high: bytes = b"") -> bytes:
    """The `_code` of each row. Whole columns are added as big integers: 2 ns a row, where tuples would take 80."""
    merged = int.from_bytes(low, "big") | int.from_bytes(middle, "big") << 3 | int.from_bytes(high, "big") << 5
    return merged.to_bytes(rows, "big")


def _code(low: int, middle: int, high: int = 0) -> int:
    """Up to three small numbers in one byte: below 8, 4 and 8; or two, below 8 and 16."""
    return low | middle << 3 | high << 5


_MAKE_MAP, _SET, _MAKE_LIST, _DELETE, _MAKE_TEXT, _INCREMENT, _MARK = 0, 1, 2, 3, 4, 5, 7  # 6, a table, has no reader
_ACTIONS = 8
_VALUE_TYPES = 10

_OBJECT_ACTOR, _OBJECT_COUNTER = 0x01, 0x02
_KEY_ACTOR, _KEY_COUNTER, _KEY_STRING = 0x11, 0x13, 0x15
_INSERT, _ACTION, _VALUE_META, _VALUE = 0x34, 0x42, 0x56, 0x57
_PRED_GROUP, _PRED_ACTOR, _PRED_COUNTER = 0x70, 0x71, 0x73
_EXPAND, _MARK_NAME = 0x94, 0xA5
COLUMNS = frozenset(
    (
        *(_OBJECT_ACTOR, _OBJECT_COUNTER, _KEY_ACTOR, _KEY_COUNTER, _KEY_STRING, _INSERT, _ACTION, _VALUE_META, _VALUE),
        *(_PRED_GROUP, _PRED_ACTOR, _PRED_COUNTER, _EXPAND, _MARK_NAME),
    )
)
_ABSENT = (0, 0)
# (has an element's actor, its counter: 0 none, 1 some, 2 zero, has a key)
_PLACES = frozenset((_code(0, 0, 1), _code(0, 2, 0), _code(1, 1, 0)))
# (action, inserts, has a key): an element, the key of a map, a new element.
_PLACED = frozenset(
    _code(action, insert, key)
    for action in (_MAKE_MAP, _SET, _MAKE_LIST, _DELETE, _MAKE_TEXT, _INCREMENT, _MARK)
    for insert, key in ((0, 0), (0, 1), (1, 0))
    if not (insert and action in (_DELETE, _INCREMENT)) and not (action == _MARK and not insert)
)
# (action, inserts, has predecessors): a new element has none; what deletes or increments acts on them.
_SUCCEEDING = frozenset(
    _code(action, insert, preds)
    for action in (_MAKE_MAP, _SET, _MAKE_LIST, _DELETE, _MAKE_TEXT, _INCREMENT, _MARK)
    for insert, preds in ((0, 0), (0, 1), (1, 0))
    if preds or action not in (_DELETE, _INCREMENT)
)
# (action, whether a mark expands, has a mark's name)
_MARKED = frozenset(
    (
        *(_code(_MARK, expands, name) for expands in (0, 1) for name in (0, 1)),
        *(_code(action, 0, 0) for action in range(_ACTIONS)),
    )
)
# (action, has a mark's name, has a value that is not null): the end of a mark has neither.
_MARKED_VALUES = frozenset(
    _code(action, name, value)
    for action in range(_ACTIONS)
    for name in (0, 1)
    for value in (0, 1)
    if action != _MARK or name or not value
)
_IS_VALUE = bytes(kind > 0 for kind in range(256))
# (action, type of its value)
_VALUED = frozenset(
    (
        *(_code(action, 0) for action in (_MAKE_MAP, _MAKE_LIST, _DELETE, _MAKE_TEXT)),
        *(_code(action, kind) for action in (_SET, _MARK) for kind in range(_VALUE_TYPES)),
        *(_code(_INCREMENT, kind) for kind in (VALUE_INT, VALUE_UINT)),
    )
)
