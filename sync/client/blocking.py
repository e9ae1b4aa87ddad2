"""The client for programs that do not await: the same names, each call waits.

A Trio loop runs in a thread of its own and holds the notebook; every call, also every read, is carried out there.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from sync.client.blocking_events import BlockingEvents
from sync.client.blocking_widgets import BlockingWidgets
from sync.client.cell import Cell
from sync.client.executions import Execution, Result
from sync.client.loop import Loop
from sync.client.outputs import Output
from sync.core.notebook_schema import CellType


class BlockingNotebook:
    """An open notebook; `close()` it, or use it as a context manager.

    Parameters and names are those of `open_notebook` and `Notebook`. May be used by several threads.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = Loop(url, options)
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
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._loop.read(lambda: self._nb.connected)

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

    def get_widgets(self) -> BlockingWidgets:
        """The widgets that are open now, blobs loaded."""
        return BlockingWidgets(self._loop, self._loop.run(self._nb.get_widgets))

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

    def events(self) -> BlockingEvents:
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
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._loop.run(change.wait, timeout, left=left)


class BlockingCell:
    """One cell; see `Cell`."""

    def __init__(self, loop: Loop, cell: Cell) -> None:
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

    def __init__(self, loop: Loop, execution: Execution) -> None:
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


def _id(cell: BlockingCell | str | None) -> str | None:
    return cell.id if isinstance(cell, BlockingCell) else cell
