"""Widgets of one kernel: comms, what Output widgets capture, and how the kernel learns of it.

The kernel never fills `out.outputs` by itself: the daemon, which sees the captured messages, sends the list back. `base` is
the list that the kernel is known to have. A list that the kernel sends is read against it: what continues `base` is
appended, an empty one clears, another one replaces. Whenever the document's list differs from `base`, a send-back is due: at
the end of a capture and at idle, and one un-echoed at a time, so it is one whole list for each round trip of the kernel,
however many outputs came.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.core.capture import OutputCaptureRouter
from daemon.core.comms import (
    ECHO_GRACE_SECONDS,
    WIDGET_TARGET,
    CommMutation,
    CommRegistry,
    CustomMessage,
    SendComm,
    State,
    join_buffers,
)
from daemon.core.notebook_file import parse_output
from daemon.core.outputs import OutputReducer
from kernel_bridge.core import messages as k
from sync.core.mutations import Target
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput


@dataclass(slots=True)
class _OutputWidget:
    """`base`: what the kernel is known to have; `sent`: (msg_id, list) of the send-back that it has not answered."""

    base: list[dict[str, Any]] = field(default_factory=list)
    sent: tuple[str, list[dict[str, Any]]] | None = None
    changed: bool = False


class Widgets:
    """The state behind `comms`. `take` gives what is to be written, said and sent.

    Args:
        outputs: the reducer that holds captured outputs as well.
        new_id: makes ids for outputs and for messages to the kernel.
    """

    def __init__(self, outputs: OutputReducer, new_id: Callable[[], str]) -> None:
        self.capture = OutputCaptureRouter()
        self.comms = CommRegistry(new_id)
        self.cells: dict[str, str] = {}
        self.deadline: float | None = None
        self._outputs = outputs
        self._new_id = new_id
        self._output_widgets: dict[str, _OutputWidget] = {}
        self._mutations: list[CommMutation] = []
        self._custom: list[CustomMessage] = []
        self._sends: list[SendComm] = []

    def take(self) -> tuple[list[CommMutation], list[CustomMessage], list[SendComm]]:
        """What came of it since the last call."""
        taken = self._mutations, self._custom, self._sends + self.comms.take_sends()
        self._mutations, self._custom, self._sends = [], [], []
        return taken

    # From the kernel.

    def receive(self, message: k.KernelMessage, cell_id: str | None) -> None:
        """comm_open, comm_msg or comm_close of the kernel; `cell_id` is where its parent belongs."""
        content = message.content
        match content:
            case k.CommOpen():
                self._opened(content, message.buffers, cell_id)
            case k.CommMsg():
                self._said(content, message)
            case k.CommClose():
                self._close(content.comm_id)
            case _:
                return

    def target(self, parent_msg_id: str) -> Target | None:
        """The widget that captures what has this parent, if one does."""
        comm_id = self.capture.target(parent_msg_id)
        if comm_id is None or comm_id not in self._output_widgets:
            return None
        self._output_widgets[comm_id].changed = True
        return Target("comm", comm_id)

    def display_updated(self) -> None:
        """Displays changed somewhere, maybe in captures."""
        for widget in self._output_widgets.values():
            widget.changed = True

    def idle(self, msg_id: str) -> None:
        """The kernel is done with a message, ours or another's."""
        self._mutations += self.comms.idle(msg_id)
        for widget in self._output_widgets.values():
            if widget.sent is not None and widget.sent[0] == msg_id:
                widget.base, widget.sent = widget.sent[1], None
        for comm_id in self._output_widgets:
            self._send_back(comm_id)

    def kernel_idle(self, now: float) -> None:
        """The kernel rests: echoes that do not come soon are lost."""
        self.deadline = now + ECHO_GRACE_SECONDS if self.comms.has_open else None

    def expire(self, now: float) -> None:
        """Gives lost echoes up."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            for msg_id in self.comms.open_message_ids():
                self.idle(msg_id)

    def kernel_gone(self) -> None:
        """No comm survives its kernel."""
        for comm_id in list(self.comms.comms):
            self._outputs.forget(Target("comm", comm_id))
        self._mutations += self.comms.clear()
        self._sends.clear()
        self._output_widgets.clear()
        self.capture.clear()
        self.cells.clear()
        self.deadline = None

    # From peers.

    def update_by_peer(self, comm_id: str, state: Mapping[str, Any], paths: object, buffers: Sequence[bytes]) -> None:
        """update_comm.

        Raises:
            KeyError: there is no such comm.
        """
        joined = join_buffers(state, paths, buffers)
        if comm_id in self._output_widgets:
            # `comms[id].outputs` has one writer, and captures are the kernel's business.
            joined = {name: value for name, value in joined.items() if name not in ("outputs", "msg_id")}
        self._mutations += self.comms.set_by_peer(comm_id, joined)

    def custom_by_peer(self, comm_id: str, content: Any, buffers: Sequence[bytes]) -> str:
        """comm_custom; returns the message's id.

        Raises:
            KeyError: there is no such comm.
        """
        comm = self.comms.comms[comm_id]
        is_widget = comm.target_name == WIDGET_TARGET
        data = {"method": "custom", "content": content} if is_widget else content
        return self.comms.send(comm_id, data if isinstance(data, dict) else {"content": data}, buffers)

    def open_by_peer(self, comm_id: str, target_name: str, data: Mapping[str, Any], buffers: Sequence[bytes]) -> bool:
        """comm_open; False if the id is or was in use."""
        mutations = self.comms.open_by_peer(comm_id, target_name, data, buffers)
        self._mutations += mutations
        return bool(mutations)

    def close_by_peer(self, comm_id: str, data: Mapping[str, Any]) -> bool:
        """comm_close; False if there is no such comm."""
        mutations = self.comms.close_by_peer(comm_id, data)
        self._mutations += mutations
        self._forget(comm_id)
        return bool(mutations)

    # Inside.

    def _opened(self, content: k.CommOpen, buffers: Sequence[Any], cell_id: str | None) -> None:
        mutations = self.comms.opened(content.comm_id, content.target_name, content.data, buffers)
        if not mutations:
            return
        self._mutations += mutations
        if cell_id is not None:
            self.cells[content.comm_id] = cell_id
        if self.comms.comms[content.comm_id].is_output:
            state = content.data.get("state")
            self._output_widgets[content.comm_id] = _OutputWidget()
            self._outputs.reset(Target("comm", content.comm_id))
            if isinstance(state, dict):
                self._output_state(content.comm_id, state)

    def _said(self, content: k.CommMsg, message: k.KernelMessage) -> None:
        comm = self.comms.comms.get(content.comm_id)
        if comm is None:
            return
        data = content.data
        method = data.get("method") if comm.target_name == WIDGET_TARGET else None
        if method in ("update", "echo_update"):
            state = data.get("state")
            joined = join_buffers(state if isinstance(state, dict) else {}, data.get("buffer_paths"), message.buffers)
            if method == "update":
                self._updated(content.comm_id, joined)
            else:
                self._echoed(content.comm_id, joined, message.parent.msg_id)
        else:
            said = data.get("content") if method == "custom" else data
            self._custom.append(CustomMessage(content.comm_id, said, tuple(bytes(b) for b in message.buffers)))

    def _updated(self, comm_id: str, state: State) -> None:
        if comm_id in self._output_widgets:
            self._output_state(comm_id, state)
        self._mutations += self.comms.updated(comm_id, state)

    def _echoed(self, comm_id: str, state: State, parent_msg_id: str) -> None:
        widget = self._output_widgets.get(comm_id)
        if widget is not None and widget.sent is not None and widget.sent[0] == parent_msg_id:
            widget.base, widget.sent = widget.sent[1], None
            widget.changed = True
            self._send_back(comm_id)
        self._mutations += self.comms.echoed(comm_id, parent_msg_id)

    def _output_state(self, comm_id: str, state: State) -> None:
        """`outputs` and `msg_id` of an Output widget, which are never in its state in the document."""
        outputs = state.get("outputs")
        if isinstance(outputs, list | tuple):
            self._kernel_list(comm_id, list(outputs))
        msg_id = state.get("msg_id")
        if isinstance(msg_id, str):
            self.capture.set_msg_id(comm_id, msg_id)
            if not msg_id:
                self._send_back(comm_id)

    def _kernel_list(self, comm_id: str, outputs: list[Any]) -> None:
        widget, target = self._output_widgets[comm_id], Target("comm", comm_id)
        widget.changed = True
        if outputs[: len(widget.base)] == widget.base and outputs:
            for raw in outputs[len(widget.base) :]:
                self._append(target, parse_output(raw, self._new_id))
        elif outputs:
            parsed = [parse_output(raw, self._new_id) for raw in outputs]
            self._outputs.reset(target, [output for output in parsed if output is not None])
        else:
            self._outputs.clear(target, wait=False)
        widget.base = outputs

    def _append(self, target: Target, output: Output | None) -> None:
        match output:
            case StreamOutput():
                self._outputs.stream(target, output.name, "".join(output.segments))
            case DisplayOutput():
                self._outputs.display(
                    target,
                    output.data,
                    output.metadata,
                    display_id=None,
                    execution_count=output.execution_count,
                    result=output.output_type == "execute_result",
                )
            case ErrorOutput():
                self._outputs.error(target, output.ename, output.evalue, output.traceback)
            case None:
                return

    def _send_back(self, comm_id: str) -> None:
        widget = self._output_widgets[comm_id]
        if not widget.changed or widget.sent is not None or comm_id not in self.comms.comms:
            return
        widget.changed = False
        outputs = [_for_notebook(output) for output in self._outputs.outputs(Target("comm", comm_id))]
        if outputs == widget.base:
            return
        data = {"method": "update", "state": {"outputs": outputs}, "buffer_paths": []}
        widget.sent = (self.comms.send(comm_id, data, ()), outputs)

    def _close(self, comm_id: str) -> None:
        self._mutations += self.comms.closed_by(comm_id)
        self._forget(comm_id)

    def _forget(self, comm_id: str) -> None:
        self.cells.pop(comm_id, None)
        self.capture.close(comm_id)
        if self._output_widgets.pop(comm_id, None) is not None:
            self._outputs.forget(Target("comm", comm_id))


def _for_notebook(output: Output) -> dict[str, Any]:
    """The output as ipywidgets and nbformat have it."""
    match output:
        case StreamOutput():
            return {"output_type": "stream", "name": output.name, "text": "".join(output.segments)}
        case ErrorOutput():
            return {
                "output_type": "error",
                "ename": output.ename,
                "evalue": output.evalue,
                "traceback": list(output.traceback),
            }
        case DisplayOutput():
            shown: dict[str, Any] = {
                "output_type": output.output_type,
                "data": dict(output.data),
                "metadata": dict(output.metadata),
            }
            if output.output_type == "execute_result":
                shown["execution_count"] = output.execution_count
            return shown
