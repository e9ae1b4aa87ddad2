"""From the documents into a notebook file: one state of both, read in slices, written atomically."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from daemon.core.notebook_file import render_notebook
from daemon.core.notebook_model import SavedCell, SavedNotebook
from daemon.core.saved_widgets import render_widget_state
from daemon.files import FileChanged, write_atomic
from daemon.slices import in_slices
from daemon.widget_reading import read_widgets
from sync.blobs import BlobStoreError
from sync.core.binding import Replica
from sync.core.identifiers import Heads, heads_to_hex
from sync.core.mutations import SetFile
from sync.core.notebook_schema import Cell, NotebookSchema
from sync.core.runtime_reading import read_cell
from sync.core.urgency import Urgency
from sync.core.value_reading import blob_hashes, decode_attachments, decode_manifest

if TYPE_CHECKING:
    from daemon.room import Room


@dataclass(frozen=True, slots=True)
class RenderedNotebook:
    """The file's bytes, and which state (`Room.state`) of the notebook is in them."""

    data: bytes
    notebook_heads: Heads
    state: tuple[Heads, int]


async def render_room(room: "Room") -> RenderedNotebook:
    """The notebook as it is published now, as a file."""
    # The replicas as they are now: a runtime document that is replaced meanwhile has none any more.
    notebook, runtime = room.notebook.replica, room.runtime_document.replica
    notebook_heads, runtime_heads = room.notebook.published_heads(), room.runtime_document.published_heads()
    state = room.state
    metadata = NotebookSchema.read_metadata(notebook, notebook_heads)
    cells = NotebookSchema.in_order(await in_slices(NotebookSchema.iterate_cells(notebook, notebook_heads)))
    entries = await in_slices(_entry(runtime, cell, runtime_heads) for cell in cells)
    comms, blobs = await read_widgets(runtime, runtime_heads, room.past_widgets, entries, room.blobs)
    values = ([cell.attachments or {}, entry] for cell, entry in zip(cells, entries, strict=True))
    hashes = set().union(*await in_slices(set(blob_hashes(value)) for value in values))
    blobs |= await room.blobs.read_all(hashes - blobs.keys())
    data = await trio.to_thread.run_sync(_render, metadata, cells, entries, comms, blobs)
    return RenderedNotebook(data, notebook_heads, state)


def _entry(runtime: Replica, cell: Cell, heads: Heads) -> dict[str, Any]:
    return (read_cell(runtime, cell.cell_id, heads) or {}) if cell.cell_type == "code" else {}


async def save_notebook(room: "Room", path: Path) -> dict[str, Any]:
    """Writes the file and says so in the runtime document.

    Returns:
        {path, saved_at, notebook_heads}, for the answer to save_notebook.

    Raises:
        FileChanged: somebody else wrote the file since we last read or wrote it.
        OSError: the file could not be written; what stood there still does.
        BlobStoreError: an output could not be read.
    """
    async with room.saving:
        rendered = await render_room(room)
        own = path == room.path
        if own and room.load_error is not None:
            raise BlobStoreError(f"the notebook was not loaded whole: {room.load_error}")
        try:
            stamp = await write_atomic(path, rendered.data, expect=room.stamp if own else None)
        except FileChanged as changed:
            room.runtime.mutate([SetFile(status="conflict", error=changed.reason)])
            raise
        saved_at = room.timestamp()
        heads = heads_to_hex(rendered.notebook_heads)
        if own:
            room.stamp = stamp
            room.saved = rendered.state
            room.runtime.mutate(
                [SetFile(status="ready", saved_notebook_heads=tuple(heads), saved_at=saved_at)], Urgency.URGENT
            )
        return {"path": room.show(path), "saved_at": saved_at, "notebook_heads": heads}


def _render(
    metadata: dict[str, Any],
    cells: Sequence[Cell],
    entries: Sequence[Mapping[str, Any]],
    comms: Mapping[str, Mapping[str, Any]],
    blobs: Mapping[str, bytes],
) -> bytes:
    load = blobs.__getitem__
    saved = [
        SavedCell(
            cell_id=cell.cell_id,
            cell_type=cell.cell_type,
            source=cell.source,
            metadata=cell.metadata,
            attachments=decode_attachments(cell.attachments or {}, load),
            execution_count=entry.get("execution_count"),
            outputs=[decode_manifest(manifest, load) for manifest in entry.get("outputs", [])],
        )
        for cell, entry in zip(cells, entries, strict=True)
    ]
    widget_state = render_widget_state(comms, load)
    return render_notebook(SavedNotebook(metadata=metadata, cells=saved, widget_state=widget_state))
