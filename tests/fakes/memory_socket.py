"""A peer's WebSocket in memory, with the calls of `sync.websocket.PeerSocket`."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import trio

from sync.core.frames import Frame, decode_frame, encode_frame
from sync.websocket import SocketClosed, SocketStalled

F = TypeVar("F", bound=Frame)


class MemorySocket:
    """What the peer says goes into `say`; what the daemon writes is in `frames`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.reads = trio.Event()
        self.reads.set()
        self.dropped = False
        self.gone = False  # it takes nothing more; what it said before is still to be read
        self.finished = False
        self._to_daemon, self._inbox = trio.open_memory_channel[list[bytes]](math.inf)
        self._written = trio.Event()

    # The peer's side.

    def say(self, *frames: Frame | bytes) -> None:
        """Sends frames in one go."""
        self._to_daemon.send_nowait([frame if isinstance(frame, bytes) else encode_frame(frame) for frame in frames])

    def leave(self) -> None:
        self._to_daemon.close()

    def of(self, kind: type[F]) -> list[F]:
        """The frames of a kind that came so far."""
        return [frame for frame in self.frames if isinstance(frame, kind)]

    async def until(self, holds: Callable[[], Any]) -> None:
        """Waits until the frames that came, or the end, make it true."""
        with trio.fail_after(20):  # and not for ever, where the daemon forgets somebody
            while not holds():
                await self._written.wait()

    # The daemon's side.

    async def receive(self) -> list[bytes]:
        try:
            return await self._inbox.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise SocketClosed("left") from None

    async def send(self, messages: Sequence[bytes], *, patience: float = math.inf) -> None:
        with trio.move_on_after(patience) as scope:
            await self.reads.wait()
        if scope.cancelled_caught:
            self.drop()
            raise SocketStalled("nothing was taken")
        if self.dropped or self.gone:
            raise SocketClosed("dropped" if self.dropped else "gone")
        self.frames += map(decode_frame, messages)
        self._tell()

    async def finish(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        self.finished = True
        self.drop()

    def drop(self) -> None:
        self.dropped = True
        self._inbox.close()
        self._tell()

    def _tell(self) -> None:
        written, self._written = self._written, trio.Event()
        written.set()
