"""What peers change in a notebook document: checked against the document, and applied or refused, in the order of arrival."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sync.core.binding import object_id
from sync.core.change_log import LoggedChange, builds_on, missing_dependencies
from sync.core.changes import CheckedChange
from sync.core.document import ChangeLogPreview, ChangesRefused, Document, Subscriber
from sync.core.identifiers import ActorId, ChangeHash, DocumentId
from sync.core.jsonrpc import RequestError
from sync.core.limits import (
    MAX_DOCUMENT_BYTES,
    MAX_DOCUMENT_HEADS,
    MAX_DOCUMENT_OPS,
    MAX_GROUP_CHANGES,
    MAX_GROUP_OPS,
    MAX_PENDING_BYTES,
    MAX_PENDING_CHANGES,
    MAX_SKIPPED_OPS,
)
from sync.core.references import References, TooMuch, Unfounded
from sync.core.steps import Steps, run_through
from sync.core.subscription import Subscription

# Hashes of refused changes, so that a request that waits for one fails at once; a peer that was refused is read-only
# from then on, so only the newest matter.
_REMEMBERED_REFUSALS = 10_000


class Recipient(Subscriber, Protocol):
    """A connection whose peer may change documents."""

    def may_write(self, document: Document) -> bool:
        """Whether the peer's changes to this document are taken; once they are not, they never will be."""
        ...

    def refuse_changes(self, subscription: Subscription, reason: str) -> None:
        """The peer's changes can't be taken: its document becomes read-only, with one `error` frame."""
        ...

    def send_error(self, document_id: DocumentId, request_id: str | int | None, error: RequestError) -> None:
        """Answers a request with an error, at once."""
        ...


