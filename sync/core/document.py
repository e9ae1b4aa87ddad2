"""One shared document: the Automerge replica, the log of its changes, and how far peers may see it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from sync.core.binding import Replica, Transaction
from sync.core.change_log import ChangeLog, LoggedChange
from sync.core.changes import open_change
from sync.core.identifiers import ActorId, ChangeHash, DocumentId, Heads, automerge_url
from sync.core.notices import Notice

# A joining peer loads one document chunk in half the time of the same changes one by one; below this size the changes
# are as good, and no `save()` is needed.
SNAPSHOT_FROM_BYTES = 32 * 1024
SNAPSHOT_FROM_CHANGES = 200
# When a cached document chunk is renewed: after so much, sending the rest as changes costs a joining peer more.
SNAPSHOT_STALE_CHANGES = 1_000
SNAPSHOT_STALE_BYTES = 256 * 1024
# A change of our own is deflated from here on. Below, it fits into one packet either way, and to deflate it takes 55 us, three
# times what the commit itself takes (measured, 758 bytes that become 261).
RAW_BYTES = 1024


class Subscriber(Protocol):
    """A connection that holds a document, as the documents' side sees it."""

    @property
    def peer_id(self) -> str:
        """The peer's id, which a response is addressed to."""
        ...

    def wake(self) -> None:
        """Says that there may be something to send."""
        ...

    def push(self, notice: Notice) -> None:
        """Queues a notice behind those that it has for this notebook."""
        ...

    def document_rebuilt(self, document: "Document", authors: Collection[object]) -> None:
        """Changes were taken back, so what the peer has of the document is not what it was; `authors`: their origins."""
        ...


