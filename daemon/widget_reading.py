"""The widgets that a notebook's file is to have: those of the runtime document, and those of kernels that are gone.

No comm survives its kernel in the document, but the outputs that show it do; a file keeps both, so that whoever opens it
sees the widgets as they last were.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

import trio

from daemon.core.comm import is_link
from daemon.core.comms import MAX_COMMS
from daemon.core.saved_widgets import references_in, views_in
from daemon.slices import in_slices
from sync.core.binding import Replica
from sync.core.document import Document
from sync.core.identifiers import Heads
from sync.core.runtime_reading import entry_ids, read_comm
from sync.core.value_reading import blob_hashes

# Kernels whose widgets were not read yet. A person restarts a few times between two saves; who is that late is not missed.
MAX_UNREAD = 4


class PastWidgets:
    """Entries of `comms` as they were when their kernel ended. They are read when somebody saves, not at the end itself.

    Args:
        document: gives the runtime document; its history is where they are read.
    """

    def __init__(self, document: Callable[[], Document]) -> None:
        self._document = document
        self._unread: deque[tuple[Replica, Heads]] = deque(maxlen=MAX_UNREAD)
        self._entries: dict[str, dict[str, Any]] = {}
        self._reading = trio.Lock()

    def note(self) -> None:
        """The kernel ends, and the document still has its comms."""
        document = self._document()
        self._unread.append((document.replica, document.published_heads()))

    async def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """Entries by comm id; what they refer to may be missing."""
        async with self._reading:
            while self._unread:
                self._entries |= await _read_comms(*self._unread.popleft())
                for comm_id in list(self._entries)[: max(0, len(self._entries) - MAX_COMMS)]:
                    del self._entries[comm_id]
        return self._entries


async def read_widgets(
    replica: Replica,
    heads: Heads,
    past: PastWidgets,
    cells: Iterable[Mapping[str, Any]],
    read: Callable[[Collection[str]], Awaitable[dict[str, bytes]]],
) -> tuple[dict[str, Mapping[str, Any]], dict[str, bytes]]:
    """The widgets for a file that has the outputs of `cells`, and the blobs that they name.

    Args:
        replica: of the runtime document.
        heads: the state of it that is saved.
        past: where widgets that the outputs show and the document has not are looked for.
        cells: entries of `cells`.
        read: gives the blobs with these hashes; what it leaves out is left out, what it raises passes through.
    """
    comms: dict[str, Mapping[str, Any]] = dict(await _read_comms(replica, heads))
    data = await read({blob_hash for entry in comms.values() for blob_hash in blob_hashes(entry)})
    shown = [*cells, *comms.values()]
    missing = {comm_id for entry in shown for comm_id in views_in(entry.get("outputs", ()))} - comms.keys()
    if missing:
        gone = await past.entries()
        while found := {comm_id: gone[comm_id] for comm_id in missing if comm_id in gone}:
            comms |= found
            data |= await read({blob_hash for entry in found.values() for blob_hash in blob_hashes(entry)})
            missing = {other for entry in found.values() for other in references_in(entry, data)} - comms.keys()
        # Nothing refers to a link: it stays with what it links.
        links = {comm_id: references_in(entry, {}) for comm_id, entry in gone.items() if is_link(entry["model_name"])}
        comms |= {comm_id: gone[comm_id] for comm_id, linked in links.items() if linked and linked <= comms.keys()}
    return comms, data


async def _read_comms(replica: Replica, heads: Heads) -> dict[str, dict[str, Any]]:
    ids = entry_ids(replica, "comms", heads)
    entries = await in_slices(read_comm(replica, comm_id, heads) for comm_id in ids)
    return {comm_id: entry for comm_id, entry in zip(ids, entries, strict=True) if entry is not None}
