"""What a kernel did wrong, in a line for the people who wonder where its message is."""

from kernel_bridge.core import messages as k
from kernel_bridge.core.contents import TYPES

# Lines about one kernel: there are fewer kinds of trouble, but for those that name a size.
MAX_LINES = 64
_TYPE_SHOWN = 40  # characters of a type that may be none of ours: the longest of Jupyter's has 24
_OUTPUTS = frozenset({"stream", "display_data", "update_display_data", "execute_result", "error"})
_REJECTED: dict[k.RejectionKind, str] = {
    "no_delimiter": "something that is no message",
    "few_frames": "a message that lacks parts",
    "bad_signature": "a message that is not signed with its key",
    "duplicate": "a message that had come before",
    "bad_header": "a message with a malformed header",
    "bad_json": "a message that is no JSON",
}


def is_oversize_output(message: k.KernelMessage) -> bool:
    """Whether it would have been an output, had it been read."""
    return isinstance(message.content, k.Oversize) and message.header.msg_type in _OUTPUTS


class KernelTroubles:
    """Each line is said once for each kernel: a flood of bad messages must be no flood of lines."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def clear(self) -> None:
        """Another kernel comes."""
        self._said.clear()

    def note(self, message: k.KernelMessage) -> str | None:
        """A line about a message that says nothing else; None if there is nothing to say, or it was said."""
        line = _line(message)
        return None if line is None else self.once(line)

    def once(self, line: str) -> str | None:
        """The line as it is shown; None if it was said."""
        if line in self._said or len(self._said) >= MAX_LINES:
            return None
        self._said.add(line)
        return f"[notebookd: {line}]\n"


def _line(message: k.KernelMessage) -> str | None:
    content, msg_type = message.content, message.header.msg_type[:_TYPE_SHOWN]
    match content:
        case k.Oversize():
            return f"a message of the kernel ({msg_type}) had {content.nbytes} bytes, and was dropped"
        case k.Unreadable():
            return f"{_REJECTED[content.kind]} came from the kernel on {message.channel}, and was dropped"
        case k.Unknown() if msg_type in TYPES:
            return f"the kernel sent a message ({msg_type}) that does not say what it must, and was dropped"
    return None
