"""After a connection to the kernel was made anew: which comms it has, asked until what it then says will be heard.

A new subscription to iopub holds after a while, and nobody says when; what the kernel publishes before that is lost. So the
question counts only when its idle has come by iopub as well as its reply by shell. Else it is asked again.
"""

from collections.abc import Callable, Mapping
from typing import Final

Targets = Mapping[str, str]

# From a reply to its idle, which is on its way already: long for a loaded machine, short for a person.
ASK_AGAIN_SECONDS: Final = 1.0


class Reattachment:
    """One question at a time, and none while nothing was lost.

    Args:
        ask: sends a comm_info_request and returns its msg_id.
        clock: the time in seconds.
    """

    def __init__(self, ask: Callable[[], str], clock: Callable[[], float]) -> None:
        self.deadline: float | None = None
        self._ask = ask
        self._clock = clock
        self._question: str | None = None
        self._targets: Targets | None = None
        self._heard = False

    def begin(self) -> None:
        """The connection is new: an answer to an older question is worth nothing."""
        self.end()
        self._question = self._ask()

    def end(self) -> None:
        """Nothing is asked any more."""
        self.deadline = self._question = self._targets = None
        self._heard = False

    def replied(self, msg_id: str, targets: Targets) -> Targets | None:
        """The kernel's open comms, by id; returns them if they may be gone by now."""
        if msg_id != self._question:
            return None
        self._targets = targets
        self.deadline = self._clock() + ASK_AGAIN_SECONDS
        return self._answer()

    def idle(self, msg_id: str) -> Targets | None:
        """The kernel is done with a message, and that was heard; returns as `replied`."""
        if msg_id != self._question:
            return None
        self._heard = True
        return self._answer()

    def expire(self) -> None:
        """Asks again if the deadline has passed."""
        if self.deadline is not None and self._clock() >= self.deadline:
            self.begin()

    def _answer(self) -> Targets | None:
        targets = self._targets
        if targets is None or not self._heard:
            return None
        self.end()
        return targets
