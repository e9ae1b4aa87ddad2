"""Makes document chunks for peers that join, and looks whether what peers wrote can be saved at all; off the loop."""

import math
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog
import trio

from sync.compact import UNSOUND
from sync.core.document import Document
from sync.core.identifiers import ChangeHash, DocumentId

log = structlog.get_logger(__name__)

# Loading and saving two million operations, twice; whatever takes longer is not worth waiting for. Also for the search for
# what is to blame, which does it for each bit of the number of changes.
COMPACT_SECONDS = 120
# Each may need 1 GB and a core; a client that opens all its notebooks at once wants one for each document.
MAX_PROCESSES = 2
# How long peers' changes wait to be verified: a process takes 0.3 s of CPU and more, and people type all the time.
VERIFY_SECONDS = 30


class Compactor:
    """Gives each of a room's documents a fresh chunk whenever a joining peer could have used one.

    And looks, at the latest `VERIFY_SECONDS` after peers changed one: Automerge may have taken what it can't load again.

    Args:
        unsound: called with a document and the changes of it without which it can be saved, if it can't be.
    """

    def __init__(self, unsound: Callable[[Document, Collection[ChangeHash]], None]) -> None:
        self._unsound = unsound
        self._documents: list[Document] = []
        self._wanted = trio.Event()
        self._due: dict[DocumentId, float] = {}

    def watch(self, document: Document) -> None:
        """Looks after a document from its next change on."""
        self._documents.append(document)
        document.snapshot_wanted = self._wake

    def forget(self, document: Document) -> None:
        """Does so no longer."""
        self._documents.remove(document)
        self._due.pop(document.id, None)

    def _wake(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            with trio.move_on_at(min(self._due.values(), default=math.inf)):
                await self._wanted.wait()
            self._wanted = trio.Event()
            for document in list(self._documents):
                if document.has_unverified:
                    self._due.setdefault(document.id, trio.current_time() + VERIFY_SECONDS)
                if document.wants_snapshot or self._due.get(document.id, math.inf) <= trio.current_time():
                    self._due.pop(document.id, None)
                    await _compact(document, self._unsound)
                    if document.has_unverified and document in self._documents:
                        self._due[document.id] = trio.current_time() + VERIFY_SECONDS


async def _compact(document: Document, unsound: Callable[[Document, Collection[ChangeHash]], None]) -> None:
    chunk = None
    async with _processes():
        position, changes = document.snapshot_source()
        try:
            with trio.move_on_after(COMPACT_SECONDS):
                chunk = await _compacted(changes)
        except OSError as error:
            # No process to be had: who joins gets changes, and the next one asks again.
            log.warning("no process to compact a document in", document=document.id, reason=str(error))
            document.wants_snapshot = False
            return
        except _Unsound as found:
            log.error("a document can't be saved", document=document.id, changes=[h.hex() for h in found.culprits])
            document.wants_snapshot = False
            unsound(document, found.culprits)
            return
        except _Failed as failed:
            log.error("a document can't be compacted", document=document.id, stderr=str(failed))
    document.set_snapshot(position, chunk)


class _Failed(Exception):
    """The process refused; what it wrote to stderr."""


@dataclass
class _Unsound(Exception):
    """What was saved does not load again, because of these changes."""

    culprits: Collection[ChangeHash]


async def _compacted(changes: bytes) -> bytes:
    done = await trio.run_process(
        # -P: a json.py in the working directory, which is often a folder of notebooks, must not be imported.
        [sys.executable, "-P", "-m", "sync.compact"],
        stdin=changes,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    if done.returncode == UNSOUND:
        raise _Unsound([bytes.fromhex(line) for line in done.stdout.decode().split()])
    if done.returncode != 0:
        raise _Failed(done.stderr[-2000:].decode(errors="replace"))
    return bytes(done.stdout)


_limiters: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("compactors")


def _processes() -> trio.CapacityLimiter:
    try:
        return _limiters.get()
    except LookupError:
        limiter = trio.CapacityLimiter(MAX_PROCESSES)
        _limiters.set(limiter)
        return limiter
