"""Rooms of a hub and the requests that peers make of them, without a kernel: what ends, and what must not end with it."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import trio
from automerge import core
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from daemon.http_app import ApiError
from daemon.kernel_life import KernelSupervisor
from daemon.room import Room, timestamp
from sync.blobs import BlobStoreError
from sync.core.binding import Kind, ObjId, Replica, Transaction
from sync.core.document import Document
from sync.core.frames import DocUnavailable, Ephemeral, ErrorFrame, Sync, decode_data
from sync.core.limits import MAX_REQUESTS_IN_FLIGHT
from sync.core.notebook_schema import NotebookSchema
from sync.core.runtime_reading import read_cell
from sync.core.sync_message import decode_sync_message
from tests.fakes.editor import Editor
from tests.fakes.hub_in_memory import CELLS, running
from tests.fakes.unsound import let_it_in, make_unsound

UNKNOWN_HEADS = ["ab" * 32]


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSupervisor, "launch_in_background", lambda self: None)


def edit_source(room: Room, cell_id: str, text: str) -> tuple[bytes, tuple[bytes, ...]]:
    """A peer's change that appends to a cell's source, and the heads after it."""
    replica = Replica()
    replica.apply([room.notebook.log.payload(0, len(room.notebook.log))])
    before = replica.heads()
    _, cells = cast("Any", replica.get(core.ROOT, "cells"))
    _, cell = cast("Any", replica.get(cells, cell_id))
    _, source = cast("Any", replica.get(cell, "source"))
    with replica.transaction() as tx:
        for index, character in enumerate(text):
            tx.insert(source, 1 + index, core.ScalarType.Str, character)
    [change] = replica.changes_since(before)
    return change.bytes, replica.heads()


def fail_in_writer(room: Room) -> None:
    def fail(transaction: object) -> None:
        raise ZeroDivisionError

    room.runtime.write_notebook(cast("Callable[[Any], None]", fail))


async def test_a_closed_room_gives_its_documents_back_without_the_garbage_collector(tmp_path: Path) -> None:
    """What they take is mostly the core's, which the collector does not see; it may not look for hours."""
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        change, heads = edit_source(room, "a", "2" * 1000)
        client.sync(room.notebook, change, heads=heads)
        await wait_all_tasks_blocked()
        replicas = [weakref.ref(document.replica) for _, document in room.documents]
        changes = [weakref.ref(document.log) for _, document in room.documents]
        gc.collect()
        gc.disable()
        try:
            await daemon.hub.close_notebook(room.id)
            assert [replica() for replica in replicas] == [None, None]
            assert [len(log() or ()) for log in changes] == [0, 0]
        finally:
            gc.enable()


async def test_a_room_that_fails_answers_who_waits_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        failing, other = await daemon.open("a.ipynb"), await daemon.open("b.ipynb")
        client = await daemon.connect(failing, other)
        waiting = client.ask(failing, "execute_cell", cell_id="x", notebook_heads=UNKNOWN_HEADS)
        behind = client.ask(failing, "barrier")
        await wait_all_tasks_blocked()
        assert client.answers == {}

        with capture_logs() as logs:
            fail_in_writer(failing)
            await client.answered(waiting, behind)
            await client.socket.until(lambda: len(client.socket.of(DocUnavailable)) == 2)

        assert client.answers[waiting] == "shutting_down"
        assert client.answers[behind] in ("shutting_down", "not_found")
        assert {frame.document_id for frame in client.socket.of(DocUnavailable)} == {
            failing.notebook.id,
            failing.runtime_document.id,
        }
        assert [entry["room"] for entry in logs if entry["event"] == "room failed"] == [failing.id]
        alive = client.ask(other, "barrier")
        await client.answered(alive)
        assert client.answers[alive] == "ok"
        assert [info.id for info in daemon.hub.notebooks()] == [other.id]


