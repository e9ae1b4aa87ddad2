from http import HTTPStatus
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.binding import ROOT, Kind, ObjId, ObjType, Replica, ScalarType
from sync.core.limits import MAX_DEPTH
from sync.core.plain import (
    LIST,
    count_operations,
    is_key,
    put_map,
    put_value,
    read_plain,
    read_string,
    same,
    update_map,
)
from tests.core.test_binding import FROM_JAVASCRIPT

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner),
    max_leaves=20,
)


def written(value: Any) -> Any:
    replica = Replica()
    with replica.transaction() as tx:
        put_map(tx, ROOT, {"key": value})
    return read_plain(replica, ROOT)["key"]


def nested(maps: int, value: Any = "leaf") -> Any:
    for _ in range(maps):
        value = {"a": value}
    return value


@given(values)
def test_a_plain_value_reads_as_it_was_written(value: Any) -> None:
    assert written(value) == value


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, -(2**63)])
def test_an_integer_of_64_bits_stays_one(value: int) -> None:
    assert written({"in": [value]}) == {"in": [value]}
    assert type(written(value)) is int


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_a_longer_one_is_a_float(value: int) -> None:
    assert type(written(value)) is float


@given(st.dictionaries(st.text("ab", min_size=1, max_size=2), values, max_size=4), values)
def test_writing_takes_as_many_operations_as_counted(value: dict[str, Any], other: Any) -> None:
    replica = Replica()
    with replica.transaction() as tx:
        put_map(tx, ROOT, {"map": value, "other": other})
    (change,) = replica.changes_since(())

    assert change.max_op == count_operations(value) + count_operations(other)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ({"a\udfff": 1, "": 2, 3: 4}, {"a\ufffd": 1}),
        (10**400, inf),
        (-(10**400), -inf),
        ((1, (2,)), [1, [2]]),
        ([2**64, "\ud800", {"": 1}], [float(2**64), "\ufffd", {}]),
        (bytearray(b"ab"), b"ab"),
        (HTTPStatus.OK, 200),
        (ScalarType, TypeError),
        ([object()], TypeError),
    ],
)
def test_what_no_document_holds_is_written_as_what_comes_next(value: Any, expected: Any) -> None:
    if expected is TypeError:
        with pytest.raises(TypeError):
            written(value)
    else:
        assert written(value) == expected


def test_a_truth_value_is_no_number() -> None:
    assert written(True) is True
    assert written([False]) == [False]
    assert type(written([False])[0]) is bool


def test_maps_deeper_than_the_limit_are_left_out() -> None:
    within = MAX_DEPTH - 1  # the root is a map as well

    assert written(nested(within)) == nested(within)
    for too_deep in (nested(100_000), nested(within, [])):
        deep = written(too_deep)
        for _ in range(within - 1):
            deep = deep.get("a", "too deep")
        assert deep == {}


def test_lists_deeper_than_the_limit_are_null() -> None:
    value: Any = []
    for _ in range(1000):
        value = [value, 1]

    read = written(value)
    for _ in range(MAX_DEPTH - 2):
        assert read[1] == 1
        read = read[0]
    assert read == [None, 1]


def test_a_peers_map_of_any_depth_is_read_down_to_the_limit() -> None:
    replica = Replica()
    with replica.transaction() as tx:
        obj = ROOT
        for _ in range(20_000):
            obj = tx.put_object(obj, "a", ObjType.Map)
            tx.put(obj, "b", ScalarType.Int, 1)

    read, depth = read_plain(replica, ROOT), 0
    while "a" in read:
        assert read.get("b", 1) == 1
        read, depth = read["a"], depth + 1
    assert depth == MAX_DEPTH - 1


def document_with_list(*items: int) -> tuple[Replica, ObjId]:
    replica = Replica()
    with replica.transaction() as tx:
        obj = tx.put_object(ROOT, "list", LIST)
        for index, item in enumerate(items):
            tx.insert(obj, index, ScalarType.Int, item)
    return replica, obj


def test_reading_ends_after_so_many_values() -> None:
    replica, obj = document_with_list(*range(10))

    assert read_plain(replica, obj, max_values=3) == [0, 1, 2]
    assert read_plain(replica, ROOT, max_values=3) == {"list": [0, 1]}


def test_a_list_reads_as_it_was() -> None:
    replica, obj = document_with_list(1, 2)
    heads = replica.heads()
    with replica.transaction() as tx:
        tx.put(obj, 0, ScalarType.Int, 3)

    assert read_plain(replica, obj, heads) == [1, 2]


# A change by a stock JavaScript client: {list: ["a", new Counter(1), "b"], map: {c: new Counter(1), d: "d"}}.
LIST_FROM_JAVASCRIPT = bytes.fromhex(
    "856f4a83fed824dd0189010010acacacacacacacacacacacacacacacac01010000000a0108020d1106130c15133404420c56"
    "0c570570020001050000010300000103017e0204000102077f0900020200000600017b0002017d0000037f007f046c697374"
    "00057d036d6170016301640001010503017c0204010402017c0001040102007e180002167c0018001601616201640a00"
)


def test_what_cannot_be_read_is_left_out() -> None:
    replica = Replica()
    replica.apply([LIST_FROM_JAVASCRIPT])

    assert read_plain(replica, ROOT) == {"list": ["a", "b"], "map": {"d": "d"}}
    assert read_plain(replica, ROOT, replica.heads()) == {"list": ["a", "b"], "map": {"d": "d"}}


def test_text_objects_and_dates_read_as_strings() -> None:
    replica = Replica()
    replica.apply([FROM_JAVASCRIPT])

    assert read_plain(replica, ROOT) == {"near": "2026-01-02T03:04:05.678Z", "ok": "text"}
    found = replica.get(ROOT, "ok")
    assert found is not None
    assert read_plain(replica, found[1]) == "text"
    assert read_string(replica, ROOT, "ok") == "text"
    assert read_string(replica, ROOT, "ok", longest=3) is None
    assert read_string(replica, ROOT, "near") is None
    assert read_string(replica, ROOT, "missing") is None


def test_json_has_no_bytes() -> None:
    replica = Replica()
    with replica.transaction() as tx:
        put_map(tx, ROOT, {"a": b"1", "b": [b"1", 2]})

    assert read_plain(replica, ROOT, binary=False) == {"b": [2]}


def test_an_update_writes_only_what_differs() -> None:
    replica = Replica()
    with replica.transaction() as tx:
        put_value(tx, ROOT, "map", {"a": {"b": 1, "c": [1, {"x": 1.0}]}, "d": "d", "e": nan})
    before = replica.heads()
    found = replica.get(ROOT, "map")
    assert found is not None
    assert found[0] is Kind.MAP
    with replica.transaction() as tx:
        update_map(tx, found[1], {"a": {"b": True, "c": [1, {"x": 1}]}, "e": nan, "f": None})
    (change,) = replica.changes_since(before)

    assert change.max_op - change.start_op + 1 == 3  # b put, d deleted, f put
    assert read_plain(replica, found[1])["a"] == {"b": True, "c": [1, {"x": 1.0}]}


def test_one_is_one_point_zero_but_not_true() -> None:
    assert same({"a": [1]}, {"a": [1.0]})
    assert not same({"a": [1]}, {"a": [True]})
    assert not same([1], [1, 2])
    assert not same({"a": 1}, {"b": 1})
    assert not same([1], {"a": 1})


def test_some_strings_are_no_keys() -> None:
    assert is_key("é😀")
    assert not is_key("")
    assert not is_key("\ud800")
