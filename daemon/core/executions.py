"""The execution queue of one kernel: a pure state machine, first in first out, one in flight.

The life of an execution:

    queued ──sent──► (in flight) ──execute_input──► running ──reply and idle──► done | error | interrupted
       │                  │                            └──the kernel dies / is restarted──► error | interrupted
       └──cancel, run_all stops, kernel gone──► cancelled ◄──┘ aborted or lost before it started

What was accepted ends exactly once, whatever happens (P3); `Started` and `Ended` are the values that say so. A kernel has
one execution at a time: the next is sent after the reply *and* idle of the one before, since a kernel may abort what
reaches it between the two.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sync.core.mutations import ExecutionStatus

# After the reply, idle is all that is missing; a kernel whose output queue overflowed may have lost it (measured).
IDLE_GRACE_SECONDS = 2.0
# After idle, a kernel that keeps to the protocol has replied; one that never does must not hold the queue for ever.
REPLY_GRACE_SECONDS = 10.0
# An interrupt that meets ipykernel between execute_input and the code makes it drop the request, and go on without a reply.
DROPPED_GRACE_SECONDS = 2.0
# What is kept of ended executions, for peers that look back and for repeats of a client's own execution_id.
KEPT_EXECUTIONS = 1_000
KEPT_SECONDS = 600.0

Loss: TypeAlias = Literal["died", "restart", "shutdown", "launch_failed"]


@dataclass(slots=True, eq=False)
class Execution:
    """One run of a cell's source, as it was at acceptance. `run_id` groups those of one run_all_cells."""

    execution_id: str
    cell_id: str
    code: str
    order: int
    run_id: str | None = None
    stop_on_error: bool = False
    status: ExecutionStatus = "queued"
    execution_count: int | None = None
    interrupted: bool = False
    reply_status: str | None = None
    input_seen: bool = False
    idle: bool = False
    idle_missing: bool = False
    deadline: float | None = None

    @property
    def started(self) -> bool:
        """Whether the kernel is known to have begun with it."""
        return self.status not in ("queued", "cancelled")


@dataclass(frozen=True, slots=True)
class Started:
    """The kernel began with it: outputs are cleared, its status is running."""

    execution: Execution


@dataclass(frozen=True, slots=True)
class Ended:
    """It has its final status."""

    execution: Execution


Transition: TypeAlias = Started | Ended


