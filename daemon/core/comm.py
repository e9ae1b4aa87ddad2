"""One comm: what is known of it, of the traits that peers set, and of the messages about it that go to the kernel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

from daemon.core.comm_buffers import State, join_buffers
from sync.core.widget_tree import WIDGET_TARGET

# The media type of an output that shows a widget.
WIDGET_VIEW: Final = "application/vnd.jupyter.widget-view+json"
# The versions of ipywidgets' messages that this follows, by target. It takes no comm_open without.
PROTOCOLS: Final = {WIDGET_TARGET: "2.1.0", "jupyter.widget.control": "1.0.0"}
# Null there means "the theme's value"; a slider's Layout has 40 of them.
_SPARSE_SUFFIXES: Final = ("LayoutModel", "StyleModel")
# The only copy of these is `comms[id].outputs`, and the capture.
OUTPUT_TRAITS: Final = frozenset({"outputs", "msg_id"})

JsonType: TypeAlias = type | tuple[type, frozenset[type]]
_ITEMS_LOOKED_AT: Final = 16  # the items of a trait are alike, and there may be 100 000


@dataclass(frozen=True, slots=True)
class SendComm:
    """Send this on shell: `msg_type` is comm_msg, comm_open, comm_close or comm_info_request."""

    msg_id: str
    msg_type: str
    content: dict[str, Any]
    buffers: tuple[bytes, ...] = ()
    metadata: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Held:
    """A trait that a peer set: the message that carries it ("": none yet), and what the kernel made of that.

    `answered`: the kernel has it, and only the peer's pause is waited for, which begins at `until`. `echoed`: it said so.
    `doubted`: the kernel said another value meanwhile; if it sends no echo, nobody knows which it had last. `is_cast`: it is of
    another type than the kernel's values of this trait, and might be made into what the kernel has already, without a word.
    """

    until: float
    msg_id: str = ""
    answered: bool = False
    echoed: bool = False
    correction: Any = None
    corrected: bool = False
    doubted: bool = False
    is_cast: bool = False


@dataclass(slots=True)
class Sent:
    """A message of ours that the kernel has not dealt with. `begun`: it said that it works on it; `echoed`: what it has of it.

    `unsure`: who knows what it makes of it: it raised, or it is an opening, which names some traits of a whole state.
    `is_question`: it asks for the state.
    """

    comm_id: str
    begun: bool = False
    echoed: bool = False
    unsure: bool = False
    is_question: bool = False


class Place(NamedTuple):
    """Where a comm belongs: the number of its opening, and the cell that it was opened in, where that is known."""

    order: int
    cell_id: str | None = None


@dataclass(slots=True)
class Comm:
    """One comm. `sent` is the update that the kernel has not answered; `waiting` is what to send after it; `forwarded` is the
    last that was sent, which the kernel may have echoed and still work on.

    `types`: of its traits, the type of the kernel's latest value (of a peer's, where the kernel has not named one).
    `references`: the comms that its traits name, by trait. `was_used`: an output showed it, or a widget referred to it.
    `unsure`: nobody knows what the kernel has of it, which is to be asked; `question`: the last that did. `opening`: a peer's
    comm_open of it.
    """

    comm_id: str
    target_name: str
    model_name: str
    place: Place
    types: dict[str, JsonType] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    size: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    sent: str | None = None
    forwarded: str | None = None
    waiting: State = field(default_factory=dict)
    references: dict[str, tuple[str, ...]] = field(default_factory=dict)
    was_used: bool = False
    unsure: bool = False
    opening: str | None = None
    question: str | None = None

    @property
    def in_hand(self) -> bool:
        """Whether a peer has just set something of it."""
        return bool(self.sent or self.waiting or self.held)

    @property
    def is_link(self) -> bool:
        """Whether it is a link."""
        return is_link(self.model_name)

    @property
    def is_widget(self) -> bool:
        """Whether it speaks ipywidgets' protocol."""
        return self.target_name == WIDGET_TARGET

    @property
    def is_output(self) -> bool:
        """Whether it is an Output widget."""
        return self.model_name == "OutputModel"

    @property
    def is_sparse(self) -> bool:
        """Whether a null that was never anything else is left out."""
        return self.model_name.endswith(_SPARSE_SUFFIXES)

    def carried_by(self, msg_id: str) -> list[str]:
        """The traits whose newest value this message carries to the kernel, which has not dealt with it."""
        return [name for name, held in self.held.items() if held.msg_id == msg_id and not held.answered]


def json_type(value: object) -> JsonType:
    """The type of a value of a trait, by which `may_be_cast` goes: of a list or a map, also those of its first items."""
    items = _items(value)
    return _plain_type(value) if items is None else (type(value), frozenset(map(_plain_type, items)))


def may_be_cast(value: object, to: JsonType | None) -> bool:
    """Whether a trait whose values are of the type `to` might make another value of this one before it looks at it.

    Null is nobody's: what is cast to it, or from it, is not known of any trait.
    """
    if isinstance(to, tuple):
        container, types = to
        items = _items(value)
        if items is None or not isinstance(value, container):
            return value is not None
        return any(all(may_be_cast(item, type_) for type_ in types) for item in items if types)
    if value is None or to in (None, type(None)) or (isinstance(value, float) and value.is_integer() and to is int):
        return False
    own = _plain_type(value)
    return own is not to and (own, to) != (int, float)


def _plain_type(value: object) -> type:
    return bytes if isinstance(value, bytearray | memoryview) else type(value)


def _items(value: object) -> list[Any] | None:
    if isinstance(value, list):
        return value[:_ITEMS_LOOKED_AT]
    return list(islice(value.values(), _ITEMS_LOOKED_AT)) if isinstance(value, dict) else None


def is_link(model_name: str) -> bool:
    """Whether this is a link's model: it has no view, nothing refers to it, and it acts on the models that it names."""
    return model_name.endswith("LinkModel")


def view_in(data: Mapping[str, Any]) -> str | None:
    """The comm id of the widget that a mime bundle shows, if it shows one."""
    view = data.get(WIDGET_VIEW)
    model_id = view.get("model_id") if isinstance(view, dict) else None
    return model_id if isinstance(model_id, str) else None


def opening_state(target_name: str, data: Mapping[str, Any], buffers: Sequence[Any]) -> State:
    """The state that a comm_open tells: of a widget its traits, of any other comm all of its data, and its buffers as such."""
    if target_name != WIDGET_TARGET:
        return {**({"buffers": list(map(bytes, buffers))} if buffers else {}), **data}
    state = data.get("state")
    return join_buffers(state if isinstance(state, dict) else {}, data.get("buffer_paths"), buffers)
