"""What could not be saved when a room ended: it is written beside the file, so that nothing that people wrote is lost."""

import errno
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from daemon.core.notebook_model import InvalidNotebook
from daemon.files import FileUnwritable, write_new
from daemon.saving import NotSaved, Outputs, RenderedNotebook, copy_stands, render_room
from sync.blobs import BlobStoreError
from sync.core.value_reading import InvalidValue

if TYPE_CHECKING:
    from daemon.room import Room

log = structlog.get_logger(__name__)

# A second sees one copy of a notebook; the others are of daemons that ended at the same time.
_MAX_TRIES = 100
# File systems take names of 255 bytes; what is put behind takes 38.
_MAX_STEM_BYTES = 200


async def save_or_keep(room: "Room") -> None:
    """Saves a room that ends whatever becomes of it."""
    try:
        await room.save()
    except NotSaved as error:
        await keep_unsaved(room, error.message, error.rendered)
    except Exception as error:
        # The policy line: a bug in saving must not cost what there is to save.
        log.exception("saving failed", room=room.id, path=room.shown_path)
        await keep_unsaved(room, repr(error))


async def keep_unsaved(room: "Room", reason: str, rendered: RenderedNotebook | None = None) -> None:
    """Writes a copy of what the room holds into its file's folder, or else into `room.unsaved`, and logs which.

    Whatever the disk does, it raises nothing: where no copy can be written either, the log says so.

    Args:
        reason: why the file was not saved.
        rendered: what was to be saved, if that is at hand: when the daemon ends there is no time to render it again.
    """
    told = {"room": room.id, "path": room.shown_path, "reason": reason}
    if room.file.copied == room.file.state and await copy_stands(room):
        log.warning("not saved at the end, but the same is in another file, as somebody asked", **told)
        return
    data = await _rendered(room, told) if rendered is None else rendered.data
    for folder in (room.path.parent, room.unsaved):
        try:
            if folder is room.unsaved:
                await trio.to_thread.run_sync(partial(os.makedirs, folder, mode=0o700, exist_ok=True))
            copy = await _write(folder, room.path.stem, data)
        except OSError as error:
            told["reason"] += f"; no copy in {folder}: {error.strerror}"
        else:
            log.error("not saved at the end; what it was is in a copy", copy=str(copy), **told)
            return
    log.error("not saved at the end, nor kept: it is lost", **told)


async def _rendered(room: "Room", told: dict[str, str]) -> bytes:
    """As much of the notebook as can be had; `told` says what is missing."""
    wanted: tuple[Outputs, ...] = ("all", "readable")
    for outputs in wanted:
        try:
            return (await render_room(room, outputs)).data
        except (BlobStoreError, InvalidNotebook, InvalidValue) as error:
            told["left_out"] = f"outputs: {error}"
    return (await render_room(room, "none")).data


async def _write(folder: Path, stem: str, data: bytes) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    stem = stem.encode(errors="replace")[:_MAX_STEM_BYTES].decode(errors="ignore")
    for number in range(1, _MAX_TRIES):
        path = folder / f"{stem}.unsaved-{now}{'' if number == 1 else f'-{number}'}.ipynb"
        try:
            await write_new(path, data)
        except FileExistsError:
            continue
        return path
    raise FileUnwritable(errno.EEXIST, "there are too many copies already", str(folder))
