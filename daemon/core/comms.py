"""Comms as the document has them: who may write a widget's state, and what of it reaches the kernel.

State has one writer. A peer's value is committed at once and forwarded; while the forwarded message is open, the kernel's
own values of these traits are kept aside, since they may be older than what the peer just set (naive echo makes a
slider jump back; measured, 17 to 37 times in one drag). It closes at its echo_update or its idle. What the kernel said
after the echo, or while it worked on the message where it sends no echoes, is its correction, and stays.

Per comm one message is forwarded and one is waiting at most, so that a busy kernel's shell queue stays short.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from sync.core.mutations import CloseComm, OpenComm, SetCommState

WIDGET_TARGET = "jupyter.widget"
# Null there means "the theme's value"; a slider's Layout has 40 of them.
_SPARSE_SUFFIXES = ("LayoutModel", "StyleModel")
# The only copy of these is `comms[id].outputs`, and the capture.
_OUTPUT_TRAITS = ("outputs", "msg_id")
# After the kernel is idle, an echo or idle that has not come is lost.
ECHO_GRACE_SECONDS = 2.0
# Comms of one kernel: a thousand interactive widgets; beyond it they are not shown, and the kernel log says so.
MAX_COMMS = 10_000

State: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendComm:
    """Send this on shell: `msg_type` is comm_msg, comm_open or comm_close; buffers are those of `data`'s buffer_paths."""

    msg_id: str
    msg_type: str
    content: dict[str, Any]
    buffers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class CustomMessage:
    """A custom message from the kernel: an event for all peers, never coalesced."""

    comm_id: str
    content: Any
    buffers: tuple[bytes, ...]


CommMutation: TypeAlias = OpenComm | SetCommState | CloseComm


@dataclass(slots=True)
class _Trait:
    """A trait that a peer set: the message that carried it, and the kernel's value that came meanwhile."""

    msg_id: str
    aside: Any = None
    has_aside: bool = False


@dataclass(slots=True)
class Comm:
    """One comm. `sent` is the message that the kernel has not answered; `waiting` is what to send after it."""

    comm_id: str
    target_name: str
    model_name: str = ""
    sparse: bool = False
    known: set[str] = field(default_factory=set)
    open_traits: dict[str, _Trait] = field(default_factory=dict)
    sent: str | None = None
    waiting: State = field(default_factory=dict)

    @property
    def is_output(self) -> bool:
        """Whether it is an Output widget."""
        return self.model_name == "OutputModel"


