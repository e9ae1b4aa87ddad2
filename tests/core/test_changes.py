import zlib
from collections.abc import Callable
from hashlib import sha256

import pytest
from automerge.core import ROOT, Document, ExpandMark, Message, ObjType, ScalarType, SyncState, Transaction
from hypothesis import given
from hypothesis import strategies as st

from sync.core.changes import MAGIC, ChangeLimits, ChangeRejected, check_change, check_changes, split_chunks
from sync.core.leb128 import encode_uleb, read_uleb
from sync.core.sync_message import wrap_changes
from tests.core.js_changes import JS_CHANGES, TWO_MILLION_OPS, JsChange

ACTOR = b"\x01" * 16


def chunk_of(body: bytes, kind: int = 1) -> bytes:
    """A chunk with the right checksum, whatever the body."""
    digest = sha256(b"\x01" + encode_uleb(len(body)) + body).digest()
    content = body
    if kind == 2:
        deflater = zlib.compressobj(wbits=-15)
        content = deflater.compress(body) + deflater.flush()
    return MAGIC + digest[:4] + bytes([kind]) + encode_uleb(len(content)) + content


def body_of(chunk: bytes) -> bytes:
    _, start = read_uleb(chunk, 9, len(chunk))
    return chunk[start:] if chunk[8] == 1 else zlib.decompress(chunk[start:], wbits=-15)


def number(value: int) -> bytes:
    """A small signed number, as run lengths are written."""
    assert -64 <= value < 64
    return bytes([value & 0x7F])


# One operation that puts 1 at the key "k" of the root.
PUT = {0x15: b"\x7f\x01k", 0x34: b"\x01", 0x42: b"\x7f\x01", 0x56: b"\x7f\x14", 0x57: b"\x01", 0x70: b"\x7f\x00"}
# One that inserts the character "a" at the head of the text 1@0.
INSERT = {
    0x01: b"\x7f\x00",
    0x02: b"\x7f\x01",
    0x13: b"\x7f\x00",
    0x34: b"\x00\x01",
    0x42: b"\x7f\x01",
    0x56: b"\x7f\x16",
    0x57: b"a",
    0x70: b"\x7f\x00",
}
# One that deletes the element 2@0 of the text 1@0.
DELETE = {
    0x01: b"\x7f\x00",
    0x02: b"\x7f\x01",
    0x11: b"\x7f\x00",
    0x13: b"\x7f\x02",
    0x34: b"\x01",
    0x42: b"\x7f\x03",
    0x56: b"\x7f\x00",
    0x70: b"\x7f\x01",
    0x71: b"\x7f\x00",
    0x73: b"\x7f\x02",
}


def body(
    columns: dict[int, bytes],
    *,
    head: bytes | None = None,
    seq: int = 1,
    start_op: int = 5,
    time: bytes = b"\x00",
    others: bytes = b"\x00",
) -> bytes:
    if head is None:
        head = b"\x00" + b"\x10" + ACTOR + encode_uleb(seq) + encode_uleb(start_op) + time + b"\x00" + others
    specifications = b"".join(encode_uleb(column) + encode_uleb(len(data)) for column, data in columns.items())
    return head + encode_uleb(len(columns)) + specifications + b"".join(columns.values())


def reason(chunk: bytes, limits: ChangeLimits | None = None) -> str:
    with pytest.raises(ChangeRejected) as caught:
        check_change(chunk, limits or ChangeLimits())
    return caught.value.reason


def of_python(*writes: Callable[[Transaction], object]) -> list[bytes]:
    """The chunks of one change for each of `writes`, and that the binding agrees with what the check reads."""
    document = Document(ACTOR)
    for write in writes:
        with document.transaction() as transaction:
            write(transaction)
    changes = document.get_changes([])
    for change in changes:
        checked = check_change(bytes(change.bytes))
        assert checked.hash == bytes(change.hash)
        assert checked.deps == tuple(map(bytes, change.deps))
        assert checked.actor == bytes(change.actor_id)
        assert (checked.seq, checked.start_op, checked.max_op) == (change.seq, change.start_op, change.max_op)
    return [bytes(change.bytes) for change in changes]


# Real changes pass, and are read right.


