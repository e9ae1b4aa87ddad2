"""The doc-writer: the one task of a room that changes its documents.

Producers put what they want into a bounded, coalescing source and wake the writer; peers' changes come through
`submit_changes`. One step takes all of it, stores blobs, commits once to each document, publishes, and only then hands
events and responses on, stamped with the heads of that commit. So nothing can speak of a state before its commit.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from sync.blobs import BlobStore
from sync.core.binding import Transaction
from sync.core.change_log import LoggedChange, missing_dependencies
from sync.core.changes import CheckedChange
from sync.core.document import ChangesRefused, Document, Subscriber
from sync.core.frames import encode_data
from sync.core.identifiers import ActorId, ChangeHash, Heads, heads_to_hex
from sync.core.jsonrpc import event, response
from sync.core.limits import MAX_DOCUMENT_OPS, MAX_PENDING_CHANGES
from sync.core.mutations import Mutation
from sync.core.notices import Notice
from sync.core.runtime_schema import RuntimeSchema
from sync.core.subscription import Subscription
from sync.core.urgency import Urgency
from sync.core.values import prepare, raw_size

# At most one commit per interval under load: half the visible delay of 33 ms, and 6 to 29 times fewer changes (which is
# what peers pay for) than a commit per message (measured).
COMMIT_INTERVAL = 0.016
# Hashing and encoding this much takes about a millisecond; more is prepared in a thread.
PREPARE_INLINE_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event before it has heads; `cells`: it speaks of cells or sources, so it names notebook heads as well."""

    method: str
    params: dict[str, Any]
    cells: bool = False


@dataclass(frozen=True, slots=True)
class PendingResponse:
    """The result of a request, for one peer."""

    recipient: Subscriber
    request_id: str | int
    result: dict[str, Any]
    cells: bool = False


@dataclass(slots=True)
class Batch:
    """What a source held: applied in order, in one commit."""

    mutations: list[Mutation] = field(default_factory=list)
    notices: list[PendingEvent | PendingResponse] = field(default_factory=list)
    notebook_writes: list[Callable[[Transaction], None]] = field(default_factory=list)


class Source(Protocol):
    """The bounded buffer between a room's producers and its doc-writer."""

    def drain(self) -> Batch:
        """Gives everything that waits and forgets it."""
        ...

    def notebook_changed(self, *, structure: bool) -> None:
        """Peers' changes were just applied; `structure`: maps were touched, not only text."""
        ...


class Recipient(Subscriber, Protocol):
    """A connection whose peer may change documents."""

    def may_write(self, document: Document) -> bool:
        """Whether the peer's changes to this document are taken; once they are not, they never will be."""
        ...

    def refuse_changes(self, subscription: Subscription, reason: str) -> None:
        """The peer's changes can't be taken: its document becomes read-only, with one `error` frame."""
        ...


@dataclass(frozen=True, slots=True)
class _PeerChanges:
    recipient: Recipient
    subscription: Subscription
    changes: Sequence[CheckedChange]
    heads: Heads


@dataclass(frozen=True, slots=True, eq=False)
class _HeadsWaiter:
    peer: Recipient
    missing: set[ChangeHash]
    done: trio.Event = field(default_factory=trio.Event)


class HeadsRefused(Exception):
    """The awaited heads name a change that was refused: it will never come."""


