"""One WebSocket: a loop that reads, a loop that writes. It carries every document that its peer asks for.

The reading loop never writes and the writing loop is the only one that does; between them stands the pure `Outbox`. What a
document or a request means is the hub's business.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import structlog
import trio

from sync.core.changes import ChangeRejected, checking_changes
from sync.core.document import Document
from sync.core.frames import (
    Ephemeral,
    Frame,
    Join,
    ProtocolError,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
)
from sync.core.identifiers import DocumentId, InvalidIdentifier, PeerId, automerge_url, parse_document_id
from sync.core.jsonrpc import RequestError, error_response, id_to_answer, is_jsonrpc
from sync.core.limits import (
    MAX_DEPTH,
    MAX_DOCUMENTS_PER_PEER,
    MAX_JSONRPC_BYTES,
    MAX_RELAYED_BYTES,
    MAX_REQUESTS_IN_FLIGHT,
    MIB,
)
from sync.core.notices import Notice
from sync.core.outbox import Outbox, OutboxFull
from sync.core.rate_limit import RateLimit
from sync.core.subscription import Subscription
from sync.core.sync_message import SyncMessageInvalid, decode_sync_message
from sync.decoding import decoded
from sync.handshake import LAST_WORDS_SECONDS
from sync.turns import in_turns
from sync.websocket import PeerSocket, SocketStalled
from sync.writer import DocWriter

# A peer that takes nothing of what is due to it for so long is gone, whatever TCP says. A slow one takes a little.
STALLED_SECONDS = 60
# A client opens the runtime document with the notebook, of which it reads the name; after this it never will.
OPENING_SECONDS = 10
# Presence is multiplied by the number of peers: a mouse moves 60 times a second, in a few hundred bytes each.
RELAYED_BYTES_PER_SECOND = MIB // 4
_RELAYED_BYTES = 1024  # what one counts for beside its own
# Each costs about 0.5 ms: half a core. A drag sends 60 a second; a program that asks in a loop may ask so many at once.
REQUESTS_PER_SECOND = 1000
REQUEST_BURST = 4000
# A request nested so deep is still read, to answer it; recursion that deep costs some 50 KiB of stack.
ANSWERED_DEPTH = 4 * MAX_DEPTH

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
    relays_dropped: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    peers_dropped: int = 0


@dataclass(eq=False)
class Connection:
    """The daemon's end of one peer's WebSocket. Hashable by identity: two connections with one peer id are two peers.

    Attributes:
        in_flight: a place for each request that was taken and has no answer yet.
        answered: ids of its newest requests, so that a repeat is not executed again.
        ended: nothing is written any more.
    """

    socket: PeerSocket
    hub: Hub
    role: Role
    peer_id: PeerId
    outbox: Outbox
    nursery: trio.Nursery
    unread: list[bytes] = field(default_factory=list)
    reading: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    statistics: ConnectionStatistics = field(default_factory=ConnectionStatistics)
    in_flight: set[object] = field(default_factory=set)
    answered: dict[str | int, None] = field(default_factory=dict)
    _woken: trio.Event = field(default_factory=trio.Event)
    _idle: trio.Event = field(default_factory=trio.Event)
    _told: set[str] = field(default_factory=set)
    _relays: RateLimit = field(
        default_factory=lambda: RateLimit(per_second=RELAYED_BYTES_PER_SECOND, burst=2 * RELAYED_BYTES_PER_SECOND)
    )
    _requests: RateLimit = field(default_factory=lambda: RateLimit(per_second=REQUESTS_PER_SECOND, burst=REQUEST_BURST))
    _giving_up: bool = False
    _closing: bool = False
    _finishing: bool = False

    # What the doc-writer and the dispatcher call.

    def wake(self) -> None:
        """Says that there may be something to write."""
        self._woken.set()

    def push(self, notice: Notice) -> None:
        """Queues an event or a response; a peer whose share of memory is full is dropped."""
        if self.ended.is_set():
            return
        if notice.request_id is not None and len(notice.data) > MAX_JSONRPC_BYTES:
            error = RequestError.too_large(f"the answer has {len(notice.data)} bytes, {MAX_JSONRPC_BYTES} are allowed")
            self.send_error(notice.document_id, notice.request_id, error)
            return
        try:
            self.outbox.push(notice)
        except OutboxFull:
            self.drop("it does not read what it asked for")
            return
        if notice.request_id is not None and self.outbox.unopened(notice) is not None:
            if len(self.outbox.unopened_until) >= MAX_REQUESTS_IN_FLIGHT:
                self._give_up(notice)
                return
            self.outbox.unopened_until[notice] = trio.current_time() + OPENING_SECONDS
            if not self._giving_up:
                self._giving_up = True
                self.nursery.start_soon(self._give_up_when_due)

    async def _give_up_when_due(self) -> None:
        while self.outbox.unopened_until:
            notice, until = next(iter(self.outbox.unopened_until.items()))
            await trio.sleep_until(until)
            if self.outbox.unopened_until.pop(notice, None) is not None:
                self._give_up(notice)
        self._giving_up = False

    def _give_up(self, notice: Notice) -> None:
        """Answers with an error where the response can't be written: it would come before the state that it speaks of."""
        document_id = self.outbox.unopened(notice)
        if document_id is not None and self.outbox.withdraw(notice):
            error = RequestError.timeout(
                f"it was done, but the answer speaks of {automerge_url(document_id)}: sync that document to get answers"
            )
            self.send_error(notice.document_id, notice.request_id, error)

    def may_write(self, document: Document) -> bool:
        """Whether the peer's changes to this document are taken; once they are not, they never will be."""
        subscription = self.outbox.subscriptions.get(document.id)
        return self.role == "editor" and (subscription is None or subscription.writable)

    def refuse_changes(self, subscription: Subscription, reason: str) -> None:
        """Makes the document read-only for this peer and says why, once for each document.

        A silently dropped change would orphan all later ones of the peer; so it must stop sending them.
        """
        if not subscription.writable:
            return
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
        data = encode_data(error_response(request_id, self.peer_id, error))
        self._queue(lambda: self.outbox.push_ephemeral(document_id, data))

    def counts(self) -> dict[str, int]:
        """What was counted on this connection, by name."""
        return {**vars(self.statistics), **vars(self.outbox.statistics)}

    def relay(self, frame: Ephemeral) -> None:
        """Passes on another peer's presence or the like."""
        self._queue(lambda: self.outbox.push_relayed(frame))

    def document_closed(self, document_id: DocumentId, error: RequestError) -> None:
        """The document is not served any more: the peer hears so, and what was held for it is gone, answers with `error`."""
        for notice in self.outbox.unsubscribe(document_id):
            self.send_error(notice.document_id, notice.request_id, error)
        self._queue(lambda: self.outbox.push_unavailable(document_id))

    def document_rebuilt(self, document: Document, authors: Collection[object]) -> None:
        """Changes of the document were taken back: the connection ends, and the peer hears whose they were."""
        subscription = self.outbox.subscriptions[document.id]
        whose = "what you wrote" if subscription.origin in authors else "what somebody wrote"
        self.outbox.unsubscribe(document.id)
        document.subscribers.discard(self)
        log.warning("document rebuilt", peer=self.peer_id, document=document.id, author=subscription.origin in authors)
        self.tell(f"{document.url} could not be saved with {whose}, which was taken back: load it anew to edit it")
        self.finish(LAST_WORDS_SECONDS)

    def drop(self, reason: str) -> None:
        """Ends the connection without a Close frame, which would wedge a stock client that still has frames to apply."""
        if not self._closing:
            self._closing = True
            self.statistics.peers_dropped += 1
            log.warning("peer dropped", peer=self.peer_id, reason=reason)
        self.socket.drop()
        self.nursery.cancel_scope.cancel()

    def end(self) -> None:
        """The connection is over: nobody waits for it, and what rooms still have for it goes nowhere."""
        self.ended.set()
        self._idle.set()

    def _queue(self, push: Callable[[], None]) -> None:
        if self.ended.is_set():
            return
        try:
            push()
        except OutboxFull:
            self.drop("it does not read what it is sent")
        self.wake()

    # The two loops.

    async def write_loop(self) -> None:
        """Writes whatever the outbox gives, one write per batch, until `finish`; a peer that stops reading is dropped."""
        while True:
            frames = self.outbox.next_batch()
            if not frames:
                self._idle.set()
                if self._finishing:
                    return
                await self._woken.wait()
                if self._idle.is_set():  # or somebody waits for it already
                    self._idle = trio.Event()
                self._woken = trio.Event()
                continue
            try:
                await self.socket.send(frames, patience=STALLED_SECONDS)
            except SocketStalled:
                self.drop(f"it took nothing for {STALLED_SECONDS} s")
                raise
            self.statistics.frames_sent += len(frames)
            self.statistics.bytes_sent += sum(map(len, frames))

    async def drain(self) -> None:
        """Waits until everything is written that may be written now."""
        if self._idle.is_set() and not self.ended.is_set():
            self._idle = trio.Event()
        self.wake()
        await self._idle.wait()

    def finish(self, seconds: float) -> None:
        """Ends the connection when what may be written now is written; nothing more is read. `ended` tells when.

        Args:
            seconds: for the peer to take it, and to hang up.
        """
        self._finishing = True
        self.nursery.cancel_scope.deadline = trio.current_time() + seconds
        self.reading.cancel()
        self.wake()

    async def read_loop(self) -> None:
        """Takes frames until the peer leaves.

        Raises:
            ProtocolError: the peer breaks the protocol.
            SocketClosed: it left.
        """
        while True:
            for data in self.unread:
                self.statistics.frames_received += 1
                self.statistics.bytes_received += len(data)
                await self._receive(await decoded(decode_frame, data))
                if len(self.unread) > 1:
                    # Others' work in between: a peer can send many messages at once.
                    await trio.lowlevel.checkpoint()
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
        acknowledged = subscription.first_acknowledged
        subscription.receive(message)
        if self.role == "viewer" and opened.writer is not None and not opened.document.has(message.heads):
            # Told by the tail, a stock client keeps its changes to itself; its heads still say that there are some.
            self.tell(f"changes to {opened.document.url} are not taken: this token may only read")
        # Most acknowledgements change nothing: the peer said that it has what it was sent.
        if subscription.due or subscription.first_acknowledged != acknowledged:
            self.wake()
        if message.changes:
            await self._receive_changes(opened, subscription, message.changes)
            if subscription.due:
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
        self, opened: OpenDocument, subscription: Subscription, blobs: tuple[bytes, ...]
    ) -> None:
        if opened.writer is None or not subscription.writable:
            self.statistics.changes_dropped += 1
            return
        try:
            changes = await in_turns(checking_changes(b"".join(blobs)))
        except ChangeRejected as rejected:
            self.refuse_changes(subscription, rejected.reason)
            opened.writer.heads.look()
            return
        await opened.writer.submit_changes(self, subscription, changes)

    async def _receive_ephemeral(self, frame: Ephemeral) -> None:
        if frame.sender_id != self.peer_id:
            # Stock repos broadcast every ephemeral again to all their other peers.
            self.statistics.foreign_ephemerals += 1
            return
        document_id = self._document_id(frame.document_id)
        breach: ProtocolError | None = None
        try:
            data = await decoded(decode_data, frame.data)
        except ProtocolError as error:
            breach = error
        if breach is not None:
            if not await self._refuse_too_deep(document_id, frame.data):
                raise breach
            return
        if is_jsonrpc(data):
            await self._pace_requests()
            if len(frame.data) <= MAX_JSONRPC_BYTES:
                await self.hub.receive_request(self, document_id, data)
            else:
                self._refuse(document_id, data, f"a request of more than {MAX_JSONRPC_BYTES} bytes")
            return
        opened = self.hub.find_document(document_id)
        if opened is not None:
            self._relay(opened.document, frame)

    async def _pace_requests(self) -> None:
        delay = self._requests.delay(1, trio.current_time())
        if delay:
            # What is behind it waits in the socket, and at last in the peer: TCP pushes back.
            await trio.sleep(delay)

    async def _refuse_too_deep(self, document_id: DocumentId, encoded: bytes) -> bool:
        """Whether it is JSON-RPC all the same, whose sender hears of it: a kernel may have nested what it only hands back."""
        try:
            data = await decoded(partial(decode_data, max_depth=ANSWERED_DEPTH), encoded)
        except ProtocolError:
            return False
        if not is_jsonrpc(data):
            return False
        await self._pace_requests()
        self._refuse(document_id, data, f"a request that nests deeper than {MAX_DEPTH}")
        return True

    def _refuse(self, document_id: DocumentId, data: dict[Any, Any], what: str) -> None:
        if "method" not in data:
            return  # an answer, which has none
        request_id = id_to_answer(data)
        if request_id is None:
            self.tell(f"{what} was dropped")
        else:
            self.send_error(document_id, request_id, RequestError.too_large(what))

    def _relay(self, document: Document, frame: Ephemeral) -> None:
        size = len(frame.data)
        if size > MAX_RELAYED_BYTES or not self._relays.take(_RELAYED_BYTES + size, trio.current_time()):
            self.statistics.relays_dropped += 1
            return
        for other in document.subscribers:
            if other is not self and isinstance(other, Connection):
                other.relay(frame)


log = structlog.get_logger(__name__)

# `error` frames are for a person's eyes; a peer that provokes more has seen the point.
_MAX_TOLD = 32