@pytest.mark.parametrize("change", JS_CHANGES, ids=[change.name for change in JS_CHANGES])
def test_changes_of_the_javascript_library_pass(change: JsChange) -> None:
    checked = check_change(bytes.fromhex(change.hex))
    assert checked.hash.hex() == change.hash
    assert checked.op_count == change.op_count
    assert checked.chunk == bytes.fromhex(change.hex)


def test_changes_of_the_javascript_library_apply_in_order() -> None:
    blob = b"".join(bytes.fromhex(change.hex) for change in JS_CHANGES)
    known = set()
    for checked in check_changes(blob):
        assert known.issuperset(checked.deps)
        known.add(checked.hash)
    document = Document(ACTOR)
    document.receive_sync_message(SyncState(), Message.decode(wrap_changes([blob])))
    assert [bytes(head) for head in document.get_heads()] == [checked.hash]


def test_changes_of_the_binding_pass() -> None:
    def nested(transaction: Transaction) -> None:
        cells = transaction.put_object(ROOT, "cells", ObjType.Map)
        cell = transaction.put_object(cells, "a", ObjType.Map)
        text = transaction.put_object(cell, "source", ObjType.Text)
        for index, character in enumerate("print('ä😀')"):
            transaction.insert(text, index, ScalarType.Str, character)
        transaction.insert(text, 0, ScalarType.Str, "a run of characters")
        transaction.delete(text, 3)
        transaction.mark(text, 0, 3, "bold", ScalarType.Boolean, True, ExpandMark.Both)
        outputs = transaction.put_object(cell, "outputs", ObjType.List)
        for index in range(5):
            transaction.insert(outputs, index, ScalarType.F64, index / 3)
        transaction.put(outputs, 2, ScalarType.Null, None)
        transaction.delete(outputs, 0)

    def scalars(transaction: Transaction) -> None:
        transaction.put(ROOT, "str", ScalarType.Str, "x")
        transaction.put(ROOT, "bytes", ScalarType.Bytes, b"\x00\xff")
        transaction.put(ROOT, "int", ScalarType.Int, -(2**63))
        transaction.put(ROOT, "uint", ScalarType.Uint, 2**64 - 1)
        transaction.put(ROOT, "true", ScalarType.Boolean, True)
        transaction.put(ROOT, "false", ScalarType.Boolean, False)

    def delete(transaction: Transaction) -> None:
        transaction.delete(ROOT, "str")
        transaction.put(ROOT, "int", ScalarType.Int, 5)

    assert len(of_python(nested, scalars, delete)) == 3


def test_deflated_changes_pass_with_the_hash_of_the_plain_one() -> None:
    (chunk,) = of_python(lambda transaction: transaction.put(ROOT, "k", ScalarType.Str, "x" * 5000))
    assert chunk[8] == 2
    assert check_change(chunk).inflated_size == len(body_of(chunk)) > 5000
    assert check_change(chunk_of(body_of(chunk))).hash == check_change(chunk).hash


def test_a_change_that_merges_two_actors_passes() -> None:
    first, second = Document(ACTOR), Document(b"\x02" * 16)
    for document in (first, second):
        with document.transaction() as transaction:
            transaction.put(ROOT, "k", ScalarType.Int, 1)
    first.merge(second)
    with first.transaction() as transaction:
        transaction.put(ROOT, "k", ScalarType.Int, 2)
    change = first.get_changes([])[-1]
    checked = check_change(bytes(change.bytes))
    assert len(checked.deps) == 2
    assert checked.op_count == 1


@pytest.mark.parametrize("columns", [PUT, INSERT, DELETE, {}])
def test_changes_made_by_hand_pass(columns: dict[int, bytes]) -> None:
    checked = check_change(chunk_of(body(columns)))
    assert checked.op_count == bool(columns)
    assert checked.start_op == 5


def test_bytes_behind_the_columns_are_refused() -> None:
    """The JavaScript library panics on them (measured), and nobody writes any."""
    assert "behind the columns" in reason(chunk_of(body(PUT) + b"extra"))


# What is around a change.


