"""What peers change: taken in order, whole or not at all, and what the peer hears of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from automerge import core

from sync.core.changes import CheckedChange, check_change, check_changes
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.limits import (
    MAX_GROUP_CHANGES,
    MAX_GROUP_OPS,
    MAX_GROUP_VALUES,
    MAX_PENDING_BYTES,
    MAX_PENDING_CHANGES,
    MAX_SKIPPED_OPS,
    MAX_SOURCE_BYTES,
)
from sync.core.peer_changes import PeerChanges, Taken, groups
from sync.core.steps import run_through
from sync.core.subscription import Subscription
from tests.fakes.recipients import RecordingRecipient
from tests.fuzz.changes import ChangeParts, chunk_of


class Editing:
    """A document, and a peer that edits a replica of it."""

    def __init__(self) -> None:
        self.document = Document(document_id(b"n" * 16))
        self.document.commit(lambda tx: tx.put(core.ROOT, "schema", core.ScalarType.Int, 1))
        self.document.publish()
        self.changes = PeerChanges(self.document)
        self.replica = core.Document.load(self.document.replica.save())
        self.peer = RecordingRecipient()
        self.subscription = Subscription(self.document, origin=self.peer, writable=True)

    def edit(self, key: str, value: str = "") -> CheckedChange:
        before = self.replica.get_heads()
        with self.replica.transaction() as tx:
            tx.put(core.ROOT, key, core.ScalarType.Str, value)
        [change] = self.replica.get_changes(before)
        [checked] = check_changes(change.bytes)
        return checked

    def take(self, *changes: CheckedChange) -> list[CheckedChange]:
        return list(self.taking(*changes).changes)

    def taking(self, *changes: CheckedChange) -> Taken:
        self.changes.add(self.peer, self.subscription, changes)
        return run_through(self.changes.taking())


def test_changes_are_applied_in_the_order_in_which_they_came() -> None:
    editing = Editing()
    one, two = editing.edit("one"), editing.edit("two")

    assert editing.take(one) == [one]
    assert editing.take(one, two, two) == [two], "what is there already is not new"
    assert editing.document.heads() == (two.hash,)
    assert (editing.changes.submitted, editing.changes.taken) == (2, 2)


def test_a_change_without_what_it_builds_on_is_asked_for_and_not_taken() -> None:
    editing = Editing()
    one, two = editing.edit("one"), editing.edit("two")

    assert editing.take(two) == []
    assert editing.subscription.due is False, "the peer has not spoken yet"
    assert editing.peer.refused == []
    assert editing.take(one, two) == [one, two]


def test_what_can_not_be_taken_is_refused_with_all_that_came_with_it() -> None:
    editing = Editing()
    one = editing.edit("one")
    twice = core.Document.load(
        editing.document.replica.save(),
    )
    twice.set_actor(one.actor)
    with twice.transaction() as tx:
        tx.put(core.ROOT, "other", core.ScalarType.Int, 1)
    [again] = check_changes(b"".join(c.bytes for c in twice.get_changes(list(editing.document.heads()))))
    two = editing.edit("two")

    assert editing.take(one, again) == []
    assert [reason for reason in editing.peer.refused if "sequence number" in reason]
    assert editing.changes.has_refused({again.hash})
    assert editing.take(two) == [], "it builds on one that was refused"
    assert len(editing.peer.refused) == 2
    assert len(editing.document.log) == 1


class Typing(Editing):
    """A peer that makes a text longer, a few characters a change."""

    def __init__(self) -> None:
        super().__init__()
        assert self.take(self.write(lambda tx: tx.put_object(core.ROOT, "t", core.ObjType.Text)))
        found = self.replica.get(core.ROOT, "t")
        assert found is not None
        self.text = found[1]

    def write(self, write: Callable[[core.Transaction], object]) -> CheckedChange:
        before = self.replica.get_heads()
        with self.replica.transaction() as tx:
            write(tx)
        [change] = self.replica.get_changes(before)
        [checked] = check_changes(change.bytes)
        return checked

    def insert(self, *parts: str) -> CheckedChange:
        def write(tx: core.Transaction) -> None:
            for part in parts:
                tx.insert(self.text, 0, core.ScalarType.Str, part)

        return self.write(write)

    def delete(self, count: int) -> CheckedChange:
        def write(tx: core.Transaction) -> None:
            for _ in range(count):
                tx.delete(self.text, 0)

        return self.write(write)


def test_a_text_grows_to_1_mib_by_many_small_changes_and_no_further() -> None:
    typing = Typing()
    for _ in range(4):
        assert typing.take(typing.insert("é" * (MAX_SOURCE_BYTES // 8)))
    assert len(typing.document.replica.text(typing.text).encode()) == MAX_SOURCE_BYTES
    reads = 0
    read = typing.document.replica.text

    def counting(*args: Any) -> str:
        nonlocal reads
        reads += 1
        return read(*args)

    typing.document.replica.text = counting  # type: ignore[method-assign]
    assert typing.take(typing.delete(1)), "what was deleted makes room"
    for _ in range(20):
        assert typing.take(typing.insert(*"0123456789"))
    assert reads == 1, "reading it takes long, so it is read when the room that was known is used up"
    filling = MAX_SOURCE_BYTES - len(read(typing.text).encode())
    assert typing.take(typing.insert("x" * filling))
    assert typing.take(typing.insert("y")) == []
    assert typing.peer.refused == [f"a text would exceed {MAX_SOURCE_BYTES} bytes"]
    assert len(read(typing.text).encode()) == MAX_SOURCE_BYTES


def test_one_change_can_not_make_a_text_too_long_either() -> None:
    typing = Typing()
    assert typing.take(typing.insert("x" * MAX_SOURCE_BYTES, "y")) == []
    assert typing.peer.refused == [f"a text would exceed {MAX_SOURCE_BYTES} bytes"]


def test_one_key_is_not_written_ever_again() -> None:
    """It costs the core as much as it was written before: a change of 42 KB took it 4 s."""
    typing = Typing()

    def write(times: int) -> CheckedChange:
        def overwrite(tx: core.Transaction) -> None:
            for number in range(times):
                tx.put(core.ROOT, "key", core.ScalarType.Int, number)

        return typing.write(overwrite)

    for _ in range(10):
        assert typing.take(write(1_000))
    assert typing.take(write(500))
    assert typing.take(write(1_000)) == []
    other = Typing()
    other_change = other.write(
        lambda tx: [tx.put(core.ROOT, "key", core.ScalarType.Int, number) for number in range(6_000)]
    )
    assert len(other_change.chunk) < 20_000
    assert other.take(other_change) == []
    assert typing.peer.refused == other.peer.refused == ["one key or item is written too often"]
    items = Typing()
    assert items.take(items.insert("x"))
    overwriting = items.write(
        lambda tx: [tx.put(items.text, 0, core.ScalarType.Str, str(number)) for number in range(6_000)]
    )
    assert items.take(overwriting) == []
    assert items.peer.refused == other.peer.refused


def test_neither_are_thousands_of_cells_made_at_once_nor_ever_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """95 000 cells in a change of 200 KB took the daemon 10 s, and every structural change after it 1.5 s."""

    def cells(typing: Typing, count: int) -> CheckedChange:
        def write(tx: core.Transaction) -> None:
            made = tx.put_object(core.ROOT, "cells", core.ObjType.Map)
            for number in range(count):
                tx.put_object(made, f"cell-{number}", core.ObjType.Map)

        return typing.write(write)

    typing = Typing()
    assert typing.take(cells(typing, MAX_GROUP_VALUES - 1))
    assert typing.take(cells(typing, MAX_GROUP_VALUES + 1)) == []
    typing = Typing()
    monkeypatch.setattr("sync.core.references.MAX_DOCUMENT_VALUES", 15_000)
    assert typing.take(cells(typing, MAX_GROUP_VALUES - 1))
    assert typing.take(typing.insert(*"not what texts hold" * 500))
    assert typing.take(cells(typing, MAX_GROUP_VALUES - 1)) == []
    assert typing.peer.refused == ["more than 10000 keys and items at once, or 15000 in all"]


def test_branches_are_not_kept_apart_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """9 000 changes of as many authors beside each other, in 900 KB, held the loop for a minute."""
    monkeypatch.setattr("sync.core.peer_changes.MAX_DOCUMENT_HEADS", 3)
    editing = Editing()
    branches = [core.Document.load(editing.document.replica.save()) for _ in range(4)]
    changes = []
    for number, branch in enumerate(branches):
        before = branch.get_heads()
        with branch.transaction() as tx:
            tx.put(core.ROOT, f"k{number}", core.ScalarType.Int, 1)
        changes += check_changes(b"".join(change.bytes for change in branch.get_changes(before)))
    assert editing.take(*changes[:3])
    assert editing.take(changes[3]) == []
    assert editing.peer.refused == ["the document would have more than 3 heads"]

    merging = core.Document.load(editing.document.replica.save())
    with merging.transaction() as tx:
        tx.put(core.ROOT, "merged", core.ScalarType.Int, 1)
    [merged] = check_changes(merging.get_changes(list(editing.document.heads()))[0].bytes)
    assert editing.take(merged), "whoever merges them is welcome"
    assert editing.take(changes[3]) == [changes[3]]


def test_a_text_is_changed_at_so_many_places_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scattered characters take the core longer than a piece of as many: 100 000 held the loop for 0.9 s."""
    monkeypatch.setattr("sync.core.references.MAX_GROUP_PLACES", 100)

    def typing() -> Typing:
        typing = Typing()

        def paste(tx: core.Transaction) -> None:
            for index in range(3_000):
                tx.insert(typing.text, index, core.ScalarType.Str, "x")

        assert typing.take(typing.write(paste)), "one place"
        return typing

    def scattered(typing: Typing) -> CheckedChange:
        return typing.write(
            lambda tx: [tx.insert(typing.text, index * 7, core.ScalarType.Str, "y") for index in range(200)]
        )

    def every_second(typing: Typing) -> CheckedChange:
        return typing.write(lambda tx: [tx.delete(typing.text, index) for index in range(200)])

    deleting = typing()
    assert deleting.take(deleting.delete(3_000)), "one place"
    for write in (scattered, every_second):
        peer = typing()
        assert peer.take(write(peer)) == []
        assert peer.peer.refused == ["more than 100 places are changed at once"]


