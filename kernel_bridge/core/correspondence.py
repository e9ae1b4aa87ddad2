"""Whose a message is: the bridge's own, somebody's who waits for a reply, or the sink's.

Everything on iopub is for the sink, other sessions' messages included (their `parent.session` is not ours), but what
the bridge's own requests cause: their statuses and replies. Output is passed on whatever its parent is, since a late
print of a thread names the latest request of any kind.
"""

from enum import Enum
from typing import Final, Literal, TypeAlias

from kernel_bridge.core.messages import IopubWelcome, KernelMessage

# Requests of the bridge itself are few (one per nudge, interrupt, reconnect); their late statuses come within seconds.
_REMEMBERED: Final = 1_000
_NEVER_OUTPUT: Final = frozenset({"status", "execute_input", "shutdown_reply"})


class Purpose(Enum):
    """What the bridge sent a request of its own for."""

    NUDGE = "nudge"
    LIFT = "lift"
    SUBSHELL = "subshell"
    INTERRUPT = "interrupt"
    SHUTDOWN = "shutdown"


Route: TypeAlias = Purpose | Literal["sink", "awaited", "nobody"]


class Correspondence:
    """The requests of one session whose replies are not the sink's."""

    def __init__(self) -> None:
        self._own: dict[str, Purpose] = {}
        self._awaited: set[str] = set()

    def note_own(self, msg_id: str, purpose: Purpose) -> None:
        """A request of the bridge's own goes out."""
        self._own[msg_id] = purpose
        if len(self._own) > _REMEMBERED:
            del self._own[next(iter(self._own))]

    def expect(self, msg_id: str) -> None:
        """Somebody waits for the reply to this request."""
        self._awaited.add(msg_id)

    def forget(self, msg_id: str) -> None:
        """Nobody waits for it any longer."""
        self._awaited.discard(msg_id)

    def route(self, message: KernelMessage) -> Route:
        """Says whose the message is; a `Purpose` is the bridge's own reply."""
        parent = message.parent.msg_id
        if message.channel == "iopub":
            if isinstance(message.content, IopubWelcome):
                return "nobody"
            return "nobody" if parent in self._own and message.header.msg_type in _NEVER_OUTPUT else "sink"
        if message.channel == "stdin":
            return "sink"
        if parent in self._own:
            return self._own[parent]
        return "awaited" if parent in self._awaited else "sink"
