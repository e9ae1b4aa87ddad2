"""From the documents into a notebook file: one state of both, read in slices, written atomically."""

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import trio

from daemon.core.kernel_metadata import with_kernel
from daemon.core.notebook_file import render_notebook
from daemon.core.notebook_model import InvalidNotebook, SavedCell, SavedNotebook
from daemon.core.saved_widgets import render_widget_state
from daemon.file_state import State
from daemon.files import FileChanged, FileUnreadable, FileUnwritable, same_version, write_atomic
from daemon.slices import in_slices
from daemon.widget_reading import read_widgets
from kernel_bridge import KernelSpec
from kernel_bridge.core.messages import KernelInfoReply
from sync.blobs import BlobMissing, BlobStoreError
from sync.core.binding import Replica
from sync.core.identifiers import Heads, heads_to_hex
from sync.core.mutations import FileStatus
from sync.core.notebook_schema import Cell, NotebookSchema
from sync.core.runtime_reading import read_cell
from sync.core.value_reading import InvalidValue, Load, blob_hashes, decode_attachments, decode_manifest

if TYPE_CHECKING:
    from daemon.room import Room


Outputs: TypeAlias = Literal["all", "readable", "none"]
SaveRefusal: TypeAlias = Literal["conflict", "not_found", "forbidden", "internal"]

