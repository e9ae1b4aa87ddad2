"""A runtime document whose history has grown too long gives way to one without, in a room without a kernel."""

import weakref
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from daemon import rolling_over
from daemon.kernel_life import KernelSupervisor
from daemon.rolling_over import MAX_SERVED, SERVED_SECONDS
from daemon.room import Room
from sync.core.binding import ROOT
from sync.core.document import Document
from sync.core.frames import DocUnavailable, Ephemeral, decode_data
from sync.core.mutations import AppendOutput, ClearOutputs, KernelStatus, SetKernel, Target
from sync.core.notebook_schema import NotebookSchema
from sync.core.outputs import DisplayOutput
from sync.core.plain import read_string
from sync.core.runtime_reading import read_runtime
from sync.core.succession import Succession
from sync.core.urgency import Urgency
from tests.fakes.hub_in_memory import Running, running

MOST = 400
CELL = Target("cell", "a")
BUSY: KernelStatus = "busy"


@pytest.fixture(autouse=True)
def short_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSupervisor, "launch_in_background", lambda self: None)
    monkeypatch.setattr(rolling_over, "MIN_OPERATIONS", MOST)
    monkeypatch.setattr(rolling_over, "give_back", trio.lowlevel.checkpoint)  # a clock that jumps waits for no thread


async def show(room: Room, number: int) -> None:
    """An output in the place of the last one: some 20 operations of history, and as much content as before."""
    output = DisplayOutput(f"o{number}", "display_data", {"text/plain": str(number)}, {})
    room.runtime.mutate([ClearOutputs(CELL), AppendOutput(CELL, output), SetKernel(status=BUSY)], Urgency.URGENT)
    await room.writer.flush()


async def outgrow(room: Room) -> Document:
    """Shows outputs until another document is written; returns the old one."""
    old = room.runtime_document
    number = 0
    while room.runtime_document is old:
        await show(room, number)
        number += 1
    await wait_all_tasks_blocked()
    return old


def rebuilt(document: Document) -> dict[str, Any]:
    """What a peer has that got every change."""
    copy = Document(document.id)
    copy.replica.apply([document.log.payload(0, document.published)])
    return read_runtime(copy.replica)


