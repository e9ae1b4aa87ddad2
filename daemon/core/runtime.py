"""What one notebook's machine does, as pure state: kernel messages and people's requests in, mutations and events out.

It is also the bounded, coalescing buffer between the kernel's readers and the doc-writer (`sync.writer.Source`): streams are
joined by the output reducer, kernel status and queue are kept as "what is true now". Effects on the outside (send this to
the kernel) are values that the room takes and carries out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from daemon.core.comm import SendComm
from daemon.core.comm_changes import value_size
from daemon.core.executions import Ended, Execution, ExecutionQueue, Loss, Started, Transition
from daemon.core.kernel_troubles import KernelTroubles, is_oversize_output
from daemon.core.outputs import OutputReducer
from daemon.core.parents import Parents
from daemon.core.pending import PendingBatch
from daemon.core.prompt import Prompt
from daemon.core.readable import is_readable
from daemon.core.saved_widgets import LoadedComm, view_of
from daemon.core.widgets import Widgets
from kernel_bridge.core import messages as k
from sync.core.limits import MIB
from sync.core.mutations import (
    KERNEL_LOG,
    AddCell,
    AddExecution,
    KernelStatus,
    RemoveCell,
    RemoveExecution,
    SetCell,
    SetExecution,
    Target,
)
from sync.core.outputs import Output
from sync.core.urgency import Urgency
from sync.writer import Batch

# Custom messages of widgets between two commits. No peer is held more events than a thousand, or 8 MiB; a frame of an
# animation is 1 MiB.
MAX_CUSTOM_WAITING = 32 * MIB
_CUSTOM_BYTES = 4096  # what an empty one counts for


@dataclass(frozen=True, slots=True)
class SendExecute:
    """Send this execution to the kernel, with its execution_id as msg_id."""

    execution: Execution


@dataclass(frozen=True, slots=True)
class SendInput:
    """Answer the kernel's pending input_request."""

    value: str
    parent: k.Header


@dataclass(frozen=True, slots=True)
class SendQuestion:
    """Send the kernel an execution of nothing: its answer says that the kernel is past all that was sent before."""

    msg_id: str


Effect: TypeAlias = SendExecute | SendQuestion | SendInput | SendComm
KernelErrorReason: TypeAlias = Literal["launch_failed", "died", "protocol", "timeout"]


