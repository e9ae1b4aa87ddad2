"""A room before it is closed: what is not in its file is saved, or it is not closed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import structlog
import trio

from daemon.http_app import ApiError
from daemon.saving import NotSaved, SaveRefusal
from sync.awaited_heads import WriterEnded
from sync.blobs import BlobStoreError
from sync.core.jsonrpc import RequestError

if TYPE_CHECKING:
    from daemon.room import Room

log = structlog.get_logger(__name__)

# How long a room may take to save, and then, closing, to save again and end its kernel: the stop ladder takes up to 4 s.
CLOSE_SECONDS = 15

# By reason; `conflict` is 409 as elsewhere, a folder that is gone is no notebook that is not found.
_NOT_SAVED: Final[Mapping[SaveRefusal, tuple[int, str]]] = {
    "conflict": (409, "conflict"),
    "internal": (500, "internal"),
}


async def save_first(room: "Room") -> None:
    """Saves what is not in the file, while the room is whole.

    Raises:
        ApiError: it could not be saved; the message says what to do.
    """
    with trio.move_on_after(CLOSE_SECONDS) as scope:
        try:
            await room.settled()
            if room.file.changed:
                await room.save()
        except NotSaved as error:
            status, reason = _NOT_SAVED.get(error.reason, (403, "forbidden"))
            way_out = "save_notebook with another path saves it there; then DELETE with ?save=false closes it"
            if isinstance(error.__cause__, BlobStoreError):
                way_out = "clear_outputs takes away what can't be read; then it can be saved"
            message = f"it is not saved, so it stays open: {error.message}. {way_out}"
            raise ApiError(status, reason, message) from error
        except (WriterEnded, RequestError):
            log.info("the room ended before it was closed", room=room.id)
    if scope.cancelled_caught:
        raise ApiError(503, "timeout", f"it could not be saved within {CLOSE_SECONDS} s, so it stays open")
