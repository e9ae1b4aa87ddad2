"""One document as a client has it: its replica, and what of it this connection's daemon was told and has told.

The other end of `subscription.py`. The daemon pushes prefixes of its change log; the client applies them, says once for
each batch where it now is, and sends its own changes with the first message after they were made. Nothing is
negotiated, and a message that would tell nothing new is never made, so two quiet ends stay quiet.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sync.core.binding import ROOT, Replica, Transaction
from sync.core.identifiers import ChangeHash, DocumentId, Heads
from sync.core.limits import MAX_NEED
from sync.core.sync_message import SyncMessage, encode_sync_message

Result = TypeVar("Result")

# Bytes of changes in one message: long offline edits go out as several, each far below the limit of a frame.
MAX_PAYLOAD = 1024 * 1024


class ReplicaSession:
    """A replica and its side of pushed sync; it outlives connections.

    Attributes:
        replica: what is read; written only through `write`.
        answered: the daemon has said something of this document on this connection.
        read_only: the daemon takes no changes of ours; they are kept, and sent once it takes them again. What the last
            connection said holds until this one says something.
        unavailable: the daemon said that it does not have the document.
    """

    def __init__(self, document_id: DocumentId, replica: Replica | None = None) -> None:
        self.document_id = document_id
        self.replica = Replica() if replica is None else replica
        self.read_only = False
        # Our own changes that the daemon has not named yet, in the order in which they were made.
        self._pending: dict[ChangeHash, bytes] = {}
        # The newest heads that the daemon named and that we hold.
        self._daemon_heads: Heads = ()
        self.begin()

    def begin(self) -> None:
        """A new connection: nothing was told on it yet."""
        self.answered = False
        self.unavailable = False
        self._told: Heads | None = None
        self._sent: set[ChangeHash] = set()
        self._resend: dict[ChangeHash, bytes] = {}
        self._need: tuple[ChangeHash, ...] = ()
        self._asked_at: Heads | None = None

    def write(self, write: Callable[[Transaction], Result]) -> Result:
        """Makes one change, which the next message brings to the daemon.

        An exception of `write` takes the change back and passes through.
        """
        before = self.replica.heads()
        with self.replica.transaction() as transaction:
            result = write(transaction)
        for change in self.replica.changes_since(before):
            self._pending[bytes(change.hash)] = bytes(change.bytes)
        return result

    def receive(self, messages: Sequence[SyncMessage]) -> bool:
        """Takes the messages of one read, in one step; True if the replica moved.

        Raises:
            BindingPanic: the changes broke the replica.
            Exception: the core refused them. Both mean that the daemon sent what it should not have taken itself.
        """
        before = self.replica.heads()
        blobs = [blob for message in messages for blob in message.changes]
        if blobs:
            self.replica.apply(blobs)
        for message in messages:
            self._note(message)
        return self.replica.heads() != before

    def holds(self, heads: Iterable[ChangeHash]) -> bool:
        """Whether every one of these changes is in the replica; 1 to 2 us for each."""
        newest = self.replica.heads()
        # A document at a change that it does not know reads as empty; none of ours is, from its first change on.
        return all(head in newest or self.replica.keys(ROOT, (head,)) for head in heads)

    @property
    def acknowledged(self) -> bool:
        """Whether the daemon named all of our changes, or what is behind them."""
        return not self._pending

    @property
    def due(self) -> bool:
        """Whether there is something that the daemon was not told."""
        if self.unavailable:
            return False
        return bool(self._told != self._heads() or self._need or self._resend or self._unsent())

    def next_message(self) -> bytes | None:
        """The sync message that is due, None if none is. Call again: many changes go out as several messages."""
        if not self.due:
            return None
        chunks: list[bytes] = []
        size = 0
        for queue in (self._resend, self._unsent()):
            for change_hash, chunk in list(queue.items()):
                if chunks and size + len(chunk) > MAX_PAYLOAD:
                    break
                chunks.append(chunk)
                size += len(chunk)
                self._sent.add(change_hash)
                self._resend.pop(change_hash, None)
        heads = self._heads()
        data = encode_sync_message(heads, need=self._need, have=self._daemon_heads, changes=chunks, read_only=False)
        self._told = heads
        self._need = ()
        return data

    def _heads(self) -> Heads:
        # Heads that the daemon will never know would look like a replica that acknowledged nothing.
        return self._daemon_heads if self.read_only and self._pending else self.replica.heads()

    def _unsent(self) -> dict[ChangeHash, bytes]:
        if self.read_only or not self._pending:
            return {}
        return {change_hash: chunk for change_hash, chunk in self._pending.items() if change_hash not in self._sent}

    def _note(self, message: SyncMessage) -> None:
        first, self.answered = not self.answered, True
        self.unavailable = False
        if first or message.supports_reset:
            # Without a list of capabilities, what the last one said holds.
            self.read_only = message.read_only
        if message.reset:
            self._told = None
            self._sent.clear()
        self._note_heads(message.heads, first=first)
        if message.need:
            self._note_need(message.need)

    def _note_heads(self, heads: Heads, *, first: bool) -> None:
        missing = [change_hash for change_hash in heads if not self.holds((change_hash,))]
        if missing:
            if heads != self._asked_at:
                # Once for each set of heads: what nobody can send must not make us talk for ever.
                self._asked_at = heads
                self._need = tuple(missing[:MAX_NEED])
            return
        self._daemon_heads = heads
        if heads == self.replica.heads():
            self._pending.clear()
        elif first:
            # A daemon that was put back to an older state may lack changes of ours that it had acknowledged.
            own = self.replica.actor
            lacking = self.replica.changes_since(heads)
            self._pending = {bytes(change.hash): bytes(change.bytes) for change in lacking if change.actor_id == own}
        elif self._pending:
            lacking_hashes = {bytes(change.hash) for change in self.replica.changes_since(heads)}
            for change_hash in self._pending.keys() - lacking_hashes:
                del self._pending[change_hash]

    def _note_need(self, need: Sequence[ChangeHash]) -> None:
        wanted = set(need)
        for change_hash in wanted & self._pending.keys():
            self._resend[change_hash] = self._pending[change_hash]
        if wanted - self._pending.keys():
            # Rare, and as costly as the document is long.
            for change in self.replica.changes_since(()):
                if bytes(change.hash) in wanted:
                    self._resend.setdefault(bytes(change.hash), bytes(change.bytes))
