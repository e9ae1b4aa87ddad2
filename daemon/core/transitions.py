"""What happens to executions, and what it does to the document: transitions in; mutations, events and effects out.

The machine that a notebook has is `PendingBatch` (what waits for the doc-writer), this, `KernelMessages` (what the kernel says)
and `Runtime` (what people ask, and the kernel's life), each on top of the one before.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from daemon.core.comm_answers import CommAnswers
from daemon.core.effects import Effect, NextInput, SendExecute, SendQuestion
from daemon.core.executions import Execution, ExecutionQueue, Started, Transition
from daemon.core.kernel_troubles import KernelTroubles
from daemon.core.outputs import OutputReducer
from daemon.core.parents import Parents
from daemon.core.pending import PendingBatch
from daemon.core.prompt import Prompt
from daemon.core.readable import event_size, is_readable
from daemon.core.widgets import Widgets
from sync.core.batch import Batch
from sync.core.limits import MAX_JSONRPC_BYTES, MIB
from sync.core.mutations import KERNEL_LOG, KernelStatus, RemoveExecution, SetCell, SetExecution, Target
from sync.core.steps import Steps
from sync.core.urgency import Urgency

# Custom messages of widgets between two commits. No peer is held more than 8 MiB of events; a frame of an animation is 1 MiB.
MAX_CUSTOM_WAITING = 32 * MIB

# A queue up to this length is told with each commit that changed it. A longer one at most so often, by 0.2 ms for each that
# waits, since it is told whole: a run of 800 cells sent 17 MB to each peer (5 now), one of 10 000 would have sent 2.6 GB.
SHORT_QUEUE = 64
QUEUE_SECONDS = 0.0002


class Transitions(PendingBatch):
    """Queue, outputs and widgets of one notebook, and what follows from each transition.

    Args:
        new_id: makes a UUID4, lower case.
        monotonic: seconds, for deadlines and retention.
        timestamp: now as ISO 8601 in UTC with milliseconds and Z.
        wake: called with the urgency of what was just queued.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[], str],
        monotonic: Callable[[], float],
        timestamp: Callable[[], str],
        wake: Callable[[Urgency], None],
    ) -> None:
        super().__init__(wake)
        self.queue = ExecutionQueue()
        self.outputs = OutputReducer(new_id)
        self.widgets = Widgets(self.outputs, new_id, monotonic, self._tell_custom)
        self.cells: set[str] = set()
        self.kernel_status: KernelStatus = "not_started"
        self.on_notebook_changed: Callable[[Collection[str] | None], Steps[None]] = _nothing_follows
        self.on_widgets_gone: Callable[[], None] = lambda: None
        self.on_transition: Callable[[], None] = lambda: None
        # False if there are too many already.
        self.on_next_input: Callable[[NextInput], bool] = lambda wanted: True
        # A deadline came nearer that nothing else tells of.
        self.on_deadline: Callable[[], None] = lambda: None
        self.on_execution: Callable[[Execution], None] = lambda execution: None
        # Executions that ended, by their final status.
        self.ended: Counter[str] = Counter()
        self._new_id = new_id
        self._monotonic = monotonic
        self._timestamp = timestamp
        self._queue_changed = False
        self._was_cleared = False
        # When peers were told of the queue, and when they will be of what they were not told.
        self._queue_told = -math.inf
        self._queue_due: float | None = None
        self._effects: list[Effect] = []
        self._parents = Parents()
        self._answers = CommAnswers()
        self._custom_waiting = 0
        self._kernel_session: str | None = None
        self._prompt = Prompt(new_id, self._show_prompt)
        self._troubles = KernelTroubles()

    def drain(self) -> Batch:
        """Everything that waits, in an order that is right within one commit."""
        if self._queue_changed:
            self._queue_changed = False
            running, waiting = self.queue.running, self.queue.waiting
            executing = None if running is None else running.execution_id
            self.set_queue(executing, waiting, tell=self._tells_queue(len(waiting)))
        comms = self.widgets.drain()
        if self.widgets.changed_file:
            # What a file would say of widgets is another thing now.
            self.widgets.changed_file = False
            self._batch.changes_file = True
        self._custom_waiting = 0
        return self.take(comms, self.outputs.drain())

    def _tells_queue(self, waiting: int) -> bool:
        """Whether peers are told of the queue now: of a long one, which is told whole, not at each of its executions."""
        now = self._monotonic()
        due = self._queue_told + QUEUE_SECONDS * waiting if waiting > SHORT_QUEUE else now
        if now >= due:
            self._queue_told, self._queue_due = now, None
        elif self._queue_due is None:
            self._queue_due = due
            self.on_deadline()
        return now >= due

    def take_effects(self) -> list[Effect]:
        """What must be done outside for the state to hold true."""
        effects, self._effects = self._effects, []
        return effects

    def _apply(self, transitions: Sequence[Transition]) -> None:
        if not transitions:
            return
        for transition in transitions:
            execution = transition.execution
            if isinstance(transition, Started):
                self._started(execution)
            else:
                self._ended(execution)
                self.ended[execution.status] += 1
            self.on_execution(execution)
        self._queue_changed = True
        self._send_next()
        self._watch_widgets()
        # The start as well, though one commit fewer would cost 0.3 ms less: it is made while the kernel works, and what is left
        # for the end is shorter then (measured: 1+1 takes 1.25 times the floor with it, and 1.43 with the start in the end's).
        self._wake(Urgency.URGENT)
        self.on_transition()

    def _started(self, execution: Execution) -> None:
        self.outputs.reset(Target("cell", execution.cell_id))
        self.widgets.cell_cleared(execution.cell_id)
        self.queue_mutation(
            SetExecution(
                execution.execution_id,
                status="running",
                execution_count=execution.execution_count,
                started_at=self._timestamp(),
            ),
            SetCell(execution.cell_id, execution_id=execution.execution_id, execution_count=execution.execution_count),
        )
        self._set_kernel_status("busy")
        self.emit(
            "execution_started",
            {
                "cell_id": execution.cell_id,
                "execution_id": execution.execution_id,
                "execution_count": execution.execution_count,
            },
            cells=True,
        )

    def _ended(self, execution: Execution) -> None:
        if execution.reply_status is not None or execution.status != "cancelled":
            self.outputs.end(Target("cell", execution.cell_id))
        self.queue_mutation(
            SetExecution(
                execution.execution_id,
                status=execution.status,
                execution_count=execution.execution_count,
                ended_at=self._timestamp(),
            )
        )
        if execution.execution_count is not None:
            self.queue_mutation(SetCell(execution.cell_id, execution_count=execution.execution_count))
        self.queue_mutation(*(RemoveExecution(i) for i in self.queue.forget(self._monotonic())))
        self._end_input(execution.execution_id)
        if self.queue.in_flight is None and self.kernel_status == "busy":
            self._set_kernel_status("idle")
        params: dict[str, Any] = {
            "cell_id": execution.cell_id,
            "execution_id": execution.execution_id,
            "status": execution.status,
            "execution_count": execution.execution_count,
        }
        if execution.idle_missing:
            params["idle_missing"] = True
        if execution.reply_missing:
            params["reply_missing"] = True
        self.emit("execution_done", params, cells=True)

    def _send_next(self) -> None:
        # Behind what the kernel does for a comm it waits here, where it can be cancelled, and no interrupt meets it.
        if self._kernel_session is None or self._answers.running is not None:
            return
        execution = self.queue.take_next()
        if execution is not None:
            self.widgets.before_execution()
            self._take_widgets()
            self._effects.append(SendExecute(execution))

    def _ask(self) -> None:
        """Puts the questions that are due."""
        now = self._monotonic()
        execution = self.queue.to_ask(now)
        if execution is not None:
            execution.question = self._new_id()
            self._ask_nothing(execution.question)
        open_messages = self.widgets.forwarding.open_messages
        if self.queue.in_flight is None and self._answers.to_ask(open_messages, now):
            question = self._new_id()
            self._answers.asked(question, open_messages, now)
            self._ask_nothing(question)

    def _ask_nothing(self, msg_id: str) -> None:
        self._parents.asks(msg_id)
        self._effects.append(SendQuestion(msg_id))

    def _set_kernel_status(self, status: KernelStatus) -> None:
        if status != self.kernel_status:
            self.kernel_status = status
            self.set_kernel(status=status)

    # The prompt.

    def _show_prompt(self, request: dict[str, Any] | None) -> None:
        self.set_kernel(input_request=request)

    def _end_input(self, parent_id: str) -> None:
        if self._prompt.end(parent_id):
            self._wake(Urgency.URGENT)

    # Widgets.

    def _take_widgets(self) -> None:
        """Takes over what happened to widgets."""
        for send, cell_id in self.widgets.take_sends():
            if cell_id is not None:
                # What a handler prints has the message as its parent: it belongs where the widget does.
                self._parents.sent_to_comm(send.msg_id, cell_id)
            self._effects.append(send)
        if self.widgets.pending:
            self._wake(Urgency.NORMAL)

    def _watch_widgets(self) -> None:
        in_flight = self.queue.in_flight is not None
        self._answers.watch(self.widgets.forwarding.open_messages, in_flight=in_flight, now=self._monotonic())

    def _tell_custom(self, comm_id: str, content: Any, buffers: list[bytes]) -> None:
        """An event for each custom message of the kernel; they are never coalesced."""
        if not is_readable(content):
            self.widgets.trouble(
                comm_id, f"a custom message of {comm_id[:64]} has too many parts or levels; it was dropped"
            )
            return
        size = event_size(content, buffers)
        if size > MAX_JSONRPC_BYTES:
            self.widgets.trouble(
                comm_id,
                f"a custom message of {comm_id[:64]} has some {size} bytes, {MAX_JSONRPC_BYTES} are allowed; it was dropped",
            )
            return
        self._custom_waiting += size
        if self._custom_waiting > MAX_CUSTOM_WAITING:
            self.widgets.trouble(comm_id, "custom messages come faster than peers can be told; some were dropped")
        else:
            self.emit("comm_custom", {"comm_id": comm_id, "content": content, "buffers": buffers})

    # The kernel log.

    def trouble(self, line: str) -> None:
        """Says in the kernel log, once in a kernel's life, what of it could not be done."""
        self._say(self._troubles.once(line))
        self._wake(Urgency.NORMAL)

    def _say(self, line: str | None) -> None:
        if line is not None:
            self.outputs.stream(KERNEL_LOG, "stderr", line)


def _nothing_follows(keys: Collection[str] | None) -> Steps[None]:
    yield
