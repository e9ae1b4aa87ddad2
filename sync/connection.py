"""One WebSocket: handshake, a loop that reads, a loop that writes. It carries every document that its peer asks for.

The reading loop never writes and the writing loop is the only one that does; between them stands the pure `Outbox`. What a
document or a request means is the hub's business.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog
import trio

from sync.core.changes import ChangeRejected, iterate_changes
from sync.core.document import Document
from sync.core.frames import (
    Ephemeral,
    ErrorFrame,
    Frame,
    Join,
    Peer,
    ProtocolError,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
    encode_frame,
)
from sync.core.identifiers import DocumentId, InvalidIdentifier, PeerId, SessionId, parse_document_id
from sync.core.jsonrpc import RequestError, error_response
from sync.core.limits import (
    MAX_DOCUMENTS_PER_PEER,
    MAX_JSONRPC_BYTES,
    MAX_RELAYED_BYTES,
)
from sync.core.notices import Notice
from sync.core.outbox import Outbox, OutboxFull
from sync.core.subscription import Subscription
from sync.core.sync_message import SyncMessageInvalid, decode_sync_message
from sync.websocket import PeerSocket, SocketClosed, SocketProtocolError
from sync.writer import DocWriter

# A stock client sends `join` with its first packet; who takes longer than this does not speak the protocol.
HANDSHAKE_SECONDS = 10
# A peer that takes nothing of what is due to it for so long is gone, whatever TCP says.
STALLED_SECONDS = 60

# How long a peer that broke the protocol is given to take the frame that says so.
LAST_WORDS_SECONDS = 1

Role = Literal["editor", "viewer"]


@dataclass(frozen=True, slots=True)
class OpenDocument:
    """A document that a peer may see; `writer` is the doc-writer that takes its changes, None where nobody but it writes."""

    document: Document
    writer: DocWriter | None


class Hub(Protocol):
    """The policy behind a connection: which documents there are, and what requests do."""

    peer_id: PeerId

    def find_document(self, document_id: DocumentId) -> OpenDocument | None:
        """The document with this id, if the daemon has it."""
        ...

    def connected(self, connection: "Connection") -> None:
        """A peer finished its handshake."""
        ...

    def disconnected(self, connection: "Connection") -> None:
        """A peer left."""
        ...

    async def receive_request(self, connection: "Connection", document_id: DocumentId, data: dict[str, Any]) -> None:
        """Takes a JSON-RPC object of the connection's own peer; answers through the connection or the doc-writer."""
        ...


@dataclass
class ConnectionStatistics:
    """Counters of one connection."""

    frames_received: int = 0
    frames_sent: int = 0
    foreign_ephemerals: int = 0
    changes_dropped: int = 0


