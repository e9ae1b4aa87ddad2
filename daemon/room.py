"""One notebook: its two documents, their doc-writer, its kernel and its file.

    producers ── Runtime (pure, bounded, coalescing) ──► doc-writer ──► documents ──► each connection's writer
      kernel readers ─ receive ─┘        ▲                   ▲
      dispatcher ─ submit, cancel, ... ──┘                   └── peers' changes, from the connections' reading loops

An error in one of the room's tasks closes this room alone: its documents become unavailable, no connection ends.
"""

import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import trio

from daemon.cell_following import CellFollower
from daemon.core.executions import Execution
from daemon.core.notebook_model import LoadedNotebook
from daemon.core.runtime import Runtime
from daemon.file_state import FileState
from daemon.files import FileVersion
from daemon.kernel_life import KernelSupervisor
from daemon.loading import load_into
from daemon.next_input import NextInputs
from daemon.rolling_over import roll_over_when_due
from daemon.saving import save_notebook
from daemon.unsaved import save_or_keep
from daemon.widget_reading import PastWidgets
from sync.awaited_heads import WriterEnded
from sync.blobs import BlobStore, BlobStoreError
from sync.compactor import Compactor
from sync.core.document import Document
from sync.core.identifiers import document_id, heads_to_hex
from sync.core.jsonrpc import RequestError
from sync.core.notebook_schema import NotebookSchema
from sync.core.runtime_schema import RuntimeSchema
from sync.core.urgency import Urgency
from sync.writer import DocWriter

log = structlog.get_logger(__name__)

# A peer that was cut off tries again for a minute (`sync.client`), and brings what was written meanwhile.
AWAY_SECONDS = 90.0
# From the sending of an execution to its beginning: a kernel takes 3 ms, and longer when a completion holds it up.
BEGIN_SECONDS = 1.0

# The end of the year 9999: a file may claim any time.
_LAST_SECOND = 253_402_300_799


def timestamp(seconds: float | None = None) -> str:
    """Seconds since the epoch (None: now) as ISO 8601 in UTC with milliseconds and Z."""
    at = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id() -> str:
    """A UUID4, lower case, with dashes."""
    return str(uuid.uuid4())


