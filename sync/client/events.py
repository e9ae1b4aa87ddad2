"""Events, for whoever wants to hear them."""

from collections import deque
from collections.abc import Callable
from typing import Self

import trio

from sync.client.errors import NotebookError
from sync.core.client_session import Event
from sync.core.limits import MAX_HELD_EVENTS, MIB

# Events that wait for one consumer: all that the daemon holds for a peer may come with one read, before the consumer has its
# turn. Custom messages of widgets can be 8 MiB each.
MAX_WAITING = MAX_HELD_EVENTS
MAX_WAITING_BYTES = 64 * MIB


class EventStream:
    """The events from now on, for one consumer: `async for event in nb.events()`.

    It ends when the notebook is closed; where the connection was given up it raises what ended it. At most 12 000 events of
    64 MiB wait; of more, the oldest are dropped, which leaves a gap in `event.seq`: the documents say it all.

    Args:
        ended_by: what ended the connection for good, if something did.
        wanted: which events count; all by default.
    """

    def __init__(
        self, ended_by: Callable[[], NotebookError | None], wanted: Callable[[Event], bool] | None = None
    ) -> None:
        self._wanted = wanted
        self._waiting: deque[Event] = deque()
        self._waiting_bytes = 0
        self._ended_by = ended_by
        self._closed = False
        self._arrived = trio.Event()

    def push(self, event: Event) -> None:
        """One more event."""
        if self._wanted is None or self._wanted(event):
            self._waiting.append(event)
            self._waiting_bytes += event.nbytes
            while len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
                self._take()
            self._arrived.set()

    def end(self, *, quietly: bool) -> None:
        """No more events will come; `quietly`: as it was meant."""
        self._closed = self._closed or quietly
        self._arrived.set()

    def close(self) -> None:
        """The consumer has heard enough: those that wait are dropped, and the iteration ends."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self.end(quietly=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            error = self._ended_by()
            if error is not None:
                raise error
            if self._arrived.is_set():  # else somebody waits for it already
                self._arrived = trio.Event()
            await self._arrived.wait()
        return self._take()

    def _take(self) -> Event:
        event = self._waiting.popleft()
        self._waiting_bytes -= event.nbytes
        return event
