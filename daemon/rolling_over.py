"""Replaces a room's runtime document when its history has grown too long (docs/design.md, "Roll-over")."""

import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
import trio

from daemon.memory import give_back
from sync.awaited_heads import WriterEnded
from sync.core.document import Document
from sync.core.limits import MIB
from sync.turns import TURN_SECONDS

if TYPE_CHECKING:
    from daemon.room import Room

# Each operation of the history takes some 490 bytes here, and at each peer as much, and 10 us of who joins (measured).
MIN_OPERATIONS: Final = 20_000
# The same for long texts, of which few operations hold much.
MIN_BYTES: Final = 8 * MIB
# Everybody who watches loads the new document, so most of the old one must be history before that is worth while.
GROWTH: Final = 3
# What is committed during the copy is caught up with in slices that get longer, so that it ends however much that is.
PATIENCE: Final = 1.25
# A peer that was away for a moment, or is slow, finds the document that its events speak of.
SERVED_SECONDS: Final = 600.0
# Of one notebook, whatever the time: a log takes some 5 MiB, and what outgrows 20 000 operations this fast is a flood.
MAX_SERVED: Final = 8

log = structlog.get_logger(__name__)


async def roll_over_when_due(room: "Room") -> None:
    """Watches the size of the runtime document, and replaces it whenever it is due. Runs until cancelled."""
    await room.file.loaded.wait()
    served: deque[trio.CancelScope] = deque()
    async with trio.open_nursery() as nursery:
        while True:
            old = room.runtime_document
            await room.writer.outgrown(
                max(MIN_OPERATIONS, GROWTH * old.operations), max(MIN_BYTES, GROWTH * old.log.size(0, len(old.log)))
            )
            try:
                await _roll_over(room)
            except WriterEnded:
                await trio.sleep_forever()  # the room is over, and cancels its tasks
            except Exception:
                # The policy line: the document that is written is as good as it was, so the room goes on with it, and tries
                # again when it is three times as long.
                log.exception("a roll-over failed", room=room.id, operations=old.operations)
                room.writer.abandon_succession()
            if room.runtime_document is old:
                continue
            served.append(trio.CancelScope())
            nursery.start_soon(_serve_for_a_while, room, old, served[-1])
            if len(served) > MAX_SERVED:
                served.popleft().cancel()  # or its time has come already


async def _roll_over(room: "Room") -> None:
    started = trio.current_time()
    operations = room.runtime_document.operations
    succession = room.writer.begin_succession(uuid.uuid4().bytes)
    seconds = TURN_SECONDS
    while succession.behind:
        succession.catch_up(_before(trio.current_time() + seconds))
        await trio.lowlevel.checkpoint()
        if succession.copied:
            seconds *= PATIENCE
    await room.writer.succeed()
    log.info(
        "runtime document replaced",
        room=room.id,
        operations=operations,
        kept=succession.document.operations,
        ms=round((trio.current_time() - started) * 1000),
    )
    # Widgets of kernels that are gone are in the old one's history, which goes now.
    await room.past_widgets.entries()
    # Where its replica was stays ours otherwise, as with a closed notebook.
    await give_back()


def _before(deadline: float) -> Callable[[], bool]:
    return lambda: trio.current_time() < deadline


async def _serve_for_a_while(room: "Room", old: Document, scope: trio.CancelScope) -> None:
    with scope:
        await trio.sleep(SERVED_SECONDS)
    room.retire(old)
