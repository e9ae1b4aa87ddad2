"""Widgets of one notebook: the comms of its kernel, what Output widgets capture, and what a file left of earlier ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from daemon.core.comm import Comm, SendComm, opening_state
from daemon.core.comm_buffers import State, join_buffers
from daemon.core.comm_changes import CommMutation
from daemon.core.comms import CommRegistry
from daemon.core.output_widgets import OutputWidgets
from daemon.core.outputs import OutputReducer
from daemon.core.reattachment import Reattachment
from daemon.core.saved_widgets import LoadedComm, SavedWidgets
from kernel_bridge.core import messages as k
from sync.core.json_text import finite
from sync.core.mutations import KERNEL_LOG, OpenComm, Target


class Widgets:
    """The state behind `comms`. `drain` gives what is to be written, `take_sends` what is to be sent.

    Attributes:
        saved: those that came from the file, with no kernel behind them.
        changed_file: whether what was drained would change the notebook's file; the one who saves unsets it.

    Args:
        outputs: the reducer that holds captured outputs as well.
        new_id: makes ids for outputs and for messages to the kernel.
        clock: the time in seconds.
        tell: is given (comm_id, content, buffers) of each custom message from the kernel.
    """

    def __init__(
        self,
        outputs: OutputReducer,
        new_id: Callable[[], str],
        clock: Callable[[], float],
        tell: Callable[[str, Any, list[bytes]], None],
    ) -> None:
        self.comms = CommRegistry(new_id, clock, outputs.shows)
        self.forwarding = self.comms.forwarding
        outputs.on_view = self.comms.used
        self.captures = OutputWidgets(outputs, self.forwarding.send_update, new_id)
        self.saved = SavedWidgets()
        self._reattachment = Reattachment(self.forwarding.request_info, clock)
        self._outputs = outputs
        self._tell = tell
        self.changed_file = False
        self._drained_edits = 0

    @property
    def live(self) -> bool:
        """Whether the kernel has comms."""
        return bool(self.comms.comms)

    @property
    def pending(self) -> bool:
        """Whether `drain` has something."""
        return self.comms.changes.pending

    @property
    def deadline(self) -> float | None:
        """When `expire` must be called, if nothing happens before."""
        deadlines = (self.forwarding.deadline, self._reattachment.deadline)
        return min((at for at in deadlines if at is not None), default=None)

    def drain(self) -> list[CommMutation]:
        """What the document is to be told of comms, outputs aside."""
        edits = self.comms.changes.edits
        self.changed_file = self.changed_file or edits != self._drained_edits
        self._drained_edits = edits
        return self.comms.changes.drain()

    def take_sends(self) -> list[tuple[SendComm, str | None]]:
        """What is to be sent, in order, and the cell that what the kernel then prints belongs to, where it is known."""
        return [(send, self._cell_of(send)) for send in self.forwarding.take_sends()]

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
        self._say_troubles()

    def target(self, parent_msg_id: str) -> Target | None:
        """The widget that captures what has this parent, if one does."""
        return self.captures.target(parent_msg_id)

    def failed(self, msg_id: str) -> None:
        """An exception was shown that has this parent."""
        self.forwarding.failed(msg_id)

    def idle(self, msg_id: str) -> None:
        """The kernel is done with a message, ours or another's."""
        self.captures.answered(self.forwarding.idle(msg_id))
        self.captures.settle()
        self._reattach(self._reattachment.idle(msg_id))
        self._say_troubles()

    def before_execution(self) -> None:
        """An execution is about to be sent: what it finds in widgets is what peers see, and what they had set."""
        self.forwarding.forward_all()
        self.captures.flush()

    def expire(self) -> None:
        """The deadline passed: shows what waited for a pause."""
        self.forwarding.release()
        self._reattachment.expire()

    def give_up(self, msg_ids: Iterable[str]) -> None:
        """The kernel is past these messages, and what it said of them is lost, if it said anything."""
        self.captures.answered(self.forwarding.give_up(msg_ids))
        self.captures.settle()

    def kernel_gone(self) -> None:
        """No comm survives its kernel."""
        self.captures.clear()
        self.comms.kernel_gone()
        self._reattachment.end()

    def reconnected(self) -> None:
        """The connection to the kernel is new, and what was on its way may be lost: it is asked which comms it has."""
        self._reattachment.begin()

    def comm_info(self, msg_id: str, targets: Mapping[str, str]) -> None:
        """The reply to a comm_info_request: target names by comm id."""
        self._reattach(self._reattachment.replied(msg_id, targets))

    # From peers.

    def update_by_peer(self, comm_id: str, state: State) -> bool:
        """update_comm, buffers in their places; False if the document has no room for it: then nothing is done.

        No number that JSON does not have reaches the kernel, so none reaches the document: it is null at both ends.

        Raises:
            KeyError: there is no such comm.
        """
        state = finite(state)
        if not self.comms.has_room(comm_id, state):
            return False
        if state:
            self.comms.set_by_peer(comm_id, state)
            self._say_troubles()
        return True

    def custom_by_peer(self, comm_id: str, content: Any, buffers: Sequence[bytes]) -> None:
        """comm_custom.

        Raises:
            KeyError: there is no such comm.
        """
        comm = self.comms.comms[comm_id]
        self.forwarding.forward_all()
        if comm.is_widget:
            data = {"method": "custom", "content": content}
        else:
            data = content if isinstance(content, dict) else {"content": content}
        self.forwarding.send(comm_id, data, buffers)

    def open_by_peer(self, comm_id: str, target_name: str, data: Mapping[str, Any], buffers: Sequence[bytes]) -> bool:
        """comm_open; False if the id is or was in use."""
        if comm_id in self.saved:
            return False
        data = finite(data)
        comm = self.comms.open_by_peer(comm_id, target_name, data, buffers)
        if comm is not None:
            self._note_output(comm, opening_state(target_name, data, buffers))
        self._say_troubles()
        return comm is not None

    def close_by_peer(self, comm_id: str, data: Mapping[str, Any]) -> bool:
        """comm_close; False if there is no such comm."""
        closed = self.comms.close_by_peer(comm_id, data)
        if closed:
            self._forget(comm_id)
        return closed

    # From a file, without a kernel.

    def load(self, loaded: Sequence[LoadedComm]) -> None:
        """Shows widgets as a file has them, children first."""
        for comm in loaded:
            if comm.comm_id in self.comms.comms or not self.saved.add(comm):
                continue
            order = self.comms.next_order()
            self.comms.changes.open(
                OpenComm(comm.comm_id, comm.target_name, comm.model_module, comm.model_name, order, comm.state)
            )
            if comm.outputs is not None:
                self._outputs.reset(Target("comm", comm.comm_id), comm.outputs)

    def cell_cleared(self, cell_id: str) -> None:
        """The cell's outputs are gone: so are the file's widgets that no other cell shows."""
        for comm_id in self.saved.cell_cleared(cell_id):
            self._unload(comm_id)

    # Inside.

    def _opened(self, content: k.CommOpen, buffers: Sequence[Any], cell_id: str | None) -> None:
        if self.saved.remove(content.comm_id):
            self._unload(content.comm_id)
        state = opening_state(content.target_name, content.data, buffers)
        comm = self.comms.opened(content.comm_id, content.target_name, state, cell_id)
        if comm is not None:
            self._note_output(comm, state)

    def _note_output(self, comm: Comm, state: State) -> None:
        if comm.is_output:
            self.captures.opened(comm.comm_id, state)

    def _said(self, content: k.CommMsg, message: k.KernelMessage) -> None:
        comm, data = self.comms.comms.get(content.comm_id), content.data
        method = data.get("method") if comm is None or comm.is_widget else None
        if method in ("update", "echo_update"):
            state = data.get("state")
            joined = join_buffers(state if isinstance(state, dict) else {}, data.get("buffer_paths"), message.buffers)
            if method == "update":
                self._updated(content.comm_id, joined, message.parent.msg_id)
            else:
                self._echoed(content.comm_id, joined, message.parent.msg_id)
        elif comm is not None:
            said = data.get("content") if method == "custom" else data
            self._tell(content.comm_id, said, [bytes(buffer) for buffer in message.buffers])

    def _updated(self, comm_id: str, state: State, parent_msg_id: str) -> None:
        known = comm_id in self.comms.comms
        self.comms.updated(comm_id, state, parent_msg_id)
        if comm_id in self.captures:
            self.captures.updated(comm_id, state)
        elif not known and (comm := self.comms.comms.get(comm_id)) is not None:
            self._note_output(comm, state)

    def _echoed(self, comm_id: str, state: State, parent_msg_id: str) -> None:
        self.captures.echo_seen()
        answered = self.comms.echoed(comm_id, state, parent_msg_id)
        if answered:
            self.captures.answered(answered)
        elif comm_id in self.captures:
            self.captures.updated(comm_id, state)

    def _close(self, comm_id: str) -> None:
        if self.comms.close(comm_id):
            self._forget(comm_id)

    def _forget(self, comm_id: str) -> None:
        self.captures.close(comm_id)
        self._outputs.forget(Target("comm", comm_id))

    def _unload(self, comm_id: str) -> None:
        self.comms.changes.close(comm_id)
        self._outputs.forget(Target("comm", comm_id))

    def _reattach(self, targets: Mapping[str, str] | None) -> None:
        if targets is not None:
            self.captures.reattached()
            for comm_id in self.comms.reattached(targets):
                self._close(comm_id)

    def _cell_of(self, send: SendComm) -> str | None:
        # What is printed while the kernel takes a list of outputs is a thread's: its cell can't be known.
        if self.captures.is_send_back(send.msg_id):
            return None
        comm = self.comms.comms.get(send.content.get("comm_id", ""))
        return None if comm is None else comm.place.cell_id

    def trouble(self, comm_id: str, line: str) -> None:
        """Says in the kernel log what of a comm could not be shown, once for each."""
        self.comms.trouble(comm_id, line)
        self._say_troubles()

    def _say_troubles(self) -> None:
        lines, self.comms.troubles = self.comms.troubles, []
        too_long, self.captures.too_long = self.captures.too_long, []
        lines += [
            f"the outputs of Output widget {comm_id} are too long to be sent to the kernel" for comm_id in too_long
        ]
        for line in lines:
            self._outputs.stream(KERNEL_LOG, "stderr", f"[notebookd: {line}]\n")
