"""A notebook as a program has it: cells to read and edit at once, executions and kernel requests to await."""

import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

import trio

from sync.client.cell import SLICE, Cell, check_source
from sync.client.connection import Connection, request_failed
from sync.client.errors import ConnectionLost, NotebookError, RequestFailed, SyncTimeout
from sync.client.events import EventStream
from sync.client.executions import Execution, OpenExecutions
from sync.client.http import DaemonHttp
from sync.client.kernel_requests import KernelRequests
from sync.client.open_widgets import OpenWidgets
from sync.client.outputs import Output, decode_output, missing_blobs
from sync.client.widgets import Widgets
from sync.core import notebook_schema
from sync.core.binding import ROOT, Replica, Transaction
from sync.core.cell_order import Placed, place, read_order, with_places
from sync.core.client_session import ClientSession, Event, Received
from sync.core.identifiers import automerge_url, heads_to_hex
from sync.core.jsonrpc import ErrorCode
from sync.core.notebook_schema import CellsInsertion, NotebookSchema
from sync.core.plain import read_found
from sync.core.positions import RANDOM_SPACE, random_digits
from sync.core.runtime_reading import read_runtime

Written = TypeVar("Written")


class Notebook(KernelRequests):
    """A notebook that is open here; made by `open_notebook`.

    What is read is the local replica, without waiting; edits go into it at once and are sent at once, also while the
    connection is being made anew. What must be asked of the daemon is awaited.

    Attributes:
        url: the Automerge URL of the notebook document.
    """

    def __init__(self, session: ClientSession, http: DaemonHttp) -> None:
        self.url = automerge_url(session.notebook.document_id)
        self._session = session
        self._http = http
        self._connection: Connection
        self._executions = OpenExecutions(self)
        self._open_widgets = OpenWidgets(self, http)
        self._streams: WeakSet[EventStream] = WeakSet()
        self._ordered: tuple[object, list[Placed]] | None = None
        # Why the documents do not arrive.
        self.refusal: RequestFailed | None = None

    def __repr__(self) -> str:
        return f"Notebook({self.url!r})"

    # --- The notebook document

    @property
    def cells(self) -> list[Cell]:
        """All cells, in order."""
        return [Cell(self, placed.cell_id) for placed in self.order()]

    @property
    def metadata(self) -> dict[str, Any]:
        """The notebook's metadata: a copy."""
        return NotebookSchema.read_metadata(self.notebook_replica)

    @property
    def read_only(self) -> bool:
        """Whether the daemon takes no edits: the token is a viewer's, or it refused one (its log says why)."""
        return self._session.notebook.read_only

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; a lost one is made anew, for `reconnect_seconds`."""
        return self._connection.connected

    @property
    def is_unavailable(self) -> bool:
        """Whether the daemon has said that it does not have this notebook open."""
        return self._session.notebook.unavailable

    def cell(self, cell_id: str) -> Cell:
        """The cell with this id.

        Raises:
            KeyError: there is none.
        """
        cell = Cell(self, cell_id)
        if not cell.exists:
            raise KeyError(cell_id)
        return cell

    def add_cell(
        self,
        source: str = "",
        cell_type: notebook_schema.CellType = "code",
        *,
        before: Cell | str | None = None,
        after: Cell | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Cell:
        """Adds a cell, at the end if neither `before` nor `after` another one.

        Raises:
            NotebookError: the notebook is read-only, or the other cell is gone.
            ValueError: both are given, the type is none of code, markdown and raw, or the source is longer than 1 MiB.
        """
        if cell_type not in ("code", "markdown", "raw"):
            raise ValueError(f"a cell is code, markdown or raw, not {cell_type!r}")
        check_source(source)
        cell_id = str(uuid.uuid4())
        position, moved = self.place(self.order(), before, after)
        insertion = CellsInsertion(
            [notebook_schema.Cell(cell_id, cell_type, position, source, metadata=dict(metadata or {}))]
        )

        def write(tx: Transaction) -> None:
            for other, fresh in moved:
                NotebookSchema.set_position(tx, other, fresh)
            insertion.write(tx, SLICE)

        self.write(write, places={**dict(moved), cell_id: position})
        while not insertion.done:
            self.write(lambda tx: insertion.write(tx, SLICE), places={})
        return Cell(self, cell_id)

    def order(self) -> list[Placed]:
        """The cells and their positions, in order; read once for each state of the document."""
        heads = self.notebook_replica.heads()
        if self._ordered is None or self._ordered[0] != heads:
            self._ordered = heads, read_order(self.notebook_replica)
        return self._ordered[1]

    def place(
        self, order: list[Placed], before: Cell | str | None, after: Cell | str | None
    ) -> tuple[str, list[tuple[str, str]]]:
        """A position before or after a cell, or at the end, and the cells that must be re-keyed for it."""
        if before is not None and after is not None:
            raise ValueError("before one cell or after another, not both")
        index = len(order)
        other = before if before is not None else after
        if other is not None:
            other_id = other.id if isinstance(other, Cell) else other
            found = next((index for index, placed in enumerate(order) if placed.cell_id == other_id), None)
            if found is None:
                raise NotebookError(f"there is no cell {other_id!r}")
            index = found if before is not None else found + 1
        return place(order, index, lambda: random_digits(random.randrange(RANDOM_SPACE)))

    def write(self, write: Callable[[Transaction], Written], *, places: Mapping[str, str] | None = None) -> Written:
        """Makes one change of the notebook document, for what the other methods do not do; it is sent at once.

        Args:
            write: writes it.
            places: the positions that it gives cells, where that is known: the order need not be read again then.

        Raises:
            NotebookError: the notebook is read-only.
            ConnectionLost: it is closed.
        """
        self._connection.require_alive()
        if self.read_only:
            raise NotebookError("this notebook is read-only here")
        ordered = self._ordered if places is not None else None
        is_known = ordered is not None and ordered[0] == self.notebook_replica.heads()
        written = self._session.notebook.write(write)
        if ordered is not None and places is not None and is_known:
            self._ordered = self.notebook_replica.heads(), with_places(ordered[1], places) if places else ordered[1]
        self._connection.wake()
        self._connection.changed()
        return written

    # --- The runtime document

    @property
    def runtime(self) -> dict[str, Any]:
        """The whole runtime document (docs/wire.md) as plain Python: a copy, 2 us a value."""
        return read_runtime(self.runtime_replica)

    @property
    def kernel_status(self) -> str:
        """not_started, starting, idle, busy, restarting or dead."""
        return str(self._part("kernel").get("status", "not_started"))

    @property
    def kernel(self) -> dict[str, Any]:
        """`kernel` of the runtime document: status, name, language, error?, input_request?."""
        return self._part("kernel")

    @property
    def queue(self) -> dict[str, Any]:
        """`queue` of the runtime document: executing and queued."""
        return self._part("queue")

    @property
    def file(self) -> dict[str, Any]:
        """`file` of the runtime document: path, status, error?, saved_notebook_heads, saved_at."""
        return self._part("file")

    def _part(self, key: str) -> dict[str, Any]:
        found = self.runtime_replica.get(ROOT, key)
        part = None if found is None else read_found(self.runtime_replica, found)
        return part if isinstance(part, dict) else {}

    async def load_blobs(self, cells: Iterable[Cell] | None = None) -> None:
        """Loads the blobs that outputs of these cells (of all) are in, so that `cell.outputs` has them.

        At most 64 MiB are kept; `await cell.load_outputs()` has all of one cell, whatever their size.
        """
        manifests = [manifest for cell in (self.cells if cells is None else cells) for manifest in cell.manifests()]
        await self._http.read_blobs(missing_blobs(manifests, self._http.cached))

    async def load_outputs(self, manifests: Sequence[Mapping[str, Any]]) -> list[Output]:
        """Outputs with all their blobs, from manifests as the document has them."""
        blobs = await self._http.read_blobs(missing_blobs(manifests, {}))
        return [decode_output(manifest, blobs, self._http.read_blob) for manifest in manifests]

    def decode_outputs(self, manifests: Sequence[Mapping[str, Any]]) -> list[Output]:
        """Outputs with those of their blobs that are at hand."""
        return [decode_output(manifest, self._http.cached, self._http.read_blob) for manifest in manifests]

    # --- Widgets

    def get_widgets(self) -> Widgets:
        """The widgets that are open now; `await nb.get_widgets()` loads their blobs, too."""
        return Widgets(self, self._http, self._open_widgets)

    # --- Executions

    async def execute(self, cell: "Cell") -> Execution:
        """Queues a cell with the source that is read here now; the same as `cell.execute()`."""
        execution = self._executions.add(str(uuid.uuid4()), cell.id)
        params = {"cell_id": cell.id, "execution_id": execution.id, "notebook_heads": self.notebook_heads()}
        while True:
            try:
                await self._connection.request("execute_cell", params, lambda _: self._executions.accept(execution))
            except ConnectionLost:
                # Asked again under the same id: it is the same execution, if the daemon had heard of it.
                await self._connection.wait_connected()
            else:
                return execution

    async def run_all(self, *, stop_on_error: bool = True) -> list[Execution]:
        """Queues all code cells that are not empty, in order; the first error cancels the rest if `stop_on_error`."""
        executions: list[Execution] = []

        def take(result: dict[str, Any]) -> None:
            for one in result.get("executions", []):
                execution = self._executions.add(str(one["execution_id"]), str(one["cell_id"]))
                executions.append(execution)
                self._executions.accept(execution)

        params = {"notebook_heads": self.notebook_heads(), "stop_on_error": stop_on_error}
        await self._connection.request("run_all_cells", params, take)
        return executions

    async def cancel(self, execution: Execution) -> str:
        """Takes an execution out of the queue; returns its status, `cancelled` if it had not started."""
        result = await self._connection.request("cancel_execution", {"execution_id": execution.id})
        return str(result.get("status"))

    async def clear_outputs(self, cells: Iterable[Cell | str] | None = None) -> None:
        """Empties the outputs of these cells, or of all."""
        params: dict[str, Any] = {}
        if cells is not None:
            params["cell_ids"] = [cell.id if isinstance(cell, Cell) else cell for cell in cells]
        await self._connection.request("clear_outputs", params)

    # --- The file, and being in step

    async def save(self, path: str | None = None) -> dict[str, Any]:
        """Writes the notebook's file, with all edits made here; returns {path, saved_at, notebook_heads}."""
        await self.confirm_sync()
        result = await self._connection.request("save_notebook", {} if path is None else {"path": path})
        return {key: value for key, value in result.items() if key not in ("runtime", "heads")}

    async def confirm_sync(self, timeout: float = 10) -> None:
        """Returns when the daemon holds all edits made here, and this client all that the daemon held at its answer.

        Args:
            timeout: seconds; a connection that is made anew meanwhile counts.

        Raises:
            SyncTimeout: it took longer, or the daemon refused an edit.
            ConnectionLost: the connection was given up.
        """
        heads = self.notebook_heads()
        with trio.move_on_after(timeout):
            while True:
                await self._connection.wait_connected()
                try:
                    # The answer is given to us only when the replicas hold the heads that it names.
                    await self._connection.request("barrier", {"notebook_heads": heads})
                except ConnectionLost:
                    continue
                except RequestFailed as error:
                    if error.code == ErrorCode.TIMEOUT:
                        # Its answer spoke of a runtime document that has not come yet, or is replaced by now.
                        continue
                    if error.code == ErrorCode.HEADS_TIMEOUT:
                        raise SyncTimeout(f"the daemon did not take all edits: {error}") from error
                    raise
                return
        raise SyncTimeout(f"not in step with the daemon within {timeout:g} s")

    # --- What happens

    def events(self) -> EventStream:
        """The events from now on, as `async for event in nb.events()`; see `EventStream` for their bound."""
        return self.hear()

    async def wait_for(self, predicate: Callable[[], Any]) -> Any:
        """Waits until `predicate()` is true, looking again after each change of the documents, and returns its value.

        Raises:
            ConnectionLost: there will be no more changes.
        """
        while not (value := predicate()):
            await self._connection.wait_changed()
        return value

    def next_change(self) -> trio.Event:
        """Set at the next change of a document or of the connection.

        Raises:
            ConnectionLost: there will be no more changes.
        """
        self._connection.require_alive()
        return self._connection.next_change

    # --- For the connection, and for what belongs to this package

    def attach(self, connection: Connection) -> None:
        """The connection that carries this notebook."""
        self._connection = connection

    def on_event(self, event: Event) -> None:
        """An event, with its state in the replicas."""
        self._executions.hear(event)
        for stream in self._streams:
            stream.push(event)

    def on_received(self, received: Received) -> None:
        """One read was applied, and its events were heard."""
        if received.runtime_moved and self._session.runtime is not None:
            self._executions.runtime_moved()
            self._open_widgets.look()
        if received.refusal is not None:
            self.refusal = request_failed(received.refusal)
        if self.is_unavailable:
            self._connection.abandon("the daemon does not have this notebook open (any more)")

    def on_ended(self) -> None:
        """There will be no more connection."""
        self._executions.fail(lambda: self._connection.ended_by() or ConnectionLost("the notebook is closed"))
        for stream in self._streams:
            stream.end(quietly=self._connection.closed)

    def hear(self, wanted: Callable[[Event], bool] | None = None) -> EventStream:
        """The events from now on that are wanted."""
        stream = EventStream(self._connection.ended_by, wanted)
        self._streams.add(stream)
        return stream

    async def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Asks the daemon, behind all that was asked before (docs/wire.md, "Requests").

        Raises:
            RequestFailed: the daemon says no.
            ConnectionLost: there is no connection, or it broke before the answer came.
        """
        return await self._connection.request(method, params)

    def touch(self) -> None:
        """Lets everyone who waits for a change look again."""
        self._connection.changed()

    def after_events(self, then: Callable[[], None]) -> None:
        """Calls `then` when all that the daemon has said so far was heard, or never will be."""
        self._connection.after_events(then)

    def notebook_heads(self) -> list[str]:
        """The heads of the notebook document's replica, in hex, as requests name them."""
        return heads_to_hex(self.notebook_replica.heads())

    @property
    def notebook_replica(self) -> Replica:
        """The replica of the notebook document; to be read only."""
        return self._session.notebook.replica

    @property
    def peer_id(self) -> str:
        """What this client calls itself."""
        return self._session.peer_id

    @property
    def runtime_id(self) -> str:
        """The id of the runtime document that is read."""
        return "" if self._session.runtime is None else self._session.runtime.document_id

    @property
    def runtime_replica(self) -> Replica:
        """The replica of the runtime document; to be read only."""
        if self._session.runtime is None:
            return Replica()
        return self._session.runtime.replica