class DocWriter:
    """Owns the notebook document and the runtime document of one room.

    Args:
        epoch: random per life of the room; events carry it, so that a peer knows a new `seq` from a gap.
    """

    def __init__(
        self,
        *,
        notebook: Document,
        runtime: Document,
        schema: RuntimeSchema,
        source: Source,
        blobs: BlobStore,
        epoch: str,
    ) -> None:
        self.notebook = notebook
        self.runtime = runtime
        self.schema = schema
        self.commits = 0
        self._source = source
        self._blobs = blobs
        self._epoch = epoch
        self._seq = 0
        self._urgency = Urgency.NONE
        self._woken = trio.Event()
        self._waits_since = 0.0
        self._last_commit = -COMMIT_INTERVAL
        self._incoming: deque[_PeerChanges] = deque()
        self._room_for_changes = trio.Condition()
        self._step_done = trio.Event()
        self._heads_waiters: list[_HeadsWaiter] = []
        self._in_step = False
        self._refused: deque[ChangeHash] = deque(maxlen=_REMEMBERED_REFUSALS)

    def wake(self, urgency: Urgency) -> None:
        """Says that the source holds something."""
        if urgency > self._urgency:
            if self._urgency is Urgency.NONE:
                self._waits_since = trio.current_time()
            self._urgency = urgency
            self._woken.set()

    async def submit_changes(
        self, recipient: Recipient, subscription: Subscription, changes: Sequence[CheckedChange], heads: Heads
    ) -> None:
        """Queues a peer's checked changes; waits while too many are queued. They are published with the next commit."""
        while len(self._incoming) >= MAX_PENDING_CHANGES:
            await self._step_done.wait()
        self._incoming.append(_PeerChanges(recipient, subscription, changes, heads))
        self.wake(Urgency.NORMAL)

    async def flush(self) -> None:
        """Waits until everything that is queued now is committed and published."""
        self.wake(Urgency.URGENT)
        # A step that is under way may have drained the source before this call; the one after it has not.
        for _ in range(2 if self._in_step else 1):
            await self._step_done.wait()

    async def wait_for_heads(self, heads: Heads, peer: Recipient) -> None:
        """Returns once the notebook document holds all of `heads`, which `peer` named.

        Raises:
            HeadsRefused: one of them was refused, or is missing and changes of this peer are not taken.
        """
        waiter = _HeadsWaiter(peer, {change_hash for change_hash in heads if change_hash not in self.notebook.log})
        if not waiter.missing:
            return
        if not self._can_come(waiter):
            raise HeadsRefused
        self._heads_waiters.append(waiter)
        try:
            await waiter.done.wait()
        finally:
            self._heads_waiters.remove(waiter)
        if waiter.missing:
            raise HeadsRefused

    def changes_refused(self) -> None:
        """A peer's changes were refused before they came here: who waits for them need not."""
        self._release_waiters()

    def missing_heads(self, heads: Heads) -> list[str]:
        """Those of `heads` that the notebook document lacks, in hex."""
        return heads_to_hex(change_hash for change_hash in heads if change_hash not in self.notebook.log)

    async def run(self) -> None:
        """Commits until cancelled."""
        while True:
            await self._work()
            await self._step()

    async def _work(self) -> None:
        """Waits until there is something to commit and its time has come."""
        while self._urgency is not Urgency.URGENT:
            if self._urgency is Urgency.NONE:
                await self._woken.wait()
            else:
                since = self._last_commit if self._urgency is Urgency.NORMAL else self._waits_since
                due = since + COMMIT_INTERVAL
                if trio.current_time() >= due:
                    break
                with trio.move_on_at(due):
                    await self._woken.wait()
            self._woken = trio.Event()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _step(self) -> None:
        self._in_step = True
        self._urgency = Urgency.NONE
        self._woken = trio.Event()
        if self._incoming:
            self._take_changes()
        batch = self._source.drain()
        if batch.mutations:
            await self._commit_runtime(batch.mutations)
        if batch.notebook_writes:
            self._commit_notebook(batch.notebook_writes)
        self._last_commit = trio.current_time()
        self._publish(batch)
        self._in_step = False
        done, self._step_done = self._step_done, trio.Event()
        done.set()

    def _commit_notebook(self, writes: Sequence[Callable[[Transaction], None]]) -> None:
        def write_all(transaction: Transaction) -> None:
            for write in writes:
                write(transaction)

        self.notebook.commit(write_all)

    async def _commit_runtime(self, mutations: Sequence[Mutation]) -> None:
        if raw_size(mutations) > PREPARE_INLINE_BYTES:
            prepared, blobs = await trio.to_thread.run_sync(prepare, mutations)
        else:
            prepared, blobs = prepare(mutations)
        if blobs:
            # Only the runtime document names them, and it ends with the daemon: no fsync.
            await self._blobs.put_all(blobs, durable=False)

        def write(transaction: Transaction) -> None:
            self.schema.apply(transaction, prepared)

        if self.runtime.commit(write):
            self.commits += 1

    def _publish(self, batch: Batch) -> None:
        moved = [document for document in (self.runtime, self.notebook) if document.publish()]
        everyone = list(self.notebook.subscribers)
        for notice in batch.notices:
            if isinstance(notice, PendingEvent):
                self._seq += 1
                params = {**notice.params, "epoch": self._epoch, "seq": self._seq, **self._stamp(cells=notice.cells)}
                out = self._notice(event(notice.method, params), cells=notice.cells, droppable=True)
                for subscriber in everyone:
                    subscriber.push(out)
            else:
                result = {**self._stamp(cells=notice.cells), **notice.result}
                message = response(notice.request_id, notice.recipient.peer_id, result)
                notice.recipient.push(self._notice(message, cells=notice.cells, droppable=False))
                notice.recipient.wake()
        for document in moved:
            document.wake_subscribers()
        if batch.notices:
            self.notebook.wake_subscribers()

    def _stamp(self, *, cells: bool) -> dict[str, Any]:
        stamp: dict[str, Any] = {
            "runtime": self.runtime.id,
            "heads": heads_to_hex(self.runtime.published_heads()),
        }
        if cells:
            stamp["notebook_heads"] = heads_to_hex(self.notebook.published_heads())
        return stamp

    def _notice(self, message: dict[str, Any], *, cells: bool, droppable: bool) -> Notice:
        requires = [(self.runtime.id, self.runtime.published)]
        if cells:
            requires.append((self.notebook.id, self.notebook.published))
        return Notice(self.notebook.id, tuple(requires), encode_data(message), droppable)

    def _take_changes(self) -> None:
        structure = taken = False
        while self._incoming:
            item = self._incoming.popleft()
            changes = [change for change in item.changes if change.hash not in self.notebook.log]
            try:
                if changes and self._apply(item, changes):
                    taken = True
                    structure = structure or any(change.touches_maps for change in changes)
            except ChangesRefused as refused:
                self._refused.extend(change.hash for change in changes)
                item.recipient.refuse_changes(item.subscription, refused.reason)
            item.subscription.note_heads(item.heads)
            item.recipient.wake()
        self._release_waiters()
        if taken:
            self._source.notebook_changed(structure=structure)

    def _apply(self, item: _PeerChanges, changes: Sequence[CheckedChange]) -> bool:
        document = self.notebook
        logged = [LoggedChange(c.hash, c.deps, c.chunk, c.max_op, item.subscription.origin) for c in changes]
        missing = missing_dependencies(document.log, logged)
        if missing:
            if any(change_hash in self._refused for change_hash in missing):
                raise ChangesRefused("the change builds on one that was refused")
            item.subscription.need(missing)
            return False
        seqs: dict[ActorId, int] = {}
        above: dict[ChangeHash, int] = {}
        for change in changes:
            if document.owns_actor(change.actor):
                raise ChangesRefused("the change claims the daemon's own actor id")
            expected = seqs.get(change.actor, document.next_seq(change.actor))
            if change.seq != expected:
                raise ChangesRefused(f"the change has sequence number {change.seq}, {expected} was expected")
            seqs[change.actor] = change.seq + 1
            behind = max((above.get(dep) or document.log.max_op([dep]) for dep in change.deps), default=0)
            if change.start_op <= behind:
                # Operations with numbers that are taken would name other objects than their author means.
                raise ChangesRefused(f"the change starts at operation {change.start_op}, but builds on {behind}")
            above[change.hash] = change.max_op
        if document.operations + sum(change.op_count for change in changes) > MAX_DOCUMENT_OPS:
            raise ChangesRefused(f"the document would exceed {MAX_DOCUMENT_OPS} operations")
        document.apply([(log, c.actor, c.seq, c.op_count) for log, c in zip(logged, changes, strict=True)])
        return True

    def _release_waiters(self) -> None:
        for waiter in self._heads_waiters:
            waiter.missing.difference_update([h for h in waiter.missing if h in self.notebook.log])
            if not waiter.missing or not self._can_come(waiter):
                waiter.done.set()

    def _can_come(self, waiter: _HeadsWaiter) -> bool:
        return waiter.peer.may_write(self.notebook) and not any(h in self._refused for h in waiter.missing)


# Hashes of refused changes, so that a request that waits for one fails at once; a peer that was refused is read-only
# from then on, so only the newest matter.
_REMEMBERED_REFUSALS = 10_000