def test_a_blob_is_cut_at_its_chunks() -> None:
    chunks = [chunk_of(body(PUT)), chunk_of(body(INSERT), kind=2), chunk_of(body(DELETE))]
    assert split_chunks(b"".join(chunks)) == chunks
    assert [checked.chunk for checked in check_changes(b"".join(chunks))] == chunks
    assert split_chunks(b"") == []


@pytest.mark.parametrize("behind", [b"\x00", MAGIC, MAGIC + bytes(5), b"\x85\x6f", MAGIC + bytes(5) + b"\xff" * 11])
def test_a_blob_with_something_else_behind_is_refused(behind: bytes) -> None:
    with pytest.raises(ChangeRejected):
        split_chunks(chunk_of(body(PUT)) + behind)
    reason(chunk_of(body(PUT)) + behind)


def test_every_truncation_is_refused() -> None:
    for kind in (1, 2):
        chunk = chunk_of(body(PUT), kind)
        for end in range(len(chunk)):
            reason(chunk[:end])


def test_every_flipped_bit_is_refused() -> None:
    for kind in (1, 2):
        chunk = chunk_of(body(PUT), kind)
        for index in range(len(chunk)):
            for bit in range(8):
                flipped = bytearray(chunk)
                flipped[index] ^= 1 << bit
                if kind == 1 or index < 9:  # deflate has bits that mean nothing
                    reason(bytes(flipped))


@pytest.mark.parametrize(("kind", "word"), [(0, "a whole document"), (3, "a bundle"), (4, "unknown"), (255, "unknown")])
def test_other_types_of_chunk_are_refused(kind: int, word: str) -> None:
    chunk = bytearray(chunk_of(body(PUT)))
    chunk[8] = kind
    assert word in reason(bytes(chunk))


def test_a_saved_document_is_refused() -> None:
    assert "a whole document" in reason(Document(ACTOR).save())


def test_a_deflated_change_can_not_blow_up() -> None:
    bomb = zlib.compressobj(9, wbits=-15)
    content = bomb.compress(bytes(64 * 1024 * 1024)) + bomb.flush()
    chunk = MAGIC + bytes(4) + b"\x02" + encode_uleb(len(content)) + content
    assert "more than" in reason(chunk)


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"\x03\x00behind"])
def test_content_that_does_not_inflate_is_refused(content: bytes) -> None:
    reason(MAGIC + bytes(4) + b"\x02" + encode_uleb(len(content)) + content)


@pytest.mark.parametrize("kind", [1, 2])
def test_the_bound_on_the_size_is_exact(kind: int) -> None:
    content = body(PUT)
    check_change(chunk_of(content, kind), ChangeLimits(max_inflated_bytes=len(content)))
    assert "more than" in reason(chunk_of(content, kind), ChangeLimits(max_inflated_bytes=len(content) - 1))


# What is in it.


def test_two_million_operations_in_115_bytes_are_refused() -> None:
    assert "more than 100000 operations" in reason(bytes.fromhex(TWO_MILLION_OPS))


@pytest.mark.parametrize(
    "runs", [b"\xff" * 8 + b"\x3f" + b"\x01", b"\x80" * 8 + b"\x40", b"\x00" + b"\xff" * 9 + b"\x01"]
)
def test_absurd_runs_are_refused(runs: bytes) -> None:
    for column in (0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x70, 0x71, 0x73, 0x94, 0xA5):
        columns = dict(sorted((PUT | {column: runs}).items()))
        reason(chunk_of(body(columns)))


def test_the_bound_on_operations_is_exact() -> None:
    columns = PUT | {
        0x15: b"\x03\x01k",
        0x34: b"\x03",
        0x42: b"\x03\x01",
        0x56: b"\x03\x14",
        0x57: b"\x01\x01\x01",
        0x70: b"\x03\x00",
    }
    assert check_change(chunk_of(body(columns)), ChangeLimits(max_ops=3)).op_count == 3
    assert "more than 2 operations" in reason(chunk_of(body(columns)), ChangeLimits(max_ops=2))
    assert "counter" in reason(chunk_of(body(columns)), ChangeLimits(max_op=6))
    check_change(chunk_of(body(columns)), ChangeLimits(max_op=7))


