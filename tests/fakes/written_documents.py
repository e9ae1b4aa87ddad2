"""A notebook's two documents and their doc-writer, without a room around them."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from automerge import core

from sync.blobs import BlobStore, BlobStoreError
from sync.core.batch import Batch, PendingEvent, PendingResponse
from sync.core.changes import CheckedChange, check_changes
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.mutations import AppendOutput, Mutation, Target
from sync.core.outputs import DisplayOutput
from sync.core.runtime_schema import RuntimeSchema
from sync.core.steps import Steps
from sync.core.subscription import Subscription
from sync.core.urgency import Urgency
from sync.core.values import Blob
from sync.writer import DocWriter
from tests.fakes.recipients import RecordingRecipient

CELL = Target("cell", "a")


class Source:
    """What waits, as a room's runtime has it."""

    def __init__(self) -> None:
        self.batch = Batch()
        self.changed: list[frozenset[str] | None] = []
        self.drained = 0

    def drain(self) -> Batch:
        self.drained += 1
        batch, self.batch = self.batch, Batch()
        return batch

    def notebook_changed(self, keys: Collection[str] | None) -> Steps[None]:
        self.changed.append(None if keys is None else frozenset(keys))
        yield


class Blobs(BlobStore):
    """A store whose disk can be full, and slow."""

    error: BlobStoreError | None = None

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may_store = trio.Event()
        self.may_store.set()

    async def put_all(self, blobs: Sequence[Blob], *, durable: bool = True) -> None:
        await self.may_store.wait()
        if self.error is not None:
            raise self.error
        await super().put_all(blobs, durable=durable)


class WrittenDocuments:
    """A doc-writer with what it owns and one subscriber."""

    def __init__(self, root: Path) -> None:
        self.notebook, self.runtime = Document(document_id(b"n" * 16)), Document(document_id(b"r" * 16))
        schema = RuntimeSchema()
        self.runtime.commit(lambda tx: schema.create(tx, notebook_url=self.notebook.url, path="x.ipynb"))
        self.notebook.commit(lambda tx: tx.put(core.ROOT, "schema", core.ScalarType.Int, 1))
        for document in (self.notebook, self.runtime):
            document.publish()
        self.source, self.blobs = Source(), Blobs(root)
        self.writer = DocWriter(
            notebook=self.notebook, runtime=self.runtime, schema=schema, source=self.source, blobs=self.blobs, epoch="e"
        )
        self.peer = RecordingRecipient()
        self.notebook.subscribers.add(self.peer)
        self.subscription = Subscription(self.notebook, origin=self.peer, writable=True)
        self.replica = core.Document.load(self.notebook.replica.save())

    def want(self, *mutations: Mutation, urgency: Urgency = Urgency.NORMAL) -> None:
        self.source.batch.mutations += mutations
        self.writer.wake(urgency)

    def say(self, method: str, *, cells: bool = False) -> None:
        self.source.batch.notices.append(PendingEvent(method, {}, cells))
        self.writer.wake(Urgency.NORMAL)

    def respond(self, request_id: int) -> None:
        self.source.batch.notices.append(PendingResponse(self.peer, request_id, {}))
        self.writer.wake(Urgency.URGENT)

    def edit(self, key: str = "mine") -> CheckedChange:
        before = self.replica.get_heads()
        with self.replica.transaction() as tx:
            tx.put(core.ROOT, key, core.ScalarType.Int, 1)
        [change] = self.replica.get_changes(before)
        [checked] = check_changes(change.bytes)
        return checked

    async def submit(self, *changes: CheckedChange) -> None:
        await self.writer.submit_changes(self.peer, self.subscription, changes)

    def output(self, text: str) -> AppendOutput:
        return AppendOutput(CELL, DisplayOutput("o", "display_data", {"text/html": text}, {}))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            yield
            nursery.cancel_scope.cancel()
