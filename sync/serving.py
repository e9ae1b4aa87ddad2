"""A connection's life, from its peer's handshake to its end, whoever ends it."""

from contextlib import suppress

import structlog
import trio

from sync.connection import Connection, Hub, Role
from sync.core.frames import ProtocolError
from sync.core.identifiers import PeerId, SessionId
from sync.core.outbox import Outbox
from sync.handshake import LAST_WORDS_SECONDS, shake_hands
from sync.websocket import PeerSocket, SocketClosed, SocketProtocolError

log = structlog.get_logger(__name__)


async def serve_connection(socket: PeerSocket, hub: Hub, *, role: Role, session_id: SessionId) -> None:
    """Speaks automerge-repo's protocol with one peer until it leaves, breaks the protocol or is cancelled.

    Returns normally in all these cases: what one peer does never ends anything but its own connection.
    """
    try:
        join, rest = await shake_hands(socket, hub.peer_id)
        async with trio.open_nursery() as nursery:
            outbox = Outbox(sender=hub.peer_id, target=PeerId(join.sender_id), session_id=session_id)
            connection = Connection(socket, hub, role, PeerId(join.sender_id), outbox, nursery, unread=rest)
            log.info("peer connected", peer=connection.peer_id, role=role)
            hub.connected(connection)
            try:
                nursery.start_soon(_read_until_end, connection)
                nursery.start_soon(_write_until_end, connection)
                await trio.sleep_forever()
            finally:
                connection.end()
                hub.disconnected(connection)
                for subscription in outbox.subscriptions.values():
                    subscription.document.subscribers.discard(connection)
                log.info("peer left", peer=connection.peer_id)
    except (ProtocolError, SocketProtocolError) as error:
        log.warning("handshake failed", reason=str(error))
    except SocketClosed:
        log.info("peer left during the handshake")
    finally:
        socket.drop()


async def _read_until_end(connection: Connection) -> None:
    try:
        with connection.reading:
            await connection.read_loop()
    except (ProtocolError, SocketProtocolError) as error:
        log.warning("protocol breach", peer=connection.peer_id, reason=str(error))
        connection.tell(str(error))
        connection.finish(LAST_WORDS_SECONDS)
    except SocketClosed:
        log.debug("socket closed", peer=connection.peer_id)
        connection.nursery.cancel_scope.cancel()


async def _write_until_end(connection: Connection) -> None:
    try:
        await connection.write_loop()
    except SocketClosed:
        # It takes nothing any more. What it had said before it went is still read, and then the reading ends all.
        connection.end()
        return
    with suppress(SocketClosed):
        # Dropping with bytes unread would make TCP throw away what was just written.
        await connection.socket.finish(LAST_WORDS_SECONDS)
    connection.nursery.cancel_scope.cancel()