@dataclass(eq=False)
class Connection:
    """The daemon's end of one peer's WebSocket. Hashable by identity: two connections with one peer id are two peers."""

    socket: PeerSocket
    hub: Hub
    role: Role
    peer_id: PeerId
    outbox: Outbox
    nursery: trio.Nursery
    unread: list[bytes] = field(default_factory=list)
    statistics: ConnectionStatistics = field(default_factory=ConnectionStatistics)
    in_flight: set[str | int] = field(default_factory=set)
    answered: dict[str | int, None] = field(default_factory=dict)
    _woken: trio.Event = field(default_factory=trio.Event)
    _idle: trio.Event = field(default_factory=trio.Event)
    _told: set[str] = field(default_factory=set)
    _closing: bool = False

    # What the doc-writer and the dispatcher call.

    def wake(self) -> None:
        """Says that there may be something to write."""
        self._woken.set()

    def push(self, notice: Notice) -> None:
        """Queues an event or a response; a peer whose share of memory is full is dropped."""
        try:
            self.outbox.push(notice)
        except OutboxFull:
            self.drop("it does not read what it asked for")

    def may_write(self, document: Document) -> bool:
        """Whether the peer's changes to this document are taken; once they are not, they never will be."""
        subscription = self.outbox.subscriptions.get(document.id)
        return self.role == "editor" and (subscription is None or subscription.writable)

    def refuse_changes(self, subscription: Subscription, reason: str) -> None:
        """Makes the document read-only for this peer and says why, once for each document.

        A silently dropped change would orphan all later ones of the peer; so it must stop sending them.
        """
        subscription.make_read_only()
        log.warning("changes refused", peer=self.peer_id, document=subscription.document.id, reason=reason)
        self.tell(f"changes to {subscription.document.url} refused: {reason}; it is read-only for this connection")

    def tell(self, message: str) -> None:
        """Sends an `error` frame, the same one only once."""
        if message not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(message)
            self._queue(lambda: self.outbox.push_error(message))

    def send_error(self, document_id: DocumentId, request_id: str | int | None, error: RequestError) -> None:
        """Answers a request with an error, at once: it speaks of no state. No id: the request's could not be read."""
        if request_id is not None:
            self.finish_request(request_id)
        data = encode_data(error_response(request_id, self.peer_id, error))
        self._queue(lambda: self.outbox.push_ephemeral(document_id, data))

    def finish_request(self, request_id: str | int) -> None:
        """A request has its answer: its place is free, and its id stays known so that a repeat is not executed again."""
        self.in_flight.discard(request_id)

    def counts(self) -> dict[str, int]:
        """What was counted on this connection, by name."""
        return {**vars(self.statistics), **vars(self.outbox.statistics)}

    def relay(self, frame: Ephemeral) -> None:
        """Passes on another peer's presence or the like."""
        self._queue(lambda: self.outbox.push_relayed(frame))

    def document_closed(self, document_id: DocumentId) -> None:
        """The document is not served any more: the peer hears so, and what was held for it is gone."""
        self.outbox.unsubscribe(document_id)
        self._queue(lambda: self.outbox.push_unavailable(document_id))

    def drop(self, reason: str) -> None:
        """Ends the connection without a Close frame, which would wedge a stock client that still has frames to apply."""
        if not self._closing:
            self._closing = True
            log.warning("peer dropped", peer=self.peer_id, reason=reason)
        self.socket.drop()
        self.nursery.cancel_scope.cancel()

    def _queue(self, push: Callable[[], None]) -> None:
        try:
            push()
        except OutboxFull:
            self.drop("it does not read what it is sent")
        self.wake()

    # The two loops.

    async def write_loop(self) -> None:
        """Writes whatever the outbox gives, one write per batch; a peer that stops reading is dropped."""
        while True:
            frames = self.outbox.next_batch()
            if not frames:
                self._idle.set()
                await self._woken.wait()
                self._idle = trio.Event()
                self._woken = trio.Event()
                continue
            with trio.move_on_after(STALLED_SECONDS) as stalled:
                await self.socket.send(frames)
            if stalled.cancelled_caught:
                self.drop(f"it took nothing for {STALLED_SECONDS} s")
            self.statistics.frames_sent += len(frames)

    async def drain(self) -> None:
        """Waits until everything is written that may be written now."""
        self._idle = trio.Event()
        self.wake()
        await self._idle.wait()

    async def read_loop(self) -> None:
        """Takes frames until the peer leaves.

        Raises:
            ProtocolError: the peer breaks the protocol.
            SocketClosed: it left.
        """
        while True:
            for data in self.unread:
                self.statistics.frames_received += 1
                await self._receive(decode_frame(data))
            self.unread = await self.socket.receive()

    async def _receive(self, frame: Frame) -> None:
        if isinstance(frame, Sync):
            await self._receive_sync(frame)
        elif isinstance(frame, Ephemeral):
            await self._receive_ephemeral(frame)
        elif isinstance(frame, Join):
            raise ProtocolError("a second join")

    async def _receive_sync(self, frame: Sync) -> None:
        document_id = self._document_id(frame.document_id)
        opened = self.hub.find_document(document_id)
        subscription = self.outbox.subscriptions.get(document_id)
        if opened is None:
            self._queue(lambda: self.outbox.push_unavailable(document_id))
            return
        if subscription is None or subscription.document is not opened.document:
            if len(self.outbox.subscriptions) >= MAX_DOCUMENTS_PER_PEER:
                raise ProtocolError(f"more than {MAX_DOCUMENTS_PER_PEER} documents on one connection")
            writable = opened.writer is not None and self.role == "editor"
            subscription = self.outbox.subscribe(opened.document, origin=self, writable=writable)
            opened.document.subscribers.add(self)
        try:
            message = decode_sync_message(frame.data)
        except SyncMessageInvalid as error:
            raise ProtocolError(f"sync message is malformed: {error}") from error
        subscription.receive(message)
        if message.changes:
            await self._receive_changes(opened, subscription, message.changes, message.heads)
        self.wake()

    def _document_id(self, text: str) -> DocumentId:
        if text in self.outbox.subscriptions:
            # Checked when it was opened: two rounds of SHA-256 and base 58 for each acknowledgement are not free.
            return DocumentId(text)
        try:
            return parse_document_id(text)
        except InvalidIdentifier as error:
            raise ProtocolError(f"documentId is malformed: {error}") from error

    async def _receive_changes(
        self, opened: OpenDocument, subscription: Subscription, blobs: tuple[bytes, ...], heads: tuple[bytes, ...]
    ) -> None:
        if opened.writer is None or not subscription.writable:
            self.statistics.changes_dropped += 1
            if opened.writer is not None and self.role == "viewer":
                self.tell(f"changes to {opened.document.url} dropped: this token may only read")
            return
        try:
            changes = []
            # Checked one by one, with others' work in between: a change can take 0.3 s (measured, 100 000 rows).
            for change in iterate_changes(b"".join(blobs)):
                changes.append(change)
                await trio.lowlevel.checkpoint()
        except ChangeRejected as rejected:
            self.refuse_changes(subscription, rejected.reason)
            opened.writer.changes_refused()
            return
        await opened.writer.submit_changes(self, subscription, changes, heads)

    async def _receive_ephemeral(self, frame: Ephemeral) -> None:
        if frame.sender_id != self.peer_id:
            # Stock repos broadcast every ephemeral again to all their other peers.
            self.statistics.foreign_ephemerals += 1
            return
        if len(frame.data) > MAX_JSONRPC_BYTES:
            raise ProtocolError(f"an ephemeral message of more than {MAX_JSONRPC_BYTES} bytes")
        document_id = self._document_id(frame.document_id)
        data = decode_data(frame.data)
        if isinstance(data, dict) and "jsonrpc" in data:
            await self.hub.receive_request(self, document_id, data)
            return
        opened = self.hub.find_document(document_id)
        if opened is None or len(frame.data) > MAX_RELAYED_BYTES:
            return
        for other in opened.document.subscribers:
            if other is not self and isinstance(other, Connection):
                other.relay(frame)


