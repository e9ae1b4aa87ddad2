"""Events for programs that do not await."""

from typing import Self

from sync.client.errors import ConnectionLost
from sync.client.events import EventStream
from sync.client.loop import Loop
from sync.core.client_session import Event


class BlockingEvents:
    """Events, one at a time; see `EventStream`."""

    def __init__(self, loop: Loop, stream: EventStream) -> None:
        self._loop = loop
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return self._loop.run(self._stream.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None
        except ConnectionLost:
            if self._loop.closed:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """The consumer has heard enough; the iteration ends."""
        self._loop.read(self._stream.close)
