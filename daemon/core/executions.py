"""The execution queue of one kernel: a pure state machine, first in first out, one in flight.

The life of an execution:

    queued ──sent──► (in flight) ──execute_input──► running ──reply and idle──► done | error | interrupted
       │                  │                            └──the kernel dies / is restarted──► error | interrupted
       └──cancel, run_all stops, kernel gone──► cancelled ◄──┘ aborted, or restarted before it began

What was accepted ends exactly once, whatever happens (P3); `Started` and `Ended` are the values that say so. A kernel has
one execution at a time: the next is sent after the reply *and* idle of the one before, since a kernel may abort what
reaches it between the two.

Where reply or idle may be lost (the connection broke, a queue overflowed) or never come (the kernel dropped the request), the
kernel is asked a question: an execution of nothing. A kernel takes executions in order, and both channels keep it. So when the
answer to the question has come by shell, the reply before it has come or never will; and so it is with idle, by iopub.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sync.core.mutations import ExecutionStatus

# Of reply and idle one has come: the other is milliseconds behind it, or behind a backlog of outputs, or lost: a kernel whose
# output queue overflowed may have lost idle (measured), and one that is interrupted between execute_input and the code drops
# the request (8 of 200 interrupts of short cells). After this the kernel is asked, and after as long again if it answered and
# its idle was not heard.
ASK_SECONDS = 2.0
# The same after an interrupt, where neither has come: most often all is over after 50 ms. Soon, since a cell of ipykernel that
# awaits something takes notice of an interrupt only when a message comes as well (measured: `await sleep(12)` took 12 s).
ASK_AFTER_INTERRUPT_SECONDS = 0.3
# A kernel that does not answer, after its reply or its idle, must not hold the queue for ever. Nothing has come by iopub for so
# long then, and a message of 256 MiB takes 2 s.
LOST_SECONDS = 10.0
# A backlog that takes longer than this is none: something with this parent, a thread, never stops.
MAX_LAG_SECONDS = 60.0
# A deadline that is seen so much too late was missed by us, not by the kernel: what we waited for may be there, unread.
LATE_SECONDS = 1.0
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
    reply_missing: bool = False
    # When the kernel was first known to be past it.
    past_at: float | None = None
    deadline: float | None = None
    looked_again: bool = False
    # The question behind it: when it is due, its msg_id, and what has come of it.
    ask_at: float | None = None
    question: str | None = None
    answered: bool = False
    answer_idle: bool = False

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
        self.in_flight = self.queued.popleft()
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
        self._await_rest(execution, now)
        return transitions

    def on_idle(self, execution_id: str, now: float) -> list[Transition]:
        """Its idle status: no output of it follows, but for threads'."""
        execution = self._current(execution_id)
        if execution is None:
            return []
        execution.idle = True
        if execution.reply_status is None:
            self._await_rest(execution, now)
            return []
        return self._finish(execution, now)

    def on_iopub(self, execution_id: str, now: float) -> None:
        """Something else of it on iopub: where that lags behind the reply, idle is on its way."""
        execution = self._current(execution_id)
        if execution is not None and execution.past_at is not None and execution.deadline is not None:
            later = max(execution.deadline, now + LOST_SECONDS)
            execution.deadline = min(later, execution.past_at + MAX_LAG_SECONDS)

    @property
    def deadline(self) -> float | None:
        """When `to_ask` and `expire` must be called, if nothing happens before (same clock as `now`)."""
        execution = self.in_flight
        if execution is None:
            return None
        return min((at for at in (execution.deadline, execution.ask_at) if at is not None), default=None)

    def expire(self, now: float) -> list[Transition]:
        """Ends what waited too long, for what `_give_up` says."""
        execution = self.in_flight
        if execution is None or execution.deadline is None or now < execution.deadline:
            return []
        if now - execution.deadline > LATE_SECONDS and not execution.looked_again:
            execution.looked_again = True
            execution.deadline = now + LATE_SECONDS
            return []
        return self._give_up(execution, now)

    def reconnected(self, now: float) -> None:
        """What either side said may be lost, the question that was asked before included."""
        if self.in_flight is not None:
            self.in_flight.ask_at = now

    def to_ask(self, now: float) -> Execution | None:
        """The execution behind which the kernel is to be asked a question now; `question` is to be set to its msg_id."""
        execution = self.in_flight
        if execution is None or execution.ask_at is None or now < execution.ask_at:
            return None
        execution.ask_at = None
        execution.answered = execution.answer_idle = False
        return execution

    def on_answer(self, msg_id: str, now: float) -> list[Transition]:
        """The reply to a question: the reply to what was sent before it has come by now, or never will."""
        execution = self._asked(msg_id)
        if execution is None:
            return []
        execution.answered = True
        if execution.past_at is None:
            execution.past_at, execution.deadline = now, now + LOST_SECONDS
        # Where connections are new, what is said on iopub is lost until the subscription holds.
        execution.ask_at = now + ASK_SECONDS
        return self._look(execution, now)

    def on_answer_idle(self, msg_id: str, now: float) -> list[Transition]:
        """The idle of a question: that of what was sent before it has come by now, or never will."""
        execution = self._asked(msg_id)
        if execution is None:
            return []
        execution.answer_idle = True
        return self._look(execution, now)

    def not_asked(self, question: str, now: float) -> None:
        """The question could not be sent: the kernel reads nothing now."""
        if self.in_flight is not None and self.in_flight.question == question:
            self.in_flight.ask_at = now + ASK_SECONDS

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

    def not_taken(self, execution_id: str) -> None:
        """The kernel reads nothing now: it is the next to be sent, later."""
        execution = self._current(execution_id)
        if execution is not None and execution.status == "queued":
            self.in_flight = None
            self.queued.appendleft(execution)

    def cancel_cell(self, cell_id: str, now: float) -> list[Transition]:
        """The cell is gone: what is queued of it is cancelled."""
        return self._cancel_all((execution for execution in self.queued if execution.cell_id == cell_id), now)

    def interrupt(self, now: float) -> tuple[Execution | None, list[Transition]]:
        """A person interrupts: what others queued stays, the rest of the same run_all is cancelled.

        While a kernel starts it meets the execution that it would be given first, which then never starts.
        """
        execution = self.in_flight
        if execution is None:
            if not self.queued:
                return None, []
            execution = self.queued.popleft()
            return execution, [self._end(execution, "cancelled", now), *self._cancel_rest_of_run(execution, now)]
        execution.interrupted = True
        self.suspect(now)
        return execution, self._cancel_rest_of_run(execution, now)

    def suspect(self, now: float) -> None:
        """A signal is on its way: the kernel may drop what it was given, be it the execution or the question behind it."""
        execution = self.in_flight
        if execution is not None and execution.ask_at is None:
            execution.ask_at = now + ASK_AFTER_INTERRUPT_SECONDS

    def kernel_gone(self, loss: Loss, now: float, *, was_idle: bool = True) -> list[Transition]:
        """No kernel will answer any more: everything accepted ends.

        Args:
            was_idle: False if it was at work on something else, behind which what is in flight had not begun.
        """
        transitions: list[Transition] = []
        execution = self.in_flight
        if execution is not None:
            if loss == "died" and was_idle and execution.reply_status not in _ABORTED:
                # The kernel had it. What ends a process at once leaves it no time to say that it began (measured: a cell
                # that kills its own process, 4 of 4).
                transitions += self._start(execution, None)
            status: ExecutionStatus
            if execution.status != "running":
                status = "cancelled"
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

    def _asked(self, msg_id: str) -> Execution | None:
        execution = self.in_flight
        return execution if execution is not None and execution.question == msg_id else None

    def _await_rest(self, execution: Execution, now: float) -> None:
        """One of reply and idle has come."""
        execution.past_at = now
        execution.deadline = now + ASK_SECONDS + LOST_SECONDS
        if execution.question is None:
            # What an interrupt made the kernel drop has no reply, and a reply is seldom behind idle: it can be asked at once.
            execution.ask_at = now if execution.interrupted and execution.idle else now + ASK_SECONDS

    def _look(self, execution: Execution, now: float) -> list[Transition]:
        """Gives up what can come no more, once both channels are past it."""
        replied = execution.answered or execution.reply_status is not None
        heard = execution.answer_idle or execution.idle
        return self._give_up(execution, now) if replied and heard else []

    def _give_up(self, execution: Execution, now: float) -> list[Transition]:
        """Without idle it counts as its reply says; without a reply as an error, or as interrupted."""
        if execution.reply_status is None:
            execution.reply_status = "missing"
            execution.reply_missing = True
            return [*self._start(execution, None), *self._finish(execution, now)]
        execution.idle_missing = True
        return self._finish(execution, now)

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
        self.latest = execution
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
        execution.deadline = execution.ask_at = None
        if execution is self.in_flight:
            self.in_flight = None
        self._ended.append((now, execution.execution_id))
        return Ended(execution)


# The Jupyter protocol says "aborted"; bash_kernel and tslab say "abort".
_ABORTED = ("aborted", "abort")
