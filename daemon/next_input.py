"""What a kernel wants to stand in a cell: `%load`, `get_ipython().set_next_input()`, in its reply to an execution.

As notebook pages do it: the text of `%load` takes the place of the line that asked for it, the rest becomes a cell below. A
cell that somebody has edited since it was executed is left alone.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import trio

from daemon.core.effects import NextInput
from sync.awaited_heads import WriterEnded
from sync.core.binding import Transaction
from sync.core.cell_order import place, read_order
from sync.core.limits import MAX_DOCUMENT_OPS, MAX_SKIPPED_OPS
from sync.core.notebook_schema import Cell, CellsInsertion, NotebookSchema
from sync.core.positions import RANDOM_SPACE, random_digits

if TYPE_CHECKING:
    from daemon.room import Room

# An execution has one, seldom two; what a kernel sends beside is no notebook.
MAX_WAITING = 16


class NextInputs:
    """For one room; those that wait are written one after the other, a long text in slices."""

    def __init__(self, room: "Room") -> None:
        self._room = room
        self._send, self._receive = trio.open_memory_channel[NextInput](MAX_WAITING)
        self._under_way = 0
        self._settled = trio.Event()

    def note(self, wanted: NextInput) -> bool:
        """False if too many wait: the kernel's reader must not."""
        try:
            self._send.send_nowait(wanted)
        except trio.WouldBlock:
            return False
        self._under_way += 1
        return True

    async def settled(self) -> None:
        """Returns once all of it stands in the notebook: half a text is not to be saved, or executed."""
        while self._under_way:
            await self._settled.wait()

    async def run(self) -> None:
        """Writes into the notebook what its kernel wants there. Runs until cancelled."""
        await self._room.file.loaded.wait()
        try:
            async for wanted in self._receive:
                await _write(self._room, wanted)
                self._under_way -= 1
                self._settled.set()
                self._settled = trio.Event()
        except WriterEnded:
            await trio.sleep_forever()  # the room is over, and cancels its tasks


async def _write(room: "Room", wanted: NextInput) -> None:
    replica = room.notebook.replica
    # Both what goes and what comes, and a cell around it.
    if room.notebook.operations + len(wanted.code) + len(wanted.text) + 100 > MAX_DOCUMENT_OPS - MAX_SKIPPED_OPS:
        room.runtime.trouble("the notebook has no room for what the kernel wants to stand in a cell")
        return
    cell = NotebookSchema.read_cell(replica, wanted.cell_id)
    if wanted.replace and cell is not None and cell.source == wanted.code:
        edit = NotebookSchema.source_edit(replica, wanted.cell_id, wanted.text)
        while edit is not None and not edit.done:
            await _commit(room, edit.write)
        return
    order = read_order(replica)
    above = next((index for index, placed in enumerate(order) if placed.cell_id == wanted.cell_id), len(order) - 1)
    position, moved = place(order, above + 1, lambda: random_digits(random.randrange(RANDOM_SPACE)))
    below = Cell(str(uuid4()), "code", position, wanted.text, {}, None)
    insertion = CellsInsertion([below])

    def begin(transaction: Transaction) -> None:
        for cell_id, fresh in moved:
            NotebookSchema.set_position(transaction, cell_id, fresh)
        insertion.write(transaction)

    await _commit(room, begin)
    room.cells.show(below.cell_id)
    while not insertion.done:
        await _commit(room, insertion.write)


async def _commit(room: "Room", write: Callable[[Transaction], object]) -> None:
    def slice_of_it(transaction: Transaction) -> None:
        write(transaction)

    room.runtime.write_notebook(slice_of_it)
    await room.writer.flush()
