"""Removes blobs that no open notebook names any more."""

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import structlog
import trio

from sync.blobs import BlobStore, BlobStoreError
from sync.core.notebook_schema import NotebookSchema
from sync.core.runtime_reading import entry_ids, read_cell, read_comm, read_kernel_log
from sync.core.value_reading import blob_hashes

if TYPE_CHECKING:
    from daemon.room import Room

log = structlog.get_logger(__name__)

# A blob stays so long after it was last stored: for the commit that names it, for peers that are behind, for an undo.
GRACE_SECONDS = 600.0
# Cleared outputs leave their blobs behind; this much more on disk is worth a look at what is still named.
COLLECT_AFTER_BYTES = 256 * 1024 * 1024
SLICE_SECONDS = 0.005


class BlobCollector:
    """One for the daemon. It looks when it starts, when a room closed, and when much was stored."""

    def __init__(self, blobs: BlobStore, rooms: Callable[[], Collection["Room"]]) -> None:
        self._blobs = blobs
        self._rooms = rooms
        self._wanted = trio.Event()
        self._wanted.set()
        self._looked_at = 0

    def room_closed(self) -> None:
        """What a room named may be named by nobody now."""
        self._wanted.set()

    def stored(self) -> None:
        """Something was stored."""
        if self._blobs.statistics().stored_bytes - self._looked_at > COLLECT_AFTER_BYTES:
            self._wanted.set()

    async def run(self) -> None:
        """Collects until cancelled; a disk that refuses is logged, and tried again next time."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            self._looked_at = self._blobs.statistics().stored_bytes
            try:
                removed = await self.collect(GRACE_SECONDS)
            except BlobStoreError as error:
                log.warning("blobs not collected", reason=str(error))
            else:
                if removed:
                    log.info("blobs collected", removed=removed)

    async def collect(self, grace_seconds: float) -> int:
        """Removes what no open room names and is older than `grace_seconds`; returns how many blobs.

        Raises:
            BlobStoreError: a disk error.
        """
        now = time.time()
        reachable: set[str] = set()
        for room in self._rooms():
            reachable |= await _named_by(room)
        return await self._blobs.collect(reachable, grace_seconds, now)


async def _named_by(room: "Room") -> set[str]:
    """Hashes of all blobs in a room's documents, read in slices; what comes meanwhile is younger than the grace."""
    runtime = room.runtime_document.replica
    named = set(blob_hashes(read_kernel_log(runtime)))
    pause = trio.current_time() + SLICE_SECONDS

    async def breathe() -> None:
        nonlocal pause
        if trio.current_time() >= pause:
            await trio.lowlevel.checkpoint()
            pause = trio.current_time() + SLICE_SECONDS

    for cell_id in entry_ids(runtime, "cells"):
        named.update(blob_hashes(read_cell(runtime, cell_id)))
        await breathe()
    for comm_id in entry_ids(runtime, "comms"):
        named.update(blob_hashes(read_comm(runtime, comm_id)))
        await breathe()
    for entry in (await room.past_widgets.entries()).values():
        named.update(blob_hashes(entry))
    for cell in NotebookSchema.read_cells(room.notebook.replica):
        named.update(blob_hashes(cell.attachments))
        await breathe()
    return named
