"""Comms as the document has them: who may write a widget's state, and what of it reaches the kernel.

State has one writer. A peer's value is committed at once and forwarded; while the forwarded message is open, the kernel's
own values of these traits are not: they are older than what the peer just set (naive echo makes a slider jump back;
measured, 17 to 37 times in one drag). It closes at its echo_update or its idle. What the kernel says after the echo, or, where
it sends no echoes, while it works on that very message, is its correction, and is shown as soon as the peer pauses. Where it
says neither, nobody knows what it made of the value: when the peer pauses it is asked for its state, once, whatever came
together till then.

Per comm one message is forwarded and one is waiting at most, so that a busy kernel's shell queue stays short. What waits
goes before an execution or a click that was asked for after it: the code must find what its peer had set.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from daemon.core.absent_comms import AbsentComms, keep_newest
from daemon.core.comm import OUTPUT_TRAITS, PROTOCOLS, Comm, Held, Place, SendComm, Sent, opening_state
from daemon.core.comm_buffers import State, split_buffers
from daemon.core.comm_changes import CommChanges, measure, value_size
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
# A hand that moves sets a value each 16 ms, on a slow page each 50. What the kernel makes of one of them is not shown
# before the next, or a slider that is drawn beyond its end would tremble; a correction may be that late.
QUIET_SECONDS: Final = 0.1


class CommRegistry:
    """The comms of one kernel. What the document is to have of it is in `changes`, what is to be sent in `take_sends`.

    Attributes:
        comms: those that are open, by id.
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
        self.changes = CommChanges()
        self.troubles: list[str] = []
        self._closed: dict[str, None] = {}
        self._absent = AbsentComms(clock, is_shown)
        self._is_shown = is_shown
        self._new_msg_id = new_msg_id
        self._clock = clock
        self._quiet: dict[tuple[str, str], float] = {}  # (comm, trait) -> when what the kernel said of it is shown
        self._order = 0
        self._traits = 0
        self._sends: list[SendComm] = []
        self._waiting: dict[str, None] = {}  # comms with an update that waits
        self._open: dict[str, Sent] = {}
        self._in_trouble: dict[str, None] = {}

    def take_sends(self) -> list[SendComm]:
        """Messages for the kernel, in order."""
        sends, self._sends = self._sends, []
        return sends

    def open_messages(self) -> list[str]:
        """Ids of messages of ours that wait for their echo or idle, oldest first."""
        return list(self._open)

    @property
    def deadline(self) -> float | None:
        """When `release` must be called, if nothing happens before."""
        return min(self._quiet.values(), default=None)

    def release(self) -> None:
        """Shows what the kernel made of traits that no peer has set for a while."""
        now = self._clock()
        for comm_id, name in [key for key, until in self._quiet.items() if until <= now]:
            del self._quiet[comm_id, name]
            comm = self.comms.get(comm_id)
            held = None if comm is None else comm.held.get(name)
            if comm is not None and held is not None and held.answered:
                self._let_go(comm, [name])
                self._ask(comm)

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
            self._request_state(comm_id)

    def updated(self, comm_id: str, state: State, parent_msg_id: str) -> None:
        """An update of the kernel: of a trait that a peer's open message carries, only that message's own correction counts."""
        comm = self.comms.get(comm_id)
        if comm is None:
            if self._absent.expects(comm_id) and "_model_name" in state:  # the whole state, not a part of it
                self.opened(comm_id, WIDGET_TARGET, state)
            return
        now = {}
        for name, value in state.items():
            held = comm.held.get(name)
            if held is None:
                now[name] = value
            elif held.answered or parent_msg_id == held.msg_id:
                held.correction, held.corrected = value, True
            elif held.msg_id:
                held.doubted = True
        self._show(comm, now)

    def echoed(self, comm_id: str, state: State, parent_msg_id: str) -> list[str]:
        """The kernel's echo_update: it begins with a message; what it said of its traits before is older.

        Returns:
            The messages of ours that are answered by it, oldest first: the kernel takes them in order.
        """
        sent = self._open.get(parent_msg_id)
        if sent is None or sent.comm_id != comm_id:
            # Another client of this kernel set it.
            self.updated(comm_id, state, parent_msg_id)
            return []
        answered = self._end_before(parent_msg_id)
        sent.echoed = True
        comm = self.comms.get(comm_id)
        if comm is not None:
            for held in comm.held.values():
                if held.msg_id == parent_msg_id:
                    held.corrected = held.doubted = False
                    held.echoed = True
            self._let_go(comm, comm.carried_by(parent_msg_id))
            self._answered(comm, parent_msg_id)
            self._ask(comm)
        return [*answered, parent_msg_id]

    def failed(self, msg_id: str) -> None:
        """The kernel raised while it worked on a message: who knows what it took of it."""
        sent = self._open.get(msg_id)
        if sent is not None and not sent.is_question:  # asked again, it would raise again
            sent.unsure = True

    def idle(self, msg_id: str) -> list[str]:
        """The kernel is done with a message; returns those of ours that are over with it, oldest first."""
        if msg_id not in self._open:
            return []
        over = self._end_before(msg_id)
        self._end(msg_id)
        return [*over, msg_id]

    def give_up(self, msg_ids: Iterable[str]) -> list[str]:
        """The echo and idle of these are lost; returns those that were still open. The kernel is asked how it is."""
        lost = []
        for msg_id in msg_ids:
            sent = self._open.get(msg_id)
            if sent is None:
                continue
            lost.append(msg_id)
            self._end(msg_id, lost=True)
        return lost

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
        self._sends.clear()
        self._absent.clear()
        for gone in (self.comms, self._closed, self._waiting, self._open, self._in_trouble, self._quiet):
            gone.clear()
        self._traits = 0

    def reattached(self, targets: Mapping[str, str]) -> list[str]:
        """The connection to the kernel is new: these comms are open there, and messages may be lost.

        Every widget is asked for its state; one that we do not know is opened when it comes.

        Returns:
            The comms that are gone; the caller closes them.
        """
        self._open.clear()
        self._quiet.clear()
        for comm in self.comms.values():
            comm.held = {name: Held(comm.held[name].until) for name in comm.waiting}
            comm.sent = None
            comm.unsure = False
        for comm_id, target_name in targets.items():
            if target_name != WIDGET_TARGET or comm_id in self._closed or comm_id in self._absent:
                continue
            if comm_id in self.comms or self._absent.expect(comm_id, MAX_COMMS):
                self._request_state(comm_id)
        self._absent.keep(targets)
        self.forward_all()
        return [comm_id for comm_id in self.comms if comm_id not in targets]

    # From peers.

    def set_by_peer(self, comm_id: str, state: State) -> None:
        """update_comm: written now, forwarded now or behind the message that the kernel still works on.

        Raises:
            KeyError: there is no such comm.
        """
        comm = self.comms[comm_id]
        comm.waiting.update(state)
        self._waiting[comm_id] = None
        for name in state:
            # From now on: until it is forwarded, whatever the kernel says of it is older than what the peer set.
            comm.held[name] = Held(self._clock() + QUIET_SECONDS)
        if comm.sent is None:
            self._forward(comm)
        self._show(comm, state)

    def has_room(self, comm_id: str, state: State) -> bool:
        """Whether the document takes all of these values. (Of a kernel's, what it does not take is left out.)

        Raises:
            KeyError: there is no such comm.
        """
        comm = self.comms[comm_id]
        new = [name for name in state if name not in comm.known]
        size = sum(max(0, value_size(value) - comm.sizes.get(name, 0)) for name, value in state.items())
        return (
            all(0 < len(name) <= MAX_KEY_CHARS for name in new)
            and len(comm.known) + len(new) <= MAX_KEYS
            and self._traits + len(new) <= MAX_TRAITS
            and comm.size + size <= MAX_STATE_BYTES
        )

    def forward_all(self) -> None:
        """Sends what waits, though the kernel has not answered what was sent before."""
        for comm_id in list(self._waiting):
            self._forward(self.comms[comm_id])

    def send(self, comm_id: str, data: Mapping[str, Any], buffers: Sequence[bytes]) -> str:
        """A message of a peer, as it is; returns its id."""
        msg_id, content = self._new_msg_id(), {"comm_id": comm_id, "data": dict(data)}
        self._sends.append(SendComm(msg_id, "comm_msg", content, tuple(buffers)))
        return msg_id

    def send_update(self, comm_id: str, state: State) -> str:
        """An update that `open_messages` names until the kernel has dealt with it; returns its id."""
        plain, paths, buffers = split_buffers(state)
        data = {"method": "update", "state": plain, "buffer_paths": paths}
        msg_id = self._new_msg_id()
        self._open[msg_id] = Sent(comm_id)
        self._sends.append(SendComm(msg_id, "comm_msg", {"comm_id": comm_id, "data": data}, buffers))
        return msg_id

    def open_by_peer(
        self, comm_id: str, target_name: str, data: Mapping[str, Any], buffers: Sequence[bytes]
    ) -> Comm | None:
        """comm_open of a peer: it is in the document until the kernel closes it (an unknown target, say)."""
        is_free = comm_id not in self._closed
        comm = self.opened(comm_id, target_name, opening_state(target_name, data, buffers)) if is_free else None
        if comm is not None:
            content = {"comm_id": comm_id, "target_name": target_name, "data": dict(data)}
            version = PROTOCOLS.get(target_name)
            metadata = None if version is None else {"version": version}
            msg_id = self._new_msg_id()
            if comm.is_widget:  # its model has defaults for what the peer did not name, and widgets of its own
                comm.opening = msg_id
                self._open[msg_id] = Sent(comm_id, unsure=True)
            self._sends.append(SendComm(msg_id, "comm_open", content, tuple(buffers), metadata))
        return comm

    def close_by_peer(self, comm_id: str, data: Mapping[str, Any]) -> bool:
        """comm_close of a peer; False if there is no such comm."""
        closed = self.close(comm_id)
        if closed:
            self._sends.append(SendComm(self._new_msg_id(), "comm_close", {"comm_id": comm_id, "data": dict(data)}))
        return closed

    def request_info(self) -> str:
        """Asks the kernel which comms are open; returns the question's msg_id."""
        msg_id = self._new_msg_id()
        self._sends.append(SendComm(msg_id, "comm_info_request", {}))
        return msg_id

    # Inside.

    def _make_room(self) -> bool:
        unused = self._absent.put_away(self.comms)
        for comm_id in unused:
            self._drop(self.comms[comm_id])
        return bool(unused)

    def _drop(self, comm: Comm) -> None:
        del self.comms[comm.comm_id]
        self._traits -= len(comm.known)
        for msg_id in (comm.sent, comm.opening, comm.question):
            if msg_id is not None:
                self._open.pop(msg_id, None)
        self._waiting.pop(comm.comm_id, None)
        self.changes.close(comm.comm_id)

    def _forward(self, comm: Comm) -> None:
        state, comm.waiting = comm.waiting, {}
        del self._waiting[comm.comm_id]
        comm.sent = self.send_update(comm.comm_id, state)
        for name in state:
            comm.held[name].msg_id = comm.sent

    def _end_before(self, msg_id: str) -> list[str]:
        """Ends the messages that were sent before this one: the kernel is past them, though it did not say so."""
        earlier = []
        for other in self._open:
            if other == msg_id:
                break
            earlier.append(other)
        for other in earlier:
            self._end(other)
        return earlier

    def _end(self, msg_id: str, *, lost: bool = False) -> None:
        sent = self._open.pop(msg_id)
        comm = self.comms.get(sent.comm_id)
        if comm is None:
            return
        carried = comm.carried_by(msg_id)
        if sent.unsure or any(comm.held[name].doubted for name in carried):
            # What the peers see may be what the kernel refused, or older than what was dropped.
            comm.unsure = True
        if lost:
            for name in carried:
                del comm.held[name]
            comm.unsure = comm.unsure or bool(carried)
        else:
            self._let_go(comm, carried)
        self._answered(comm, msg_id)
        self._ask(comm)

    def _let_go(self, comm: Comm, names: Iterable[str]) -> None:
        """The kernel has these traits: what it made of them is shown, when the peer pauses."""
        now = self._clock()
        corrected = {}
        for name in names:
            held = comm.held[name]
            if held.until > now:
                held.answered = True
                self._quiet[comm.comm_id, name] = held.until
            else:
                del comm.held[name]
                if held.corrected:
                    corrected[name] = held.correction
                elif not held.echoed:
                    comm.unsure = True
        self._show(comm, corrected)

    def _answered(self, comm: Comm, msg_id: str) -> None:
        if comm.sent == msg_id:
            comm.sent = None
            if comm.waiting:
                self._forward(comm)

    def _ask(self, comm: Comm) -> None:
        """Asks for the state of a widget of which nobody is sure, when no peer has it in hand.

        There is one such question of a widget at most: what is sent behind it is answered behind it.
        """
        if comm.unsure and comm.is_widget and not comm.in_hand:
            comm.unsure = False
            comm.question = self._request_state(comm.comm_id)
            self._open[comm.question] = Sent(comm.comm_id, is_question=True)

    def _request_state(self, comm_id: str) -> str:
        return self.send(comm_id, {"method": "request_state"}, ())

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
            if name not in comm.known:
                if value is None and comm.is_sparse:
                    continue
                if not name or len(name) > MAX_KEY_CHARS or len(comm.known) >= MAX_KEYS or self._traits >= MAX_TRAITS:
                    self._left_out(comm, [name])
                    continue
                comm.known.add(name)
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
