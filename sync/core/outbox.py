"""What one connection is to be sent, and in which order: the gate that keeps events behind their state (P1).

Pure: positions in, frames out. The connection's writer calls `next_batch` when the socket can take more, so sync
payloads are made at the moment they are written and no queue of encoded messages exists.
"""

from collections import deque
from collections.abc import Callable
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
from sync.core.limits import MAX_BATCH_BYTES, MAX_HELD_EVENTS, MAX_PEER_BYTES, MAX_SYNC_PAYLOAD
from sync.core.notices import Notice
from sync.core.subscription import Subscription

# Notices of a notebook that wait for one peer: from so many on it is behind, and not only loading what it joined. One that
# keeps up has a handful for a commit, and gets every event.
REPLACED_FROM = 256


@dataclass
class OutboxStatistics:
    """Counters of one connection, for /metrics and tests."""

    notices_held: int = 0
    notices_replaced: int = 0
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
    newest: dict[str, Notice] = field(default_factory=dict)  # by topic, of those that wait


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
        # Responses that wait for a document which the peer has not opened: until when, by the caller's clock, in that order.
        self.unopened_until: dict[Notice, float] = {}
        self._max_payload = max_payload
        self._prefixes: dict[DocumentId, SyncFramePrefix] = {}
        self._lanes: dict[DocumentId, _Lane] = {}
        # Frames, or with a prefix the data of an ephemeral message, which gets its count when it is written.
        self._immediate: deque[tuple[EphemeralFramePrefix | None, bytes]] = deque()
        self._waiting_bytes = 0
        self._writing_bytes = 0
        self._count = 0
        self._turn = 0

    def subscribe(self, document: Document, *, origin: object, writable: bool) -> Subscription:
        """Adds a document to this connection; the peer's first sync message makes it live."""
        subscription = self.subscription_type(document, origin=origin, writable=writable)
        self.subscriptions[document.id] = subscription
        self._prefixes[document.id] = SyncFramePrefix(self.sender, self.target, document.id)
        return subscription

    def unsubscribe(self, document_id: DocumentId) -> list[Notice]:
        """Ends a document on this connection: its frames are gone, and every notice that speaks of it.

        Returns:
            Those of them that are responses.
        """
        self.subscriptions.pop(document_id, None)
        self._prefixes.pop(document_id, None)
        responses: list[Notice] = []
        for lane in self._lanes.values():
            responses += self._take_out(lane, lambda notice: document_id in notice.speaks_of)
        self._lanes.pop(document_id, None)
        return responses

    def _take_out(self, lane: _Lane, unwanted: Callable[[Notice], bool]) -> list[Notice]:
        """Takes notices out of a lane; returns those that are responses, the others count as dropped."""
        gone = [notice for notice in lane.notices if unwanted(notice)]
        lane.notices = deque(notice for notice in lane.notices if not unwanted(notice))
        for notice in gone:
            self._taken_out(lane, notice)
            self._waiting_bytes -= len(notice.data)
        responses = [notice for notice in gone if not notice.droppable]
        self.statistics.notices_dropped += len(gone) - len(responses)
        return responses

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
        older = self._replaceable(lane, notice)
        freed = 0 if older is None else len(older.data)
        if notice.droppable and (
            not self._has_room(size - freed) or len(lane.notices) - (older is not None) >= MAX_HELD_EVENTS
        ):
            self.statistics.notices_dropped += 1
            return
        if older is not None:
            self._remove(lane, older)
            self.statistics.notices_replaced += 1
        if not self._has_room(size):
            self._drop_events()
            if not self._has_room(size):
                raise OutboxFull
        lane.notices.append(notice)
        lane.size += size
        self._waiting_bytes += size
        if notice.topic is not None:
            lane.newest[notice.topic] = notice

    def _replaceable(self, lane: _Lane, notice: Notice) -> Notice | None:
        """The event before it of its topic: a peer that is behind is spared it, and sees a gap in `seq`."""
        older = None if notice.topic is None else lane.newest.get(notice.topic)
        return older if len(lane.notices) >= REPLACED_FROM else None

    def _remove(self, lane: _Lane, notice: Notice) -> None:
        lane.notices.remove(notice)
        self._taken_out(lane, notice)
        self._waiting_bytes -= len(notice.data)

    def _taken_out(self, lane: _Lane, notice: Notice) -> None:
        lane.size -= len(notice.data)
        self.unopened_until.pop(notice, None)
        if notice.topic is not None and lane.newest.get(notice.topic) is notice:
            del lane.newest[notice.topic]

    def unopened(self, notice: Notice) -> DocumentId | None:
        """The document that the notice waits for and that the peer has not opened, or never acknowledged; None if none."""
        for document_id, _ in notice.requires:
            subscription = self.subscriptions.get(document_id)
            if subscription is None or not subscription.first_acknowledged:
                return document_id
        return None

    def withdraw(self, notice: Notice) -> bool:
        """Takes back a notice; False if it was written, or is gone."""
        lane = self._lanes.get(notice.document_id)
        if lane is None or notice not in lane.notices:
            return False
        self._remove(lane, notice)
        return True

    def push_ephemeral(self, document_id: DocumentId, data: bytes) -> None:
        """Queues an error response: it speaks of no state, so nothing holds it.

        Raises:
            OutboxFull: the peer does not read what it asks for.
        """
        self._push_immediate(data, EphemeralFramePrefix(self.sender, self.target, document_id, self.session_id))

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
        if not self._has_room(MAX_PEER_BYTES // 2 + len(data)):
            self.statistics.notices_dropped += 1
            return
        self._push_immediate(data)

    def push_unavailable(self, document_id: DocumentId) -> None:
        """Queues "no such document here"."""
        self._push_immediate(encode_frame(DocUnavailable(self.sender, self.target, document_id)))

    def push_error(self, message: str) -> None:
        """Queues an `error` frame, which stock clients log."""
        self._push_immediate(encode_frame(ErrorFrame(self.sender, self.target, message)))

    def _push_immediate(self, data: bytes, prefix: EphemeralFramePrefix | None = None) -> None:
        if not self._has_room(len(data)):
            self._drop_events()
            if not self._has_room(len(data)):
                raise OutboxFull
        self._immediate.append((prefix, data))
        self._waiting_bytes += len(data)

    def _has_room(self, size: int) -> bool:
        return self.held_bytes + size <= MAX_PEER_BYTES

    def _drop_events(self) -> None:
        """Makes room for what must not be dropped."""
        for lane in self._lanes.values():
            self._take_out(lane, lambda notice: notice.droppable)

    def next_batch(self) -> list[bytes]:
        """The frames of the next write, in order; empty if nothing may be written now. The last batch was written.

        What nothing holds back, then one round over the subscriptions, at most about `MAX_SYNC_PAYLOAD` each, then
        every notice that is covered by what was written up to then, this batch included. Each of the three ends at
        about `MAX_BATCH_BYTES` and goes on in the next batch.
        """
        frames: list[bytes] = []
        self._writing_bytes = 0
        while self._immediate and self._writing_bytes < MAX_BATCH_BYTES:
            prefix, data = self._immediate.popleft()
            frames.append(data if prefix is None else prefix.frame(self._next_count(), data))
            self._begin_writing(len(data))
        self._add_payloads(frames)
        for lane in self._lanes.values():
            if lane.notices:
                self._release(lane, frames)
        return frames

    def _add_payloads(self, frames: list[bytes]) -> None:
        """One round; the next begins behind the document that this one ended at, or else one further."""
        documents = list(self.subscriptions)
        size = 0
        for step in range(len(documents)):
            if size >= MAX_BATCH_BYTES:
                self._turn += step
                return
            document_id = documents[(self._turn + step) % len(documents)]
            payload = self.subscriptions[document_id].next_payload(self._max_payload)
            if payload is not None:
                frames.append(self._prefixes[document_id].frame(payload.data))
                size += len(payload.data)
                self.statistics.payloads += 1
        self._turn += 1

    def _release(self, lane: _Lane, frames: list[bytes]) -> None:
        """Adds the notices of a lane that are covered; more than `MAX_BATCH_BYTES` wait for the next batch."""
        size = 0
        while lane.notices and size < MAX_BATCH_BYTES:
            notice = lane.notices[0]
            if not self._covered(notice):
                if lane.counted_held is not notice:
                    lane.counted_held = notice
                    self.statistics.notices_held += 1
                return
            lane.notices.popleft()
            self._taken_out(lane, notice)
            size += len(notice.data)
            self._begin_writing(len(notice.data))
            self.statistics.notices_written += 1
            frames.append(lane.prefix.frame(self._next_count(), notice.data))

    def _begin_writing(self, size: int) -> None:
        self._waiting_bytes -= size
        self._writing_bytes += size

    def _next_count(self) -> int:
        """Receivers drop what is not above the last that they saw, so it is given out in the order of writing."""
        self._count += 1
        return self._count

    def _covered(self, notice: Notice) -> bool:
        for document_id, position in notice.requires:
            subscription = self.subscriptions.get(document_id)
            if subscription is None or not subscription.covers(position):
                return False
        return True

    @property
    def notices_waiting(self) -> int:
        """Events and responses that wait, for their state or for the socket."""
        return sum(len(lane.notices) for lane in self._lanes.values())

    @property
    def held_bytes(self) -> int:
        """Bytes that wait in this outbox or are being written (payloads are made when written and are not held)."""
        return self._waiting_bytes + self._writing_bytes
