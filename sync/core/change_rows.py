"""The operations of a change: one row each, spread over columns of the change's body.

The core panics, or saves what it can't load, when columns disagree or an operation makes no sense in itself: a key and an
element at once, a delete of nothing, an increment by a string.
"""

from collections import deque
from collections.abc import Mapping

from sync.core.column_runs import boolean_runs, number_runs, step_runs, string_runs
from sync.core.columns import (
    VALUE_INT,
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
from sync.core.steps import Steps


def count_operations(body: bytes, columns: Mapping[int, tuple[int, int]], limit: int) -> int:
    """How many operations a change has, from the run lengths of its column of actions.

    Raises:
        Malformed: more than `limit`, or not such a column.
    """
    return count_rows(body, *columns.get(ACTION, ABSENT), limit)


def checking_rows(
    body: bytes, columns: Mapping[int, tuple[int, int]], rows: int, *, actors: int, next_op: int, max_preds: int
) -> Steps[None]:
    """Checks, a column in a step, that they say the same number of operations, and that each is of a kind that exists.

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
    actions = read_codes(body, *columns.get(ACTION, ABSENT), rows, _ACTIONS)
    yield
    object_actors = read_optional(body, *columns.get(OBJECT_ACTOR, ABSENT), rows, actors)
    yield
    object_counters = read_optional(body, *columns.get(OBJECT_COUNTER, ABSENT), rows, next_op)
    if object_actors != object_counters:
        raise Malformed("half of an object id")
    yield
    element_actors = read_optional(body, *columns.get(KEY_ACTOR, ABSENT), rows, actors)
    yield
    element_counters = read_optional_deltas(body, *columns.get(KEY_COUNTER, ABSENT), rows, next_op)
    yield
    keys = read_strings(body, *columns.get(KEY_STRING, ABSENT), rows)
    # Where an operation acts: the key of a map, an element, or the head of a list, which has counter 0 and no actor.
    if not _PLACES.issuperset(_merge(rows, element_actors, element_counters, keys)):
        raise Malformed("an operation without a place, or with two")
    yield
    inserts = read_booleans(body, *columns.get(INSERT, ABSENT), rows)
    if not _PLACED.issuperset(_merge(rows, actions, inserts, keys)):
        raise Malformed("an operation where it can't be")
    yield
    types = read_value_types(body, columns.get(VALUE_META, ABSENT), columns.get(VALUE, ABSENT), rows)
    if not _VALUED.issuperset(_merge(rows, actions, types)):
        raise Malformed("an operation with a value that it can't have")
    yield
    preds, has_preds = sum_column(body, *columns.get(PRED_GROUP, ABSENT), rows, max_preds)
    yield
    pred_actors = read_optional(body, *columns.get(PRED_ACTOR, ABSENT), preds, actors)
    yield
    pred_counters = read_optional_deltas(body, *columns.get(PRED_COUNTER, ABSENT), preds, next_op)
    if 0 in pred_actors or pred_counters.strip(b"\x01"):
        raise Malformed("half of a predecessor's id")
    if not _SUCCEEDING.issuperset(_merge(rows, actions, inserts, has_preds)):
        raise Malformed("an operation that should have predecessors, or should have none")
    if EXPAND in columns or MARK_NAME in columns or MARK in actions:
        expands = columns.get(EXPAND, ABSENT)
        expanding = read_booleans(body, *expands, rows) if expands[0] < expands[1] else bytes(rows)
        names = read_strings(body, *columns.get(MARK_NAME, ABSENT), rows)
        if not (
            _MARKED.issuperset(_merge(rows, actions, expanding, names))
            and _MARKED_VALUES.issuperset(_merge(rows, actions, names, types.translate(_IS_VALUE)))
        ):
            raise Malformed("half of a mark")


def checking_writing(body: bytes, columns: Mapping[int, tuple[int, int]], actors: int) -> Steps[None]:
    """Checks, a column in a step, that they are written as Automerge would (see `column_runs`), after `checking_rows`.

    Args:
        body: the change's, inflated.
        columns: start and end of each in the body.
        actors: number of actors that the change names, its own included; each other one is there for an operation.

    Raises:
        Malformed: the same operations would be written in another way.
    """
    used: set[int | None] = {None, 0}
    for column, (start, end) in columns.items():
        yield
        if start == end:
            raise Malformed("a column that says nothing")
        if column in _ACTORS:
            used.update(value for _, value, _ in number_runs(body, start, end))
        elif column in _NUMBERS:
            deque(number_runs(body, start, end), maxlen=0)
        elif column in _STEPS:
            deque(step_runs(body, start, end), maxlen=0)
        elif column in _STRINGS:
            deque(string_runs(body, start, end), maxlen=0)
    if EXPAND in columns and not any(value for _, value, _ in boolean_runs(body, *columns[EXPAND])):
        raise Malformed("a column that says nothing")
    if len(used) <= actors:
        raise Malformed("an actor that no operation is about")


def _merge(rows: int, low: bytes, middle: bytes, high: bytes = b"") -> bytes:
    """The `_code` of each row. Whole columns are added as big integers: 2 ns a row, where tuples would take 80."""
    merged = int.from_bytes(low, "big") | int.from_bytes(middle, "big") << 3 | int.from_bytes(high, "big") << 5
    return merged.to_bytes(rows, "big")


def _code(low: int, middle: int, high: int = 0) -> int:
    """Up to three small numbers in one byte: below 8, 4 and 8; or two, below 8 and 16."""
    return low | middle << 3 | high << 5


MAKE_MAP, SET, MAKE_LIST, DELETE, MAKE_TEXT, INCREMENT, MARK = 0, 1, 2, 3, 4, 5, 7  # 6, a table, has no reader
_ACTIONS = 8
_VALUE_TYPES = 10

OBJECT_ACTOR, OBJECT_COUNTER = 0x01, 0x02
KEY_ACTOR, KEY_COUNTER, KEY_STRING = 0x11, 0x13, 0x15
INSERT, ACTION, VALUE_META, VALUE = 0x34, 0x42, 0x56, 0x57
PRED_GROUP, PRED_ACTOR, PRED_COUNTER = 0x70, 0x71, 0x73
EXPAND, MARK_NAME = 0x94, 0xA5
COLUMNS = frozenset(
    (
        *(OBJECT_ACTOR, OBJECT_COUNTER, KEY_ACTOR, KEY_COUNTER, KEY_STRING, INSERT, ACTION, VALUE_META, VALUE),
        *(PRED_GROUP, PRED_ACTOR, PRED_COUNTER, EXPAND, MARK_NAME),
    )
)
_ACTORS = frozenset((OBJECT_ACTOR, KEY_ACTOR, PRED_ACTOR))
_NUMBERS = frozenset((OBJECT_COUNTER, ACTION, VALUE_META, PRED_GROUP))
_STEPS = frozenset((KEY_COUNTER, PRED_COUNTER))
_STRINGS = frozenset((KEY_STRING, MARK_NAME))
ABSENT = (0, 0)
# (has an element's actor, its counter: 0 none, 1 some, 2 zero, has a key)
_PLACES = frozenset((_code(0, 0, 1), _code(0, 2, 0), _code(1, 1, 0)))
# (action, inserts, has a key): an element, the key of a map, a new element.
_PLACED = frozenset(
    _code(action, insert, key)
    for action in (MAKE_MAP, SET, MAKE_LIST, DELETE, MAKE_TEXT, INCREMENT, MARK)
    for insert, key in ((0, 0), (0, 1), (1, 0))
    if not (insert and action in (DELETE, INCREMENT)) and not (action == MARK and not insert)
)
# (action, inserts, has predecessors): a new element has none; what deletes or increments acts on them.
_SUCCEEDING = frozenset(
    _code(action, insert, preds)
    for action in (MAKE_MAP, SET, MAKE_LIST, DELETE, MAKE_TEXT, INCREMENT, MARK)
    for insert, preds in ((0, 0), (0, 1), (1, 0))
    if preds or action not in (DELETE, INCREMENT)
)
# (action, whether a mark expands, has a mark's name)
_MARKED = frozenset(
    (
        *(_code(MARK, expands, name) for expands in (0, 1) for name in (0, 1)),
        *(_code(action, 0, 0) for action in range(_ACTIONS)),
    )
)
# (action, has a mark's name, has a value that is not null): the end of a mark has neither.
_MARKED_VALUES = frozenset(
    _code(action, name, value)
    for action in range(_ACTIONS)
    for name in (0, 1)
    for value in (0, 1)
    if action != MARK or name or not value
)
_IS_VALUE = bytes(kind > 0 for kind in range(256))
# (action, type of its value)
_VALUED = frozenset(
    (
        *(_code(action, 0) for action in (MAKE_MAP, MAKE_LIST, DELETE, MAKE_TEXT)),
        *(_code(action, kind) for action in (SET, MARK) for kind in range(_VALUE_TYPES)),
        # An unsigned one comes back as signed when the document is loaded, and its change with another hash.
        _code(INCREMENT, VALUE_INT),
    )
)
