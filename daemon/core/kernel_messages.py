"""What the kernel says -> outputs, widgets and transitions."""

import re
from collections.abc import Sequence

from daemon.core.effects import NextInput
from daemon.core.executions import Execution
from daemon.core.kernel_troubles import is_oversize_output
from daemon.core.transitions import Transitions
from kernel_bridge.core import messages as k
from sync.core.limits import MAX_SOURCE_BYTES
from sync.core.mutations import KERNEL_LOG, Target
from sync.core.urgency import Urgency


class KernelMessages(Transitions):
    """Takes a kernel's messages, whatever they are."""

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
                complains = parent.msg_type == "comm_msg" and content.name == "stderr"
                complains = complains and self._is_of_gone_comm(content.text)
                self.outputs.stream(KERNEL_LOG if complains else self._target(parent), content.name, content.text)
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
                self.widgets.receive(message, self._parents.cell_of(parent.msg_id) or None)
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

    def _is_of_gone_comm(self, text: str) -> bool:
        """Whether ipykernel logs that a message came too late: its code closed the comm when that was on its way."""
        complaint = _NO_SUCH_COMM.fullmatch(text)
        return complaint is not None and complaint[1] not in self.widgets.comms.comms

    def _receive_status(self, state: str, parent: k.Header) -> None:
        if state == "idle":
            self._end_input(parent.msg_id)
            self.widgets.idle(parent.msg_id)
            self._take_widgets()
        if parent.msg_type == "execute_request":
            if parent.session == self._kernel_session or self._parents.cell_of(parent.msg_id) is not None:
                self._passed(parent.msg_id)
            if state == "idle":
                self._parents.answered(parent.msg_id)
            if state == "busy":
                self._apply(self.queue.on_busy(parent.msg_id))
            elif state == "idle":
                now = self._monotonic()
                self._apply(self.queue.on_idle(parent.msg_id, now))
                self._apply(self.queue.on_answer_idle(parent.msg_id, now))
        elif parent.msg_type in _COMM_MESSAGES:
            self._note_comm(parent.msg_id if state == "busy" else None)

    def _note_comm(self, running: str | None) -> None:
        """The kernel is busy with this message to a comm, or with none any more."""
        if running is None:
            self._answers.ended()
        else:
            self._answers.begun(running)
            self.widgets.forwarding.begun(running)
        self.on_transition()
        if self.queue.in_flight is None:
            self._set_kernel_status("idle" if running is None else "busy")
            self._wake(Urgency.LAZY)
        if running is None:
            self._send_next()  # now: the next message to a comm may be right behind

    def _passed(self, msg_id: str) -> None:
        """The kernel is busy or done with an execution of ours: it is past what it did for comms."""
        if self._answers.running is not None:
            self._note_comm(None)
        lost = self._answers.passed(msg_id)
        if lost:
            self.widgets.give_up(lost)
            self._take_widgets()

    def _receive_reply(self, reply: k.ExecuteReply, parent: k.Header) -> None:
        execution = self.queue.find(parent.msg_id)
        if execution is not None and execution is self.queue.in_flight:
            for payload in reply.payload:
                data = payload.get("data")
                if payload.get("source") == "page" and isinstance(data, dict):
                    # IPython's pager (`?`, `??`): shown where it was asked for.
                    self.outputs.display(self._target(parent), data, {}, display_id=None)
                elif payload.get("source") == "set_next_input":
                    self._set_next_input(execution, payload.get("text"), replace=payload.get("replace") is True)
        now = self._monotonic()
        self._apply(self.queue.on_reply(parent.msg_id, reply.status, reply.execution_count, now))
        self._apply(self.queue.on_answer(parent.msg_id, now))
        if self._answers.replied(parent.msg_id, now):
            self._passed(parent.msg_id)

    def _set_next_input(self, execution: Execution, text: object, *, replace: bool) -> None:
        if not isinstance(text, str):
            return
        if len(text) > MAX_SOURCE_BYTES or len(text.encode(errors="replace")) > MAX_SOURCE_BYTES:
            self.trouble(f"the kernel wants more than {MAX_SOURCE_BYTES} bytes to stand in a cell; they were dropped")
        elif not self.on_next_input(NextInput(execution.cell_id, execution.code, text, replace)):
            self.trouble("the kernel wants to write too many cells; some were dropped")

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
        self._take_widgets()

    def _receive_update(self, content: k.UpdateDisplayData) -> None:
        if content.transient is not None and content.transient.display_id is not None:
            self.outputs.update_display(content.transient.display_id, content.data, content.metadata)
            self.widgets.captures.displays_updated()
            self._take_widgets()

    def _receive_comm_info(self, content: k.Reply, parent: k.Header) -> None:
        comms = content.raw.get("comms")
        if isinstance(comms, dict):
            targets = {comm_id: comm.get("target_name") for comm_id, comm in comms.items() if isinstance(comm, dict)}
            self.widgets.comm_info(parent.msg_id, {i: name for i, name in targets.items() if isinstance(name, str)})
            self._take_widgets()

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


_NO_SUCH_COMM = re.compile(r"No such comm: (\S+)\n")
_COMM_MESSAGES = frozenset({"comm_open", "comm_msg", "comm_close"})