class CommRegistry:
    """The comms of one kernel. Methods return what is to be written; `take_sends` what is to be sent.

    Args:
        new_msg_id: makes ids for messages to the kernel.
    """

    def __init__(self, new_msg_id: Callable[[], str]) -> None:
        self.comms: dict[str, Comm] = {}
        self.closed: set[str] = set()
        self._new_msg_id = new_msg_id
        self._order = 0
        self._sends: list[SendComm] = []
        self._open_messages: dict[str, str] = {}

    def take_sends(self) -> list[SendComm]:
        """Messages for the kernel, in order."""
        sends, self._sends = self._sends, []
        return sends

    def owner(self, msg_id: str) -> str | None:
        """The comm that a message of ours, still open, was for."""
        return self._open_messages.get(msg_id)

    @property
    def has_open(self) -> bool:
        """Whether a message of ours waits for its echo or idle."""
        return bool(self._open_messages)

    def open_message_ids(self) -> list[str]:
        """Messages of ours that wait for their echo or idle."""
        return list(self._open_messages)

    # From the kernel.

    def opened(
        self, comm_id: str, target_name: str, data: Mapping[str, Any], buffers: Sequence[Any]
    ) -> list[CommMutation]:
        """comm_open; nothing for an id that is open or was closed (a comm id never comes back)."""
        if comm_id in self.comms or comm_id in self.closed or len(self.comms) >= MAX_COMMS:
            return []
        state = _state_of(data, buffers) if target_name == WIDGET_TARGET else dict(data)
        comm = Comm(comm_id, target_name, str(state.get("_model_name", "")))
        comm.sparse = comm.model_name.endswith(_SPARSE_SUFFIXES)
        self.comms[comm_id] = comm
        self._order += 1
        return [
            OpenComm(
                comm_id,
                target_name,
                str(state.get("_model_module", "")),
                comm.model_name,
                self._order,
                self._shown(comm, state),
            )
        ]

    def updated(self, comm_id: str, state: State) -> list[CommMutation]:
        """An update of the kernel: traits that a peer's open message set are kept aside, the rest is written."""
        comm = self.comms.get(comm_id)
        if comm is None:
            return []
        now = {}
        for name, value in self._shown(comm, state).items():
            waiting = comm.open_traits.get(name)
            if waiting is None:
                now[name] = value
            else:
                waiting.aside, waiting.has_aside = value, True
        return [SetCommState(comm_id, now)] if now else []

    def echoed(self, comm_id: str, parent_msg_id: str) -> list[CommMutation]:
        """The kernel's echo_update of a message of ours: what it said of these traits before is older, and is dropped."""
        comm = self.comms.get(comm_id)
        if comm is None:
            return []
        for name in [name for name, trait in comm.open_traits.items() if trait.msg_id == parent_msg_id]:
            del comm.open_traits[name]
        self._answered(comm, parent_msg_id)
        return []

    def idle(self, msg_id: str) -> list[CommMutation]:
        """The kernel is done with a message of ours; without an echo, what it said meanwhile is its correction."""
        comm_id = self._open_messages.get(msg_id)
        comm = None if comm_id is None else self.comms.get(comm_id)
        if comm is None:
            self._open_messages.pop(msg_id, None)
            return []
        corrections = {}
        for name in [name for name, trait in comm.open_traits.items() if trait.msg_id == msg_id]:
            trait = comm.open_traits.pop(name)
            if trait.has_aside:
                corrections[name] = trait.aside
        self._answered(comm, msg_id)
        return [SetCommState(comm.comm_id, corrections)] if corrections else []

    def closed_by(self, comm_id: str) -> list[CommMutation]:
        """comm_close, from either side."""
        comm = self.comms.pop(comm_id, None)
        if comm is None:
            return []
        self.closed.add(comm_id)
        if comm.sent is not None:
            self._open_messages.pop(comm.sent, None)
        return [CloseComm(comm_id)]

    def clear(self) -> list[CommMutation]:
        """The kernel is gone, and all its comms with it."""
        mutations: list[CommMutation] = [CloseComm(comm_id) for comm_id in self.comms]
        self.comms.clear()
        self.closed.clear()
        self._open_messages.clear()
        self._sends.clear()
        return mutations

    # From peers.

    def set_by_peer(self, comm_id: str, state: State) -> list[CommMutation]:
        """update_comm: written now, forwarded now or behind the message that the kernel still works on.

        Raises:
            KeyError: there is no such comm.
        """
        comm = self.comms[comm_id]
        comm.waiting.update(state)
        for name in state:
            # Held from now on: until it is forwarded, whatever the kernel says of it is older than what the peer set.
            comm.open_traits[name] = _Trait("")
        if comm.sent is None:
            self._forward(comm)
        return [SetCommState(comm_id, self._shown(comm, state))]

    def send(self, comm_id: str, data: Mapping[str, Any], buffers: Sequence[bytes]) -> str:
        """A message of a peer, as it is; returns its msg_id."""
        return self._send("comm_msg", {"comm_id": comm_id, "data": dict(data)}, tuple(buffers), comm_id)

    def open_by_peer(
        self, comm_id: str, target_name: str, data: Mapping[str, Any], buffers: Sequence[bytes]
    ) -> list[CommMutation]:
        """comm_open of a peer: it is in the document until the kernel closes it (an unknown target, say)."""
        mutations = self.opened(comm_id, target_name, data, buffers)
        if mutations:
            content = {"comm_id": comm_id, "target_name": target_name, "data": dict(data)}
            self._send("comm_open", content, tuple(buffers), comm_id)
        return mutations

    def close_by_peer(self, comm_id: str, data: Mapping[str, Any]) -> list[CommMutation]:
        """comm_close of a peer."""
        mutations = self.closed_by(comm_id)
        if mutations:
            self._sends.append(SendComm(self._new_msg_id(), "comm_close", {"comm_id": comm_id, "data": dict(data)}))
        return mutations

    def _forward(self, comm: Comm) -> None:
        state, comm.waiting = comm.waiting, {}
        data, buffers = split_buffers(state)
        comm.sent = self._send("comm_msg", {"comm_id": comm.comm_id, "data": data}, buffers, comm.comm_id)
        for name in state:
            comm.open_traits[name] = _Trait(comm.sent)

    def _answered(self, comm: Comm, msg_id: str) -> None:
        self._open_messages.pop(msg_id, None)
        if comm.sent == msg_id:
            comm.sent = None
            if comm.waiting:
                self._forward(comm)

    def _send(self, msg_type: str, content: dict[str, Any], buffers: tuple[bytes, ...], comm_id: str) -> str:
        msg_id = self._new_msg_id()
        self._open_messages[msg_id] = comm_id
        while len(self._open_messages) > MAX_COMMS:
            del self._open_messages[next(iter(self._open_messages))]
        self._sends.append(SendComm(msg_id, msg_type, content, buffers))
        return msg_id

    @staticmethod
    def _shown(comm: Comm, state: State) -> State:
        """What the document is to have of this state."""
        shown = {}
        for name, value in state.items():
            if comm.is_output and name in _OUTPUT_TRAITS:
                continue
            if comm.sparse and value is None and name not in comm.known:
                continue
            comm.known.add(name)
            shown[name] = value
        return shown


