"""A document and its log: positions, heads, snapshots, and what is refused."""

import subprocess
import sys

import pytest
from automerge import core

from sync.core.change_log import ChangeLog, LoggedChange, missing_dependencies
from sync.core.changes import check_changes
from sync.core.document import SNAPSHOT_FROM_CHANGES, ChangesRefused, Document
from sync.core.identifiers import document_id


def document(changes: int = 1) -> Document:
    made = Document(document_id(b"d" * 16))
    for number in range(changes):
        made.commit(lambda tx, number=number: tx.put(core.ROOT, f"k{number}", core.ScalarType.Int, number))
    made.publish()
    return made


def change(name: bytes, *deps: bytes) -> LoggedChange:
    return LoggedChange(name, deps, b"chunk-" + name, 1, None)


def test_heads_are_known_at_every_position() -> None:
    log = ChangeLog()
    for item in (change(b"a"), change(b"b", b"a"), change(b"c", b"a"), change(b"d", b"b", b"c")):
        log.append(item)

    assert [log.heads(n) for n in range(5)] == [(), (b"a",), (b"b",), (b"b", b"c"), (b"d",)]
    assert log.ancestors([b"b"]) == {0, 1}
    assert log.ancestors([b"d", b"unknown"], start=2) == {2, 3}


def test_a_change_without_its_dependencies_is_not_logged() -> None:
    log = ChangeLog()
    with pytest.raises(ValueError, match="dependency"):
        log.append(change(b"b", b"a"))
    assert missing_dependencies(log, [change(b"b", b"a"), change(b"c", b"b")]) == {b"a"}


def test_a_payload_is_a_prefix_without_the_peers_own() -> None:
    log, origin = ChangeLog(), object()
    log.append(change(b"a"))
    log.append(LoggedChange(b"b", (b"a",), b"chunk-b", 2, origin))
    log.append(change(b"c", b"b"))

    assert log.payload(0, 3) == b"chunk-achunk-bchunk-c"
    assert log.payload(0, 3, without=origin) == b"chunk-achunk-c"
    assert log.payload(0, 3, skip=frozenset({0})) == b"chunk-bchunk-c"
    assert log.end_within(0, 3, 14) == 2
    assert log.end_within(0, 3, 1) == 1, "one change at least, or nothing would ever move"


def test_peers_may_see_only_what_is_published() -> None:
    made = document()
    before = made.published_heads()
    made.commit(lambda tx: tx.put(core.ROOT, "x", core.ScalarType.Int, 1))

    assert made.published_heads() == before != made.heads()
    assert made.publish()
    assert made.published_heads() == made.heads()
    assert not made.publish()


def test_a_change_that_automerge_drops_is_refused_and_leaves_nothing() -> None:
    made, author = document(), core.Document.load(document().replica.save())
    with author.transaction() as tx:
        tx.put(core.ROOT, "x", core.ScalarType.Int, 1)
    blob = b"".join(c.bytes for c in author.get_changes([]))
    [_, foreign] = check_changes(blob)
    entry = LoggedChange(foreign.hash, made.heads(), foreign.chunk, foreign.max_op, None)
    heads = made.heads()

    with pytest.raises(ChangesRefused):
        made.apply([(entry, foreign.actor, foreign.seq, foreign.op_count)])

    assert made.heads() == made.replica.heads() == heads
    made.commit(lambda tx: tx.put(core.ROOT, "still", core.ScalarType.Int, 1))


def test_a_snapshot_is_asked_for_when_history_is_long_and_used_when_it_is_there() -> None:
    made = document(SNAPSHOT_FROM_CHANGES)
    asked: list[int] = []
    made.snapshot_wanted = lambda: asked.append(1)

    assert made.snapshot() is None
    assert made.snapshot() is None
    assert asked == [1]
    position, changes = made.snapshot_source()
    done = subprocess.run([sys.executable, "-m", "sync.compact"], input=changes, capture_output=True, check=True)
    made.set_snapshot(position, done.stdout)

    assert made.snapshot() == (SNAPSHOT_FROM_CHANGES, done.stdout)
    assert tuple(core.Document.load(done.stdout).get_heads()) == made.heads()
    assert len(done.stdout) < len(changes) / 3


def test_what_can_not_be_compacted_is_said() -> None:
    done = subprocess.run([sys.executable, "-m", "sync.compact"], input=b"garbage", capture_output=True, check=False)

    assert done.returncode != 0
    assert done.stdout == b""
