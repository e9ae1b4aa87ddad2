"""The doc-writer: one commit for what waits together, its pace, and that nobody waits for what never comes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from automerge import core
from trio.testing import MockClock, wait_all_tasks_blocked

from sync.awaited_heads import HeadsRefused, WriterEnded
from sync.blobs import BlobStoreError
from sync.core.binding import Transaction
from sync.core.limits import MAX_PENDING_CHANGES
from sync.core.mutations import AddCell, SetKernel
from sync.core.prepared import NEW_ENTRIES_AT_ONCE
from sync.core.runtime_reading import read_cell, read_runtime
from sync.core.urgency import Urgency
from sync.writer import COMMIT_INTERVAL
from tests.fakes.recipients import RecordingRecipient
from tests.fakes.written_documents import WrittenDocuments


@pytest.fixture
def room(tmp_path: Path) -> WrittenDocuments:
    return WrittenDocuments(tmp_path / "blobs")


async def test_what_waits_together_is_one_commit(room: WrittenDocuments) -> None:
    async with room.running():
        room.want(AddCell("a"))
        room.want(SetKernel(status="busy"))
        await room.writer.flush()

    assert room.writer.commits == 1
    assert len(room.runtime.log) == 2


async def test_the_first_commit_is_at_once_and_the_next_an_interval_later(
    room: WrittenDocuments, autojump_clock: MockClock
) -> None:
    committed: list[float] = []
    at_once: Callable[[Transaction], None] = lambda tx: committed.append(trio.current_time())  # noqa: E731
    async with room.running():
        await trio.sleep(1)
        begin = trio.current_time()
        for number in range(3):
            room.want(AddCell(f"c{number}"))
            room.source.batch.notebook_writes.append(at_once)
            await trio.sleep(COMMIT_INTERVAL / 4)
        await room.writer.flush()

    assert committed == pytest.approx([begin, begin + COMMIT_INTERVAL * 3 / 4, begin + COMMIT_INTERVAL * 3 / 4])


async def test_somebody_who_waits_cuts_the_interval(room: WrittenDocuments, autojump_clock: MockClock) -> None:
    async with room.running():
        room.want(AddCell("a"))
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        room.want(AddCell("b"), urgency=Urgency.URGENT)
        await wait_all_tasks_blocked()
        assert room.writer.commits == 2
        assert trio.current_time() == begin


async def test_what_nobody_waits_for_goes_with_the_next_or_after_one_interval(
    room: WrittenDocuments, autojump_clock: MockClock
) -> None:
    async with room.running():
        await trio.sleep(1)
        room.want(AddCell("a"), urgency=Urgency.LAZY)
        await wait_all_tasks_blocked()
        assert room.writer.commits == 0
        await trio.sleep(COMMIT_INTERVAL * 1.1)
        assert room.writer.commits == 1


async def test_a_step_that_committed_nothing_delays_nothing(room: WrittenDocuments, autojump_clock: MockClock) -> None:
    async with room.running():
        await trio.sleep(1)
        room.writer.wake(Urgency.URGENT)
        await wait_all_tasks_blocked()
        room.want(AddCell("a"))
        await wait_all_tasks_blocked()
        assert room.writer.commits == 1


async def test_notices_keep_their_order_and_carry_the_heads_of_their_commit(room: WrittenDocuments) -> None:
    async with room.running():
        room.want(AddCell("a"))
        room.say("first", cells=True)
        room.respond(7)
        room.say("second")
        await room.writer.flush()

    first, answer, second = room.peer.messages
    heads = [head.hex() for head in room.runtime.published_heads()]
    assert [first["method"], answer["id"], second["method"]] == ["first", 7, "second"]
    assert (first["params"]["seq"], second["params"]["seq"]) == (1, 2)
    assert first["params"]["heads"] == answer["result"]["heads"] == heads
    assert first["params"]["notebook_heads"] == [head.hex() for head in room.notebook.published_heads()]
    assert [notice.request_id for notice in room.peer.notices] == [None, 7, None]
    assert room.peer.notices[0].requires == ((room.runtime.id, 2), (room.notebook.id, 1))


async def test_what_comes_while_blobs_are_stored_is_spoken_of_after_its_own_commit(room: WrittenDocuments) -> None:
    room.blobs.may_store = trio.Event()
    async with room.running():
        room.want(AddCell("a"), room.output("x" * 5_000))
        await wait_all_tasks_blocked()
        published = room.runtime.published
        room.want(AddCell("b"))
        room.respond(1)
        await wait_all_tasks_blocked()
        assert room.peer.notices == []
        room.blobs.may_store.set()
        await room.writer.flush()

    assert room.peer.notices[0].requires == ((room.runtime.id, published + 2),)
    assert read_cell(room.runtime.replica, "b") is not None


async def test_flush_during_a_step_waits_for_the_next_one(room: WrittenDocuments) -> None:
    room.blobs.may_store = trio.Event()
    async with room.running():
        room.want(AddCell("a"), room.output("x" * 5_000))
        await wait_all_tasks_blocked()
        room.want(AddCell("b"), urgency=Urgency.LAZY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.writer.flush)
            await wait_all_tasks_blocked()
            room.blobs.may_store.set()
        assert read_cell(room.runtime.replica, "b", room.runtime.published_heads()) is not None


async def test_what_a_file_holds_counts_as_changed_when_it_is_published(room: WrittenDocuments) -> None:
    room.blobs.may_store = trio.Event()
    async with room.running():
        room.source.batch.changes_file = True
        room.want(AddCell("a"), room.output("x" * 5_000))
        await wait_all_tasks_blocked()
        assert room.writer.file_changes == 0, "or a save now would pass for one of the new state"
        room.blobs.may_store.set()
        await room.writer.flush()
        assert room.writer.file_changes == 1


async def test_a_full_disk_costs_the_output_and_not_the_room(room: WrittenDocuments) -> None:
    async with room.running():
        room.blobs.error = BlobStoreError("No space left on device")
        room.want(AddCell("a"), room.output("x" * 5_000))
        await room.writer.flush()
        room.blobs.error = None
        room.want(AddCell("b"))
        await room.writer.flush()

    cell = read_cell(room.runtime.replica, "a")
    assert cell is not None
    assert "could not be stored: No space left" in cell["outputs"][0]["data"]["text/plain"]
    assert read_cell(room.runtime.replica, "b") is not None
    assert room.writer.unstored == 1


async def test_peers_changes_are_committed_and_published_in_one_step(room: WrittenDocuments) -> None:
    change = room.edit()
    async with room.running():
        await room.submit(change)
        await room.writer.flush()

    assert room.notebook.published_heads() == (change.hash,)
    assert room.source.changed == [{"mine"}]


async def test_thousands_of_new_cells_leave_turns_to_others_and_are_published_together(
    room: WrittenDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.turns.TURN_SECONDS", 0.0)
    begin = len(room.runtime.log)
    published: list[int] = []

    async def look() -> None:
        while len(room.runtime.log) < begin + 3:
            published.append(room.runtime.published)
            await trio.lowlevel.checkpoint()

    async with room.running(), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        room.want(*(AddCell(f"c{number}") for number in range(2 * NEW_ENTRIES_AT_ONCE + 1)))
        room.say("all are there", cells=True)
        nursery.start_soon(look)
        await room.writer.flush()

    assert room.writer.commits == 3
    assert set(published) == {begin}
    assert len(published) >= 2, "others had their turn between them"
    assert room.peer.notices[0].requires[0] == (room.runtime.id, begin + 3)


async def test_a_succession_that_begins_between_the_commits_of_one_step_lacks_nothing(
    room: WrittenDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.turns.TURN_SECONDS", 0.0)
    begin = len(room.runtime.log)
    first, commit = trio.Event(), room.runtime.commit
    monkeypatch.setattr(room.runtime, "commit", lambda write: (commit(write), first.set())[0])
    async with room.running():
        await wait_all_tasks_blocked()
        room.want(*(AddCell(f"c{number}", number) for number in range(3 * NEW_ENTRIES_AT_ONCE)))
        await first.wait()
        assert begin < len(room.runtime.log) < begin + 3
        succession = room.writer.begin_succession(b"s" * 16)
        await room.writer.flush()
        succession.catch_up()

    old, new = (read_runtime(document.replica) for document in (room.runtime, succession.document))
    assert len(new["cells"]) == 3 * NEW_ENTRIES_AT_ONCE
    assert new == old


async def test_a_peer_that_sends_more_than_can_be_taken_waits(room: WrittenDocuments) -> None:
    change = room.edit()
    for _ in range(MAX_PENDING_CHANGES):
        await room.submit(change)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.submit, change)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        async with room.running():
            await room.writer.flush()
            await wait_all_tasks_blocked()
            assert not nursery.child_tasks


async def test_changes_taken_waits_for_those_before_it_alone(room: WrittenDocuments) -> None:
    async with room.running():
        drained = room.source.drained
        await room.writer.changes_taken()
        assert room.source.drained == drained, "nothing was to be waited for"
        change = room.edit()
        await room.submit(change)
        await room.writer.changes_taken()
        assert change.hash in room.notebook.log


async def test_a_flood_of_changes_lets_the_rest_have_its_turn(
    room: WrittenDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.writer.CHANGES_SECONDS", 0.0)
    first, second = room.edit("one"), room.edit("two")
    await room.submit(first)
    await room.submit(second)
    room.want(AddCell("a"))
    async with room.running():
        await room.writer.flush()
        assert (first.hash in room.notebook.log, second.hash in room.notebook.log) == (True, False)
        assert room.writer.commits == 1
        await room.writer.changes_taken()
        assert second.hash in room.notebook.log


async def test_whoever_waits_for_heads_goes_on_when_they_are_there(room: WrittenDocuments) -> None:
    change = room.edit()
    async with room.running(), trio.open_nursery() as nursery:
        nursery.start_soon(room.writer.heads.wait, (change.hash,), room.peer)
        await wait_all_tasks_blocked()
        assert room.writer.heads.missing((change.hash,)) == [change.hash.hex()]
        await room.submit(change)


async def test_a_cancelled_wait_for_heads_leaves_nothing_behind(
    room: WrittenDocuments, autojump_clock: MockClock
) -> None:
    async with room.running():
        for _ in range(3):
            with trio.move_on_after(1):
                await room.writer.heads.wait((b"u" * 32,), room.peer)
        assert room.writer.heads._waiters == []


async def test_heads_that_were_refused_are_not_waited_for(room: WrittenDocuments) -> None:
    one = room.edit("one")
    room.replica = core.Document.load(room.notebook.replica.save())
    room.replica.set_actor(one.actor)
    again, other = room.edit("again"), RecordingRecipient("other")
    async with room.running(), trio.open_nursery() as nursery:
        await room.submit(one)
        nursery.start_soon(_refused, room, again.hash, other)
        await wait_all_tasks_blocked()
        await room.submit(again)
        await room.writer.flush()
        assert len(room.peer.refused) == 1
        # One that may not write is not waited for, whatever it names.
        await _refused(room, b"u" * 32, room.peer)


async def _refused(room: WrittenDocuments, change_hash: bytes, peer: RecordingRecipient) -> None:
    with pytest.raises(HeadsRefused):
        await room.writer.heads.wait((change_hash,), peer)


async def _ended(wait: Any, *args: Any) -> None:
    with pytest.raises(WriterEnded):
        await wait(*args)


async def test_when_it_ends_all_waits_end_and_its_requests_are_refused(room: WrittenDocuments) -> None:
    change = room.edit()
    room.blobs.may_store = trio.Event()
    async with trio.open_nursery() as waiting, room.running():
        room.want(AddCell("a"), room.output("x" * 5_000))
        room.respond(1)
        await wait_all_tasks_blocked()
        room.respond(2)
        for _ in range(MAX_PENDING_CHANGES):
            await room.submit(change)
        waiting.start_soon(_ended, room.writer.flush)
        waiting.start_soon(_ended, room.writer.changes_taken)
        waiting.start_soon(_ended, room.writer.heads.wait, (b"u" * 32,), room.peer)
        waiting.start_soon(room.submit, change)
        await wait_all_tasks_blocked()

    assert room.peer.errors == [(1, "shutting_down"), (2, "shutting_down")]
    assert room.peer.notices == []


async def test_after_its_end_nothing_waits(room: WrittenDocuments) -> None:
    async with room.running():
        await room.writer.flush()
    await _ended(room.writer.flush)
    await _ended(room.writer.heads.wait, (b"u" * 32,), room.peer)
    for _ in range(MAX_PENDING_CHANGES + 1):
        await room.submit(room.edit(f"{_}"))


async def test_a_fault_in_a_commit_ends_the_writer_and_releases_those_who_wait(room: WrittenDocuments) -> None:
    def fail(tx: Transaction) -> None:
        raise ZeroDivisionError

    room.source.batch.notebook_writes.append(fail)
    room.respond(1)
    async with trio.open_nursery() as waiting:
        waiting.start_soon(_ended, room.writer.flush)
        with pytest.raises(ZeroDivisionError):
            await room.writer.run()
    assert room.peer.errors == [(1, "shutting_down")]
    assert room.notebook.replica.heads() == room.notebook.published_heads()
