"""What peers do to comms, on its way to the kernel; and what of the kernel's word on the same traits is news.

A trait has one writer. A peer's value is committed at once and forwarded; while the forwarded message is open, the kernel's
own values of these traits are not: they are older than what the peer just set (naive echo makes a slider jump back;
measured, 17 to 37 times in one drag). It closes at its echo_update or its idle. What the kernel says after the echo, or, where
it sends no echoes, while it works on that very message, is its correction, and is shown as soon as the peer pauses. Where
nobody can know what it made of the value it is asked for its state, once, when the peer pauses.

Per comm one message is forwarded and one is waiting at most, so that a busy kernel's shell queue stays short. What waits
goes before an execution or a click that was asked for after it: the code must find what its peer had set.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from daemon.core.comm import PROTOCOLS, Comm, Held, SendComm, Sent, may_be_cast
from daemon.core.comm_buffers import State, split_buffers

# A hand that moves sets a value each 16 ms, on a slow page each 50. What the kernel makes of one of them is not shown
# before the next, or a slider that is drawn beyond its end would tremble; a correction may be that late.
QUIET_SECONDS: Final = 0.1


class Forwarding:
    """The messages to one kernel's comms, and which of them it has not dealt with.

    Args:
        comms: those that are open, by id.
        show: writes what the kernel made of traits into the document.
        new_msg_id: makes ids for messages to the kernel.
        clock: the time in seconds.
    """

    def __init__(
        self,
        comms: Mapping[str, Comm],
        show: Callable[[Comm, State], None],
        new_msg_id: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._comms = comms
        self._show = show
        self._new_msg_id = new_msg_id
        self._clock = clock
        self._quiet: dict[tuple[str, str], float] = {}  # (comm, trait) -> when what the kernel said of it is shown
        self._sends: list[SendComm] = []
        self._waiting: dict[str, None] = {}  # comms with an update that waits
        self._open: dict[str, Sent] = {}

    def take_sends(self) -> list[SendComm]:
        """Messages for the kernel, in order."""
        sends, self._sends = self._sends, []
        return sends

    @property
    def open_messages(self) -> Collection[str]:
        """Ids of messages of ours that wait for their echo or idle, oldest first."""
        return self._open.keys()

    @property
    def deadline(self) -> float | None:
        """When `release` must be called, if nothing happens before."""
        return min(self._quiet.values(), default=None)

    # From peers.

    def set(self, comm: Comm, state: State) -> None:
        """Values of a peer: forwarded now, or behind the message that the kernel still works on."""
        comm.waiting.update(state)
        self._waiting[comm.comm_id] = None
        for name, value in state.items():
            # From now on: until it is forwarded, whatever the kernel says of it is older than what the peer set.
            is_cast = may_be_cast(value, comm.types.get(name))
            comm.held[name] = Held(self._clock() + QUIET_SECONDS, is_cast=is_cast)
        if comm.sent is None:
            self._forward(comm)

    def forward_all(self) -> None:
        """Sends what waits, though the kernel has not answered what was sent before."""
        for comm_id in list(self._waiting):
            self._forward(self._comms[comm_id])

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

    def open(self, comm: Comm, data: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        """A peer's comm_open."""
        content = {"comm_id": comm.comm_id, "target_name": comm.target_name, "data": dict(data)}
        version = PROTOCOLS.get(comm.target_name)
        metadata = None if version is None else {"version": version}
        msg_id = self._new_msg_id()
        if comm.is_widget:  # its model has defaults for what the peer did not name, and widgets of its own
            comm.opening = msg_id
            self._open[msg_id] = Sent(comm.comm_id, unsure=True)
        self._sends.append(SendComm(msg_id, "comm_open", content, tuple(buffers), metadata))

    def close(self, comm_id: str, data: Mapping[str, Any]) -> None:
        """A peer's comm_close."""
        self._sends.append(SendComm(self._new_msg_id(), "comm_close", {"comm_id": comm_id, "data": dict(data)}))

    def request_info(self) -> str:
        """Asks the kernel which comms are open; returns the question's msg_id."""
        msg_id = self._new_msg_id()
        self._sends.append(SendComm(msg_id, "comm_info_request", {}))
        return msg_id

    def request_state(self, comm_id: str) -> str:
        """Asks the kernel for the state of a widget; returns the question's msg_id."""
        return self.send(comm_id, {"method": "request_state"}, ())

    # From the kernel.

    def news(self, comm: Comm, state: State, parent_msg_id: str) -> State:
        """What is to be shown now of an update of the kernel.

        Of a trait that a peer's open message carries, only that message's own correction counts, and is kept till then.
        """
        now = {}
        for name, value in state.items():
            held = comm.held.get(name)
            if held is None:
                now[name] = value
            elif held.answered or parent_msg_id == held.msg_id:
                held.correction, held.corrected = value, True
            elif held.msg_id:
                held.doubted = True
        return now

    def echoed(self, comm_id: str, msg_id: str) -> list[str] | None:
        """The kernel's echo_update: it begins with a message; what it said of its traits before is older.

        Returns:
            The messages of ours that are answered by it, oldest first: the kernel takes them in order. None if the one that
            it echoes is another client's.
        """
        sent = self._open.get(msg_id)
        if sent is None or sent.comm_id != comm_id:
            return None
        answered = self._end_before(msg_id)
        sent.echoed = True
        comm = self._comms.get(comm_id)
        if comm is not None:
            for held in comm.held.values():
                if held.msg_id == msg_id:
                    held.corrected = held.doubted = False
                    held.echoed = True
            self._let_go(comm, comm.carried_by(msg_id))
            self._answered(comm, msg_id)
        return [*answered, msg_id]

    def begun(self, msg_id: str) -> None:
        """The kernel is busy with a message, and will say when it is done. Within a cell that awaits it says neither."""
        sent = self._open.get(msg_id)
        if sent is not None:
            sent.begun = True

    def doubt(self, comm: Comm) -> None:
        """Nobody knows what the kernel made of what it was told."""
        comm.unsure = True
        self._ask(comm)

    def failed(self, msg_id: str) -> None:
        """The kernel raised while it worked on a message: who knows what it took of it."""
        sent = self._open.get(msg_id)
        if sent is None or sent.is_question:  # asked again, it would raise again
            return
        sent.unsure = True
        comm = self._comms.get(sent.comm_id)
        if comm is not None and sent.echoed and not sent.begun:
            sent.unsure = False
            self.doubt(comm)  # nothing more is said of it

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
            if msg_id in self._open:
                lost.append(msg_id)
                self._end(msg_id, lost=True)
        return lost

    def release(self) -> None:
        """Shows what the kernel made of traits that no peer has set for a while."""
        now = self._clock()
        for comm_id, name in [key for key, until in self._quiet.items() if until <= now]:
            del self._quiet[comm_id, name]
            comm = self._comms.get(comm_id)
            held = None if comm is None else comm.held.get(name)
            if comm is not None and held is not None and held.answered:
                self._let_go(comm, [name])
                self._ask(comm)

    # The ends.

    def forget(self, comm: Comm) -> None:
        """The comm is closed."""
        for msg_id in (comm.sent, comm.opening, comm.question):
            if msg_id is not None:
                self._open.pop(msg_id, None)
        self._waiting.pop(comm.comm_id, None)

    def reconnected(self) -> None:
        """The connection to the kernel is new, and what was on its way is lost; what waits is not."""
        self._open.clear()
        self._quiet.clear()
        for comm in self._comms.values():
            comm.held = {name: comm.held[name] for name in comm.waiting}
            comm.sent = None
            comm.unsure = False

    def clear(self) -> None:
        """The kernel is gone."""
        self._sends.clear()
        for gone in (self._waiting, self._open, self._quiet):
            gone.clear()

    # Inside.

    def _forward(self, comm: Comm) -> None:
        state, comm.waiting = comm.waiting, {}
        del self._waiting[comm.comm_id]
        comm.sent = comm.forwarded = self.send_update(comm.comm_id, state)
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
        comm = self._comms.get(sent.comm_id)
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
                elif not held.echoed or held.is_cast:
                    comm.unsure = True
        self._show(comm, corrected)

    def _answered(self, comm: Comm, msg_id: str) -> None:
        if comm.sent == msg_id:
            comm.sent = None
            if comm.waiting:
                self._forward(comm)

    def _ask(self, comm: Comm) -> None:
        """Asks for the state of a widget of which nobody is sure, when no peer has it in hand and the kernel is done with it.

        There is one such question of a widget at most: what is sent behind it is answered behind it.
        """
        forwarded = self._open.get(comm.forwarded or "")
        if forwarded is not None and (forwarded.begun or not forwarded.echoed):
            return
        if comm.unsure and comm.is_widget and not comm.in_hand:
            comm.unsure = False
            comm.question = self.request_state(comm.comm_id)
            self._open[comm.question] = Sent(comm.comm_id, is_question=True)