def test_all_changes_of_a_blob_have_bounds_together() -> None:
    blob = chunk_of(body(PUT)) * 3
    size = 3 * len(body(PUT))
    assert len(check_changes(blob, ChangeLimits(max_total_ops=3, max_total_bytes=size))) == 3
    for limits in (ChangeLimits(max_total_ops=2), ChangeLimits(max_total_bytes=size - 1)):
        with pytest.raises(ChangeRejected, match="at once"):
            check_changes(blob, limits)


def test_the_bound_on_dependencies_is_exact() -> None:
    head = b"\x02" + bytes(63) + b"\x01" + b"\x10" + ACTOR + b"\x01\x05\x00\x00\x00"
    assert len(check_change(chunk_of(body(PUT, head=head)), ChangeLimits(max_deps=2)).deps) == 2
    assert "dependencies" in reason(chunk_of(body(PUT, head=head)), ChangeLimits(max_deps=1))


@pytest.mark.parametrize(
    "content",
    [
        body(PUT, seq=0),
        body(PUT, seq=2**33),
        body(PUT, start_op=0),
        body(PUT, start_op=2**32 - 1),
        body(PUT, time=b"\xff" * 9 + b"\x00"),
        body(PUT, head=b"\x00\x10" + ACTOR + b"\x01\x05\x00\x02\xff\xff\x00"),  # a message that is not UTF-8
        body(PUT, head=b"\x00\x10" + ACTOR + b"\x01\x05\x00\x70"),
        body(PUT, head=b"\x00\x41" + bytes(65) + b"\x01\x05\x00\x00\x00"),  # an actor id of 65 bytes
        body(PUT, others=b"\xff\xff\x7f"),
        body(PUT, others=b"\x01\x10" + ACTOR),  # its own actor again
        body(PUT, others=b"\x02\x01b\x01a"),
        body(PUT, others=b"\x02\x01b\x01b"),
        b"",
        b"\x00",
        body(PUT)[:-1],
    ],
)
def test_impossible_heads_of_changes_are_refused(content: bytes) -> None:
    assert "malformed" in reason(chunk_of(content))


@pytest.mark.parametrize("column", [0x00, 0x09, 0x1D, 0x4A, 0x5E, 0x21, 0x80, 0x7FFF])
def test_unknown_and_deflated_columns_are_refused(column: int) -> None:
    columns = dict(sorted((PUT | {column: b"\x01"}).items()))
    assert "unknown kind" in reason(chunk_of(body(columns)))


def test_columns_are_in_order() -> None:
    assert "order" in reason(chunk_of(body(dict(reversed(PUT.items())))))


def put(**columns: bytes) -> dict[int, bytes]:
    return changed(PUT, columns)


def insert(**columns: bytes) -> dict[int, bytes]:
    return changed(INSERT, columns)


def delete(**columns: bytes) -> dict[int, bytes]:
    return changed(DELETE, columns)


def changed(base: dict[int, bytes], columns: dict[str, bytes]) -> dict[int, bytes]:
    both = base | {_COLUMNS[name]: data for name, data in columns.items()}
    return dict(sorted((column, data) for column, data in both.items() if data))


_COLUMNS = {
    "object_actor": 0x01,
    "object_counter": 0x02,
    "key_actor": 0x11,
    "key_counter": 0x13,
    "key": 0x15,
    "inserts": 0x34,
    "action": 0x42,
    "meta": 0x56,
    "value": 0x57,
    "preds": 0x70,
    "pred_actor": 0x71,
    "pred_counter": 0x73,
    "expands": 0x94,
    "mark": 0xA5,
}

MARK = {"action": b"\x7f\x07", "mark": b"\x7f\x04bold", "meta": b"\x7f\x02", "value": b"", "expands": b"\x00\x01"}


