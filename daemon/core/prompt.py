"""What the kernel asks a person (`input()`), until somebody answers it or what asked is over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from kernel_bridge.core import messages as k

# Characters of a prompt in the document: more than a screen shows.
MAX_PROMPT_CHARS: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Pending:
    request_id: str
    header: k.Header
    parent_id: str


class Prompt:
    """The pending input_request of one kernel: it asks for one at a time, a newer one takes the older's place.

    Args:
        new_id: makes a UUID4, lower case.
        show: called with what `kernel.input_request` is to be from now on; None: nothing is asked.
    """

    def __init__(self, new_id: Callable[[], str], show: Callable[[dict[str, Any] | None], None]) -> None:
        self._new_id = new_id
        self._show = show
        self._pending: _Pending | None = None

    def receive(self, content: k.InputRequest, message: k.KernelMessage) -> None:
        """The kernel asks."""
        request_id, prompt = self._new_id(), content.prompt
        self._pending = _Pending(request_id, message.header, message.parent.msg_id)
        self._show(
            {
                "request_id": request_id,
                "prompt": prompt if len(prompt) <= MAX_PROMPT_CHARS else f"{prompt[:MAX_PROMPT_CHARS]}…",
                "password": content.password,
                "execution_id": message.parent.msg_id,
            }
        )

    def reply(self, request_id: str) -> k.Header | None:
        """A person answers; returns the header to answer to, None if the request is not (or no longer) that one."""
        pending = self._pending
        if pending is None or pending.request_id != request_id:
            return None
        self.clear()
        return pending.header

    def end(self, parent_id: str) -> bool:
        """What asked for input is over: an interrupt, or code that caught it, leaves no one to answer.

        Returns:
            Whether the pending request was of this parent.
        """
        if self._pending is None or self._pending.parent_id != parent_id:
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """Nothing is asked any more."""
        if self._pending is not None:
            self._pending = None
            self._show(None)