class ExecutionQueue:
    """Every method returns the transitions that it caused, in order."""

    def __init__(self) -> None:
        self.in_flight: Execution | None = None
        self.queued: deque[Execution] = deque()
        self.latest: Execution | None = None
        self._known: dict[str, Execution] = {}
        self._ended: deque[tuple[float, str]] = deque()
        self._next_order = 0
        self._announces_input = True

    def find(self, execution_id: str) -> Execution | None:
        """The execution with this id, while it is kept."""
        return self._known.get(execution_id)

    @property
    def running(self) -> Execution | None:
        """The execution that the kernel works on, if it has begun."""
        execution = self.in_flight
        return execution if execution is not None and execution.status == "running" else None

    @property
    def waiting(self) -> tuple[str, ...]:
        """Ids of all that were accepted and have not begun, in order."""
        first = self.in_flight
        ids = [execution.execution_id for execution in self.queued]
        return (first.execution_id, *ids) if first is not None and first.status == "queued" else tuple(ids)

    def submit(
        self, execution_id: str, cell_id: str, code: str, *, run_id: str | None = None, stop_on_error: bool = False
    ) -> Execution:
        """Accepts an execution; the caller has checked that the id is new and the queue not full."""
        execution = Execution(execution_id, cell_id, code, self._next_order, run_id, stop_on_error)
        self._next_order += 1
        self._known[execution_id] = execution
        self.queued.append(execution)
        return execution

    def take_next(self) -> Execution | None:
        """The execution to send to the kernel now, if none is in flight."""
        if self.in_flight is not None or not self.queued:
            return None
        self.in_flight = self.latest = self.queued.popleft()
        return self.in_flight

    def on_input(self, execution_id: str, execution_count: int | None) -> list[Transition]:
        """execute_input: the kernel begins."""
        execution = self._current(execution_id)
        if execution is None:
            return []
        execution.input_seen = True
        return self._start(execution, execution_count)

    def on_activity(self, execution_id: str) -> list[Transition]:
        """An output of it, or its busy: a beginning as well, for kernels that send no execute_input."""
        execution = self._current(execution_id)
        return [] if execution is None else self._start(execution, None)

    def on_busy(self, execution_id: str) -> list[Transition]:
        """Its busy status, which precedes execute_input where there is one."""
        return [] if self._announces_input else self.on_activity(execution_id)

    def on_reply(self, execution_id: str, status: str, execution_count: int | None, now: float) -> list[Transition]:
        """The kernel's execute_reply."""
        execution = self._current(execution_id)
        if execution is None or execution.reply_status is not None:
            return []
        execution.reply_status = status
        transitions: list[Transition] = []
        if status not in _ABORTED:
            transitions += self._start(execution, execution_count)
        if execution.idle:
            return transitions + self._finish(execution, now)
        execution.deadline = now + IDLE_GRACE_SECONDS
        return transitions

    def on_idle(self, execution_id: str, now: float) -> list[Transition]:
        """Its idle status: no output of it follows, but for threads'."""
        execution = self._current(execution_id)
        if execution is None:
            return []
        execution.idle = True
        if execution.reply_status is None:
            execution.deadline = now + (DROPPED_GRACE_SECONDS if execution.interrupted else REPLY_GRACE_SECONDS)
            return []
        return self._finish(execution, now)

    @property
    def deadline(self) -> float | None:
        """When `expire` must be called, if nothing happens before (same clock as `now`)."""
        return None if self.in_flight is None else self.in_flight.deadline

    def expire(self, now: float) -> list[Transition]:
        """Ends what waited too long for idle (it counts as its reply says) or for its reply (an error)."""
        execution = self.in_flight
        if execution is None or execution.deadline is None or now < execution.deadline:
            return []
        if execution.reply_status is None:
            execution.reply_status = "missing"
            return [*self._start(execution, None), *self._finish(execution, now)]
        execution.idle_missing = True
        return self._finish(execution, now)

    def cancel(self, execution_id: str, now: float) -> list[Transition]:
        """Cancels it if it is still queued here; what is with the kernel goes on."""
        execution = self._known.get(execution_id)
        if execution is None or execution not in self.queued:
            return []
        self.queued.remove(execution)
        return [self._end(execution, "cancelled", now)]

    def not_sent(self, execution_id: str, now: float) -> list[Transition]:
        """It could not be sent: it never starts."""
        execution = self._current(execution_id)
        return [] if execution is None else [self._end(execution, "cancelled", now)]

    def cancel_cell(self, cell_id: str, now: float) -> list[Transition]:
        """The cell is gone: what is queued of it is cancelled."""
        return self._cancel_all((execution for execution in self.queued if execution.cell_id == cell_id), now)

    def interrupt(self, now: float) -> tuple[Execution | None, list[Transition]]:
        """A person interrupts: what others queued stays, the rest of the same run_all is cancelled."""
        execution = self.in_flight
        if execution is None:
            return None, []
        execution.interrupted = True
        return execution, self._cancel_rest_of_run(execution, now)

    def kernel_gone(self, loss: Loss, now: float) -> list[Transition]:
        """No kernel will answer any more: everything accepted ends."""
        transitions: list[Transition] = []
        execution = self.in_flight
        if execution is not None:
            if execution.status != "running":
                status: ExecutionStatus = "cancelled"
            elif loss == "died" and not execution.interrupted:
                status = "error"
            else:
                status = "interrupted"
            transitions.append(self._end(execution, status, now))
        transitions += self._cancel_all(self.queued, now)
        self._announces_input = True
        return transitions

    def forget(self, now: float) -> list[str]:
        """Ids of ended executions that need not be kept any longer; they are unknown from now on."""
        forgotten: list[str] = []
        while len(self._ended) > KEPT_EXECUTIONS and now - self._ended[0][0] >= KEPT_SECONDS:
            execution_id = self._ended.popleft()[1]
            del self._known[execution_id]
            forgotten.append(execution_id)
        return forgotten

    def _current(self, execution_id: str) -> Execution | None:
        execution = self.in_flight
        return execution if execution is not None and execution.execution_id == execution_id else None

    def _start(self, execution: Execution, execution_count: int | None) -> list[Transition]:
        if execution.status == "running":
            if execution_count is not None and execution.execution_count is None:
                execution.execution_count = execution_count
            return []
        execution.status = "running"
        execution.execution_count = execution_count
        return [Started(execution)]

    def _finish(self, execution: Execution, now: float) -> list[Transition]:
        if execution.status == "running":
            # One that ended without execute_input tells that this kernel sends none.
            self._announces_input = execution.input_seen
        failed = execution.reply_status != "ok"
        status: ExecutionStatus
        if execution.status != "running":
            status = "cancelled"
        elif not failed:
            status = "done"
        else:
            status = "interrupted" if execution.interrupted else "error"
        transitions: list[Transition] = [self._end(execution, status, now)]
        if failed and execution.stop_on_error:
            transitions += self._cancel_rest_of_run(execution, now)
        return transitions

    def _cancel_rest_of_run(self, execution: Execution, now: float) -> list[Transition]:
        if execution.run_id is None:
            return []
        return self._cancel_all((other for other in self.queued if other.run_id == execution.run_id), now)

    def _cancel_all(self, executions: Iterable[Execution], now: float) -> list[Transition]:
        cancelled = list(executions)
        gone = set(map(id, cancelled))
        self.queued = deque(execution for execution in self.queued if id(execution) not in gone)
        return [self._end(execution, "cancelled", now) for execution in cancelled]

    def _end(self, execution: Execution, status: ExecutionStatus, now: float) -> Ended:
        execution.status = status
        execution.deadline = None
        if execution is self.in_flight:
            self.in_flight = None
        self._ended.append((now, execution.execution_id))
        return Ended(execution)


# The Jupyter protocol says "aborted"; bash_kernel and tslab say "abort".
_ABORTED = ("aborted", "abort")
