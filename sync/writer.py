"""The doc-writer: the one task of a room that changes its documents.

Producers put what they want into a bounded, coalescing source and wake the writer; peers' changes come through
`submit_changes`. One step takes all of it, stores blobs, commits once to each document, publishes, and only then hands
events and responses on, stamped with the heads of that commit. So nothing can speak of a state before its commit.

What a step took belongs together; what comes while it stores blobs is the next one's. When the writer ends, whoever waits
for it hears so, and requests whose answers it had are refused.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import structlog
import trio

from sync.awaited_heads import AwaitedHeads, WriterEnded
from sync.blobs import BlobStore, BlobStoreError
from sync.core.batch import Batch, PendingEvent, PendingResponse, Source
from sync.core.binding import Transaction
from sync.core.carry_over import Shown
from sync.core.changes import CheckedChange
from sync.core.document import Document
from sync.core.frames import encode_data
from sync.core.identifiers import ChangeHash, heads_to_hex
from sync.core.jsonrpc import RequestError, event, response
from sync.core.mutations import Mutation
from sync.core.notebook_schema import NotebookSchema
from sync.core.notices import LAST_COUNTS, Notice
from sync.core.peer_changes import PeerChanges, Recipient, groups
from sync.core.prepared import PreparedMutation, in_commits
from sync.core.runtime_schema import RuntimeSchema
from sync.core.steps import Steps
from sync.core.subscription import Subscription
from sync.core.succession import Succession, name_successor
from sync.core.unstored import without_blobs
from sync.core.urgency import Urgency
from sync.core.values import prepare, raw_size
from sync.turns import in_turns

# At most one commit per interval under load: half the visible delay of 33 ms, and 6 to 29 times fewer changes (which is
# what peers pay for) than a commit per message (measured).
COMMIT_INTERVAL = 0.016
# Hashing and encoding this much takes about a millisecond; more is prepared in a thread.
PREPARE_INLINE_BYTES = 128 * 1024
# Peers' changes are applied for so long in one step; then what waits beside them has its turn.
CHANGES_SECONDS = 0.010

log = structlog.get_logger(__name__)


class DocWriter:
    """Owns the notebook document and the runtime document of one room.

    Args:
        epoch: random per life of the room; events carry it, so that a peer knows a new `seq` from a gap.
        succeeded: called with the old runtime document when another has taken its place, before anybody hears of that.
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
        succeeded: Callable[[Document], None] = lambda old: None,
    ) -> None:
        self.notebook = notebook
        self.runtime = runtime
        self.schema = schema
        self.commits = 0
        # How often another runtime document took the place of the one before.
        self.successions = 0
        # How often what a notebook file holds of the runtime document changed, as far as it is published.
        self.file_changes = 0
        # Commits that had to leave out values which the blob store refused.
        self.unstored = 0
        self._source = source
        self._blobs = blobs
        self._epoch = epoch
        self._seq = 0
        self._urgency = Urgency.NONE
        self._woken = trio.Event()
        self._waits_since = 0.0
        self._last_commit = -COMMIT_INTERVAL
        self._changes = PeerChanges(notebook)
        self._steps = 0
        self._step_done = trio.Event()
        self.heads = AwaitedHeads(notebook, self._changes.has_refused)
        self._batch: Batch | None = None
        self._more = False  # of what the last step drained, notices are left
        self._unsound: set[ChangeHash] = set()
        self._succeeded = succeeded
        self._succession: Succession | None = None
        self._succession_due = False
        self._most = (math.inf, math.inf)
        self._outgrown = trio.Event()
        self.ended = False
        self._disk_refuses = False

    @property
    def waiting(self) -> int:
        """Groups of peers' changes that wait to be applied."""
        return self._changes.submitted - self._changes.taken

    @property
    def changes_of_peers(self) -> int:
        """Groups of peers' changes that were applied, or refused."""
        return self._changes.taken

    def wake(self, urgency: Urgency) -> None:
        """Says that the source holds something."""
        if urgency > self._urgency:
            if self._urgency is Urgency.NONE:
                self._waits_since = trio.current_time()
            self._urgency = urgency
            self._woken.set()

    async def submit_changes(
        self, recipient: Recipient, subscription: Subscription, changes: Sequence[CheckedChange]
    ) -> None:
        """Queues a peer's checked changes; waits while too many are queued. They are published with the next commit.

        Those of a room that is over are gone, as the peer hears by its document becoming unavailable.
        """
        for group in groups(changes):
            while self._changes.is_full and not self.ended:
                await self._step_done.wait()
            if self.ended:
                return
            self._changes.add(recipient, subscription, group)
            self.wake(Urgency.NORMAL)

    async def changes_taken(self) -> None:
        """Returns once the changes that peers submitted before are in the notebook document, or refused.

        Raises:
            WriterEnded: they never will be.
        """
        submitted = self._changes.submitted
        while self._changes.taken < submitted:
            self.wake(Urgency.URGENT)
            await self._next_step()

    async def flush(self) -> None:
        """Waits until everything that is queued now is committed and published.

        Raises:
            WriterEnded: it never will be.
        """
        self.wake(Urgency.URGENT)
        # A step that is under way may have drained the source before this call; the one after it has not. By number: two
        # steps can follow each other before whoever waits has its turn.
        last = self._steps + (1 if self._batch is None else 2)
        while self._steps < last or self._more:
            await self._next_step()

    async def _next_step(self) -> None:
        if not self.ended:
            await self._step_done.wait()
        if self.ended:
            raise WriterEnded

    def discard(self, document: Document, hashes: Collection[ChangeHash]) -> None:
        """Takes changes of the notebook document back with the next commit: it can't be saved with them.

        What it showed, it goes on showing: the rest is written anew. Every peer that holds the document is disconnected, with
        the reason, since its replica has what is not to be had any more.
        """
        if document is not self.notebook:
            log.error("a document that nobody else writes can't be saved", document=document.id)
            return
        self._unsound.update(hashes)
        self.wake(Urgency.URGENT)

    async def outgrown(self, operations: float, size: float) -> None:
        """Returns once the runtime document's history has more than so many operations, or bytes. For one task."""
        self._most = (operations, size)
        self._outgrown = trio.Event()
        self._look_at_size()
        await self._outgrown.wait()

    def _look_at_size(self) -> None:
        operations, size = self._most
        if self.runtime.operations > operations or self.runtime.log.size(0, len(self.runtime.log)) > size:
            self._outgrown.set()

    def begin_succession(self, identifier: bytes) -> Succession:
        """A successor of the runtime document, to be caught up with it; what is committed from now on is written into both."""
        self._succession = Succession(self.runtime, identifier, notebook_url=self.notebook.url)
        return self._succession

    def abandon_succession(self) -> None:
        """The old document stays."""
        self._succession, self._succession_due = None, False

    async def succeed(self) -> None:
        """Puts the successor into the old document's place, as one step; what it still lacks is written at once.

        Raises:
            WriterEnded: it never will be.
        """
        self._succession_due = True
        self.wake(Urgency.URGENT)
        while self._succession_due:
            await self._next_step()

    async def run(self) -> None:
        """Commits until cancelled."""
        try:
            while True:
                await self._work()
                await self._step()
        finally:
            self._end()

    def _end(self) -> None:
        """Nobody may wait for what never comes."""
        self.ended = True
        self._step_done.set()
        self.heads.end()
        left = [] if self._batch is None else self._batch.notices
        batch = self._source.drain()
        left += batch.notices
        while batch.more:
            batch = self._source.drain()
            left += batch.notices
        for notice in left:
            if isinstance(notice, PendingResponse):
                notice.recipient.send_error(self.notebook.id, notice.request_id, RequestError.shutting_down())

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
        self._urgency = Urgency.NONE
        self._woken = trio.Event()
        if self._unsound:
            await self._rebuild_notebook()
        if self._succession is not None and self._succession_due:
            self._roll_over(self._succession)
        if self._changes.waiting:
            await self._take_changes()
        self._batch = batch = self._source.drain()
        self._more = batch.more
        if batch.mutations:
            await self._commit_runtime(batch.mutations)
        if batch.notebook_writes:
            self._commit_notebook(batch.notebook_writes)
        self._publish(batch)
        self._batch = None
        self._steps += 1
        done, self._step_done = self._step_done, trio.Event()
        done.set()

    async def _rebuild_notebook(self) -> None:
        """See `discard`. All at once, however long: until it is done there is no document to speak of."""
        shown = Shown.of(self.notebook.replica)
        culprits, self._unsound = self._unsound, set()
        gone = self.notebook.discard(culprits)
        self._changes.discard(gone)
        self.notebook.commit(shown.write)
        self._changes.catch_up()
        authors = {change.origin for change in gone if change.hash in culprits}
        for subscriber in list(self.notebook.subscribers):
            subscriber.document_rebuilt(self.notebook, authors)
        self.heads.look()
        await in_turns(self._source.notebook_changed(None))

    def _roll_over(self, succession: Succession) -> None:
        """The last change of the old document names the new one, which has all from here on, and so does the notebook."""
        self.abandon_succession()
        if succession.behind:
            succession.catch_up()
        old, self.runtime, self.schema = self.runtime, succession.document, succession.schema
        old.commit(lambda tx: name_successor(tx, self.runtime.url))
        self._commit_notebook([lambda tx: NotebookSchema.set_runtime(tx, self.runtime.url)])
        old.freeze()
        self.successions += 1
        self._succeeded(old)
        old.publish()
        old.wake_subscribers()

    def _commit_notebook(self, writes: Sequence[Callable[[Transaction], None]]) -> None:
        def write_all(transaction: Transaction) -> None:
            for write in writes:
                write(transaction)

        self.notebook.commit(write_all)
        self._changes.catch_up()

    async def _commit_runtime(self, mutations: Sequence[Mutation]) -> None:
        if raw_size(mutations) > PREPARE_INLINE_BYTES:
            prepared, blobs = await trio.to_thread.run_sync(prepare, mutations)
        else:
            prepared, blobs = prepare(mutations)
        if blobs:
            try:
                # Only the runtime document names them, and it ends with the daemon: no fsync.
                await self._blobs.put_all(blobs, durable=False)
                self._disk_refuses = False
            except BlobStoreError as error:
                # A full disk ends no kernel and no room: the outputs say that they are lost.
                if not self._disk_refuses:
                    log.error("values could not be stored", room=self.notebook.id, reason=str(error))
                self._disk_refuses = True
                self.unstored += 1
                prepared = without_blobs(prepared, str(error))

        await in_turns(self._committing(prepared))

    def _committing(self, prepared: Sequence[PreparedMutation]) -> Steps[None]:
        """One commit; only where thousands of entries are new, some before it. They are published together."""
        for part in in_commits(prepared):

            def write(transaction: Transaction, part: Sequence[PreparedMutation] = part) -> None:
                self.schema.apply(transaction, part)

            if self.runtime.commit(write):
                self.commits += 1
                self._look_at_size()
            if self._succession is not None:
                self._succession.follow(part)
            yield

    def _publish(self, batch: Batch) -> None:
        moved = [document for document in (self.runtime, self.notebook) if document.publish()]
        if moved:
            self._last_commit = trio.current_time()
        self.file_changes += batch.changes_file
        everyone = list(self.notebook.subscribers)
        for notice in batch.notices:
            if isinstance(notice, PendingEvent):
                self._seq += 1
                params = {**notice.params, "epoch": self._epoch, "seq": self._seq, **self._stamp(cells=notice.cells)}
                out = self._notice(event(notice.method, params), notice)
                for subscriber in everyone:
                    subscriber.push(out)
            else:
                result = {**self._stamp(cells=notice.cells), **notice.result}
                message = response(notice.request_id, notice.recipient.peer_id, result)
                notice.recipient.push(self._notice(message, notice))
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

    def _notice(self, message: dict[str, Any], pending: PendingEvent | PendingResponse) -> Notice:
        requires = [(self.runtime.id, self.runtime.published)]
        if pending.cells:
            requires.append((self.notebook.id, self.notebook.published))
        request_id = pending.request_id if isinstance(pending, PendingResponse) else None
        topic = pending.method if isinstance(pending, PendingEvent) and pending.method in LAST_COUNTS else None
        return Notice(self.notebook.id, tuple(requires), encode_data(message), request_id is None, request_id, topic)

    async def _take_changes(self) -> None:
        applied, keys = False, set[str]()
        pause = trio.current_time() + CHANGES_SECONDS
        while self._changes.waiting:
            taken = await in_turns(self._changes.taking())
            applied = applied or bool(taken.changes)
            keys |= taken.keys
            if trio.current_time() >= pause and self._changes.waiting:
                self.wake(Urgency.NORMAL)
                break
        if applied:
            await in_turns(self._source.notebook_changed(keys))
        self.heads.look()