class Runtime(PendingBatch):
    """The state behind one runtime document.

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
        self.on_notebook_changed: Callable[[bool], None] = lambda structure: None
        self.on_widgets_gone: Callable[[], None] = lambda: None
        self.on_transition: Callable[[], None] = lambda: None
        self.on_execution: Callable[[Execution], None] = lambda execution: None
        # Executions that ended, by their final status.
        self.ended: Counter[str] = Counter()
        self._new_id = new_id
        self._monotonic = monotonic
        self._timestamp = timestamp
        self._queue_changed = False
        self._effects: list[Effect] = []
        self._parents = Parents()
        self._comm_running = False
        self._custom_waiting = 0
        self._kernel_session: str | None = None
        self._prompt = Prompt(new_id, self._show_prompt)
        self._troubles = KernelTroubles()

    def drain(self) -> Batch:
        """Everything that waits, in an order that is right within one commit."""
        if self._queue_changed:
            self._queue_changed = False
            running = self.queue.running
            self.set_queue(None if running is None else running.execution_id, self.queue.waiting)
        comms = self.widgets.drain()
        if self.widgets.changed_file:
            # What a file would say of widgets is another thing now.
            self.widgets.changed_file = False
            self._batch.changes_file = True
        self._custom_waiting = 0
        return self.take(comms, self.outputs.drain())

    def notebook_changed(self, *, structure: bool) -> None:
        """Peers' changes reached the notebook document."""
        self.on_notebook_changed(structure)

    def take_effects(self) -> list[Effect]:
        """What must be done outside for the state to hold true."""
        effects, self._effects = self._effects, []
        return effects

    # Cells.

    def add_cell(self, cell_id: str, outputs: Sequence[Output] = (), execution_count: int | None = None) -> None:
        """A code cell is there: from the load on, or because a peer wrote one."""
        if cell_id in self.cells:
            return
        self.cells.add(cell_id)
        self.mutate([AddCell(cell_id, execution_count)])
        if outputs:
            self.outputs.reset(Target("cell", cell_id), outputs)
            self.widgets.saved.show(cell_id, set().union(*map(view_of, outputs)))

    def cell_gone(self, cell_id: str) -> None:
        """The cell left the notebook: what is queued of it never runs. Its outputs stay for an undo."""
        self._apply(self.queue.cancel_cell(cell_id, self._monotonic()))

    def remove_cell(self, cell_id: str) -> None:
        """The cell has been gone for long: its outputs go as well."""
        if cell_id in self.cells:
            self.cells.discard(cell_id)
            self.outputs.forget(Target("cell", cell_id))
            self.widgets.cell_cleared(cell_id)
            self.mutate([RemoveCell(cell_id)])

    def clear_outputs(self, cell_ids: Iterable[str]) -> list[str]:
        """Empties cells' outputs, but for the one that runs; returns those emptied."""
        running = self.queue.running
        cleared = [c for c in cell_ids if c in self.cells and not (running is not None and running.cell_id == c)]
        for cell_id in cleared:
            self.outputs.reset(Target("cell", cell_id))
            self.widgets.cell_cleared(cell_id)
            self.mutate([SetCell(cell_id, execution_id=None, execution_count=None)])
        return cleared

    # Executions.

    def submit(self, executions: Iterable[tuple[str, str, str]], *, run_id: str | None, stop_on_error: bool) -> None:
        """Accepts (execution_id, cell_id, source) in order; `run_id` makes them one run_all_cells."""
        for execution_id, cell_id, code in executions:
            execution = self.queue.submit(execution_id, cell_id, code, run_id=run_id, stop_on_error=stop_on_error)
            self.queue_mutation(AddExecution(execution_id, cell_id, execution.order))
            self._parents.executes(execution_id, cell_id)
        self._queue_changed = True
        self._send_next()
        self._wake(Urgency.URGENT)

    def cancel(self, execution_id: str) -> bool:
        """Cancels a queued execution; False if it is not queued any more."""
        transitions = self.queue.cancel(execution_id, self._monotonic())
        self._apply(transitions)
        return bool(transitions)

    def not_sent(self, execution_id: str) -> None:
        """The kernel could not be given this execution."""
        self._apply(self.queue.not_sent(execution_id, self._monotonic()))

    def not_taken(self, effect: SendExecute | SendComm) -> None:
        """The kernel has left so much unread that it could not be given this. An execution waits until it reads again."""
        if isinstance(effect, SendExecute):
            self.queue.not_taken(effect.execution.execution_id)
        else:
            self._trouble("the kernel reads nothing; messages to widgets and other comms were dropped")

    @property
    def between(self) -> bool:
        """Whether the kernel was sent an execution that it has not begun, and works on nothing else that we know of."""
        return self.queue.in_flight is not None and self.queue.running is None and not self._comm_running

    def interrupt(self) -> str | None:
        """A person interrupts; returns the execution that it meets."""
        execution, transitions = self.queue.interrupt(self._monotonic())
        self._apply(transitions)
        return None if execution is None else execution.execution_id

    def expire(self) -> None:
        """The deadline passed."""
        self._ask()
        self._apply(self.queue.expire(self._monotonic()))
        self.widgets.expire()
        self._take_widgets()
        self._watch_widgets()

    @property
    def deadline(self) -> float | None:
        """When `expire` must be called, if nothing happens before."""
        deadlines = [at for at in (self.queue.deadline, self.widgets.deadline) if at is not None]
        return min(deadlines, default=None)

    def take_widgets(self, urgency: Urgency = Urgency.URGENT) -> None:
        """Takes over what a peer's request did to widgets."""
        self._take_widgets()
        self._watch_widgets()
        self._wake(urgency)

    def load_widgets(self, loaded: Sequence[LoadedComm]) -> None:
        """Shows widgets as the notebook's file has them, without a kernel; children first."""
        self.widgets.load(loaded)
        self._wake(Urgency.NORMAL)

    # The kernel's life.

    def kernel_starting(self, name: str, language: str, *, restarting: bool = False) -> None:
        """A kernel is being launched."""
        self._set_kernel_status("restarting" if restarting else "starting")
        self.set_kernel(name=name, language=language, error=None)
        self._wake(Urgency.URGENT)

    def kernel_ready(self, language: str, session: str) -> None:
        """The kernel answers: what is queued is sent."""
        self._kernel_session = session
        self.set_kernel(language=language)
        self._set_kernel_status("idle")
        self._send_next()
        self._wake(Urgency.URGENT)

    def kernel_gone(
        self,
        loss: Loss,
        *,
        message: str | None = None,
        traceback: str | None = None,
        reason: KernelErrorReason | None = None,
    ) -> None:
        """The kernel ended or could not start; `message` makes it an error that peers see, `reason` if not as usual."""
        self._kernel_session = None
        self._troubles.clear()
        self._apply(self.queue.kernel_gone(loss, self._monotonic()))
        if self.widgets.live:
            self.on_widgets_gone()
        self.widgets.kernel_gone()
        self._take_widgets()
        self._comm_running = False
        self._prompt.clear()
        self._set_kernel_status(_STATUS_AFTER[loss])
        if message is not None:
            error = {"message": message} if traceback is None else {"message": message, "traceback": traceback}
            self.set_kernel(error=error)
            usual: KernelErrorReason = "launch_failed" if loss == "launch_failed" else "died"
            self.emit("kernel_error", {"reason": reason or usual, **error})
        self._wake(Urgency.URGENT)

    def reconnected(self) -> None:
        """The connection to the kernel broke and was made again: what either side said may be lost."""
        if self._kernel_session is None:
            return
        self._trouble("the connection to the kernel broke and was made again; outputs may be missing")
        self._note_comm(running=False)  # the idle of what ran may be lost; if it runs still, it only looks idle
        self.queue.reconnected(self._monotonic())
        self._ask()
        self.widgets.reconnected()
        self._take_widgets()

    def input_reply(self, request_id: str, value: str) -> bool:
        """Answers the pending input request; False if it is not (or no longer) that one."""
        header = self._prompt.reply(request_id)
        if header is None:
            return False
        self._effects.append(SendInput(value, header))
        return True

    # What the kernel says.

    def receive(self, messages: Sequence[k.KernelMessage]) -> None:
        """Takes a batch of one channel's messages; never fails on what a kernel sends."""
        for message in messages:
            self._receive(message)
        if messages and messages[-1].channel == "iopub":
            # The last stands for its batch: a backlog of an execution's outputs is nothing but that.
            self.queue.on_iopub(messages[-1].parent.msg_id, self._monotonic())
        self._send_next()  # what the kernel had no room for
        self._watch_widgets()

    def _receive(self, message: k.KernelMessage) -> None:
        content, parent = message.content, message.parent
        match content:
            case k.Stream():
                self._activity(parent)
                self.outputs.stream(self._target(parent), content.name, content.text)
            case k.Status():
                self._receive_status(content.execution_state, parent)
            case k.ExecuteInput():
                self._apply(self.queue.on_input(parent.msg_id, content.execution_count))
            case k.ExecuteReply():
                self._receive_reply(content, parent)
            case k.UpdateDisplayData():
                self._receive_update(content)
            case k.DisplayData():
                self._receive_display(content, parent)
            case k.Error():
                self._activity(parent)
                self.widgets.failed(parent.msg_id)
                self.outputs.error(self._target(parent), content.ename, content.evalue, content.traceback)
            case k.ClearOutput():
                self._activity(parent)
                self.outputs.clear(self._target(parent), wait=content.wait)
            case k.InputRequest():
                self._prompt.receive(content, message)
                self._wake(Urgency.URGENT)
            case k.CommOpen() | k.CommMsg() | k.CommClose():
                self.widgets.receive(message, self._parents.cell_of(parent.msg_id))
                self._take_widgets()
            case k.Reply() if parent.msg_type == "comm_info_request":
                self._receive_comm_info(content, parent)
            case k.Oversize() if is_oversize_output(message):
                self._activity(parent)
                self.outputs.left_out(self._target(parent), content.nbytes)
            case _:
                self._say(self._troubles.note(message))
        if self.outputs.has_pending:
            self._wake(Urgency.NORMAL)

    def _receive_status(self, state: str, parent: k.Header) -> None:
        if state == "idle":
            self._end_input(parent.msg_id)
            self.widgets.idle(parent.msg_id)
            self._take_widgets()
        if parent.msg_type == "execute_request":
            if state == "busy":
                self._apply(self.queue.on_busy(parent.msg_id))
            elif state == "idle":
                now = self._monotonic()
                self._apply(self.queue.on_idle(parent.msg_id, now))
                self._apply(self.queue.on_answer_idle(parent.msg_id, now))
        elif parent.msg_type in _COMM_MESSAGES:
            self._note_comm(running=state == "busy")

    def _note_comm(self, *, running: bool) -> None:
        self._comm_running = running
        self.on_transition()
        if self.queue.in_flight is None:
            self._set_kernel_status("busy" if running else "idle")
            self._wake(Urgency.LAZY)

    def _receive_reply(self, reply: k.ExecuteReply, parent: k.Header) -> None:
        execution = self.queue.find(parent.msg_id)
        if execution is not None and execution is self.queue.in_flight:
            for payload in reply.payload:
                data = payload.get("data")
                if payload.get("source") == "page" and isinstance(data, dict):
                    # IPython's pager (`?`, `??`): shown where it was asked for.
                    self.outputs.display(self._target(parent), data, {}, display_id=None)
        now = self._monotonic()
        self._apply(self.queue.on_reply(parent.msg_id, reply.status, reply.execution_count, now))
        self._apply(self.queue.on_answer(parent.msg_id, now))

    def _receive_display(self, content: k.DisplayData, parent: k.Header) -> None:
        self._activity(parent)
        target = self._target(parent)
        display_id = content.transient.display_id if content.transient is not None else None
        self.outputs.display(
            target,
            content.data,
            content.metadata,
            display_id=display_id,
            execution_count=content.execution_count if isinstance(content, k.ExecuteResult) else None,
            result=isinstance(content, k.ExecuteResult),
        )
        if display_id:
            self.widgets.captures.display_shown(target)

    def _receive_update(self, content: k.UpdateDisplayData) -> None:
        if content.transient is not None and content.transient.display_id is not None:
            self.outputs.update_display(content.transient.display_id, content.data, content.metadata)
            self.widgets.captures.displays_updated()

    def _receive_comm_info(self, content: k.Reply, parent: k.Header) -> None:
        comms = content.raw.get("comms")
        if isinstance(comms, dict):
            targets = {comm_id: comm.get("target_name") for comm_id, comm in comms.items() if isinstance(comm, dict)}
            self.widgets.comm_info(parent.msg_id, {i: name for i, name in targets.items() if isinstance(name, str)})
            self._take_widgets()

    def _ask(self) -> None:
        execution = self.queue.to_ask(self._monotonic())
        if execution is not None:
            execution.question = self._new_id()
            self._effects.append(SendQuestion(execution.question))

    def _trouble(self, line: str) -> None:
        self._say(self._troubles.once(line))
        self._wake(Urgency.NORMAL)

    def _say(self, line: str | None) -> None:
        if line is not None:
            self.outputs.stream(KERNEL_LOG, "stderr", line)

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
        self.widgets.watch(resting=self.queue.in_flight is None and not self._comm_running)

    def _tell_custom(self, comm_id: str, content: Any, buffers: list[bytes]) -> None:
        """An event for each custom message of the kernel; they are never coalesced."""
        if not is_readable(content):
            self.widgets.trouble(
                comm_id, f"a custom message of {comm_id[:64]} has too many parts or levels; it was dropped"
            )
            return
        self._custom_waiting += _CUSTOM_BYTES + value_size(content) + sum(map(len, buffers))
        if self._custom_waiting > MAX_CUSTOM_WAITING:
            self.widgets.trouble(comm_id, "custom messages come faster than peers can be told; some were dropped")
        else:
            self.emit("comm_custom", {"comm_id": comm_id, "content": content, "buffers": buffers})

    def _activity(self, parent: k.Header) -> None:
        if parent.msg_type == "execute_request":
            self._apply(self.queue.on_activity(parent.msg_id))

    def _target(self, parent: k.Header) -> Target:
        """Where an output belongs: the capturing widget, its execution's cell, the latest execution's, or the log."""
        captured = self.widgets.target(parent.msg_id)
        if captured is not None:
            return captured
        cell_id = self._parents.cell_of(parent.msg_id)
        if cell_id is None and parent.session == self._kernel_session and self.queue.latest is not None:
            # A thread prints under the latest request of any kind, a completion for example: its true cell can't be known.
            cell_id = self.queue.latest.cell_id
        return KERNEL_LOG if cell_id is None or cell_id not in self.cells else Target("cell", cell_id)

    # Transitions to mutations and events.

    def _apply(self, transitions: Sequence[Transition]) -> None:
        if not transitions:
            return
        for transition in transitions:
            execution = transition.execution
            if isinstance(transition, Started):
                self._started(execution)
            else:
                self._ended(execution, transition)
                self.ended[execution.status] += 1
            self.on_execution(execution)
        self._queue_changed = True
        self._send_next()
        # That it began can wait for the commit that is due: what takes a few milliseconds has begun and ended in one.
        began = all(isinstance(transition, Started) for transition in transitions)
        self._wake(Urgency.NORMAL if began else Urgency.URGENT)
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

    def _ended(self, execution: Execution, transition: Ended) -> None:
        del transition
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
        if self._kernel_session is None:
            return
        execution = self.queue.take_next()
        if execution is not None:
            self.widgets.before_execution()
            self._take_widgets()
            self._effects.append(SendExecute(execution))

    def _set_kernel_status(self, status: KernelStatus) -> None:
        if status != self.kernel_status:
            self.kernel_status = status
            self.set_kernel(status=status)

    def _show_prompt(self, request: dict[str, Any] | None) -> None:
        self.set_kernel(input_request=request)

    def _end_input(self, parent_id: str) -> None:
        if self._prompt.end(parent_id):
            self._wake(Urgency.URGENT)


_COMM_MESSAGES = frozenset({"comm_open", "comm_msg", "comm_close"})

_STATUS_AFTER: dict[Loss, KernelStatus] = {
    "died": "dead",
    "launch_failed": "dead",
    "restart": "restarting",
    "shutdown": "not_started",
}