def _state_of(data: Mapping[str, Any], buffers: Sequence[Any]) -> State:
    state = data.get("state")
    return join_buffers(state if isinstance(state, dict) else {}, data.get("buffer_paths"), buffers)


def join_buffers(state: Mapping[str, Any], paths: object, buffers: Sequence[Any]) -> State:
    """Puts buffers back at their paths, as bytes; a path that leads nowhere is left aside.

    Paths are lists of keys and indexes; containers on the way are copied, not changed.
    """
    joined: State = dict(state)
    if not isinstance(paths, list):
        return joined
    for path, buffer in zip(paths, buffers, strict=False):
        if isinstance(path, list) and path:
            _put(joined, path, bytes(buffer))
    return joined


def _put(root: State, path: Sequence[Any], value: bytes) -> None:
    container: Any = root
    for step in path[:-1]:
        child = _child(container, step)
        if not isinstance(child, dict | list):
            return
        copy = dict(child) if isinstance(child, dict) else list(child)
        container[step] = copy
        container = copy
    last = path[-1]
    fits = isinstance(last, str) if isinstance(container, dict) else _is_index(container, last)
    if fits:
        container[last] = value


def _child(container: Any, step: Any) -> Any:
    if isinstance(container, dict):
        return container.get(step) if isinstance(step, str) else None
    return container[step] if _is_index(container, step) else None


def _is_index(container: Any, step: Any) -> bool:
    return isinstance(container, list) and type(step) is int and 0 <= step < len(container)


def split_buffers(state: State) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """The data of an update message: bytes are taken out of the state and named by their paths, as ipywidgets does."""
    paths: list[list[Any]] = []
    buffers: list[bytes] = []

    def strip(value: Any, path: list[Any]) -> Any:
        if isinstance(value, dict):
            return {key: kept for key, kept in _stripped(value.items(), path) if kept is not _TAKEN}
        if isinstance(value, list):
            return [None if kept is _TAKEN else kept for _, kept in _stripped(enumerate(value), path)]
        return value

    def _stripped(items: Any, path: list[Any]) -> Iterator[tuple[Any, Any]]:
        for key, value in items:
            here = [*path, key]
            if isinstance(value, bytes):
                paths.append(here)
                buffers.append(value)
                yield key, _TAKEN
            else:
                yield key, strip(value, here)

    return {"method": "update", "state": strip(state, []), "buffer_paths": paths}, tuple(buffers)


_TAKEN = object()


def coalesced(mutations: Sequence[CommMutation]) -> list[CommMutation]:
    """The same result with less to write: the last value of each trait, nothing of comms that are closed again."""
    opened: dict[str, OpenComm] = {}
    changed: dict[str, State] = {}
    closed: list[CommMutation] = []
    for mutation in mutations:
        comm_id = mutation.comm_id
        match mutation:
            case OpenComm():
                opened[comm_id] = mutation
            case SetCommState():
                before = opened.get(comm_id)
                if before is not None:
                    opened[comm_id] = replace(before, state={**before.state, **mutation.state})
                else:
                    changed.setdefault(comm_id, {}).update(mutation.state)
            case CloseComm():
                changed.pop(comm_id, None)
                if opened.pop(comm_id, None) is None:
                    closed.append(mutation)
    return [*closed, *opened.values(), *(SetCommState(comm_id, state) for comm_id, state in changed.items())]