# What the disk says, and what the file is by that. What passes (no space left) makes it nothing.
_STATUS: Final[Mapping[int | None, FileStatus]] = {
    errno.ENOENT: "missing",  # its folder, that is: a file would be made
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
    errno.EROFS: "read_only",
}
_NO_FILE: Final = frozenset({errno.EISDIR, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class RenderedNotebook:
    """The file's bytes, and which state (`FileState.state`) of the notebook is in them."""

    data: bytes
    notebook_heads: Heads
    state: State


class NotSaved(Exception):
    """The notebook was not written, and what stands in the file still does: `reason` for programs, `message` for people.

    `rendered` is what would have been written, if it came so far.
    """

    def __init__(self, reason: SaveRefusal, message: str, rendered: RenderedNotebook | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.rendered = rendered


async def render_room(room: "Room", outputs: Outputs = "all") -> RenderedNotebook:
    """The notebook as it is published now, as a file.

    Args:
        outputs: "readable" puts a line in the place of one that can't be read, and leaves out such attachments and widgets;
            "none" leaves out all of them.

    Raises:
        BlobStoreError: an output could not be read, and all are wanted.
        InvalidNotebook: it can't be written as a valid file.
    """
    # The replicas as they are now: a runtime document that is replaced meanwhile has none any more.
    notebook, runtime = room.notebook.replica, room.runtime_document.replica
    notebook_heads, runtime_heads = room.notebook.published_heads(), room.runtime_document.published_heads()
    state = room.file.state
    metadata = partial(_metadata, NotebookSchema.read_metadata(notebook, notebook_heads), room.kernels.ran)
    cells = NotebookSchema.in_order(await in_slices(NotebookSchema.iterate_cells(notebook, notebook_heads)))
    if outputs == "none":
        bare = [replace(cell, attachments=None) for cell in cells]
        data = await trio.to_thread.run_sync(_render, metadata, bare, [{}] * len(bare), {}, {}, outputs)
        return RenderedNotebook(data, notebook_heads, state)
    entries = await in_slices(_entry(runtime, cell, runtime_heads) for cell in cells)
    read = partial(room.blobs.read_all, lenient=outputs == "readable")
    comms, blobs = await read_widgets(runtime, runtime_heads, room.past_widgets, entries, read)
    values = ([cell.attachments or {}, entry] for cell, entry in zip(cells, entries, strict=True))
    hashes = set().union(*await in_slices(set(blob_hashes(value)) for value in values))
    blobs |= await read(hashes - blobs.keys())
    data = await trio.to_thread.run_sync(_render, metadata, cells, entries, comms, blobs, outputs)
    return RenderedNotebook(data, notebook_heads, state)


def _entry(runtime: Replica, cell: Cell, heads: Heads) -> dict[str, Any]:
    return (read_cell(runtime, cell.cell_id, heads) or {}) if cell.cell_type == "code" else {}


async def save_notebook(room: "Room", path: Path) -> dict[str, Any]:
    """Writes the file and says so in the runtime document.

    Args:
        path: the room's own file, or another one: whatever stands there is replaced, unless it is open here as well.

    Returns:
        {path, saved_at, notebook_heads}, for the answer to save_notebook.

    Raises:
        NotSaved: somebody else wrote the room's file, it can't be written, an output can't be read, ...
    """
    async with room.saving:
        if room.closed:  # its documents are empty
            raise NotSaved("internal", "the notebook was closed before it was its turn")
        rendered = None
        try:
            rendered = await render_room(room)
            if path == room.path:
                await _write_own(room, rendered)
            else:
                async with room.reserve(path):
                    version = await write_atomic(path, rendered.data)
                room.file.note_copied(path, version, rendered.state)
        except (OSError, BlobStoreError, InvalidNotebook) as error:
            raise NotSaved(*_reason(error), rendered) from error
        saved_at = room.timestamp()
        heads = heads_to_hex(room.file.as_now(rendered.state)[0])
        if path == room.path:
            room.file.tell_saved(heads, saved_at)
        return {"path": room.show(path), "saved_at": saved_at, "notebook_heads": heads}


async def _write_own(room: "Room", rendered: RenderedNotebook) -> None:
    if room.file.load_error is not None:
        raise FileUnwritable(errno.EPERM, f"the notebook was not loaded whole: {room.file.load_error}", str(room.path))
    try:
        room.file.version = await write_atomic(room.path, rendered.data, expect=room.file.version)
    except FileUnwritable as error:
        status = "conflict" if isinstance(error, FileChanged) else _STATUS.get(error.errno)
        if status is not None:
            room.file.tell(status, error.reason)
        raise
    room.file.note_saved(rendered.state)


def _reason(error: Exception) -> tuple[SaveRefusal, str]:
    """Why a notebook is not saved, for programs and for people."""
    if isinstance(error, FileChanged):
        return "conflict", f"the file changed on disk: {error.reason}"
    if not isinstance(error, FileUnwritable):
        return "internal", f"the file could not be written: {error}"
    if error.errno == errno.ENOENT:
        return "not_found", "there is no such folder"
    refused = error.errno in _STATUS.keys() | _NO_FILE
    return "forbidden" if refused else "internal", f"the file can't be written: {error.reason}"


async def copy_stands(room: "Room") -> bool:
    """Whether what was saved under another name is still there; True if nothing was, or the room's own file has it all."""
    if room.file.copy is None or (room.file.saved is not None and room.file.saved[0] == room.notebook.heads()):
        return True
    try:
        return await same_version(*room.file.copy) is not None
    except (FileNotFoundError, FileUnreadable):
        return False


async def look_at_file(room: "Room") -> bool:
    """Whether the room's file holds something else than what was last read or written; if not, `file` says what it is."""
    if room.file.load_error is not None:
        return False  # it is never saved over, and `file` says so
    async with room.saving:
        try:
            version = await same_version(room.path, room.file.version)
        except FileNotFoundError:
            room.file.tell("missing", "the file is gone; saving makes it anew")
            return False
        except FileUnreadable as error:
            room.file.tell("conflict", f"the file can't be read any more: {error.reason}")
            return False
        if version is None:
            return True
        room.file.version = version
        if room.file.status in ("conflict", "missing"):
            room.file.tell("ready")
        return False


def _metadata(written: dict[str, Any], ran: tuple[KernelSpec, KernelInfoReply] | None) -> dict[str, Any]:
    """The notebook's metadata with the kernel that ran; a kernel may say so much of itself that it takes a while."""
    if ran is None:
        return written
    spec, info = ran
    return with_kernel(
        written,
        name=spec.name,
        display_name=spec.display_name,
        language=spec.language,
        language_info=info.language_info,
    )


def _render(
    metadata: Callable[[], dict[str, Any]],
    cells: Sequence[Cell],
    entries: Sequence[Mapping[str, Any]],
    comms: Mapping[str, Mapping[str, Any]],
    blobs: Mapping[str, bytes],
    outputs: Outputs,
) -> bytes:
    def load(blob_hash: str) -> bytes:
        try:
            return blobs[blob_hash]
        except KeyError:
            raise BlobMissing(f"no blob {blob_hash}") from None

    decode = _decode_readable if outputs == "readable" else decode_manifest
    saved = [
        SavedCell(
            cell_id=cell.cell_id,
            cell_type=cell.cell_type,
            source=cell.source,
            metadata=cell.metadata,
            attachments=decode_attachments(cell.attachments or {}, load),
            execution_count=entry.get("execution_count"),
            outputs=[decode(manifest, load) for manifest in entry.get("outputs", [])],
        )
        for cell, entry in zip(cells, entries, strict=True)
    ]
    widget_state = render_widget_state(comms, load)
    return render_notebook(SavedNotebook(metadata=metadata(), cells=saved, widget_state=widget_state))


def _decode_readable(manifest: Mapping[str, Any], load: Load) -> dict[str, Any]:
    try:
        return decode_manifest(manifest, load)
    except (LookupError, InvalidValue) as missing:
        line = f"[notebookd: here was an output that can't be read any more: {missing}]\n"
        return {"output_type": "stream", "name": "stderr", "text": line}