def test_few_operations_with_long_values_can_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MiB of one letter are 8 KB on the wire."""
    monkeypatch.setattr("sync.core.peer_changes.MAX_DOCUMENT_BYTES", 4_000_000)
    editing = Editing()
    for number in range(3):
        change = editing.edit(f"k{number}", "x" * 1_000_000)
        assert len(change.chunk) < 2_000
        assert editing.take(change) == [change]
    assert editing.take(editing.edit("k", "x" * 1_000_000)) == []
    assert editing.peer.refused == ["the document would exceed 4000000 bytes of changes"]


def test_nobody_writes_in_the_name_of_the_daemon() -> None:
    editing = Editing()
    own = editing.document.replica.actor
    editing.replica.set_actor(own)
    forged = editing.edit("one")
    assert forged.actor == own
    assert editing.take(forged) == []
    assert editing.peer.refused == ["the change claims the daemon's own actor id"]

    editing = Editing()
    earlier = editing.document.replica.actor
    editing.document.rebuild()
    assert editing.document.replica.actor != earlier
    editing.replica.set_actor(earlier)
    assert editing.take(editing.edit("one")) == [], "nor under one that it had before"


def _starting_at(change: CheckedChange, start_op: int) -> CheckedChange:
    return check_change(chunk_of(replace(ChangeParts.of(change.chunk), start_op=start_op).body()))


def test_nobody_uses_up_the_numbers_of_operations() -> None:
    """Every change must start above all before it, and there is a highest number: one change could lock all others out."""
    editing = Editing()
    change = editing.edit("one")
    start = change.start_op + MAX_SKIPPED_OPS
    assert editing.take(_starting_at(change, start + 1)) == []
    assert editing.peer.refused == [f"the change starts at operation {start + 1}, but the last one is 1"]

    # The author of a change may have changes that come later; but what is left out counts, however little it is each time.
    patient = Editing()
    assert patient.take(*check_changes(editing.document.log.payload(0, 1)))
    jumping = _starting_at(change, start)
    assert patient.take(jumping)
    further = replace(ChangeParts.of(change.chunk), deps=(jumping.hash,), start_op=start + 2, seq=2)
    assert patient.take(check_change(chunk_of(further.body()))) == []
    assert patient.peer.refused == [f"the change starts at operation {start + 2}, but the last one is {start}"]

    # A change may know less than it is above: of what it was made beside of, the libraries count as well.
    beside = core.Document.load(editing.document.replica.save())
    with beside.transaction() as tx:
        for key in "abc":
            tx.put(core.ROOT, key, core.ScalarType.Int, 1)
    [made] = beside.get_changes(list(editing.document.heads()))
    above = replace(ChangeParts.of(change.chunk), start_op=5)
    fresh = Editing()
    assert fresh.take(*check_changes(editing.document.log.payload(0, 1))), "the same history"
    assert fresh.take(check_change(made.bytes))
    assert fresh.take(check_change(chunk_of(above.body())))


def test_the_queue_is_full_by_number_or_by_size() -> None:
    editing = Editing()
    small = editing.edit("small")
    for _ in range(MAX_PENDING_CHANGES):
        assert not editing.changes.is_full
        editing.changes.add(editing.peer, editing.subscription, [small])
    assert editing.changes.is_full
    while editing.changes.waiting:
        run_through(editing.changes.taking())

    big = replace(small, chunk=bytes(MAX_PENDING_BYTES // 4))
    for _ in range(4):
        assert not editing.changes.is_full
        editing.changes.add(editing.peer, editing.subscription, [big])
    assert editing.changes.is_full


def test_many_operations_are_cut_into_groups_and_one_change_never() -> None:
    def sizes(counts: Sequence[int]) -> list[int]:
        changes = [CheckedChange(b"", (), b"", 1, 1, count, b"", 0) for count in counts]
        return [len(group) for group in groups(changes)]

    assert sizes([]) == []
    assert sizes([1, 1, 1]) == [3]
    assert sizes([MAX_GROUP_OPS // 2, MAX_GROUP_OPS // 2, 1]) == [2, 1]
    assert sizes([1, 5 * MAX_GROUP_OPS, 1]) == [1, 1, 1]
    assert sizes([1] * (2 * MAX_GROUP_CHANGES + 1)) == [MAX_GROUP_CHANGES, MAX_GROUP_CHANGES, 1]