@pytest.mark.parametrize(
    "columns",
    [
        put(meta=b"\x7f\x00", value=b""),
        put(meta=b"\x7f\x01", value=b""),
        put(meta=b"\x7f\x13", value=b"\x05"),
        put(meta=b"\x7f\x85\x01", value=bytes(8)),
        put(meta=b"\x7f\x26", value="ä".encode()),
        put(meta=b"\x7f\x27", value=b"\xff\xff"),
        put(meta=b"\x7f\x18", value=b"\x05"),  # a counter: opaque, but not harmful
        put(meta=b"\x7f\x19", value=b"\x05"),
        put(preds=b"\x7f\x02", pred_actor=b"\x02\x00", pred_counter=b"\x02\x01"),
        insert(**MARK),
        insert(action=b"\x7f\x07", meta=b"\x7f\x00", value=b""),  # the end of a mark
        insert(object_counter=b"\x7f\x05", action=b"\x7f\x04", meta=b"\x7f\x00", value=b""),
        put(action=b"\x7f\x05", preds=b"\x7f\x01", pred_actor=b"\x7f\x00", pred_counter=b"\x7f\x01"),
    ],
)
def test_operations_that_exist_pass(columns: dict[int, bytes]) -> None:
    assert check_change(chunk_of(body(columns))).op_count == 1


@pytest.mark.parametrize(
    "columns",
    [
        put(action=b"\x7f\x06"),  # a table
        put(action=b"\x7f\x08"),
        put(action=b"\x7f\xff\x01"),
        put(action=b"\x00\x01"),  # null
        put(action=b"\x02\x01"),
        put(action=b"\x7e\x01\x01"),
        put(action=b""),
        put(action=b"\x7f\x00"),  # a new map with a value
        put(action=b"\x7f\x03"),  # a delete of nothing
        put(action=b"\x7f\x05"),  # an increment of nothing
        put(action=b"\x7f\x07"),  # a mark in a map
        put(key=b""),
        put(key=b"\x00\x01"),
        put(key=b"\x7f\x02k"),
        put(key=b"\x7f\x01\xff"),
        put(key=b"\x02\x01k"),
        put(key=b"\x00\x00\x7f\x01k"),
        put(key_actor=b"\x7f\x00", key_counter=b"\x7f\x01"),  # a key and an element
        put(object_actor=b"\x7f\x00"),
        put(object_counter=b"\x7f\x01"),
        put(object_actor=b"\x7f\x01", object_counter=b"\x7f\x01"),  # an actor that is not named
        put(object_actor=b"\x7f\x00", object_counter=b"\x7f\x06"),  # an operation of the future
        put(inserts=b"\x00\x01"),
        put(inserts=b""),
        put(inserts=b"\x01\x00"),
        put(inserts=b"\x02"),
        put(meta=b""),
        put(meta=b"\x7f\x24"),  # longer than the column
        put(meta=b"\x7f\x04", value=b""),  # an integer of no bytes
        put(meta=b"\x7f\x24", value=b"\x01\x01"),
        put(meta=b"\x7f\x23", value=b"\x01\x01"),
        put(meta=b"\x7f\x10"),  # null with content
        put(meta=b"\x7f\x15"),  # a float of one byte
        put(meta=b"\x7f\x16", value=b"\xff"),
        put(meta=b"\x7f\x1a"),
        put(meta=b"\x00\x01"),
        put(value=b"\x01\x01"),
        put(value=b""),
        put(preds=b""),
        put(preds=b"\x7f\x01"),
        put(preds=b"\x00\x01"),
        put(preds=b"\x7f\x01", pred_actor=b"\x7f\x00", pred_counter=b"\x00\x01"),
        put(preds=b"\x7f\x01", pred_actor=b"\x7f\x00", pred_counter=b"\x7f\x00"),  # zero is no operation
        put(preds=b"\x7f\x01", pred_actor=b"\x7f\x00", pred_counter=b"\x7f\x7f"),
        put(preds=b"\x7f\x01", pred_actor=b"\x7f\x00", pred_counter=b"\x7f\x06"),
        put(preds=b"\x7f\xc0\x84\x3d", pred_actor=b"\xc0\x84\x3d\x00", pred_counter=b"\xc0\x84\x3d\x00"),  # a million
        put(mark=b"\x7f\x04bold"),
        put(expands=b"\x00\x01"),
        insert(key_counter=b"\x7f\x01"),  # an element without its actor
        insert(key_actor=b"\x7f\x00"),  # the head of a list has none
        insert(key_counter=b"\x7f\x06", key_actor=b"\x7f\x00"),
        insert(preds=b"\x7f\x01", pred_actor=b"\x7f\x00", pred_counter=b"\x7f\x01"),
        insert(action=b"\x7f\x03", meta=b"\x7f\x00", value=b""),
        insert(action=b"\x7f\x07"),  # the end of a mark with a value
        insert(**(MARK | {"mark": b"\x7f\x01\xff"})),
        delete(preds=b"\x7f\x00", pred_actor=b"", pred_counter=b""),
        delete(meta=b"\x7f\x01"),
    ],
)
def test_operations_that_do_not_exist_are_refused(columns: dict[int, bytes]) -> None:
    assert "malformed" in reason(chunk_of(body(columns)))


