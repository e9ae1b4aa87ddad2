"""The byte stream under a WebSocket library: one write for a batch, no reading far ahead of who takes the messages."""

import math
from typing import Any, TypeAlias

import trio

# One read: holds any request head, and 16 MiB are 256 reads (the library's default, 4 KiB, makes them 4 096).
READ_BYTES = 64 * 1024
# A write is watched for progress in steps of this.
_WRITE_BYTES = 256 * 1024
# Bytes taken from the kernel for a peer while nobody asks for its messages; TCP holds back the rest.
_READ_AHEAD_BYTES = 256 * 1024
# What may come with one message of the permitted size: heads of its fragments, pings, and two reads of what follows it.
_FRAMING_BYTES = 256 * 1024
# Added to the permitted size for the library's own limit, which must never be met: it answers with a Close frame.
BEYOND_BYTES = _FRAMING_BYTES + 2 * READ_BYTES

Transport: TypeAlias = "trio.SocketStream | trio.SSLStream[trio.SocketStream] | trio.StapledStream[Any, Any]"


class CorkedStream(trio.abc.Stream):
    """The byte stream under the library. The library itself lets only one task write at a time.

    Args:
        transport: closed by this one.
        head: read before, replayed first. Where there is one, what follows waits for `open()`: the library loses bytes
            that it gets between a request and its own answer.
        rest: what was read behind the head.
        max_message_bytes: bounds what is read for one call of receive().
    """

    def __init__(self, transport: Transport, head: bytes, rest: bytes, max_message_bytes: int) -> None:
        self._transport = transport
        self._head = head
        self._rest = rest
        self._opened = trio.Event()
        if not head:
            self._opened.set()
        self.max_message_bytes = max_message_bytes
        self.too_large = f"a message of more than {max_message_bytes} bytes"
        self.corked = False
        self._held: list[bytes] = []
        self.dropped = False
        # What the peer did wrong, once it did.
        self.breach: str | None = None
        # The scope in which receive() waits: a breach ends the wait while the socket can still send.
        self.receiving = trio.CancelScope()
        self._wanted = False
        self._discarding = False
        self._parked = False
        self._resumed = trio.Event()
        self._ended = trio.Event()
        # Bytes since receive() was last called; they bound what the library holds of a message without an end, however
        # small its fragments are (each costs it some 60 bytes).
        self._arrived = 0
        self._watched: trio.CancelScope | None = None
        self._patience = math.inf
        self._pace = trio.CancelScope()
        self._pace_seconds = math.inf

    # Writing.

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Holds the data while corked, else writes it behind what was held."""
        if self.corked:
            self._held.append(bytes(data))
            return
        if self._held:
            self._held.append(bytes(data))
            data = b"".join(self._held)
            self._held.clear()
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_BYTES):
            self._pace.deadline = trio.current_time() + self._pace_seconds
            await self._transport.send_all(view[start : start + _WRITE_BYTES])

    def paced(self, seconds: float) -> trio.CancelScope:
        """A scope for writing, which ends when nothing is taken for so long."""
        self._pace, self._pace_seconds = trio.CancelScope(), seconds
        return self._pace

    async def wait_send_all_might_not_block(self) -> None:
        """As the transport has it."""
        await self._transport.wait_send_all_might_not_block()

    # Reading.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes for the library, as long as somebody wants messages or few are waiting."""
        if self._head:
            await trio.lowlevel.checkpoint()
            data, self._head = self._head, b""
            return data
        if not self._opened.is_set():
            await self._opened.wait()
        if self._rest:
            data, self._rest = self._rest, b""
        else:
            if self._wanted and self._arrived > self.max_message_bytes + _FRAMING_BYTES:
                self.breach = self.too_large
                self._wanted = False
                self.receiving.cancel()
            if not self._wanted and self._arrived >= _READ_AHEAD_BYTES and not self._discarding:
                await self._park()
            data = await self._read(max_bytes)
        self._arrived += len(data)
        self._extend()
        return data

    async def _read(self, max_bytes: int | None) -> bytes:
        try:
            data: bytes | bytearray = await self._transport.receive_some(max_bytes)
            while self._discarding and data:
                data = await self._transport.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._ended.set()
            raise
        if not data:
            self._ended.set()
        return bytes(data)

    def open(self) -> None:
        """The handshake is over."""
        self._opened.set()

    def want(self) -> None:
        """Somebody waits for messages."""
        self._wanted = True
        self._arrived = 0
        self._resumed.set()

    def taken(self) -> None:
        """Nobody waits for messages."""
        self._wanted = False

    async def discard(self) -> None:
        """Ends the writing direction, and returns when the other end has ended its own."""
        self._discarding = True
        self._resumed.set()
        try:
            if isinstance(self._transport, trio.SSLStream):
                return  # TLS cannot be closed by halves; servers of ours have none
            await self._transport.send_eof()
            await self._ended.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # they hung up first
        except trio.BusyResourceError:
            pass  # the library is answering a ping: then it ends without a word

    async def _park(self) -> None:
        self._resumed = trio.Event()
        self._parked = True
        self._extend()
        await self._resumed.wait()
        self._parked = False

    # Signs of life.

    def watch(self, scope: trio.CancelScope | None, patience: float) -> None:
        """From now on `scope` ends `patience` seconds after the last bytes that came."""
        self._watched = scope
        self._patience = patience
        self._extend()

    def _extend(self) -> None:
        # While it is us who do not read, silence proves nothing.
        if self._watched is not None:
            self._watched.deadline = math.inf if self._parked else trio.current_time() + self._patience

    # Closing.

    def drop(self) -> None:
        """Closes the transport at once; messages that came and were not taken are not worth taking any more."""
        self.dropped = True
        self._close()

    async def aclose(self) -> None:
        """Closes the transport; called by the library when the closing handshake is over."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._ended.set()
        self._resumed.set()
        transport = self._transport
        if isinstance(transport, trio.SSLStream):
            transport = transport.transport_stream
        if isinstance(transport, trio.SocketStream):
            transport.socket.close()
        else:
            transport.send_stream.close()
            transport.receive_stream.close()
