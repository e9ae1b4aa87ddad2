"""Cells without a position that is well formed get one, when nobody edits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from daemon import rekeying
from daemon.rekeying import NEXT_SECONDS, QUIET_SECONDS, Rekeying
from daemon.room import Room
from sync.core.binding import ObjId, ObjType, ScalarType, Transaction
from sync.core.cell_order import read_order
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.notebook_schema import Cell, CellsInsertion, NotebookSchema
from sync.writer import COMMIT_INTERVAL
from tests.fakes.editor import Editor
from tests.fakes.hub_in_memory import running


def put_cells(editor: Editor, positions: dict[str, Any]) -> Any:
    def write(tx: Transaction) -> None:
        for cell_id, position in positions.items():
            cell = tx.put_object(editor.cells, cell_id, ObjType.Map)
            if position is not None:
                kind = ScalarType.Str if isinstance(position, str) else ScalarType.Int
                tx.put(cell, "position", kind, position)

    return write


async def pass_time(clock: MockClock, seconds: float = COMMIT_INTERVAL) -> None:
    clock.jump(seconds)
    await wait_all_tasks_blocked()
    clock.jump(COMMIT_INTERVAL)
    await wait_all_tasks_blocked()


def ill(room: Room) -> list[str]:
    return [cell.cell_id for cell in read_order(room.notebook.replica) if cell.position is None]


def source_of(editor: Editor, cell_id: str) -> ObjId:
    cell = cast("Any", editor.replica.get(editor.cells, cell_id))[1]
    return cast("ObjId", cast("Any", editor.replica.get(cell, "source"))[1])


async def test_it_waits_until_nobody_edits(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client, editor = await daemon.connect(room), Editor(room)
        editor.write(client, put_cells(editor, {"long": "1" * 65, "number": 7, "none": None}))
        editor.write(client, lambda tx: tx.put(editor.cells, "none at all", ScalarType.Int, 7))
        await pass_time(mock_clock)
        shown = [cell.cell_id for cell in read_order(room.notebook.replica)]
        assert ill(room) == shown[1:] == ["long", "none", "none at all", "number"]

        for _ in range(3):
            await pass_time(mock_clock, 0.9 * QUIET_SECONDS)
            assert len(ill(room)) == 4
            editor.write(client, lambda tx: tx.insert(source_of(editor, "a"), 0, ScalarType.Str, "x"))
            await pass_time(mock_clock)
        await pass_time(mock_clock, QUIET_SECONDS)
        assert ill(room) == ["none at all"]
        shown.sort(key="none at all".__eq__)
        assert [cell.cell_id for cell in read_order(room.notebook.replica)] == shown
        heads = room.notebook.heads()
        await pass_time(mock_clock, 10 * QUIET_SECONDS)
        assert room.notebook.heads() == heads, "once"


async def test_many_are_moved_a_few_at_a_time(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rekeying, "MAX_AT_ONCE", 10)
    async with running(tmp_path) as daemon:
        daemon.write("a.ipynb")
        room = await daemon.open()
        client, editor = await daemon.connect(room), Editor(room)
        before = len(room.notebook.log)
        editor.write(client, put_cells(editor, {f"c{number:02}": None for number in range(35)}))
        await pass_time(mock_clock)
        assert len(ill(room)) == 35
        await pass_time(mock_clock, QUIET_SECONDS)
        for left in (25, 15, 5, 0):
            assert len(ill(room)) == left
            await pass_time(mock_clock, NEXT_SECONDS)
        assert len(room.notebook.log) == before + 1 + 4


def test_a_position_that_a_peer_gives_meanwhile_stays() -> None:
    document = Document(document_id(b"n" * 16))
    document.commit(lambda tx: NotebookSchema.create(tx, runtime_url="automerge:r", metadata={}))
    document.commit(lambda tx: CellsInsertion([Cell("b", "code", None, "")]).write(tx))
    writes: list[Callable[[Transaction], None]] = []
    rekeying = Rekeying(document, writes.append)
    rekeying.look("b")
    rekeying.edited(0.0)
    rekeying.expire(QUIET_SECONDS)  # decided, and not yet written
    [write] = writes
    document.commit(lambda tx: NotebookSchema.set_position(tx, "b", "0001"))
    document.commit(write)
    assert read_order(document.replica) == [("b", "0001")]
