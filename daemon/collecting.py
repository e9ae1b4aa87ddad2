"""Removes blobs that no open notebook names any more."""

import time
from collections.abc import Callable, Collection
from itertools import chain
from typing import TYPE_CHECKING

import structlog
import trio

from daemon.slices import in_slices
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
    cells, comms = entry_ids(runtime, "cells"), entry_ids(runtime, "comms")
    values = chain(
        [read_kernel_log(runtime)],
        (read_cell(runtime, cell_id) for cell_id in cells),
        (read_comm(runtime, comm_id) for comm_id in comms),
        (await room.past_widgets.entries()).values(),
        (cell.attachments for cell in NotebookSchema.iterate_cells(room.notebook.replica)),
    )
    return set().union(*await in_slices(set(blob_hashes(value)) for value in values))
