"""Executions: asked for, awaited, and what came out of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

import trio

from sync.client.errors import ConnectionLost, NotebookError
from sync.client.outputs import Output
from sync.core.binding import ROOT, Replica
from sync.core.client_session import Event
from sync.core.identifiers import Heads, heads_from_hex
from sync.core.plain import read_string
from sync.core.runtime_reading import read_cell

FINAL = frozenset(("done", "error", "interrupted", "cancelled"))

# Open executions whose status is looked up after each change (15 us each). Events tell of the end of all the others; should
# those be dropped, the end of the queue does.
_LOOKED_UP = 64


@dataclass(frozen=True, slots=True)
class Result:
    """What an execution came to.

    Attributes:
        status: done, error, interrupted or cancelled.
        execution_count: the kernel's number; None if it never started.
        outputs: those of the cell at the end of this execution, blobs loaded. Empty where another execution of the same
            cell had replaced them before they could be read.
    """

    status: str
    execution_count: int | None
    outputs: list[Output]


class Runtime(Protocol):
    """Where executions read."""

    @property
    def runtime_id(self) -> str:
        """The id of the runtime document."""
        ...

    @property
    def runtime_replica(self) -> Replica:
        """Its replica."""
        ...

    async def load_outputs(self, manifests: Sequence[Mapping[str, Any]]) -> list[Output]:
        """Outputs with their blobs."""
        ...

    async def cancel(self, execution: "Execution") -> str:
        """Takes an execution out of the queue."""
        ...

    def after_events(self, then: Callable[[], None]) -> None:
        """Calls `then` when all that the daemon has said so far was heard, or never will be."""
        ...


class Execution:
    """One run of one cell.

    Attributes:
        id: its id in the documents and events.
        cell_id: which cell.
    """

    def __init__(self, runtime: Runtime, execution_id: str, cell_id: str) -> None:
        self.id = execution_id
        self.cell_id = cell_id
        # The daemon has it in its queue, so the document knows it, until it is forgotten long after its end.
        self.accepted = False
        # The document says that it has ended, and the event is waited for.
        self.awaits_event = False
        self._runtime = runtime
        self._ended = trio.Event()
        self._status: str | None = None
        self._count: int | None = None
        self._manifests: list[Mapping[str, Any]] = []
        self._error: Callable[[], NotebookError] | None = None

    def __repr__(self) -> str:
        return f"Execution(id={self.id!r}, cell_id={self.cell_id!r})"

    @property
    def status(self) -> str | None:
        """queued, running, done, error, interrupted or cancelled; None while the daemon has not said."""
        if self._status is not None:
            return self._status
        return read_status(self._runtime.runtime_replica, self.id)

    async def result(self) -> Result:
        """Waits for its end.

        Raises:
            ConnectionLost: the connection was given up before, or blobs can't be read.
            NotebookError: the daemon does not know of it any more.
        """
        await self._ended.wait()
        if self._error is not None:
            raise self._error()
        assert self._status is not None
        return Result(self._status, self._count, await self._runtime.load_outputs(self._manifests))

    async def cancel(self) -> str:
        """Takes it out of the queue; returns its status, `cancelled` if it had not started."""
        return await self._runtime.cancel(self)

    def finish(self, status: str, count: int | None, manifests: list[Mapping[str, Any]]) -> None:
        """It has ended like this."""
        self._status, self._count, self._manifests = status, count, manifests
        self._ended.set()

    def fail(self, error: Callable[[], NotebookError]) -> None:
        """Its end will not be heard of."""
        self._error = error
        self._ended.set()


class OpenExecutions:
    """Executions that somebody holds and whose end was not seen yet."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._open: WeakValueDictionary[str, Execution] = WeakValueDictionary()
        self._executing: str | None = None

    def add(self, execution_id: str, cell_id: str) -> Execution:
        """A new one, before it is asked for."""
        execution = Execution(self._runtime, execution_id, cell_id)
        self._open[execution_id] = execution
        return execution

    def accept(self, execution: Execution) -> None:
        """The daemon has answered that it is queued."""
        execution.accepted = True
        if execution.id in self._open:
            self._look_up(execution)

    def hear(self, event: Event) -> None:
        """The usual way to the end: outputs are read at the state that the event names."""
        execution = self._open.get(str(event.params.get("execution_id")))
        if event.method != "execution_done" or execution is None:
            return
        replica = self._runtime.runtime_replica
        outputs = read_outputs(replica, execution)
        if outputs is None and event.params.get("runtime") == self._runtime.runtime_id:
            outputs = read_outputs(replica, execution, heads_from_hex(event.params.get("heads", [])))
        status, count = str(event.params.get("status")), event.params.get("execution_count")
        self._finish(execution, status, count, outputs)

    def runtime_moved(self) -> None:
        """The other way: events may be dropped on the way to a slow peer, and what the document says counts."""
        if not self._open:
            return
        was, self._executing = self._executing, read_executing(self._runtime.runtime_replica)
        if len(self._open) <= _LOOKED_UP or (was is not None and self._executing is None):
            looked_up = list(self._open.values())
        else:
            ended = None if was is None or was == self._executing else self._open.get(was)
            looked_up = [] if ended is None else [ended]
        for execution in looked_up:
            self._look_up(execution)

    def fail(self, error: Callable[[], NotebookError]) -> None:
        """None of them will be heard of."""
        for execution in list(self._open.values()):
            execution.fail(error)
        self._open.clear()

    def _look_up(self, execution: Execution, *, is_last: bool = False) -> None:
        replica = self._runtime.runtime_replica
        status = read_status(replica, execution.id)
        if status in FINAL:
            outputs = read_outputs(replica, execution)
            if outputs is None and not is_last:
                # The next execution of the cell is here already; the event, if it comes, says where to look.
                if not execution.awaits_event:
                    execution.awaits_event = True
                    self._runtime.after_events(lambda: self._look_up_last(execution))
                return
            entry = _entry(replica, execution.id)
            count = None if entry is None else replica.get(entry, "execution_count")
            self._finish(execution, status or "", None if count is None else count[0], outputs)
        elif status is None and execution.accepted:
            self._open.pop(execution.id, None)
            execution.fail(
                lambda: ConnectionLost("the daemon does not know of this execution any more; was it started again?")
            )

    def _look_up_last(self, execution: Execution) -> None:
        if execution.id in self._open:
            self._look_up(execution, is_last=True)

    def _finish(self, execution: Execution, status: str, count: object, outputs: list[Any] | None) -> None:
        self._open.pop(execution.id, None)
        execution.finish(status, count if isinstance(count, int) else None, outputs or [])


def read_outputs(replica: Replica, execution: Execution, heads: Heads | None = None) -> list[Any] | None:
    """The manifests of an execution's cell; None where the cell shows another execution, or is gone."""
    cell = read_cell(replica, execution.cell_id, heads)
    if cell is None or cell.get("execution_id") != execution.id:
        return None
    outputs = cell.get("outputs")
    return outputs if isinstance(outputs, list) else []


def read_status(replica: Replica, execution_id: str) -> str | None:
    """The status of an execution, None where the document has none."""
    entry = _entry(replica, execution_id)
    return None if entry is None else read_string(replica, entry, "status")


def read_executing(replica: Replica) -> str | None:
    """The execution that runs."""
    queue = replica.get(ROOT, "queue")
    return None if queue is None else read_string(replica, queue[1], "executing")


def _entry(replica: Replica, execution_id: str) -> bytes | None:
    executions = replica.get(ROOT, "executions")
    found = None if executions is None else replica.get(executions[1], execution_id)
    return None if found is None else found[1]
