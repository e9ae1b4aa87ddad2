"""From a notebook file into the documents, in slices that peers can paint and that never hold the loop for long."""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import trio

from daemon.core.notebook_model import LoadedCell, LoadedNotebook
from daemon.core.saved_widgets import parse_widget_state, view_of
from sync.core.notebook_schema import Cell, CellsInsertion
from sync.core.positions import RANDOM_SPACE, random_digits, spread
from sync.core.urgency import Urgency
from sync.core.value_writing import encode_attachments

if TYPE_CHECKING:
    from daemon.room import Room

# A widget has some 30 operations, and 300 of them take a millisecond.
WIDGETS_AT_ONCE = 50


async def load_into(room: "Room", loaded: LoadedNotebook) -> None:
    """Writes the cells of a file into a room's documents, sources as text that merges, outputs as manifests.

    A slice is one commit of each document; between two of them everything else has its turn. Widgets come first, so that no
    output shows one that is not there.
    """
    shown = {comm_id for cell in loaded.cells for output in cell.outputs for comm_id in view_of(output)}
    state = loaded.widget_state or {}
    widgets = await trio.to_thread.run_sync(parse_widget_state, state, lambda: str(uuid4()), shown)
    models = state.get("state")
    left_out = len(models) - len(widgets) if isinstance(models, dict) else 0
    if left_out:
        line = f"{left_out} widgets of the file are not shown, and not saved again: too many, or none that can be read"
        room.runtime.widgets.trouble("file", line)
    for start in range(0, len(widgets), WIDGETS_AT_ONCE):
        room.runtime.load_widgets(widgets[start : start + WIDGETS_AT_ONCE])
        await room.writer.flush()
    positions = spread(len(loaded.cells), lambda: random_digits(random.randrange(RANDOM_SPACE)))
    prepared = []
    for cell, position in zip(loaded.cells, positions, strict=True):
        attachments, blobs = encode_attachments(cell.attachments)
        # The notebook document names them for as long as it lives.
        await room.blobs.put_all(blobs)
        prepared.append(Cell(cell.cell_id, cell.cell_type, position, cell.source, cell.metadata, attachments or None))

    def with_outputs() -> Iterator[Cell]:
        for cell, loaded_cell in zip(prepared, loaded.cells, strict=True):
            _show_outputs(room, loaded_cell)
            yield cell

    insertion = CellsInsertion(with_outputs())
    while not insertion.done:
        room.runtime.write_notebook(insertion.write, Urgency.URGENT)
        await room.writer.flush()


def _show_outputs(room: "Room", cell: LoadedCell) -> None:
    if cell.cell_type == "code":
        room.runtime.add_cell(cell.cell_id, cell.outputs, cell.execution_count)
