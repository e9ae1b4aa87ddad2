"""The comms of one kernel as the document has them: which there are, and what of their state it has room for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from daemon.core.absent_comms import AbsentComms, keep_newest
from daemon.core.comm import OUTPUT_TRAITS, Comm, Place, json_type, may_be_cast, opening_state
from daemon.core.comm_buffers import State
from daemon.core.comm_changes import CommChanges, measure, value_size
from daemon.core.forwarding import Forwarding
from sync.core.limits import MAX_ID_CHARS, MIB
from sync.core.mutations import OpenComm
from sync.core.plain import is_key
from sync.core.value_writing import MAX_KEY_CHARS, MAX_KEYS
from sync.core.widget_tree import WIDGET_TARGET, references_within

# Comms of one kernel: 3 a widget; a late peer gets them all, and each is some 30 operations of the document. What nobody
# can see makes room for more.
MAX_COMMS: Final = 10_000
# Traits of all comms of one kernel: 40 each when all are taken; a fifth of what a document may hold.
MAX_TRAITS: Final = 400_000
# Big values of one comm, together: an uncompressed image of 4K is half of it, and every peer that looks fetches it.
MAX_STATE_BYTES: Final = 64 * MIB


class CommRegistry:
    """The comms of one kernel. What the document is to have of it is in `changes`.

    Attributes:
        comms: those that are open, by id.
        forwarding: the messages that peers' doings become.
        troubles: what could not be shown, for the kernel log; whoever takes the lines clears the list.

    Args:
        new_msg_id: makes ids for messages to the kernel.
        clock: the time in seconds.
        is_shown: whether an output shows the widget with this comm id.
    """

    def __init__(
        self, new_msg_id: Callable[[], str], clock: Callable[[], float], is_shown: Callable[[str], bool]
    ) -> None:
        self.comms: dict[str, Comm] = {}
        self.forwarding = Forwarding(self.comms, self._show, new_msg_id, clock)
        self.changes = CommChanges()
        self.troubles: list[str] = []
        self._closed: dict[str, None] = {}
        self._absent = AbsentComms(clock, is_shown)
        self._is_shown = is_shown
        self._order = 0
        self._traits = 0
        self._in_trouble: dict[str, None] = {}

    def next_order(self) -> int:
        """The number of the comm that is opened next."""
        self._order += 1
        return self._order

    # From the kernel.

    def opened(self, comm_id: str, target_name: str, state: State, cell_id: str | None = None) -> Comm | None:
        """comm_open; None for an id that is open or was closed (a comm id never comes back), or that no document takes."""
        if comm_id in self._closed:
            self.trouble(comm_id, f"comm {comm_id} was closed and is opened again under its old id: it is not shown")
            return None
        if comm_id in self.comms or comm_id in self._absent or len(comm_id) > MAX_ID_CHARS or not is_key(comm_id):
            return None
        if len(self.comms) >= MAX_COMMS and not self._make_room():
            self.trouble("", f"more than {MAX_COMMS} comms are open: the latest widgets are not shown")
            return None
        before = self._absent.arrive(comm_id)
        place = before or Place(self.next_order(), cell_id)
        comm = self.comms[comm_id] = Comm(comm_id, target_name, _text(state.get("_model_name")), place)
        comm.was_used = before is not None or self._is_shown(comm_id)
        shown = self._shown(comm, state)
        module = _text(state.get("_model_module"))
        opened = OpenComm(comm_id, target_name, module, comm.model_name, place.order, shown)
        self._left_out(comm, self.changes.open(opened, comm.sizes))
        return comm

    def used(self, comm_id: str) -> None:
        """An output shows this comm, or a widget refers to it: one that was put away is asked for, as it now is."""
        comm = self.comms.get(comm_id)
        if comm is not None:
            comm.was_used = True
        elif self._absent.use(comm_id):
            self.forwarding.request_state(comm_id)

    def updated(self, comm_id: str, state: State, parent_msg_id: str, *, echo: bool = False) -> None:
        """An update of the kernel, or the `echo` of what somebody else set, which is not the kernel's word yet."""
        comm = self.comms.get(comm_id)
        if comm is None:
            if self._absent.expects(comm_id) and "_model_name" in state:  # the whole state, not a part of it
                self.opened(comm_id, WIDGET_TARGET, state)
            return
        self._show(comm, self.forwarding.news(comm, state, parent_msg_id))
        if not echo:
            comm.types.update((name, json_type(value)) for name, value in state.items() if name in comm.types)
        elif any(may_be_cast(value, comm.types.get(name)) for name, value in state.items()):
            self.forwarding.doubt(comm)

    def echoed(self, comm_id: str, state: State, parent_msg_id: str) -> list[str]:
        """The kernel's echo_update; returns the messages of ours that are answered by it, oldest first."""
        answered = self.forwarding.echoed(comm_id, parent_msg_id)
        if answered is None:
            # Another client of this kernel set it, or the message is one that was given up.
            self.updated(comm_id, state, parent_msg_id, echo=True)
        return answered or []

    def close(self, comm_id: str) -> bool:
        """comm_close, from either side; False if there is no such comm."""
        was_known = self._absent.close(comm_id)
        comm = self.comms.get(comm_id)
        if comm is not None or was_known:
            self._closed[comm_id] = None
            keep_newest(self._closed)
        if comm is None:
            return False
        self._drop(comm)
        return True

    def kernel_gone(self) -> None:
        """No comm survives its kernel; another kernel may use an id again."""
        edits = self.changes.edits
        for comm_id in self.comms:
            self.changes.close(comm_id)
        self.changes.edits = edits  # a file keeps its widgets as they last were
        self.forwarding.clear()
        self._absent.clear()
        for gone in (self.comms, self._closed, self._in_trouble):
            gone.clear()
        self._traits = 0

    def reattached(self, targets: Mapping[str, str]) -> list[str]:
        """The connection to the kernel is new: these comms are open there, and messages may be lost.

        Every widget is asked for its state; one that we do not know is opened when it comes.

        Returns:
            The comms that are gone; the caller closes them.
        """
        self.forwarding.reconnected()
        for comm_id, target_name in targets.items():
            if target_name != WIDGET_TARGET or comm_id in self._closed or comm_id in self._absent:
                continue
            if comm_id in self.comms or self._absent.expect(comm_id, MAX_COMMS):
                self.forwarding.request_state(comm_id)
        self._absent.keep(targets)
        self.forwarding.forward_all()
        return [comm_id for comm_id in self.comms if comm_id not in targets]

    # From peers.

    def set_by_peer(self, comm_id: str, state: State) -> None:
        """update_comm: written now, forwarded now or behind the message that the kernel still works on.

        Raises:
            KeyError: there is no such comm.
        """
        comm = self.comms[comm_id]
        self.forwarding.set(comm, state)
        self._show(comm, state)

    def has_room(self, comm_id: str, state: State) -> bool:
        """Whether the document takes all of these values. (Of a kernel's, what it does not take is left out.)

        Raises:
            KeyError: there is no such comm.
        """
        comm = self.comms[comm_id]
        new = [name for name in state if name not in comm.types]
        size = sum(max(0, value_size(value) - comm.sizes.get(name, 0)) for name, value in state.items())
        return (
            all(0 < len(name) <= MAX_KEY_CHARS for name in new)
            and len(comm.types) + len(new) <= MAX_KEYS
            and self._traits + len(new) <= MAX_TRAITS
            and comm.size + size <= MAX_STATE_BYTES
        )

    def open_by_peer(
        self, comm_id: str, target_name: str, data: Mapping[str, Any], buffers: Sequence[bytes]
    ) -> Comm | None:
        """comm_open of a peer: it is in the document until the kernel closes it (an unknown target, say)."""
        is_free = comm_id not in self._closed
        comm = self.opened(comm_id, target_name, opening_state(target_name, data, buffers)) if is_free else None
        if comm is not None:
            self.forwarding.open(comm, data, buffers)
        return comm

    def close_by_peer(self, comm_id: str, data: Mapping[str, Any]) -> bool:
        """comm_close of a peer; False if there is no such comm."""
        closed = self.close(comm_id)
        if closed:
            self.forwarding.close(comm_id, data)
        return closed

    # Inside.

    def _make_room(self) -> bool:
        unused = self._absent.put_away(self.comms)
        for comm_id in unused:
            self._drop(self.comms[comm_id])
        return bool(unused)

    def _drop(self, comm: Comm) -> None:
        del self.comms[comm.comm_id]
        self._traits -= len(comm.types)
        self.forwarding.forget(comm)
        self.changes.close(comm.comm_id)

    def _show(self, comm: Comm, state: State) -> None:
        shown = self._shown(comm, state)
        if shown:
            self._left_out(comm, self.changes.set(comm.comm_id, shown, comm.sizes))

    def _shown(self, comm: Comm, state: State) -> State:
        """What the document is to have of this state."""
        shown = {}
        for name, value in state.items():
            if comm.is_output and name in OUTPUT_TRAITS:
                continue
            if name not in comm.types:
                if value is None and comm.is_sparse:
                    continue
                if not name or len(name) > MAX_KEY_CHARS or len(comm.types) >= MAX_KEYS or self._traits >= MAX_TRAITS:
                    self._left_out(comm, [name])
                    continue
                comm.types[name] = json_type(value)
                self._traits += 1
            before, (size, refers) = comm.sizes.get(name, 0), measure(value)
            if size > before and comm.size + size - before > MAX_STATE_BYTES:
                self._left_out(comm, [name])
                continue
            if size or before:
                comm.sizes[name] = size
                comm.size += size - before
            if refers or name in comm.references:
                self._refer(comm, name, value)
            shown[name] = value
        return shown

    def _refer(self, comm: Comm, name: str, value: Any) -> None:
        comm.references[name] = tuple(dict.fromkeys(references_within(value)))
        if not comm.is_link:
            for other in comm.references[name]:
                self.used(other)

    def _left_out(self, comm: Comm, names: Sequence[str]) -> None:
        if names:
            what = comm.model_name or comm.target_name
            self.trouble(comm.comm_id, f"no room for {names[0][:64]!r} of {what[:64]} {comm.comm_id}: it is not shown")

    def trouble(self, comm_id: str, line: str) -> None:
        """Says something once for each comm, or once for all."""
        if comm_id not in self._in_trouble:
            self._in_trouble[comm_id] = None
            keep_newest(self._in_trouble)
            self.troubles.append(line)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