async def test_the_next_commit_is_in_a_document_with_the_same_content_and_no_history(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        room.writer.file_changes += 1  # as a kernel's output does
        with capture_logs() as logs:
            old = await outgrow(room)
        new = room.runtime_document

        before, after = rebuilt(old), rebuilt(new)
        assert old.operations > MOST > new.operations
        assert before.pop("successor") == new.url
        saved = after["file"].pop("saved_notebook_heads")
        assert before["file"].pop("saved_notebook_heads") != saved == [h.hex() for h in room.notebook.published_heads()]
        [[shown]] = [entry.pop("outputs") for entry in after["cells"].values()]
        [[last]] = [entry.pop("outputs") for entry in before["cells"].values()]
        assert int(shown["data"]["text/plain"]) >= int(last["data"]["text/plain"])
        assert before == after
        assert read_string(room.notebook.replica, ROOT, "runtime") == new.url
        assert [line["event"] for line in logs if line["log_level"] == "info"] == ["runtime document replaced"]
        # It is no change of the notebook that its file would not have.
        assert room.file.changed, "by its outputs"
        assert not room.file.edited, "by people"
        await show(room, 1_000_000)
        [entry] = rebuilt(new)["cells"].values()
        assert [output["data"]["text/plain"] for output in entry["outputs"]] == ["1000000"]


async def test_a_file_that_was_up_to_date_stays_so(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        before = (tmp_path / "a.ipynb").read_bytes()
        old = room.runtime_document
        while room.runtime_document is old:
            room.runtime.mutate([SetKernel(status=BUSY, name=str(len(old.log)))], Urgency.URGENT)
            await room.writer.flush()
        assert not room.file.changed
        await daemon.hub.close_notebook(room.id)
        assert (tmp_path / "a.ipynb").read_bytes() == before


async def test_events_go_on_and_speak_of_the_new_document(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        room.runtime.emit("comm_custom", {"number": 0})
        await show(room, 0)
        old = await outgrow(room)
        room.runtime.emit("comm_custom", {"number": 1})
        asked = client.ask(room, "barrier")
        await show(room, 1)
        await wait_all_tasks_blocked()

        def events() -> list[dict[str, Any]]:
            heard = [cast("dict[str, Any]", decode_data(frame.data)) for frame in client.socket.of(Ephemeral)]
            return [message["params"] for message in heard if "params" in message]

        assert [event["number"] for event in events()] == [0]
        assert client.answers == {}
        # It comes once the peer holds the document that it speaks of.
        client.sync(room.runtime_document, heads=())
        await wait_all_tasks_blocked()
        client.sync(room.runtime_document)
        await client.answered(asked)
        first, second = events()
        assert (first["runtime"], second["runtime"]) == (old.id, room.runtime_document.id)
        assert (first["seq"] + 1, first["epoch"]) == (second["seq"], second["epoch"])


async def test_the_old_document_is_served_for_ten_minutes(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        early = await daemon.connect(room)
        old = await outgrow(room)
        assert await finds(daemon, old)
        replica = weakref.ref(old.replica)
        await trio.sleep(SERVED_SECONDS - 1)
        assert await finds(daemon, old)
        await trio.sleep(2)
        assert not await finds(daemon, old)
        assert [frame.document_id for frame in early.socket.of(DocUnavailable)] == [old.id]
        assert room.replaced == []
        assert replica() is None
        assert await finds(daemon, room.runtime_document)


async def finds(daemon: Running, document: Document) -> bool:
    """Whether a peer that comes now gets the document."""
    client = await daemon.connect()
    client.sync(document, heads=())
    await wait_all_tasks_blocked()
    found = document.id not in [frame.document_id for frame in client.socket.of(DocUnavailable)]
    client.socket.leave()
    return found


async def test_of_many_replaced_documents_the_oldest_go_earlier(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        olds = [await outgrow(room) for _ in range(MAX_SERVED + 2)]
        await wait_all_tasks_blocked()
        assert room.replaced == olds[2:]
        assert [await finds(daemon, old) for old in olds] == [False] * 2 + [True] * MAX_SERVED
        await trio.sleep(SERVED_SECONDS + 1)
        assert room.replaced == []


async def test_an_answer_about_a_document_that_is_gone_is_an_error(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A peer that was told the old document's name and synced it, but has not taken what the answer speaks of."""
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client = await daemon.connect(room)
        client.socket.reads = trio.Event()
        await show(room, 1)  # is being written; what comes now stands behind it
        await wait_all_tasks_blocked()
        await show(room, 2)
        asked = client.ask(room, "barrier")
        await wait_all_tasks_blocked()
        old = await outgrow(room)
        room.retire(old)
        client.socket.reads.set()
        await client.answered(asked)
        assert client.answers == {asked: "timeout"}


async def test_a_copy_that_fails_leaves_the_room_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        first = room.runtime_document
        with monkeypatch.context() as broken, capture_logs() as logs:
            broken.setattr(Succession, "catch_up", lambda *_: 1 / 0)
            for number in range(2 * MOST):
                await show(room, number)
                if any(line["log_level"] == "error" for line in logs):
                    break
        assert [line["event"] for line in logs] == ["a roll-over failed"]
        assert room.runtime_document is first
        size = first.operations
        old = await outgrow(room)
        assert old is first
        assert old.operations > 2 * size
        assert NotebookSchema.cell_ids(room.notebook.replica) == ["a"]
        assert NotebookSchema.read_cell_type(room.notebook.replica, "a") == "code"


async def test_what_fails_behind_the_step_itself_does_not_keep_the_old_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        with monkeypatch.context() as broken, capture_logs() as logs:
            broken.setattr(room.past_widgets, "entries", fail)
            old = await outgrow(room)
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["a roll-over failed"]
        assert room.replaced == [old]
        await trio.sleep(SERVED_SECONDS + 1)
        assert room.replaced == []
        assert await outgrow(room) is not old


async def test_what_is_committed_while_the_copy_is_made_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling_over, "TURN_SECONDS", 1e-6)  # one mutation a slice, until it gives up its patience
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        shown: list[int] = []
        shown_before: list[int] = []
        begin = room.writer.begin_succession
        monkeypatch.setattr(
            room.writer, "begin_succession", lambda raw: (shown_before.append(len(shown)), begin(raw))[1]
        )
        old = room.runtime_document
        while room.runtime_document is old:
            shown.append(len(shown))
            await show(room, shown[-1])

        assert len(shown) - shown_before[0] > 10
        [entry] = rebuilt(room.runtime_document)["cells"].values()
        assert [output["data"]["text/plain"] for output in entry["outputs"]] == [str(shown[-1])]