async def test_a_peer_that_sends_changes_to_a_failed_room_is_read_on(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        failing, other = await daemon.open("a.ipynb"), await daemon.open("b.ipynb")
        client = await daemon.connect(failing, other)
        change, _ = edit_source(failing, "a", "2")
        fail_in_writer(failing)
        for _ in range(200):
            client.sync(failing.notebook, change)
        alive = client.ask(other, "barrier")
        await client.answered(alive)


async def test_a_cell_runs_as_its_peer_just_edited_it(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        change, heads = edit_source(room, "a", "23")
        client.sync(room.notebook, change, heads=heads)
        await client.answered(client.ask(room, "execute_cell", cell_id="a"))
        assert [execution.code for execution in room.runtime.queue.queued] == ["123"]


async def test_notifications_have_places_as_requests_do(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        room = await daemon.open()
        client = await daemon.connect(room)
        params = {"cell_id": "x", "notebook_heads": UNKNOWN_HEADS}
        for _ in range(2 * MAX_REQUESTS_IN_FLIGHT):
            client.say(room, {"jsonrpc": "2.0", "method": "execute_cell", "params": params})
        too_many = client.ask(room, "barrier")
        await client.answered(too_many)
        assert client.answers == {too_many: "too_many_requests"}
        assert len(client.connection.in_flight) == MAX_REQUESTS_IN_FLIGHT
        [told] = client.socket.of(ErrorFrame)
        assert "notifications" in told.message


async def test_a_place_is_free_when_its_request_is_answered_and_not_before(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        room = await daemon.open()
        client = await daemon.connect(room)
        waiting = client.ask(room, "execute_cell", cell_id="x", notebook_heads=UNKNOWN_HEADS)
        # A bad request with the same id is answered with an error, which answers the first one to nobody but the peer.
        client.say(room, {"jsonrpc": "1.0", "id": waiting, "method": "barrier"})
        await client.answered(waiting)
        assert client.answers == {waiting: "invalid_request"}
        assert client.connection.in_flight == {waiting}
        client.say(room, {"jsonrpc": "2.0", "method": "barrier", "params": {}})
        await wait_all_tasks_blocked()
        assert len(client.connection.in_flight) == 2, "in order behind the first"


async def test_a_repeat_is_not_taken_again(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        for _ in range(3):
            client.ask(room, "execute_cell", request_id=1, cell_id="a")
        await client.answered(1)
        await wait_all_tasks_blocked()
        assert len(room.runtime.queue.queued) == 1
        assert client.connection.in_flight == set()


async def test_a_peer_that_leaves_takes_its_waiting_requests_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        await client.answered(client.ask(room, "execute_cell", cell_id="a"))
        client.ask(room, "execute_cell", cell_id="a", notebook_heads=UNKNOWN_HEADS)
        await wait_all_tasks_blocked()
        client.socket.leave()
        await wait_all_tasks_blocked()
        assert len(room.runtime.queue.queued) == 1
        assert room.writer.heads._waiters == []
        assert daemon.hub.connections == set()


async def test_heads_that_never_come_time_out(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as daemon:
        room = await daemon.open()
        client = await daemon.connect(room)
        await client.answered(client.ask(room, "run_all_cells", notebook_heads=UNKNOWN_HEADS))
        assert client.answers == {1: "heads_timeout"}
        assert room.writer.heads._waiters == []


async def test_a_room_that_closes_takes_no_requests_and_ends_what_it_had(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        queued = client.ask(room, "execute_cell", cell_id="a")
        await client.answered(queued)
        waiting = client.ask(room, "execute_cell", cell_id="a", notebook_heads=UNKNOWN_HEADS)
        await wait_all_tasks_blocked()
        closing = trio.Event()
        original = room.kernels.close

        async def slowly() -> None:
            await closing.wait()
            await original()

        room.kernels.close = slowly  # type: ignore[method-assign]  # a kernel that takes its time
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.hub.close_notebook, room.id)
            await wait_all_tasks_blocked()
            late = client.ask(room, "execute_cell", cell_id="a")
            await client.answered(waiting, late)
            assert client.answers == {queued: "ok", waiting: "shutting_down", late: "shutting_down"}
            done = [cast("Any", decode_data(frame.data)) for frame in client.socket.of(Ephemeral)]
            assert [e["params"]["status"] for e in done if e.get("method") == "execution_done"] == ["cancelled"]
            closing.set()
        await client.socket.until(lambda: len(client.socket.of(DocUnavailable)) == 2)


async def test_a_notebook_that_is_being_closed_opens_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        room = await daemon.open()
        closing = trio.Event()

        async def slowly() -> None:
            closing.set()
            await wait_all_tasks_blocked()

        room.kernels.close = slowly  # type: ignore[method-assign]  # a kernel that takes its time
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.hub.close_notebook, room.id)
            await closing.wait()
            again = await daemon.open()
        assert again is not room
        assert room.closed
        assert daemon.hub.rooms == {again.notebook.id: again}


async def test_a_close_goes_on_when_whoever_asked_for_it_leaves(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        room = await daemon.open()
        with trio.CancelScope() as scope:
            scope.cancel()
            await daemon.hub.close_notebook(room.id)
        await room.ended.wait()
        assert daemon.hub.rooms == {}


async def test_a_file_that_can_not_be_saved_at_the_end_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("bad.ipynb")
        daemon.write("good.ipynb")
        bad, good = await daemon.open("bad.ipynb"), await daemon.open("good.ipynb")
        client = await daemon.connect(bad, good)
        for room in (bad, good):
            change, heads = edit_source(room, "a", "23")
            client.sync(room.notebook, change, heads=heads)
        await client.answered(client.ask(bad, "barrier"), client.ask(good, "barrier"))

        async def fail() -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(bad, "save", fail)
        await daemon.hub.close_all(save=True)

        assert daemon.hub.rooms == {}
        assert json.loads((tmp_path / "good.ipynb").read_text())["cells"][0]["source"] in ("123", ["123"])
        with pytest.raises(ApiError, match="ending"):
            await daemon.open("good.ipynb")


async def test_a_file_whose_outputs_could_not_be_stored_is_never_saved_over(tmp_path: Path) -> None:
    output = {"output_type": "display_data", "data": {"text/html": "x" * 5_000}, "metadata": {}}
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "outputs": [output]}])
        before = (tmp_path / "a.ipynb").read_bytes()
        daemon.blobs.error = BlobStoreError("No space left on device")
        room = await daemon.open()
        daemon.blobs.error = None
        client = await daemon.connect(room)
        save = client.ask(room, "save_notebook")
        await client.answered(save)

        assert client.answers == {save: "forbidden"}
        cell = read_cell(room.runtime_document.replica, "a")
        assert cell is not None
        assert "could not be stored" in cell["outputs"][0]["data"]["text/plain"]
        await daemon.hub.close_notebook(room.id)
        assert (tmp_path / "a.ipynb").read_bytes() == before


async def test_peers_have_the_last_state_before_their_document_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Document, "release", lambda self: None)  # its heads are looked at afterwards
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        await client.answered(client.ask(room, "execute_cell", cell_id="a"))
        client.socket.reads = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.hub.close_notebook, room.id)
            await wait_all_tasks_blocked()
            client.socket.reads.set()

        [*_, last] = [f for f in client.socket.of(Sync) if f.document_id == room.runtime_document.id]
        assert decode_sync_message(last.data).heads == room.runtime_document.published_heads()
        events = [cast("Any", decode_data(frame.data)) for frame in client.socket.of(Ephemeral)]
        assert [e["params"]["status"] for e in events if e.get("method") == "execution_done"] == ["cancelled"]


def random_edit(random: Random, tx: Transaction, cells: ObjId) -> None:
    cell_id = random.choice("abcdef")
    found = tx.get(cells, cell_id)
    is_map = found is not None and found[0] is Kind.MAP
    match random.randrange(8):
        case 0:
            tx.put_object(cells, cell_id, core.ObjType.Map)
        case 1 | 2:
            made = tx.put_object(cells, cell_id, core.ObjType.Map)
            tx.put(made, "cell_type", core.ScalarType.Str, random.choice(("code", "markdown")))
            tx.put_object(made, "metadata", core.ObjType.Map)
        case 3 | 4 if found is not None and is_map:
            tx.put(found[1], "cell_type", core.ScalarType.Str, random.choice(("code", "markdown", "raw")))
        case 5 if found is not None:
            tx.delete(cells, cell_id)
        case 6:
            tx.put(cells, cell_id, core.ScalarType.Int, 1)
        case _ if random.random() < 0.3:
            tx.put_object(core.ROOT, "cells", core.ObjType.Map)
        case _:
            tx.put(core.ROOT, "x", core.ScalarType.Int, random.randrange(10))


@pytest.mark.parametrize("seed", range(4))
async def test_the_room_follows_which_code_cells_there_are(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    kinds: set[int] = set()
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "id": cell_id} for cell_id in "abc"])
        room = await daemon.open()
        client, editor = await daemon.connect(room), Editor(room)
        for _ in range(60):
            editor.write(client, lambda tx: random_edit(random, tx, editor.cells))
            await wait_all_tasks_blocked()
            await room.writer.flush()
            editor.hear()
            code = {c.cell_id for c in NotebookSchema.read_cells(room.notebook.replica) if c.cell_type == "code"}
            shown = {cell_id for cell_id in room.runtime.cells if cell_id not in room.cells.gone}
            assert shown == code
            assert all(read_cell(room.runtime_document.replica, cell_id) is not None for cell_id in code)
            kinds.add(len(code))
        assert not client.socket.of(ErrorFrame)
    assert len(kinds) > 2


