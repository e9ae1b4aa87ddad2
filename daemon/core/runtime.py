"""What one notebook's machine does, as pure state: kernel messages and people's requests in, mutations and events out.

It is also the bounded, coalescing buffer between the kernel's readers and the doc-writer (`sync.writer.Source`): streams are
joined by the output reducer, kernel status and queue are kept as "what is true now". Effects on the outside (send this to
the kernel) are values that the room takes and carries out.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TypeAlias

from daemon.core.comm import SendComm
from daemon.core.effects import SendExecute, SendInput, SendQuestion
from daemon.core.executions import Loss
from daemon.core.kernel_messages import KernelMessages
from daemon.core.saved_widgets import LoadedComm, view_of
from sync.core.mutations import AddCell, AddExecution, KernelStatus, RemoveCell, SetCell, Target
from sync.core.outputs import Output
from sync.core.steps import Steps
from sync.core.urgency import Urgency

KernelErrorReason: TypeAlias = Literal["launch_failed", "died", "protocol", "timeout"]


class Runtime(KernelMessages):
    """The state behind one runtime document; arguments as of `Transitions`."""

    def notebook_changed(self, keys: Collection[str] | None) -> Steps[None]:
        """Peers' changes reached the notebook document."""
        return self.on_notebook_changed(keys)

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
        self._was_cleared = self._was_cleared or bool(cleared)
        for cell_id in cleared:
            self.outputs.reset(Target("cell", cell_id))
            self.widgets.cell_cleared(cell_id)
            self.mutate([SetCell(cell_id, execution_id=None, execution_count=None)])
        return cleared

    # Executions.

    def submit(
        self,
        executions: Iterable[tuple[str, str, str]],
        *,
        run_id: str | None,
        stop_on_error: bool,
        may_fail: Collection[str] = (),
    ) -> None:
        """Accepts (execution_id, cell_id, source) in order; `run_id` makes them one run_all_cells.

        Args:
            may_fail: those whose error stops nothing.
        """
        for execution_id, cell_id, code in executions:
            stops = stop_on_error and execution_id not in may_fail
            execution = self.queue.submit(execution_id, cell_id, code, run_id=run_id, stop_on_error=stops)
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

    def not_taken(self, effect: SendExecute | SendQuestion | SendComm) -> None:
        """The kernel has left so much unread that it could not be given this. An execution waits until it reads again."""
        if isinstance(effect, SendExecute):
            self.queue.not_taken(effect.execution.execution_id)
        elif isinstance(effect, SendQuestion):
            now = self._monotonic()
            self.queue.not_asked(effect.msg_id, now)
            self._answers.ask_again(now, effect.msg_id)
        else:
            self.trouble("the kernel reads nothing; messages to widgets and other comms were dropped")

    @property
    def between(self) -> bool:
        """Whether the kernel was sent an execution that it has not begun, and works on nothing else that we know of."""
        return self.queue.in_flight is not None and self.queue.running is None and self._answers.running is None

    def interrupt(self) -> str | None:
        """A person interrupts; returns the execution that it meets; None if that is what a comm's handler does."""
        now = self._monotonic()
        if self._answers.running is not None and self.queue.running is None:
            self._answers.ask_again(now)
            self.queue.suspect(now)  # it may meet what is behind that
            return None
        execution, transitions = self.queue.interrupt(now)
        self._answers.ask_again(now)  # a kernel may drop what it was about to begin
        self._apply(transitions)
        return None if execution is None else execution.execution_id

    def expire(self) -> None:
        """The deadline passed."""
        self._ask()
        self._apply(self.queue.expire(self._monotonic()))
        self.widgets.expire()
        self._take_widgets()
        self._watch_widgets()
        if self._queue_due is not None and self._monotonic() >= self._queue_due:
            self._queue_due, self._queue_changed = None, True
            self._wake(Urgency.NORMAL)

    @property
    def unused(self) -> bool:
        """Whether nobody has executed or cleared anything yet."""
        return not (self._was_cleared or self.ended or self.queue.waiting or self.queue.running or self.queue.in_flight)

    @property
    def deadline(self) -> float | None:
        """When `expire` must be called, if nothing happens before."""
        deadlines = (self.queue.deadline, self._answers.deadline, self.widgets.deadline, self._queue_due)
        return min((at for at in deadlines if at is not None), default=None)

    # Widgets.

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
        self._answers.clear()
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
        self._apply(self.queue.kernel_gone(loss, self._monotonic(), was_idle=self._answers.running is None))
        if self.widgets.live:
            self.on_widgets_gone()
        self.widgets.kernel_gone()
        self._take_widgets()
        self._answers.clear()
        self._prompt.clear()
        self._set_kernel_status(_STATUS_AFTER[loss])
        if message is None:
            self.set_kernel(error=None)  # of an earlier kernel, which nobody asks for any more
        else:
            error = {"message": message} if traceback is None else {"message": message, "traceback": traceback}
            self.set_kernel(error=error)
            usual: KernelErrorReason = "launch_failed" if loss == "launch_failed" else "died"
            self.emit("kernel_error", {"reason": reason or usual, **error})
        self._wake(Urgency.URGENT)

    def reconnected(self) -> None:
        """The connection to the kernel broke and was made again: what either side said may be lost."""
        if self._kernel_session is None:
            return
        self.trouble("the connection to the kernel broke and was made again; outputs may be missing")
        self._note_comm(None)  # the idle of what ran may be lost; if it runs still, it only looks idle
        self._answers.clear()
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


_STATUS_AFTER: dict[Loss, KernelStatus] = {
    "died": "dead",
    "launch_failed": "dead",
    "restart": "restarting",
    "shutdown": "not_started",
}