class ChangesRefused(Exception):
    """A peer's changes could not be applied; nothing of them is in the document."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Document:
    """An Automerge document with one writer (the doc-writer) and any number of readers.

    `published` is the position in the log up to which peers may be told: the newest commit until there is a store, the
    durable position after that. Outgoing heads and changes stop there.
    """

    def __init__(self, document_id: DocumentId) -> None:
        self.id = document_id
        self.url = automerge_url(document_id)
        self.replica = Replica()
        self.log = ChangeLog()
        self.published = 0
        self.operations = 0
        self.subscribers: set[Subscriber] = set()
        self._newest: dict[ActorId, tuple[int, ChangeHash]] = {}
        self._own_actors: set[ActorId] = {self.replica.actor}
        self.wants_snapshot = False
        self.snapshot_wanted: Callable[[], None] = lambda: None
        self._snapshot: tuple[int, bytes] | None = None
        # Up to where the log is known to make a document that can be saved and loaded, and where peers' changes end.
        self._snapshot_log = self.log
        self._verified = 0
        self._peers_end = 0
        self._verifiable = True

    def release(self) -> None:
        """Gives back the memory: the room is over and nobody reads this any more, though something may still name it.

        A room's objects hang in cycles. What they take in Python is little; the replica behind them, which the garbage
        collector does not see, is most of it, and would wait for a full collection: for hours in a quiet daemon.
        """
        self.replica = Replica()
        self.log.clear()
        self.published = self.operations = 0
        self._newest.clear()
        self._snapshot = None

    def freeze(self) -> None:
        """Gives back the replica: nothing is written any more and nobody reads it here. Its log goes on being served."""
        self.replica = Replica()

    def heads(self) -> Heads:
        """Heads of everything that was committed, published or not."""
        return self.log.heads()

    def published_heads(self) -> Heads:
        """Heads that peers may hear of."""
        return self.log.heads(self.published)

    def has(self, heads: Iterable[ChangeHash]) -> bool:
        """Whether all of these changes are here."""
        return all(change_hash in self.log for change_hash in heads)

    def commit(self, write: Callable[[Transaction], None]) -> bool:
        """Runs `write` in one transaction and logs its change; False if it changed nothing.

        An exception of `write` rolls the transaction back and passes through.
        """
        before = self.log.heads()
        with self.replica.transaction() as transaction:
            write(transaction)
        # The core counts an empty change of a peer as new again while it is among the heads.
        changes = [change for change in self.replica.changes_since(before) if change.hash not in self.log]
        for change in changes:
            raw = change.raw_bytes
            chunk = raw if len(raw) <= RAW_BYTES else change.bytes
            self.log.append(LoggedChange(change.hash, tuple(sorted(change.deps)), chunk, change.max_op, None))
            self.operations += change.max_op - change.start_op + 1
        return bool(changes)

    def owns_actor(self, actor: ActorId) -> bool:
        """Whether a change of this actor can only be the daemon's own."""
        return actor in self._own_actors

    def newest_of(self, actor: ActorId) -> tuple[int, ChangeHash | None]:
        """Sequence number and hash of the newest change of a peer's actor; 0 and None if there is none."""
        return self._newest.get(actor, (0, None))

    def apply(self, changes: Sequence[tuple[LoggedChange, ActorId, int, int]]) -> None:
        """Takes a peer's checked changes: tuples of (change, actor, seq, number of operations), dependencies first.

        Raises:
            ChangesRefused: Automerge did not take them all; the document is as it was.
        """
        before = self.log.heads()
        expected = ChangeLogPreview(self.log, [change for change, *_ in changes]).heads
        try:
            self.replica.apply([change.chunk for change, *_ in changes])
            taken = self.replica.heads() == expected
        except Exception as error:
            # A panic (BindingPanic), or the core's own refusal, after which nothing says how much of it was taken.
            self.rebuild()
            raise ChangesRefused(f"Automerge could not take the change: {error}") from error
        if not taken:
            # Corrupt content is dropped by the core without an error: its heads do not advance.
            if self.replica.heads() != before:
                self.rebuild()
            raise ChangesRefused("Automerge did not take the change")
        for change, actor, seq, operations in changes:
            self.log.append(change)
            self._newest[actor] = (seq, change.hash)
            self.operations += operations
        self._ask_for_verification()

    def rebuild(self) -> None:
        """Makes the replica anew from the log, which holds only what was good (a panic poisons a replica for ever)."""
        self.replica = Replica()
        self._own_actors.add(self.replica.actor)
        if len(self.log):
            self.replica.apply([self.log.payload(0, len(self.log))])
        if self.replica.heads() != self.log.heads():
            raise RuntimeError(f"document {self.id} could not be rebuilt from its log")

    def discard(self, hashes: Collection[ChangeHash]) -> list[LoggedChange]:
        """Takes changes back, with all that build on them: log and replica are made anew from the others.

        Positions from before mean nothing afterwards. For a document that can't be saved any more because of them.

        Returns:
            All that went.
        """
        gone: dict[ChangeHash, LoggedChange] = {}
        kept: list[LoggedChange] = []
        unchanged = 0
        for change in map(self.log.__getitem__, range(len(self.log))):
            if change.hash in hashes or any(dep in gone for dep in change.deps):
                gone[change.hash] = change
            else:
                if not gone:
                    unchanged += 1
                kept.append(change)
        if self._snapshot is not None and self._snapshot[0] > unchanged:
            self._snapshot = None
        self.log = ChangeLog()
        self._newest.clear()
        self.operations = 0
        for change in kept:
            self.log.append(change)
            opened = open_change(change.chunk)
            self.operations += change.max_op - opened.start_op + 1
            if not self.owns_actor(opened.actors[0]):
                self._newest[opened.actors[0]] = (opened.seq, change.hash)
        self.rebuild()
        self.published = len(self.log)
        self._verified = 0
        self._ask_for_verification()
        return list(gone.values())

    def _ask_for_verification(self) -> None:
        self._peers_end = len(self.log)
        self.snapshot_wanted()

    @property
    def has_unverified(self) -> bool:
        """Whether peers wrote what nobody knows to be saveable yet."""
        return self._verifiable and self._verified < self._peers_end

    def publish(self) -> bool:
        """Lets peers see all that was committed; True if that is news. Subscribers are woken by the caller."""
        if self.published == len(self.log):
            return False
        self.published = len(self.log)
        return True

    def wake_subscribers(self) -> None:
        """Tells every connection that holds this document that it moved."""
        for subscriber in self.subscribers:
            subscriber.wake()

    def snapshot(self) -> tuple[int, bytes] | None:
        """A document chunk and its position, for a peer that has nothing; None where there is none yet, or need not be.

        Asking for one that is missing or stale makes `wants_snapshot` true; the one who asked gets the old one, or changes.
        """
        end = self.published
        position = 0 if self._snapshot is None else self._snapshot[0]
        changes, size = end - position, self.log.size(position, end)
        if self._snapshot is None:
            stale = changes >= SNAPSHOT_FROM_CHANGES or size >= SNAPSHOT_FROM_BYTES
        else:
            stale = changes >= SNAPSHOT_STALE_CHANGES or size >= SNAPSHOT_STALE_BYTES
        if stale and self._verifiable and not self.wants_snapshot:
            self.wants_snapshot = True
            self.snapshot_wanted()
        return self._snapshot

    def snapshot_source(self) -> tuple[int, bytes]:
        """What to make a document chunk of: a position, and all changes up to it."""
        self._snapshot_log = self.log
        return self.published, self.log.payload(0, self.published)

    def set_snapshot(self, position: int, chunk: bytes | None) -> None:
        """A document chunk for `position`; None: none can be made, and none is asked for again."""
        self.wants_snapshot = False
        if self._snapshot_log is not self.log:
            return  # what it was made of was taken back meanwhile
        if chunk is None:
            self._verifiable = False
        else:
            self._snapshot = (position, chunk)
            self._verified = position


class ChangeLogPreview:
    """The heads that a log would have after some more changes."""

    def __init__(self, log: ChangeLog, changes: Sequence[LoggedChange]) -> None:
        heads = set(log.heads())
        for change in changes:
            heads.difference_update(change.deps)
            heads.add(change.hash)
        self.heads: Heads = tuple(sorted(heads))