class Room:
    """Everything of one open notebook. Made and run by `Rooms`.

    Args:
        path: the notebook's file, resolved.
        version: which state of the file was loaded.
        unsaved: a folder for what can't be saved at the end, nor be kept beside the file; it need not exist.
        show: a path as peers see it, relative to the daemon's root where it is inside.
        resolve: turns a path from a request into a file inside the daemon's root.
        reserve: keeps a file of another name to this room while it is written; raises NotSaved where it is open.
        serve: called with a document that peers may ask for from now on.
        stop_serving: called with one that they may not any more.
    """

    def __init__(
        self,
        *,
        path: Path,
        unsaved: Path,
        loaded: LoadedNotebook,
        version: FileVersion,
        kernel_name: str | None,
        blobs: BlobStore,
        runtime_dir: Path,
        kernel_env: Mapping[str, str],
        show: Callable[[Path], str],
        resolve: Callable[[str], Path],
        reserve: Callable[[Path], AbstractAsyncContextManager[None]],
        serve: Callable[[Document], None],
        stop_serving: Callable[[Document], None],
    ) -> None:
        self.path = path
        self.unsaved = unsaved
        self.shown_path = show(path)
        self.blobs = blobs
        self.show = show
        self.resolve = resolve
        self.reserve = reserve
        self.notebook = Document(document_id(uuid.uuid4().bytes))
        runtime_document = Document(document_id(uuid.uuid4().bytes))
        # Runtime documents whose place another has taken, and that are served on.
        self.replaced: list[Document] = []
        # When a peer left it last.
        self.left_at = -math.inf
        self.past_widgets = PastWidgets(lambda: self.runtime_document)
        self.saving = trio.Lock()
        self.timestamp = timestamp
        self._serve = serve
        self._stop_serving = stop_serving
        self.closing = False
        self.closed = False
        self.failed = False
        self._ending = False
        self.finished = trio.Event()
        self._loaded_notebook: LoadedNotebook | None = loaded
        self._asked_kernel = kernel_name
        self._deadline_moved = trio.Event()
        self._transition = trio.Event()
        self._awaited = math.inf
        self._scope = trio.CancelScope()
        self._serving: dict[trio.CancelScope, bool] = {}
        self.ended = trio.Event()

        self.notebook.commit(
            lambda tx: NotebookSchema.create(tx, runtime_url=runtime_document.url, metadata=loaded.metadata)
        )
        schema = RuntimeSchema()
        runtime_document.commit(
            lambda tx: schema.create(
                tx,
                notebook_url=self.notebook.url,
                path=self.shown_path,
                kernel_name=self.kernel_name(),
            )
        )
        self.runtime = Runtime(
            new_id=new_id,
            monotonic=trio.current_time,
            timestamp=timestamp,
            wake=self._wake,
        )
        self.cells = CellFollower(
            self.notebook,
            self.runtime,
            runtime_url=lambda: self.runtime_document.url,
            moved=self._move_deadline,
        )
        self.runtime.on_notebook_changed = self.cells.notebook_changed
        self.runtime.on_widgets_gone = self.past_widgets.note
        self.runtime.on_transition = self._note_transition
        self.runtime.on_deadline = self._move_deadline
        self.runtime.on_execution = _log_execution
        self.next_inputs = NextInputs(self)
        self.runtime.on_next_input = self.next_inputs.note
        self.writer = DocWriter(
            notebook=self.notebook,
            runtime=runtime_document,
            schema=schema,
            source=self.runtime,
            blobs=blobs,
            epoch=new_id(),
            succeeded=self._runtime_succeeded,
        )
        self.file = FileState(version, notebook=self.notebook, runtime=self.runtime, writer=self.writer)
        self._compactor = Compactor(self.writer.discard)
        for document in (self.notebook, runtime_document):
            document.publish()
            self._compactor.watch(document)
        self.kernels = KernelSupervisor(
            self.runtime,
            cwd=path.parent,
            env=kernel_env,
            runtime_dir=runtime_dir,
            default_name=self.kernel_name,
            deadline_moved=self._move_deadline,
        )

    @property
    def id(self) -> str:
        """The notebook document's id."""
        return self.notebook.id

    @property
    def runtime_document(self) -> Document:
        """The one that is written; another may take its place."""
        return self.writer.runtime

    @property
    def documents(self) -> list[tuple[str, Document]]:
        """All that are served, and what they are called."""
        replaced = [("replaced", document) for document in self.replaced]
        return [("notebook", self.notebook), ("runtime", self.runtime_document), *replaced]

    def _wake(self, urgency: Urgency) -> None:
        self.writer.wake(urgency)

    def kernel_name(self) -> str:
        """The kernelspec that the notebook asks for."""
        if self._asked_kernel is not None:
            return self._asked_kernel
        return NotebookSchema.read_kernel_name(self.notebook.replica) or "python3"

    # The tasks.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the room until it is closed; an error of its tasks passes through."""
        try:
            with self._scope:
                async with trio.open_nursery() as writer_nursery:
                    writer_nursery.start_soon(self.writer.run)
                    async with trio.open_nursery() as producers:
                        producers.start_soon(self.kernels.run)
                        producers.start_soon(self._watch_deadlines)
                        producers.start_soon(self._load)
                        producers.start_soon(self._compactor.run)
                        producers.start_soon(roll_over_when_due, self)
                        producers.start_soon(self.next_inputs.run)
                        task_status.started()
        finally:
            self.closed = True
            self.ended.set()
            for scope in self._serving:
                scope.cancel()

    async def finish(self, *, save: bool) -> None:
        """Ends what is queued and saves if asked, once; nothing is accepted any more. The kernel's process is still there, and
        what it says is nobody's. Whoever calls it a second time waits for that.
        """
        if self.closing:
            await self.finished.wait()
            return
        self.closing = True
        for scope, accepted in self._serving.items():
            if not accepted:
                scope.cancel()
        try:
            self.kernels.give_up()
            self.runtime.kernel_gone("shutdown")
            await self._commit_last(save=save)
        finally:
            self.finished.set()

    async def close(self, *, save: bool) -> None:
        """`finish`, and ends the kernel; `cancel` is what remains. Whoever calls it a second time waits for the room's end."""
        if self._ending:
            await self.ended.wait()
            return
        self._ending = True
        # First: many kernels that end at once leave a small machine no time to save (35 of them took it all).
        await self.finish(save=save)
        await self.kernels.close()

    async def _commit_last(self, *, save: bool) -> None:
        done = False
        try:
            await self.settled()
            if save and self.file.changed:
                await save_or_keep(self)
                await self.writer.flush()
            done = True
        except (WriterEnded, RequestError):
            log.warning("the room failed before it could be closed", room=self.id)
        except Exception:
            # The policy line: the room must end all the same, and with it the others; it may be all that is lost.
            log.exception("not saved at the end, nor kept: it is lost", room=self.id, path=self.shown_path)
            done = True
        finally:
            if not done and save and self.unsaved_work and not self.closed:
                log.error("not saved at the end: it took too long", room=self.id, path=self.shown_path)

    async def settled(self) -> None:
        """Returns once what peers sent before is published, and the file is loaded, unless they did nothing yet.

        Raises:
            RequestError, WriterEnded: the room ended.
        """
        await self.writer.changes_taken()
        await self.writer.flush()
        if not self._untouched:
            with self.serving():
                await self.file.loaded.wait()
                await self.next_inputs.settled()

    @contextmanager
    def serving(self, *, accepted: bool = True) -> Iterator[None]:
        """Requests wait in here for what the room has for them.

        Args:
            accepted: the wait goes on while the room is closing, and ends with it; else it ends when the closing begins.

        Raises:
            RequestError: shutting_down, the room ended meanwhile.
        """
        with trio.CancelScope() as scope:
            self._serving[scope] = accepted
            try:
                yield
            finally:
                del self._serving[scope]
        if scope.cancelled_caught:
            raise RequestError.shutting_down()

    def cancel(self) -> None:
        """Ends the room's tasks at once."""
        self._scope.cancel()

    async def _load(self) -> None:
        loaded, self._loaded_notebook = self._loaded_notebook, None
        file = self.file
        if loaded is not None:
            try:
                await load_into(self, loaded)
            except BlobStoreError as error:
                file.load_error = str(error)
        await self.writer.flush()
        if self.writer.unstored:
            file.load_error = file.load_error or "outputs could not be stored"
        # What peers did while it was loaded is in no file, and can't be told from it any more.
        untouched = self._untouched
        if file.load_error is None:
            heads = heads_to_hex(self.notebook.heads()) if untouched else []
            file.tell_saved(heads, timestamp(file.version.stamp.modified / 1e9))
        else:
            log.error("notebook not loaded whole", room=self.id, path=self.shown_path, reason=file.load_error)
            file.tell("read_only", f"not loaded whole, so it is not saved: {file.load_error}")
        await self.writer.flush()
        # With a change of a peer in this last step, the heads are not those from before.
        file.saved = file.state if untouched and self._untouched else None
        file.loaded.set()

    @property
    def _untouched(self) -> bool:
        """Whether no peer has written or executed anything yet."""
        return not self.writer.changes_of_peers and self.runtime.unused

    async def _watch_deadlines(self) -> None:
        while True:
            self._deadline_moved = trio.Event()
            self._awaited = self._deadline()
            with trio.move_on_at(self._awaited):
                await self._deadline_moved.wait()
                continue
            self.runtime.expire()
            self.kernels.carry_out()
            self.cells.expire(trio.current_time())

    def _deadline(self) -> float:
        of_runtime = self.runtime.deadline
        return self.cells.deadline if of_runtime is None else min(self.cells.deadline, of_runtime)

    def _move_deadline(self) -> None:
        # One that moved back, as it does with each execution, is looked at when the old one has come.
        if self._deadline() < self._awaited:
            self._deadline_moved.set()

    # Executions.

    async def begun(self) -> None:
        """Returns once the execution that the kernel was sent has begun, if there is one: until then an interrupt meets an idle
        kernel, which takes no notice of it. After a second in any case.
        """
        with trio.move_on_after(BEGIN_SECONDS):
            while self.runtime.between:
                await self._transition.wait()

    def _note_transition(self) -> None:
        self._transition.set()
        self._transition = trio.Event()

    # The runtime document's successors.

    def _runtime_succeeded(self, old: Document) -> None:
        """Another runtime document takes the place of `old`, as the notebook document says from its next change on."""
        self.replaced.append(old)
        self._serve(self.runtime_document)
        self._compactor.watch(self.runtime_document)
        self.file.note_successor()

    def retire(self, old: Document) -> None:
        """Peers had their time to follow."""
        self.replaced.remove(old)
        self._compactor.forget(old)
        self._stop_serving(old)

    # The file.

    @property
    def unsaved_work(self) -> bool:
        """Whether somebody did what is not in the file, be it while that is still loaded."""
        return self.file.changed if self.file.loaded.is_set() else not self._untouched

    @property
    def unused(self) -> bool:
        """Whether its end takes nothing from anybody: no peer is there, or may come back; no kernel; all is done, and saved."""
        return not (
            self.file.changed
            or not self.file.loaded.is_set()
            or self._serving
            or any(document.subscribers for _, document in self.documents)
            or trio.current_time() < self.left_at + AWAY_SECONDS
            or self.runtime.kernel_status not in ("not_started", "dead")
            or self.runtime.queue.waiting
        )

    async def save(self, path: Path | None = None) -> dict[str, Any]:
        """Writes the notebook's file, or another; returns {path, saved_at, notebook_heads} for the answer.

        Raises:
            NotSaved: it could not be.
        """
        return await save_notebook(self, path or self.path)


def _log_execution(execution: Execution) -> None:
    """Started or ended. What went well is for those alone who look for it; what is run is nobody's."""
    level = log.debug if execution.status in ("running", "done") else log.info
    level("execution", execution_id=execution.execution_id, cell=execution.cell_id, status=execution.status)


def kernel_environment(without: Callable[[str], bool]) -> dict[str, str]:
    """The environment that kernels get: ours, but for what is not theirs to know (tokens)."""
    return {key: value for key, value in os.environ.items() if not without(key)}
