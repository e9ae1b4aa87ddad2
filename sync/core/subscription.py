"""One document as one connection sees it: what was sent, what the peer acknowledged, what is due.

Pushed sync: the daemon sends what the peer lacks, as a prefix of the change log with the heads of that prefix, and
never negotiates with Bloom filters. The rules, each from a measurement with stock clients (docs/wire.md, "Sync"):

- A message names as `have` the heads that it brings the peer to, so that the peer answers with just what we lack.
- Until the peer's first acknowledgement (a sync message with heads) one frame at most is outstanding: a stock client that
  still loads from its storage says that it has none, and may apply several frames out of order. Heads that we do not know
  count as well: whoever may not write, and has, will never name others.
- `need` names only missing dependencies of changes that we want.
- A peer that may not write is told so by the capability tail of every message, and its unknown heads are not answered.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sync.core.change_log import MAX_WALKED
from sync.core.document import Document
from sync.core.identifiers import ChangeHash
from sync.core.limits import MAX_NEED
from sync.core.sync_message import SyncMessage, encode_sync_message


@dataclass(frozen=True, slots=True)
class Payload:
    """A sync message ready to be written; `position` is where it brings the peer."""

    data: bytes
    position: int


class Subscription:
    """The state of one (connection, document); data without a task.

    `origin` is the key of the connection: changes with this origin are not sent back. `sent` is the position up to which
    the peer has everything, from us or from before.
    """

    def __init__(self, document: Document, *, origin: object, writable: bool) -> None:
        self.document = document
        self.origin = origin
        self.writable = writable
        self._answered_heads: tuple[ChangeHash, ...] | None = None
        self._begin()

    def _begin(self) -> None:
        self.live = False
        self.sent = 0
        self.first_acknowledged = False
        self._outstanding = False
        self._message_due = False
        self._join_from_nothing = False
        self._peer_had: frozenset[int] = frozenset()
        self._resend: set[int] = set()
        self._need: tuple[ChangeHash, ...] = ()

    def receive(self, message: SyncMessage) -> None:
        """Takes what the peer says of its replica; its changes are the doc-writer's business."""
        log = self.document.log
        if self.first_acknowledged and not message.heads:
            # The peer threw its replica away and asks anew, on the same connection: its own changes are gone as well.
            self.origin = object()
            self._begin()
        if not self.live:
            self.live = True
            self._message_due = True
            self._skip_what_it_has(message)
        self.first_acknowledged = self.first_acknowledged or bool(message.heads)
        for change_hash in message.need[:MAX_NEED]:
            position = log.position_of(change_hash)
            if position is not None and position <= self.document.published and len(self._resend) < MAX_NEED:
                self._resend.add(position - 1)
        unknown = any(change_hash not in log for change_hash in message.heads)
        if unknown and not message.changes and self.writable and message.heads != self._answered_heads:
            # The peer has edits that it does not know we lack. Once for each set of heads: a replica that can't be
            # completed must not make us talk for ever.
            self._answered_heads = message.heads
            self._message_due = True

    def _skip_what_it_has(self, message: SyncMessage) -> None:
        """The peer comes with a replica from before: what is behind its heads is not sent."""
        log = self.document.log
        position = max((log.position_of(change_hash) or 0 for change_hash in message.heads), default=0)
        if log.heads(position) == message.heads:
            # As most come back: with a state that we had. No need to look at each change behind it.
            had: set[int] = set()
            self.sent = position
        else:
            hashes = list(message.heads)
            if any(change_hash not in log for change_hash in message.heads):
                # With edits that we lack, only this tells what it had of ours. A replica without heads has nothing,
                # whatever its storage remembers of the last sync.
                hashes += [change_hash for last_sync in message.last_sync for change_hash in last_sync]
            self.sent = min(log.covered_by(hashes), self.document.published)
            # What is not found is sent; twice does no harm.
            had = log.ancestors(hashes, self.sent, MAX_WALKED)
            while self.sent in had:
                self.sent += 1
        # Its own newest changes may be in the log and not published yet.
        self.sent = min(self.sent, self.document.published)
        self._peer_had = frozenset(index for index in had if index >= self.sent)
        self._join_from_nothing = not self.sent and not self._peer_had

    def need(self, missing: Iterable[ChangeHash]) -> None:
        """Asks the peer for dependencies of changes that it sent and we could not take yet."""
        self._need = tuple(sorted({*self._need, *missing}))[:MAX_NEED]
        self._message_due = True

    def make_read_only(self) -> None:
        """The peer's changes are not taken any more, for as long as this connection lasts; a message tells it so."""
        if self.writable:
            self.writable = False
            self._message_due = True

    @property
    def due(self) -> bool:
        """Whether there is something to write, and it may be written now."""
        if not self.live or self.waits_for_acknowledgement:
            return False
        return self._message_due or bool(self._resend) or self.sent < self.document.published

    @property
    def waits_for_acknowledgement(self) -> bool:
        """Whether one frame is outstanding and must stay the only one."""
        return self._outstanding and not self.first_acknowledged

    def covers(self, position: int) -> bool:
        """Whether frames that contain every change up to `position` were written, and nothing holds events back."""
        return self.first_acknowledged and self.sent >= position

    def next_payload(self, max_bytes: int) -> Payload | None:
        """The next sync message, at most about `max_bytes` of changes; None if nothing is due."""
        if not self.due:
            return None
        log = self.document.log
        published = self.document.published
        chunks: list[bytes] = []
        start = self.sent
        if self._join_from_nothing and start == 0:
            snapshot = self.document.snapshot()
            if snapshot is not None:
                start, chunk = snapshot
                chunks.append(chunk)
                max_bytes -= len(chunk)
        end = start
        if start < published and (max_bytes > 0 or not chunks):
            end = log.end_within(start, published, max_bytes)
            changes = log.payload(start, end, without=self.origin, skip=self._peer_had)
            if changes:
                chunks.append(changes)
                max_bytes -= len(changes)
        while self._resend and (max_bytes > 0 or not chunks):
            # It said that it lacks them, whatever we thought of it; twice does no harm.
            index = min(self._resend)
            self._resend.discard(index)
            chunks.append(log[index].chunk)
            max_bytes -= len(chunks[-1])
        heads = log.heads(end)
        # To a peer that may write, no capability list at all: with one, stock clients send their whole document in
        # place of a few changes (see `encode_sync_message`), which nobody could check.
        read_only = None if self.writable else True
        data = encode_sync_message(heads, need=self._need, have=heads, changes=chunks, read_only=read_only)
        self._need = ()
        self._message_due = False
        self._outstanding = True
        self.sent = end
        return Payload(data, end)