def rows(count: int, **columns: bytes) -> dict[int, bytes]:
    """Insertions of `count` characters, each behind the one before it."""
    base = {
        0x01: number(count) + b"\x00",
        0x02: number(count) + b"\x01",
        0x11: b"\x00\x01" + number(count - 1) + b"\x00",
        0x13: b"\x7e\x00\x05" + number(count - 2) + b"\x01",
        0x34: b"\x00" + bytes([count]),
        0x42: number(count) + b"\x01",
        0x56: number(count) + b"\x16",
        0x57: b"a" * count,
        0x70: number(count) + b"\x00",
    }
    return changed(base, columns)


def test_runs_of_characters_pass() -> None:
    assert check_change(chunk_of(body(rows(40)))).op_count == 40
    assert check_change(chunk_of(body(rows(4, meta=b"\x04\x26", value="äöüß".encode())))).op_count == 4


@pytest.mark.parametrize(
    "columns",
    [
        rows(4, meta=b"\x04\x16", value="äö".encode()),  # cut inside of characters
        rows(4, meta=b"\x04\x26", value="aäöüb".encode()),
        rows(4, key_counter=b"\x7e\x00\x05\x02\x02"),  # 0 5 7 9: the last one is not there yet
        rows(4, key_counter=b"\x7e\x00\x05\x02\x7b"),  # 0 5 0 -5
        rows(4, key_counter=b"\x7e\x00\x05\x02\x00\x7f\x01"),
        rows(4, object_actor=b"\x03\x00"),
        rows(4, object_actor=b"\x7c\x00\x00\x00\x01"),
        rows(4, inserts=b"\x00\x03"),
        rows(4, inserts=b"\x00\x03\x00\x01"),
        rows(4, preds=b"\x03\x00"),
        rows(4, meta=b"\x03\x16\x7f\x26"),
    ],
)
def test_columns_that_do_not_fit_each_other_are_refused(columns: dict[int, bytes]) -> None:
    assert "malformed" in reason(chunk_of(body(columns)))


def test_a_run_of_differences_may_end_at_the_head_of_the_list() -> None:
    # Elements 4, 2 and the head, which has no actor.
    columns = rows(3, key_counter=b"\x7f\x04\x02\x7e", key_actor=b"\x02\x00\x00\x01")
    assert check_change(chunk_of(body(columns))).op_count == 3


@given(st.data())
def test_mutated_changes_with_a_right_checksum_pass_or_are_rejected(data: st.DataObject) -> None:
    original = bytearray(body_of(bytes.fromhex(data.draw(st.sampled_from(JS_CHANGES)).hex)))
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(original) - 1))
        end = data.draw(st.sampled_from([index, index, index + 1, index + 1, index + 1, len(original)]))
        original[index:end] = data.draw(st.binary(min_size=1, max_size=3))
    chunk = chunk_of(bytes(original), data.draw(st.sampled_from([1, 2])))
    try:
        checked = check_change(chunk)
    except ChangeRejected as rejected:
        assert rejected.reason  # noqa: PT017 - either outcome is right
    else:
        assert checked.op_count <= ChangeLimits().max_ops
        assert checked.hash == sha256(b"\x01" + encode_uleb(len(original)) + original).digest()


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_bytes_are_changes_or_rejected(content: bytes, behind: bytes) -> None:
    for blob in (content, MAGIC + content, chunk_of(content) + behind, chunk_of(content, 2)):
        try:
            check_changes(blob)
        except ChangeRejected as rejected:
            assert rejected.reason  # noqa: PT017 - either outcome is right
