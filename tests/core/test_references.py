"""A change is taken only if what it refers to is there; and only if it is written as Automerge writes it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.binding import ROOT, ObjType, Replica, ScalarType
from sync.core.change_log import ChangeLog, LoggedChange, builds_on
from sync.core.changes import ChangeRejected, CheckedChange, check_change, check_changes
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.references import References, Unfounded
from sync.core.steps import run_through
from tests.core.js_changes import JS_CHANGES
from tests.core.test_changes import ACTOR, DELETE, INSERT, PUT, body, changed, chunk_of, reason
from tests.fuzz.corpus import EDITS, NOTEBOOK, document_with, logged

OTHER = b"\x02" * 16
KEY_COUNTER, KEY_ACTOR, PREDS, PRED_ACTOR, PRED_COUNTER = (
    "key_counter",
    "key_actor",
    "preds",
    "pred_actor",
    "pred_counter",
)


def made_by_python() -> ChangeLog:
    """A map m (1@ACTOR) with k (2) and list l (3) of one item (4), a text t (5) of two characters (6 and 7)."""
    replica = Replica(ACTOR)
    with replica.transaction() as tx:
        m = tx.put_object(ROOT, "m", ObjType.Map)
        tx.put(m, "k", ScalarType.Int, 1)
        items = tx.put_object(m, "l", ObjType.List)
        tx.insert(items, 0, ScalarType.Int, 1)
        text = tx.put_object(ROOT, "t", ObjType.Text)
        for index in range(2):
            tx.insert(text, index, ScalarType.Str, "x")
    log = ChangeLog()
    for checked in check_changes(b"".join(bytes(change.bytes) for change in replica.changes_since(()))):
        log.append(logged(checked))
    return log


def no_text(actor: bytes, counter: int) -> str:
    raise AssertionError((actor, counter))


@contextmanager
def checked_by(references: References, chunks: Sequence[bytes]) -> Iterator[None]:
    additions = run_through(references.checking(chunks))
    with references.adding(additions):
        yield


def try_change(columns: dict[int, bytes], log: ChangeLog | None = None) -> None:
    """Asks about a change by OTHER, which calls ACTOR 1, whose first operation is 8."""
    head = b"\x00\x10" + OTHER + b"\x01\x08\x00\x00\x01\x10" + ACTOR
    chunk = chunk_of(body(columns, head=head))
    assert check_change(chunk)
    references = References(made_by_python() if log is None else log, no_text)
    with checked_by(references, [chunk]):
        references._log.append(logged(check_change(chunk)))


def put(**columns: bytes) -> dict[int, bytes]:
    """Puts at a key of the map m."""
    return changed(PUT, {"object_actor": b"\x7f\x01", "object_counter": b"\x7f\x01", **columns})


def insert(**columns: bytes) -> dict[int, bytes]:
    """Inserts at the head of the text t."""
    return changed(INSERT, {"object_actor": b"\x7f\x01", "object_counter": b"\x7f\x05", **columns})


def delete(**columns: bytes) -> dict[int, bytes]:
    """Deletes the first character of the text t."""
    first = {
        "key_actor": b"\x7f\x01",
        "key_counter": b"\x7f\x06",
        "pred_actor": b"\x7f\x01",
        "pred_counter": b"\x7f\x06",
    }
    return changed(DELETE, {"object_actor": b"\x7f\x01", "object_counter": b"\x7f\x05", **first, **columns})


ONE_PRED = {"preds": b"\x7f\x01", "pred_actor": b"\x7f\x01"}


@pytest.mark.parametrize(
    "columns",
    [
        put(),
        put(**ONE_PRED, pred_counter=b"\x7f\x02"),
        insert(),
        insert(key_actor=b"\x7f\x01", key_counter=b"\x7f\x07"),
        delete(),
        delete(object_counter=b"\x7f\x03", key_counter=b"\x7f\x04", pred_counter=b"\x7f\x04"),
    ],
)
def test_what_refers_to_what_is_there_passes(columns: dict[int, bytes]) -> None:
    try_change(columns)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (put(object_counter=b"\x7f\x02"), "object that is not there"),
        (put(object_counter=b"\x7f\x05"), "another kind"),
        (insert(object_counter=b"\x7f\x01"), "another kind"),
        (insert(key_actor=b"\x7f\x01", key_counter=b"\x7f\x05"), "element that is not there"),
        (insert(key_actor=b"\x7f\x01", key_counter=b"\x7f\x04"), "element that is not there"),  # of the list
        (put(**ONE_PRED, pred_counter=b"\x7f\x03"), "value that is not there"),  # under another key
        (put(**ONE_PRED, pred_counter=b"\x7f\x01"), "value that is not there"),  # of another object
        (delete(pred_counter=b"\x7f\x07"), "value that is not there"),
        (delete(key_counter=b"\x7f\x04", pred_counter=b"\x7f\x04"), "element that is not there"),
        (put(preds=b"\x7f\x02", pred_actor=b"\x02\x01", pred_counter=b"\x7e\x02\x00"), "not in order"),
    ],
)
def test_what_refers_to_what_is_not_there_is_refused(columns: dict[int, bytes], says: str) -> None:
    with pytest.raises(Unfounded, match=says):
        try_change(columns)


def test_a_refused_change_leaves_no_trace() -> None:
    log = made_by_python()
    references = References(log, no_text)
    run_through(references.catching_up())
    before = dict(references._numbers)
    head = b"\x00\x10" + OTHER + b"\x01\x08\x00\x00\x01\x10" + ACTOR
    with pytest.raises(Unfounded), checked_by(references, [chunk_of(body(put(object_counter=b"\x7f\x02"), head=head))]):
        raise AssertionError("entered")
    assert references._numbers == before


@pytest.mark.parametrize("changes", [[*NOTEBOOK, *EDITS], None], ids=["python", "javascript"])
def test_real_changes_pass_one_by_one_and_all_at_once(changes: list[CheckedChange] | None) -> None:
    changes = changes or check_changes(b"".join(bytes.fromhex(change.hex) for change in JS_CHANGES))
    for batches in ([[change] for change in changes], [changes]):
        log = ChangeLog()
        references = References(log, no_text)
        for batch in batches:
            with checked_by(references, [change.chunk for change in batch]):
                for change in batch:
                    log.append(logged(change))
        followed = References(log, no_text)
        run_through(followed.catching_up())
        assert vars(followed._made) == vars(references._made)


@given(st.data())
def test_random_edits_of_two_authors_pass(data: st.DataObject) -> None:
    """Lists and texts edited anywhere, apart and together."""
    replicas = [Replica(ACTOR), Replica(OTHER)]
    with replicas[0].transaction() as tx:
        tx.put_object(ROOT, "t", ObjType.Text)
        tx.put_object(ROOT, "l", ObjType.List)
    chunks = [bytes(change.bytes) for change in replicas[0].changes_since(())]
    replicas[1].apply(chunks)
    log = ChangeLog()
    references = References(log, no_text)
    for _ in range(data.draw(st.integers(0, 12))):
        who = data.draw(st.integers(0, 1))
        before = replicas[who].heads()
        with replicas[who].transaction() as tx:
            for _ in range(data.draw(st.integers(0, 4))):
                found = tx.get(ROOT, data.draw(st.sampled_from("tl")))
                assert found is not None
                length = tx.length(found[1])
                at = data.draw(st.integers(0, length))
                if at < length and data.draw(st.booleans()):
                    tx.delete(found[1], at)
                elif at < length and data.draw(st.booleans()):
                    tx.put(found[1], at, ScalarType.Str, "p")
                else:
                    tx.insert(found[1], at, ScalarType.Str, "i")
        new = [bytes(change.bytes) for change in replicas[who].changes_since(before)]
        chunks += new
        if new and data.draw(st.booleans()):
            replicas[1 - who].apply(chunks)
    for checked in check_changes(b"".join(chunks)):
        with checked_by(references, [checked.chunk]):
            log.append(logged(checked))


# Written in another way than Automerge's.

TWO_PUTS = {
    0x15: b"\x02\x01k",
    0x34: b"\x02",
    0x42: b"\x02\x01",
    0x56: b"\x02\x14",
    0x57: b"\x01\x01",
    0x70: b"\x02\x00",
}


@pytest.mark.parametrize(
    "columns",
    [
        changed(PUT, {"key": b"\x01\x01k"}),  # a run of one
        {**TWO_PUTS, 0x42: b"\x7f\x01\x7f\x01"},  # two literals apart
        {**TWO_PUTS, 0x42: b"\x7e\x01\x01"},  # literals that are a run
        changed(PUT, {"object_actor": b"\x00\x01", "object_counter": b"\x00\x01"}),  # nulls alone
        changed(PUT, {"expands": b"\x01"}),
    ],
)
def test_a_change_that_would_be_written_otherwise_is_refused(columns: dict[int, bytes]) -> None:
    assert "column" in reason(chunk_of(body(columns)))


def test_what_is_written_as_automerge_writes_it_passes() -> None:
    assert check_change(chunk_of(body(TWO_PUTS))).op_count == 2


def test_an_actor_that_is_only_named_is_refused() -> None:
    assert "no operation is about" in reason(chunk_of(body(PUT, others=b"\x01\x10" + OTHER)))


def test_dependencies_out_of_order_are_refused() -> None:
    head = b"\x02" + b"\x01" * 32 + bytes(32) + b"\x10" + ACTOR + b"\x01\x05\x00\x00\x00"
    with pytest.raises(ChangeRejected, match="not in order"):
        check_change(chunk_of(body(PUT, head=head)))


# What the log knows.


def test_a_change_builds_on_what_is_behind_its_dependencies() -> None:
    log = ChangeLog()
    for name, deps in (("a", ""), ("b", "a"), ("c", "a"), ("d", "b")):
        log.append(LoggedChange(name.encode(), tuple(dep.encode() for dep in deps), b"", 1, None))
    further = [LoggedChange(b"e", (b"d",), b"", 1, None), LoggedChange(b"f", (b"e",), b"", 1, None)]
    assert builds_on(log, further, [b"f"], b"e")
    assert builds_on(log, further, [b"f"], b"b")
    assert builds_on(log, [], [b"c", b"d"], b"a")
    assert not builds_on(log, further, [b"f"], b"c")
    assert not builds_on(log, [], [], b"a")


def test_an_empty_change_of_a_peer_is_logged_once() -> None:
    """The core counts it as new again while it is among the heads: seen with a change of JavaScript's `emptyChange`."""
    javascript = check_changes(b"".join(bytes.fromhex(change.hex) for change in JS_CHANGES[:15]))
    assert javascript[-1].op_count == 0
    document = document_with(document_id(b"n" * 16), javascript)
    other = Replica(OTHER)
    other.apply([change.chunk for change in javascript[:-1]])
    with other.transaction() as tx:
        tx.put(ROOT, "beside", ScalarType.Int, 1)
    [beside] = check_changes(bytes(other.changes_since(tuple(c.hash for c in javascript[-2:-1]))[-1].bytes))
    document.apply([(logged(beside), beside.actor, beside.seq, beside.op_count)])
    assert isinstance(document, Document)
    before = len(document.log)
    assert document.commit(lambda tx: tx.put(ROOT, "ours", ScalarType.Int, 1))
    assert len(document.log) == before + 1