@dataclass(frozen=True, slots=True)
class _Group:
    """Changes of one peer that are applied in one go."""

    recipient: Recipient
    subscription: Subscription
    origin: object
    changes: Sequence[CheckedChange]
    size: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a group.

    Attributes:
        changes: those that are new in the document.
        keys: keys of maps that they write, and those under which these maps stand; none where only texts and lists changed.
    """

    changes: Sequence[CheckedChange] = ()
    keys: frozenset[str] = frozenset()


_NOTHING = Taken()


class PeerChanges:
    """The queue of changes on their way into one document, and what became of them.

    Attributes:
        submitted: how many groups were added.
        taken: how many of these were taken.
    """

    def __init__(self, document: Document) -> None:
        self.submitted = self.taken = 0
        self._document = document
        self._waiting: deque[_Group] = deque()
        self._waiting_bytes = 0
        self._refused: dict[ChangeHash, None] = {}
        self._discarded: dict[ChangeHash, None] = {}
        self._references = self._follow()
        # Bodies of all changes that were taken from peers.
        self._inflated_bytes = 0
        self._skipped = 0

    def _follow(self) -> References:
        document = self._document
        return References(document.log, lambda actor, counter: document.replica.text(object_id(actor, counter)))

    def discard(self, changes: Collection[LoggedChange]) -> None:
        """Follows the log anew after the document took these changes back; no peer can bring them again."""
        hashes = [change.hash for change in changes]
        self._remember(self._discarded, hashes)
        self._remember(self._refused, hashes)
        self._references = self._follow()

    def catch_up(self) -> None:
        """Follows what was committed otherwise: after each slice of a long load, so that no peer's change waits for all."""
        run_through(self._references.catching_up())

    @property
    def waiting(self) -> bool:
        """Whether `take` has something to do."""
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether peers that send more must wait."""
        return len(self._waiting) >= MAX_PENDING_CHANGES or self._waiting_bytes >= MAX_PENDING_BYTES

    def has_refused(self, hashes: Collection[ChangeHash]) -> bool:
        """Whether one of these changes was refused lately."""
        return any(change_hash in self._refused for change_hash in hashes)

    def add(self, recipient: Recipient, subscription: Subscription, changes: Sequence[CheckedChange]) -> None:
        """Queues changes, which come from the peer behind `recipient`."""
        size = sum(len(change.chunk) for change in changes)
        # The origin as it is now: with a replica that was thrown away, the peer's own changes are gone as well.
        self._waiting.append(_Group(recipient, subscription, subscription.origin, changes, size))
        self._waiting_bytes += size
        self.submitted += 1

    def taking(self) -> Steps[Taken]:
        """Applies the group that came first, all of it or nothing. The document may not move meanwhile.

        The peer is told what is missing before it, or that it was refused.
        """
        group = self._waiting.popleft()
        self._waiting_bytes -= group.size
        # By hash: nobody stops a peer from sending the same change twice, or from saying it twice in one message.
        news = {change.hash: change for change in group.changes if change.hash not in self._document.log}
        changes = list(news.values())
        try:
            return (yield from self._applying(group, changes)) if changes else _NOTHING
        except ChangesRefused as refused:
            self._remember(self._refused, [change.hash for change in changes])
            group.recipient.refuse_changes(group.subscription, refused.reason)
            return _NOTHING
        finally:
            self.taken += 1
            group.recipient.wake()

    @staticmethod
    def _remember(refusals: dict[ChangeHash, None], hashes: Collection[ChangeHash]) -> None:
        refusals.update(dict.fromkeys(hashes))
        for oldest in list(refusals)[: max(0, len(refusals) - _REMEMBERED_REFUSALS)]:
            del refusals[oldest]

    def _applying(self, group: _Group, changes: Sequence[CheckedChange]) -> Steps[Taken]:
        document = self._document
        if any(change.hash in self._discarded for change in changes):
            raise ChangesRefused(
                "the change was taken back, since no document that holds it can be saved; load it anew"
            )
        logged = [LoggedChange(c.hash, c.deps, c.chunk, c.max_op, group.origin) for c in changes]
        missing = missing_dependencies(document.log, logged)
        if missing:
            if self.has_refused(missing):
                raise ChangesRefused("the change builds on one that was refused")
            group.subscription.need(missing)
            return _NOTHING
        newest: dict[ActorId, tuple[int, ChangeHash | None]] = {}
        above: dict[ChangeHash, int] = {}
        highest = document.log.max_op(document.log.heads())
        skipped = self._skipped
        for change in changes:
            if document.owns_actor(change.actor):
                raise ChangesRefused("the change claims the daemon's own actor id")
            seq, previous = newest.get(change.actor) or document.newest_of(change.actor)
            if change.seq != seq + 1:
                raise ChangesRefused(f"the change has sequence number {change.seq}, {seq + 1} was expected")
            if previous is not None and not builds_on(document.log, logged, change.deps, previous):
                # The libraries know what is behind some heads by each author's sequence numbers alone.
                raise ChangesRefused("the change does not build on the one before it of its author")
            newest[change.actor] = (change.seq, change.hash)
            behind = max((above.get(dep) or document.log.max_op([dep]) for dep in change.deps), default=0)
            if change.start_op <= behind:
                # Operations with numbers that are taken would name other objects than their author means.
                raise ChangesRefused(f"the change starts at operation {change.start_op}, but builds on {behind}")
            skipped += max(0, change.start_op - highest - 1)
            if skipped > MAX_SKIPPED_OPS:
                raise ChangesRefused(f"the change starts at operation {change.start_op}, but the last one is {highest}")
            if not change.op_count and change.start_op != behind + 1:
                # The JavaScript library looks for the operations up to there when it loads what it saved (measured).
                raise ChangesRefused(f"the change has no operations, but starts at {change.start_op} behind {behind}")
            above[change.hash] = change.max_op
            highest = max(highest, change.max_op)
        most_heads = len(document.log.heads()) + len(logged)
        if most_heads > MAX_DOCUMENT_HEADS and len(ChangeLogPreview(document.log, logged).heads) > MAX_DOCUMENT_HEADS:
            raise ChangesRefused(f"the document would have more than {MAX_DOCUMENT_HEADS} heads")
        if document.operations + sum(change.op_count for change in changes) > MAX_DOCUMENT_OPS:
            raise ChangesRefused(f"the document would exceed {MAX_DOCUMENT_OPS} operations")
        inflated = sum(change.inflated_size for change in changes)
        if self._inflated_bytes + inflated > MAX_DOCUMENT_BYTES:
            raise ChangesRefused(f"the document would exceed {MAX_DOCUMENT_BYTES} bytes of changes")
        try:
            additions = yield from self._references.checking([change.chunk for change in changes])
        except (Unfounded, TooMuch) as reason:
            raise ChangesRefused(str(reason)) from reason
        with self._references.adding(additions):
            document.apply([(log, c.actor, c.seq, c.op_count) for log, c in zip(logged, changes, strict=True)])
        self._inflated_bytes += inflated
        self._skipped = skipped
        return Taken(changes, frozenset(key.decode() for key in additions.keys))


def groups(changes: Sequence[CheckedChange]) -> Iterator[Sequence[CheckedChange]]:
    """Cuts changes into what may be applied in one go; one change is never cut."""
    start = operations = 0
    for index, change in enumerate(changes):
        if index > start and (operations + change.op_count > MAX_GROUP_OPS or index - start >= MAX_GROUP_CHANGES):
            yield changes[start:index]
            start, operations = index, 0
        operations += change.op_count
    if start < len(changes):
        yield changes[start:]
