"""Makes document chunks for peers that join, off the loop."""

import sys
from collections.abc import Sequence

import structlog
import trio

from sync.core.document import Document

log = structlog.get_logger(__name__)

# Loading and saving two million operations, twice; whatever takes longer is not worth waiting for.
COMPACT_SECONDS = 120
# Each may need 1 GB and a core; a client that opens all its notebooks at once wants one for each document.
MAX_PROCESSES = 2


async def run_compactor(documents: Sequence[Document]) -> None:
    """Gives each of the documents a fresh chunk whenever a joining peer could have used one. Runs until cancelled."""
    wanted = trio.Event()

    def wake() -> None:
        wanted.set()

    for document in documents:
        document.snapshot_wanted = wake
    while True:
        await wanted.wait()
        wanted = trio.Event()
        for document in documents:
            if document.wants_snapshot:
                await _compact(document)


async def _compact(document: Document) -> None:
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
        except _Failed as failed:
            log.error("a document can't be compacted", document=document.id, stderr=str(failed))
    document.set_snapshot(position, chunk)


class _Failed(Exception):
    """The process refused; what it wrote to stderr."""


async def _compacted(changes: bytes) -> bytes:
    done = await trio.run_process(
        # -P: a json.py in the working directory, which is often a folder of notebooks, must not be imported.
        [sys.executable, "-P", "-m", "sync.compact"],
        stdin=changes,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
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
