"""What one connection is to be sent, and in which order: the gate that keeps events behind their state (P1).

Pure: positions in, frames out. The connection's writer calls `next_batch` when the socket can take more, so sync
payloads are made at the moment they are written and no queue of encoded messages exists.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from sync.core.document import Document
from sync.core.frames import (
    DocUnavailable,
    Ephemeral,
    EphemeralFramePrefix,
    ErrorFrame,
    SyncFramePrefix,
    encode_frame,
)
from sync.core.identifiers import DocumentId, PeerId, SessionId
from sync.core.limits import MAX_HELD_EVENTS, MAX_PEER_BYTES, MAX_SYNC_PAYLOAD
from sync.core.notices import Notice
from sync.core.subscription import Subscription


@dataclass
class OutboxStatistics:
    """Counters of one connection, for /metrics and tests."""

    notices_held: int = 0
    notices_dropped: int = 0
    notices_written: int = 0
    payloads: int = 0


@dataclass(slots=True)
class _Lane:
    """The FIFO of one notebook: within it nothing overtakes a held notice."""

    prefix: EphemeralFramePrefix
    notices: deque[Notice] = field(default_factory=deque)
    size: int = 0
    counted_held: Notice | None = None


class OutboxFull(Exception):
    """The peer is so slow that even what must not be dropped exceeds its share of memory."""


class Outbox:
    """Subscriptions and notices of one connection.

    Args:
        sender: the daemon's peer id.
        target: the peer's.
        session_id: random per connection: a client keeps the last `count` of a (sender, session) for ever.
        max_payload: bytes of changes in one sync message.
    """

    subscription_type = Subscription

    def __init__(
        self, *, sender: PeerId, target: PeerId, session_id: SessionId, max_payload: int = MAX_SYNC_PAYLOAD
    ) -> None:
        self.sender = sender
        self.target = target
        self.session_id = session_id
        self.subscriptions: dict[DocumentId, Subscription] = {}
        self.statistics = OutboxStatistics()
        self._max_payload = max_payload
        self._prefixes: dict[DocumentId, SyncFramePrefix] = {}
        self._lanes: dict[DocumentId, _Lane] = {}
        self._immediate: deque[bytes] = deque()
        self._immediate_bytes = 0
        self._held_bytes = 0
        self._count = 0
        self._next_subscription = 0

    def subscribe(self, document: Document, *, origin: object, writable: bool) -> Subscription:
        """Adds a document to this connection; the peer's first sync message makes it live."""
        subscription = self.subscription_type(document, origin=origin, writable=writable)
        self.subscriptions[document.id] = subscription
        self._prefixes[document.id] = SyncFramePrefix(self.sender, self.target, document.id)
        return subscription

    def unsubscribe(self, document_id: DocumentId) -> None:
        """Ends a document on this connection: its frames and what was held for it are gone."""
        self.subscriptions.pop(document_id, None)
        self._prefixes.pop(document_id, None)
        lane = self._lanes.pop(document_id, None)
        if lane is not None:
            self._held_bytes -= lane.size

    def push(self, notice: Notice) -> None:
        """Queues an event or a response behind everything that was queued for its notebook.

        Raises:
            OutboxFull: responses alone exceed the peer's share of memory.
        """
        lane = self._lanes.get(notice.document_id)
        if lane is None:
            prefix = EphemeralFramePrefix(self.sender, self.target, notice.document_id, self.session_id)
            lane = self._lanes[notice.document_id] = _Lane(prefix)
        size = len(notice.data)
        full = self._held_bytes + self._immediate_bytes + size > MAX_PEER_BYTES
        if notice.droppable and (full or len(lane.notices) >= MAX_HELD_EVENTS):
            self.statistics.notices_dropped += 1
            return
        if full:
            raise OutboxFull
        lane.notices.append(notice)
        lane.size += size
        self._held_bytes += size

    def push_ephemeral(self, document_id: DocumentId, data: bytes) -> None:
        """Queues an error response: it speaks of no state, so nothing holds it.

        Raises:
            OutboxFull: the peer does not read what it asks for.
        """
        self._count += 1
        self._push_immediate(
            encode_frame(Ephemeral(self.sender, self.target, document_id, self.session_id, self._count, data))
        )

    def push_relayed(self, frame: Ephemeral) -> None:
        """Queues another peer's ephemeral message, its sender, session and count unchanged; dropped when slow.

        Nothing is relayed about a document that the peer has not acknowledged yet (see `Subscription`).
        """
        subscription = self.subscriptions.get(DocumentId(frame.document_id))
        if subscription is None or not subscription.first_acknowledged:
            return
        data = encode_frame(
            Ephemeral(frame.sender_id, self.target, frame.document_id, frame.session_id, frame.count, frame.data)
        )
        if self._held_bytes + self._immediate_bytes + len(data) > MAX_PEER_BYTES // 2:
            self.statistics.notices_dropped += 1
            return
        self._push_immediate(data)

    def push_unavailable(self, document_id: DocumentId) -> None:
        """Queues "no such document here"."""
        self._push_immediate(encode_frame(DocUnavailable(self.sender, self.target, document_id)))

    def push_error(self, message: str) -> None:
        """Queues an `error` frame, which stock clients log."""
        self._push_immediate(encode_frame(ErrorFrame(self.sender, self.target, message)))

    def _push_immediate(self, frame: bytes) -> None:
        if self._held_bytes + self._immediate_bytes + len(frame) > MAX_PEER_BYTES:
            raise OutboxFull
        self._immediate.append(frame)
        self._immediate_bytes += len(frame)

    def next_batch(self) -> list[bytes]:
        """The frames of the next write, in order; empty if nothing may be written now.

        One round over the subscriptions, at most about `MAX_SYNC_PAYLOAD` each, then every notice that is covered by
        what was written up to then, this batch included.
        """
        frames = list(self._immediate)
        self._immediate.clear()
        self._immediate_bytes = 0
        for document_id, subscription in self._in_turn():
            payload = subscription.next_payload(self._max_payload)
            if payload is not None:
                frames.append(self._prefixes[document_id].frame(payload.data))
                self.statistics.payloads += 1
        for lane in self._lanes.values():
            if lane.notices:
                frames.extend(self._release(lane))
        return frames

    def _in_turn(self) -> list[tuple[DocumentId, Subscription]]:
        items = list(self.subscriptions.items())
        if not items:
            return items
        start = self._next_subscription % len(items)
        self._next_subscription += 1
        return items[start:] + items[:start]

    def _release(self, lane: _Lane) -> Iterator[bytes]:
        while lane.notices:
            notice = lane.notices[0]
            if not self._covered(notice):
                if lane.counted_held is not notice:
                    lane.counted_held = notice
                    self.statistics.notices_held += 1
                return
            lane.notices.popleft()
            lane.size -= len(notice.data)
            self._held_bytes -= len(notice.data)
            self._count += 1
            self.statistics.notices_written += 1
            yield lane.prefix.frame(self._count, notice.data)

    def _covered(self, notice: Notice) -> bool:
        for document_id, position in notice.requires:
            subscription = self.subscriptions.get(document_id)
            if subscription is None or not subscription.covers(position):
                return False
        return True

    @property
    def held_bytes(self) -> int:
        """Bytes that wait in this outbox (payloads are made when written and are not held)."""
        return self._held_bytes + self._immediate_bytes
