"""Makes document chunks for peers that join, off the loop."""

import sys
from collections.abc import Sequence

import structlog
import trio

from sync.core.document import Document

log = structlog.get_logger(__name__)

# Loading and saving two million operations, twice; whatever takes longer is not worth waiting for.
COMPACT_SECONDS = 120


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
    position, changes = document.snapshot_source()
    chunk = None
    with trio.move_on_after(COMPACT_SECONDS):
        done = await trio.run_process(
            # -P: a json.py in the working directory, which is often a folder of notebooks, must not be imported.
            [sys.executable, "-P", "-m", "sync.compact"],
            stdin=changes,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode == 0:
            chunk = done.stdout
        else:
            log.error("a document can't be compacted", document=document.id, stderr=done.stderr[-2000:].decode())
    document.set_snapshot(position, chunk)