async def test_a_change_is_looked_at_and_not_the_whole_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    read = NotebookSchema.read_cell_type
    monkeypatch.setattr(
        NotebookSchema, "read_cell_type", lambda reader, cell_id: looked_at.append(cell_id) or read(reader, cell_id)
    )
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "id": f"c{number}"} for number in range(50)])
        room = await daemon.open()
        client, editor = await daemon.connect(room), Editor(room)
        cell = cast("Any", editor.replica.get(editor.cells, "c7"))[1]
        editor.write(client, lambda tx: tx.put(cell, "cell_type", core.ScalarType.Str, "raw"))
        await wait_all_tasks_blocked()
        await room.writer.flush()

    assert set(looked_at) == {"c7", "cell_type"}


async def test_what_a_big_change_takes_leaves_turns_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand cells in one change held the loop for a second, and an overwritten `cells` for 8 us a character."""
    monkeypatch.setattr("sync.turns.TURN_SECONDS", 0.0)
    turns = 0

    async def have_turns(until: Callable[[], bool]) -> None:
        nonlocal turns
        while not until():
            turns += 1
            await trio.lowlevel.checkpoint()

    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb", [{**CELLS[0], "source": "x" * 20_000}])
        room = await daemon.open()
        client, editor = await daemon.connect(room), Editor(room)

        def add(tx: Transaction) -> None:
            for number in range(5_000):
                tx.put_object(editor.cells, f"n{number}", core.ObjType.Map)

        editor.write(client, add)
        await have_turns(lambda: len(room.runtime.cells) == 5_001)
        assert turns > 5_000, "in the check, and for each cell"
        await room.writer.flush()
        assert room.runtime.cells == {"a", *(f"n{number}" for number in range(5_000))}

        turns = 0
        editor.hear()
        editor.write(client, lambda tx: tx.put_object(core.ROOT, "cells", core.ObjType.Map))
        overwritten = room.cells._cells_object
        await have_turns(lambda: room.cells._cells_object != overwritten)
        assert turns > 10, "while the source was written again"
        await room.writer.flush()
        assert NotebookSchema.read_source(room.notebook.replica, "a") == "x" * 20_000
        assert len(NotebookSchema.cell_ids(room.notebook.replica)) == 5_001


async def test_what_can_not_be_saved_is_taken_back_before_it_does_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the check of changes had a hole: the notebook goes on as it was seen, its log is sound, its peers are told."""
    let_it_in(monkeypatch)
    async with running(tmp_path) as hub:
        hub.write("a.ipynb")
        room = await hub.open()
        bystander, author = await hub.connect(room), await hub.connect(room)
        chunks = [room.notebook.log[n].chunk for n in range(len(room.notebook.log))]
        culprit = make_unsound(chunks, "metadata", "metadatb")
        author.sync(room.notebook, culprit.chunk, heads=(culprit.hash,))
        await wait_all_tasks_blocked()
        await room.writer.changes_taken()
        change, heads = edit_source(room, "a", " + 1")
        bystander.sync(room.notebook, change, heads=heads)
        await wait_all_tasks_blocked()
        await room.writer.changes_taken()
        assert room.notebook.heads() == heads, "one took it, and the other built on it"
        with pytest.raises(Exception, match="mismatching heads"):
            Replica.load(room.notebook.replica.save())

        room.notebook.wants_snapshot = True
        room.notebook.snapshot_wanted()  # as after 30 s, or when somebody joins
        await author.socket.until(lambda: author.socket.dropped)
        await bystander.socket.until(lambda: bystander.socket.dropped)

        assert ["what you wrote" in frame.message for frame in author.socket.of(ErrorFrame)] == [True]
        assert ["what somebody wrote" in frame.message for frame in bystander.socket.of(ErrorFrame)] == [True]
        assert Replica.load(room.notebook.replica.save()).heads() == room.notebook.heads()
        assert NotebookSchema.read_source(room.notebook.replica, "a") == "1 + 1", "what others wrote on top stays"
        saved = await room.save()
        assert saved["notebook_heads"] == [h.hex() for h in room.notebook.heads()]

        again = await hub.connect(room)
        again.sync(room.notebook, culprit.chunk + change, heads=heads)
        await again.socket.until(lambda: again.socket.of(ErrorFrame))
        assert "taken back" in again.socket.of(ErrorFrame)[0].message
        assert not again.socket.dropped
        assert again.ask(room, "barrier")
        await again.answered(1)
        assert again.answers == {1: "ok"}


def test_a_time_that_no_calendar_has_is_the_nearest_that_one_has() -> None:
    assert timestamp(0.0124) == "1970-01-01T00:00:00.012Z"
    assert timestamp(-1e18) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1e18) == "9999-12-31T23:59:59.000Z"
