"""The bytes under a WebSocket: reads what is there, writes with patience, ends at once.

For sockets it calls the system itself, where Trio's streams cost a peer more than the system does: they try to read before
they wait, and give way to other tasks after each write. For 100 peers that watch one notebook this is half of what a commit
costs (docs/decisions/0009).
"""

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import trio

# One read: holds any request head, and 16 MiB are 256 reads.
READ_BYTES = 64 * 1024
# A write is watched for progress in steps of this.
WRITE_BYTES = 256 * 1024

Stream: TypeAlias = "trio.SocketStream | trio.SSLStream[trio.SocketStream] | trio.StapledStream[Any, Any]"


class Transport(Protocol):
    """What a WebSocket needs of a connection. Each call raises trio.BrokenResourceError or trio.ClosedResourceError
    when the connection is over.
    """

    async def read(self) -> bytes:
        """At most `READ_BYTES` of what came, waiting for some; b"" at the end."""
        ...

    def write_now(self, data: memoryview) -> int:
        """Writes what the system takes without waiting; how many bytes that were."""
        ...

    async def write(self, data: memoryview, progress: Callable[[], None]) -> None:
        """Writes all of it; calls `progress` before each `WRITE_BYTES`. One caller at a time."""
        ...

    async def end_writing(self) -> bool:
        """Says that nothing more comes; False where that can't be said without closing."""
        ...

    def close(self) -> None:
        """Closes at once; idempotent. Whoever reads or writes hears of it."""
        ...


def transport_over(stream: Stream) -> Transport:
    """The transport for a connection; the stream belongs to it from here on."""
    return SocketTransport(stream) if isinstance(stream, trio.SocketStream) else StreamTransport(stream)


class SocketTransport:
    """A TCP connection, by its file descriptor."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._closed = False

    async def read(self) -> bytes:
        """See Transport."""
        while True:
            self._require_open()
            await trio.lowlevel.wait_readable(self._fd)
            # Closed meanwhile, the number may be another connection's.
            self._require_open()
            try:
                return os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    def write_now(self, data: memoryview) -> int:
        """See Transport."""
        self._require_open()
        try:
            return os.write(self._fd, data[:WRITE_BYTES])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def write(self, data: memoryview, progress: Callable[[], None]) -> None:
        """See Transport."""
        taken = 0
        progress()
        while data:
            self._require_open()
            await trio.lowlevel.wait_writable(self._fd)
            now = self.write_now(data)
            data = data[now:]
            taken += now
            if taken >= WRITE_BYTES:
                taken -= WRITE_BYTES
                progress()

    async def end_writing(self) -> bool:
        """See Transport."""
        await self._stream.send_eof()
        return True

    def close(self) -> None:
        """See Transport."""
        self._closed = True
        self._stream.socket.close()

    def _require_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError


class StreamTransport:
    """A connection that is no bare socket: TLS, or the memory streams of tests."""

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream] | trio.StapledStream[Any, Any]") -> None:
        self._stream = stream

    async def read(self) -> bytes:
        """See Transport."""
        return bytes(await self._stream.receive_some(READ_BYTES))

    def write_now(self, data: memoryview) -> int:
        """See Transport. Such a stream has no word for it."""
        return 0

    async def write(self, data: memoryview, progress: Callable[[], None]) -> None:
        """See Transport."""
        for start in range(0, len(data), WRITE_BYTES):
            progress()
            await self._stream.send_all(data[start : start + WRITE_BYTES])

    async def end_writing(self) -> bool:
        """See Transport. TLS cannot be closed by halves; servers of ours have none."""
        if isinstance(self._stream, trio.SSLStream):
            return False
        await self._stream.send_eof()
        return True

    def close(self) -> None:
        """See Transport."""
        if isinstance(self._stream, trio.SSLStream):
            self._stream.transport_stream.socket.close()
        else:
            self._stream.send_stream.close()
            self._stream.receive_stream.close()
