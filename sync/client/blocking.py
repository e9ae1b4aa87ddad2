"""The client for programs that do not await: the same names, each call waits.

A Trio loop runs in a thread of its own and holds the notebook; every call, also every read, is carried out there.
"""

import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from sync.client.cell import Cell
from sync.client.errors import ConnectionLost, SyncTimeout
from sync.client.events import EventStream
from sync.client.executions import Execution, Result
from sync.client.notebook import Notebook
from sync.client.opening import open_notebook
from sync.client.outputs import Output
from sync.core.client_session import Event
from sync.core.notebook_schema import CellType

Returned = TypeVar("Returned")


class _Loop:
    """A Trio loop in a thread, with one open notebook in it."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.notebook: Notebook
        self._error: Exception | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._settled = threading.Event()
        # A daemon thread: a program that forgets to close its notebook ends all the same.
        self._thread = threading.Thread(
            target=trio.run, args=(self._main, url, options), name="notebookd client", daemon=True
        )
        self._thread.start()
        try:
            self._settled.wait()
        except BaseException:  # Ctrl-C: nobody will close what is being opened
            self.close()
            raise
        if self._error is not None:
            raise self._error

    async def _main(self, url: str, options: Mapping[str, Any]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        try:
            with self._scope:
                async with open_notebook(url, **options) as self.notebook:
                    self._settled.set()
                    await self._stop.wait()
        except Exception as error:
            # Handed to the thread that waits for the opening, or that closes.
            self._error = error
        finally:
            self._settled.set()

    def run(self, function: Callable[[], Awaitable[Returned]], timeout: float | None = None) -> Returned:
        """Awaits something in the loop.

        Raises:
            SyncTimeout: it took longer than `timeout` seconds.
            ConnectionLost: the notebook is closed.
        """
        scope = trio.CancelScope()

        async def run() -> Returned:
            if timeout is not None:
                scope.deadline = trio.current_time() + timeout
            with scope:
                return await function()
            raise SyncTimeout(f"not within {timeout} s")

        try:
            return trio.from_thread.run(run, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            # Not a task of ours that was cancelled: the loop has ended under this thread, which is in none.
            raise ConnectionLost("the notebook is closed") from None  # noqa: ASYNC104  # see above
        except KeyboardInterrupt:
            self._soon(scope.cancel)
            raise

    def read(self, function: Callable[[], Returned]) -> Returned:
        """Calls something in the loop."""
        try:
            return trio.from_thread.run_sync(function, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise ConnectionLost("the notebook is closed") from None  # noqa: ASYNC104  # as in `run`

    def close(self) -> None:
        """Ends the loop; an error of the end is raised."""
        if self._token is not None:
            self._soon(self._stop.set if hasattr(self, "notebook") else self._scope.cancel)
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _soon(self, function: Callable[[], object]) -> None:
        assert self._token is not None
        with suppress(trio.RunFinishedError):  # nobody is left to be told
            self._token.run_sync_soon(function)


class BlockingNotebook:
    """An open notebook; `close()` it, or use it as a context manager.

    Parameters and names are those of `open_notebook` and `Notebook`. May be used by several threads.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = _Loop(url, options)
        self._nb = self._loop.notebook
        self.url = self._nb.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Sends what is due and ends the connection; a second call does nothing."""
        self._loop.close()

    def __repr__(self) -> str:
        return f"BlockingNotebook({self.url!r})"

    # --- Documents

    @property
    def cells(self) -> "list[BlockingCell]":
        """All cells, in order."""
        return [BlockingCell(self._loop, cell) for cell in self._loop.read(lambda: self._nb.cells)]

    @property
    def metadata(self) -> dict[str, Any]:
        """The notebook's metadata: a copy."""
        return self._loop.read(lambda: self._nb.metadata)

    @property
    def read_only(self) -> bool:
        """Whether the daemon takes no edits."""
        return self._loop.read(lambda: self._nb.read_only)

    @property
    def runtime(self) -> dict[str, Any]:
        """The whole runtime document as plain Python: a copy."""
        return self._loop.read(lambda: self._nb.runtime)

    @property
    def kernel_status(self) -> str:
        """not_started, starting, idle, busy, restarting or dead."""
        return self._loop.read(lambda: self._nb.kernel_status)

    @property
    def kernel(self) -> dict[str, Any]:
        """`kernel` of the runtime document."""
        return self._loop.read(lambda: self._nb.kernel)

    @property
    def queue(self) -> dict[str, Any]:
        """`queue` of the runtime document."""
        return self._loop.read(lambda: self._nb.queue)

    @property
    def file(self) -> dict[str, Any]:
        """`file` of the runtime document."""
        return self._loop.read(lambda: self._nb.file)

    def cell(self, cell_id: str) -> "BlockingCell":
        """The cell with this id; KeyError if there is none."""
        return BlockingCell(self._loop, self._loop.read(lambda: self._nb.cell(cell_id)))

    def add_cell(
        self,
        source: str = "",
        cell_type: CellType = "code",
        *,
        before: "BlockingCell | str | None" = None,
        after: "BlockingCell | str | None" = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "BlockingCell":
        """Adds a cell, at the end if neither `before` nor `after` another one."""
        places = {"before": _id(before), "after": _id(after)}
        cell = self._loop.read(lambda: self._nb.add_cell(source, cell_type, **places, metadata=metadata))
        return BlockingCell(self._loop, cell)

    # --- Executions and the kernel

    def run_all(self, *, stop_on_error: bool = True) -> "list[BlockingExecution]":
        """Queues all code cells that are not empty, in order."""
        executions = self._loop.run(lambda: self._nb.run_all(stop_on_error=stop_on_error))
        return [BlockingExecution(self._loop, execution) for execution in executions]

    def cancel(self, execution: "BlockingExecution") -> str:
        """Takes an execution out of the queue; returns its status."""
        return execution.cancel()

    def clear_outputs(self, cells: "Iterable[BlockingCell | str] | None" = None) -> None:
        """Empties the outputs of these cells, or of all."""
        cell_ids = None if cells is None else [cell.id if isinstance(cell, BlockingCell) else cell for cell in cells]
        self._loop.run(lambda: self._nb.clear_outputs(cell_ids))

    def launch(self, name: str | None = None) -> dict[str, Any]:
        """Starts a kernel, if that one does not run yet; returns its {name, language}."""
        return self._loop.run(lambda: self._nb.launch(name))

    def interrupt(self) -> str | None:
        """Interrupts what runs; returns the id of the execution that it met, if any."""
        return self._loop.run(self._nb.interrupt)

    def restart(self) -> None:
        """Restarts the kernel."""
        self._loop.run(self._nb.restart)

    def shutdown(self) -> None:
        """Ends the kernel."""
        self._loop.run(self._nb.shutdown)

    def complete(self, code: str, cursor_pos: int | None = None) -> dict[str, Any]:
        """What could stand at the cursor."""
        return self._loop.run(lambda: self._nb.complete(code, cursor_pos))

    def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> dict[str, Any]:
        """What is known of the name at the cursor."""
        return self._loop.run(lambda: self._nb.inspect(code, cursor_pos, detail_level))

    def is_complete(self, code: str) -> dict[str, Any]:
        """Whether the code can be run as it is."""
        return self._loop.run(lambda: self._nb.is_complete(code))

    def history(self, n: int = 100, pattern: str | None = None, *, unique: bool = False) -> list[Any]:
        """The kernel's last inputs, as [session, line, source]."""
        return self._loop.run(lambda: self._nb.history(n, pattern, unique=unique))

    def input_reply(self, value: str) -> None:
        """Answers the prompt that `kernel["input_request"]` shows."""
        self._loop.run(lambda: self._nb.input_reply(value))

    # --- The file, being in step, what happens

    def save(self, path: str | None = None) -> dict[str, Any]:
        """Writes the notebook's file; returns {path, saved_at, notebook_heads}."""
        return self._loop.run(lambda: self._nb.save(path))

    def confirm_sync(self, timeout: float = 10) -> None:
        """Returns when the daemon holds all edits made here, and this client all that the daemon held at its answer."""
        self._loop.run(lambda: self._nb.confirm_sync(timeout))

    def events(self) -> "BlockingEvents":
        """The events from now on, as `for event in nb.events()`."""
        return BlockingEvents(self._loop, self._loop.read(self._nb.events))

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Waits until `predicate()`, called in this thread after each change, is true, and returns its value.

        Raises:
            SyncTimeout: it was not within `timeout` seconds.
            ConnectionLost: there will be no more changes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            change = self._loop.read(self._nb.next_change)
            value = predicate()
            if value:
                return value
            self._loop.run(change.wait, None if deadline is None else max(0.0, deadline - time.monotonic()))


class BlockingCell:
    """One cell; see `Cell`."""

    def __init__(self, loop: _Loop, cell: Cell) -> None:
        self.id = cell.id
        self._loop = loop
        self._cell = cell

    def __repr__(self) -> str:
        return f"BlockingCell({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockingCell) and other._cell == self._cell

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def exists(self) -> bool:
        """Whether it was not deleted."""
        return self._loop.read(lambda: self._cell.exists)

    @property
    def source(self) -> str:
        """Its text."""
        return self._loop.read(lambda: self._cell.source)

    @property
    def cell_type(self) -> str:
        """code, markdown or raw."""
        return self._loop.read(lambda: self._cell.cell_type)

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata: a copy."""
        return self._loop.read(lambda: self._cell.metadata)

    @property
    def execution_count(self) -> int | None:
        """The kernel's number of the execution whose outputs are shown."""
        return self._loop.read(lambda: self._cell.execution_count)

    @property
    def outputs(self) -> list[Output]:
        """What is shown below it now, blobs loaded."""
        return self._loop.run(self._cell.load_outputs)

    def execute(self) -> "BlockingExecution":
        """Queues it, with the source that is read here now."""
        return BlockingExecution(self._loop, self._loop.run(self._cell.execute))

    def edit(self, text: str) -> None:
        """Makes this its source; only what differs is touched."""
        self._loop.read(lambda: self._cell.edit(text))

    def move(self, *, before: "BlockingCell | str | None" = None, after: "BlockingCell | str | None" = None) -> None:
        """Puts it before or after another cell, or to the end."""
        self._loop.read(lambda: self._cell.move(before=_id(before), after=_id(after)))

    def delete(self) -> None:
        """Deletes it; nothing if it is gone already."""
        self._loop.read(self._cell.delete)


class BlockingExecution:
    """One run of one cell; see `Execution`."""

    def __init__(self, loop: _Loop, execution: Execution) -> None:
        self.id = execution.id
        self.cell_id = execution.cell_id
        self._loop = loop
        self._execution = execution

    def __repr__(self) -> str:
        return f"BlockingExecution(id={self.id!r}, cell_id={self.cell_id!r})"

    @property
    def status(self) -> str | None:
        """queued, running, done, error, interrupted or cancelled."""
        return self._loop.read(lambda: self._execution.status)

    def result(self, timeout: float | None = None) -> Result:
        """Waits for its end; SyncTimeout after `timeout` seconds."""
        return self._loop.run(self._execution.result, timeout)

    def cancel(self) -> str:
        """Takes it out of the queue; returns its status."""
        return self._loop.run(self._execution.cancel)


class BlockingEvents:
    """Events, one at a time; see `EventStream`."""

    def __init__(self, loop: _Loop, stream: EventStream) -> None:
        self._loop = loop
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return self._loop.run(self._stream.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """The consumer has heard enough; the iteration ends."""
        self._loop.read(self._stream.close)


def _id(cell: BlockingCell | str | None) -> str | None:
    return cell.id if isinstance(cell, BlockingCell) else cell
