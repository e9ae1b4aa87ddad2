"""Output widgets: what they capture, and how the kernel learns of it.

The kernel never fills `out.outputs` by itself: the daemon, which sees the captured messages, sends the list back. `base` is
the list that the kernel is known to have. A list that the kernel sends is read against it: what continues `base` is
appended, an empty one clears, another one replaces. Whenever the document's list differs from `base`, a send-back is due: at
the end of a capture and at idle, and one unanswered at a time, so it is one whole list for each round trip of the kernel,
however many outputs came. An execution is sent behind whatever is due, so that what a cell reads is what peers see.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from daemon.core.capture import OutputCaptureRouter
from daemon.core.notebook_file import parse_output
from daemon.core.outputs import OutputReducer
from sync.core.limits import MIB
from sync.core.mutations import Target
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput

RawOutputs: TypeAlias = list[dict[str, Any]]

# To write and sign a list of this length takes the loop 0.1 s, and the kernel longer to read and echo it. Beyond it, its
# `out.outputs` stays as it was.
MAX_SEND_BACK: Final = 16 * MIB


@dataclass(slots=True)
class _OutputWidget:
    """`base`: what the kernel is known to have; `sent`: the send-backs that it has not answered, by msg_id.

    `unsure`: an answer may have been lost, so the kernel may have any of these. `crossed`: it said a list of its own while
    one was unanswered, and does not echo, so nobody knows which came last. `has_displays`: some output has a display id, so
    it may change without being captured anew. `is_long`: longer than what is sent back, and that was said.
    """

    base: RawOutputs = field(default_factory=list)
    sent: dict[str, RawOutputs] = field(default_factory=dict)
    unsure: bool = False
    crossed: bool = False
    has_displays: bool = False
    is_long: bool = False


class OutputWidgets:
    """The Output widgets of one kernel.

    Attributes:
        router: which captures what.
        too_long: widgets whose list is longer than what is sent back; whoever says so clears the list.

    Args:
        outputs: the reducer that holds captured outputs as well.
        send_update: sends traits of a comm to the kernel and returns the message's id.
        new_id: makes ids for outputs.
    """

    def __init__(
        self,
        outputs: OutputReducer,
        send_update: Callable[[str, dict[str, Any]], str],
        new_id: Callable[[], str],
    ) -> None:
        self.router = OutputCaptureRouter()
        self.too_long: list[str] = []
        self._outputs = outputs
        self._send_update = send_update
        self._new_id = new_id
        self._widgets: dict[str, _OutputWidget] = {}
        self._due: dict[str, None] = {}  # widgets whose list may differ from what the kernel has
        self._displays_due = False  # all widgets with displays are in `_due`
        self._sent: dict[str, str] = {}  # unanswered send-backs: which widget's
        self._echoes = False

    def __contains__(self, comm_id: str) -> bool:
        return comm_id in self._widgets

    def is_send_back(self, msg_id: str) -> bool:
        """Whether this unanswered message is one of ours here, and no peer's."""
        return msg_id in self._sent

    # What the kernel says.

    def opened(self, comm_id: str, state: Mapping[str, Any]) -> None:
        """A new Output widget."""
        self._widgets[comm_id] = _OutputWidget()
        self._outputs.reset(Target("comm", comm_id))
        self.updated(comm_id, state)

    def updated(self, comm_id: str, state: Mapping[str, Any]) -> None:
        """`outputs` and `msg_id` of the kernel's state, which are never in its state in the document."""
        outputs, msg_id = state.get("outputs"), state.get("msg_id")
        if isinstance(outputs, list):
            self._kernel_list(comm_id, outputs, whole_state="_model_name" in state)
        if isinstance(msg_id, str):
            self.router.set_msg_id(comm_id, msg_id)
            if not msg_id:
                self._send_back(comm_id)

    def target(self, parent_msg_id: str) -> Target | None:
        """The widget that captures what has this parent, if one does; its list is about to change."""
        comm_id = self.router.target(parent_msg_id)
        if comm_id is None:
            return None
        self._due[comm_id] = None
        return Target("comm", comm_id)

    def display_shown(self, target: Target) -> None:
        """A display with an id is there."""
        widget = self._widgets.get(target.id) if target.kind == "comm" else None
        if widget is not None:
            widget.has_displays = True
            self._displays_due = False

    def displays_updated(self) -> None:
        """Displays changed somewhere, maybe in captures."""
        if not self._displays_due:  # thousands of updates may come for thousands of widgets
            self._displays_due = True
            self._due.update((comm_id, None) for comm_id, widget in self._widgets.items() if widget.has_displays)

    def echo_seen(self) -> None:
        """This kernel echoes: what it says before the echo of a send-back, it said without knowing of it."""
        self._echoes = True

    def answered(self, msg_ids: Iterable[str]) -> None:
        """The kernel has taken these messages (those of them that are send-backs)."""
        for msg_id in msg_ids:
            comm_id = self._sent.pop(msg_id, None)
            if comm_id is not None:
                widget = self._widgets[comm_id]
                widget.base = widget.sent.pop(msg_id)
                self._send_back(comm_id)

    def settle(self) -> None:
        """The kernel may take messages: what is due is sent, but for widgets with an unanswered one."""
        for comm_id in list(self._due):
            self._send_back(comm_id)

    def flush(self) -> None:
        """An execution is about to be sent: everything due goes before it, though an older list is unanswered.

        So there are two of a widget at most: the kernel answers both before it begins with the execution.
        """
        for comm_id in list(self._due):
            self._send_back(comm_id, behind=True)

    def reattached(self) -> None:
        """Answers may be lost."""
        for widget in self._widgets.values():
            widget.unsure = bool(widget.sent)
        self._sent.clear()

    def close(self, comm_id: str) -> None:
        """The comm is closed, and captures nothing any more."""
        self.router.close(comm_id)
        widget = self._widgets.pop(comm_id, None)
        self._due.pop(comm_id, None)
        if widget is not None:
            for msg_id in widget.sent:
                self._sent.pop(msg_id, None)
            self._outputs.forget(Target("comm", comm_id))

    def clear(self) -> None:
        """The kernel is gone, and all its widgets with it."""
        for comm_id in list(self._widgets):
            self.close(comm_id)
        self.router.clear()
        self._echoes = False

    # Inside.

    def _kernel_list(self, comm_id: str, outputs: RawOutputs, *, whole_state: bool) -> None:
        widget, target = self._widgets[comm_id], Target("comm", comm_id)
        known = [widget.base]
        if widget.unsure or not self._echoes:
            known += widget.sent.values()
            widget.crossed = bool(widget.sent)
        if widget.unsure:
            widget.unsure = False
            # Those that went over the new connection are still to be answered.
            widget.sent = {msg_id: sent for msg_id, sent in widget.sent.items() if msg_id in self._sent}
        self._due[comm_id] = None
        if len(known) > 1 and not whole_state:
            # A trait is sent when it changes: it was none of those that it now equals.
            known = [base for base in known if base != outputs]
        base = max((base for base in known if outputs[: len(base)] == base), key=len, default=None)
        widget.base = outputs
        if base is not None:
            for raw in outputs[len(base) :]:
                self._append(target, parse_output(raw, self._new_id))
        elif outputs:
            parsed = [_as_text(output) for raw in outputs if (output := parse_output(raw, self._new_id)) is not None]
            self._outputs.reset(target, parsed)
            widget.has_displays = False
        else:
            self._outputs.clear(target, wait=False)

    def _append(self, target: Target, output: Output | None) -> None:
        match output:
            case StreamOutput():
                self._outputs.stream(target, output.name, "".join(output.segments))
            case DisplayOutput():
                self._outputs.display(
                    target,
                    _text_data(output.data),
                    output.metadata,
                    display_id=None,
                    execution_count=output.execution_count,
                    result=output.output_type == "execute_result",
                )
            case ErrorOutput():
                self._outputs.error(target, output.ename, output.evalue, output.traceback)
            case None:
                return

    def _send_back(self, comm_id: str, *, behind: bool = False) -> None:
        widget = self._widgets[comm_id]
        if comm_id not in self._due or (widget.sent and not behind):
            return
        del self._due[comm_id]
        self._displays_due = False
        shown = self._outputs.outputs(Target("comm", comm_id))
        outputs = [_for_notebook(output) for output in shown]
        last = next(reversed(widget.sent.values())) if widget.sent else widget.base
        if outputs == last and not widget.crossed:
            return
        if _exceeds(shown, MAX_SEND_BACK):
            if not widget.is_long:
                self.too_long.append(comm_id)
            widget.is_long = True
            return
        widget.is_long = widget.crossed = False
        msg_id = self._send_update(comm_id, {"outputs": outputs})
        widget.sent[msg_id] = outputs
        self._sent[msg_id] = comm_id


def _exceeds(outputs: Iterable[Output], limit: int) -> bool:
    size = 0
    for output in outputs:
        match output:
            case StreamOutput():
                size += sum(map(len, output.segments))
            case DisplayOutput():
                size += sum(len(value) for value in output.data.values() if isinstance(value, str))
            case ErrorOutput():
                size += sum(map(len, output.traceback))
    return size > limit


def _as_text(output: Output) -> Output:
    if not isinstance(output, DisplayOutput):
        return output
    return DisplayOutput(
        output.output_id,
        output.output_type,
        _text_data(output.data),
        output.metadata,
        execution_count=output.execution_count,
    )


def _text_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes, which Python puts into `out.outputs` where IPython's displays have base64, as base64."""
    return {mime: b64encode(value).decode() if isinstance(value, bytes) else value for mime, value in data.items()}


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