async def serve_connection(socket: PeerSocket, hub: Hub, *, role: Role, session_id: SessionId) -> None:
    """Speaks automerge-repo's protocol with one peer until it leaves, breaks the protocol or is cancelled.

    Returns normally in all these cases: what one peer does never ends anything but its own connection.
    """
    try:
        join, rest = await _handshake(socket, hub)
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
                hub.disconnected(connection)
                for subscription in outbox.subscriptions.values():
                    subscription.document.subscribers.discard(connection)
                log.info("peer left", peer=connection.peer_id)
    except (ProtocolError, SocketProtocolError) as error:
        # Before the handshake is over there is nobody to address an `error` frame to.
        log.warning("handshake failed", reason=str(error))
    except SocketClosed:
        log.info("peer left during the handshake")
    finally:
        socket.drop()


async def _handshake(socket: PeerSocket, hub: Hub) -> tuple[Join, list[bytes]]:
    """The peer's join, answered, and what it sent right behind it."""
    with trio.move_on_after(HANDSHAKE_SECONDS):
        messages = await socket.receive()
        frame = decode_frame(messages[0])
        if not isinstance(frame, Join):
            raise ProtocolError("the first frame must be join")
        if frame.supported_versions and "1" not in frame.supported_versions:
            message = "this daemon speaks version 1 of the protocol"
            await socket.send([encode_frame(ErrorFrame(hub.peer_id, frame.sender_id, message))])
            raise ProtocolError(message)
        await socket.send([encode_frame(Peer(hub.peer_id, frame.sender_id, "1", {"isEphemeral": False}))])
        return frame, messages[1:]
    raise ProtocolError(f"no join within {HANDSHAKE_SECONDS} s")


async def _read_until_end(connection: Connection) -> None:
    try:
        await connection.read_loop()
    except (ProtocolError, SocketProtocolError) as error:
        log.warning("protocol breach", peer=connection.peer_id, reason=str(error))
        connection.tell(str(error))
        with trio.move_on_after(LAST_WORDS_SECONDS):
            await connection.drain()
        # Dropping with bytes unread would make TCP throw away what was just written.
        await connection.socket.finish(LAST_WORDS_SECONDS)
    except SocketClosed:
        log.debug("socket closed", peer=connection.peer_id)
    connection.nursery.cancel_scope.cancel()


async def _write_until_end(connection: Connection) -> None:
    try:
        await connection.write_loop()
    except SocketClosed:
        connection.nursery.cancel_scope.cancel()


log = structlog.get_logger(__name__)

# `error` frames are for a person's eyes; a peer that provokes more has seen the point.
_MAX_TOLD = 32
