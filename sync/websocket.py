"""A WebSocket behind three calls: receive a batch, send a batch, close or drop.

Nothing else in the project knows which library speaks the protocol, so that it can be swapped. Between the library and
the TCP stream stands a stream of ours, see corked_stream.py.
"""

import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import h11
import structlog
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)
from wsproto.utilities import LocalProtocolError

from sync.corked_stream import BEYOND_BYTES, READ_BYTES, CorkedStream, Transport

# The head is there already and its answer is one packet: a peer that takes longer is gone.
HANDSHAKE_SECONDS = 10
# Two seconds for the other end to answer our Close; after that the TCP connection is dropped anyway.
CLOSE_SECONDS = 2
# What docs/wire.md promises. A stock server's 5 s hit clients that were only busy.
PING_SECONDS = 30
PONG_SECONDS = 60

# Whole messages between the library's reader and receive(): so many come out of one call. Their bytes are bounded by
# the stream below.
_QUEUED_MESSAGES = 256


class SocketClosed(Exception):
    """The connection is over: the other end left, or this one dropped it."""


class SocketStalled(SocketClosed):
    """The other end took nothing for too long; the connection was dropped."""


class SocketProtocolError(Exception):
    """The peer sent what this protocol does not have; `reason` is for people. The socket can still send."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SocketRefused(Exception):
    """A server answered the upgrade with an HTTP response instead: its status (0: none, it hung up) and body."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}: {body[:200].decode(errors='replace')}")
        self.status = status
        self.body = body


class PeerSocket:
    """One end of an open WebSocket; made by `accept_socket` and `connect_socket`."""

    def __init__(self, connection: WebSocketConnection, stream: CorkedStream, reader: "_Reader") -> None:
        self._connection = connection
        self._stream = stream
        self._reader = reader
        # Private, because the public get_message() cannot say whether another message is there: without it each message
        # costs a switch of tasks. A test keeps watch over it.
        self._inbox: trio.MemoryReceiveChannel[str | bytes] = connection._recv_channel
        self._sending = False

    async def receive(self) -> list[bytes]:
        """The next binary messages in order: waits for one, then takes those that are there. One caller at a time.

        Raises:
            SocketProtocolError: a text message, or one above the limit; what came before it was returned first.
            SocketClosed: nothing more will come.
        """
        self._require_open()
        if (reason := self._stream.breach) is not None:
            raise SocketProtocolError(reason)
        self._stream.want()
        messages: list[bytes] = []
        try:
            with trio.CancelScope() as self._stream.receiving:
                messages.append(self._check(await self._connection.get_message()))
                while True:
                    messages.append(self._check(self._inbox.receive_nowait()))
        except ConnectionClosed as closed:
            raise SocketClosed(str(closed.reason)) from None
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass  # nothing more is there; why, the next call will say
        except SocketProtocolError:
            if not messages:
                raise
        finally:
            self._stream.taken()
        if not messages:
            raise SocketProtocolError(self._stream.breach or "breach of the protocol")
        return messages

    def _check(self, message: str | bytes) -> bytes:
        if isinstance(message, str):
            self._stream.breach = "a text message where only binary ones have a meaning"
        elif len(message) > self._stream.max_message_bytes:
            self._stream.breach = self._stream.too_large
        else:
            return message
        raise SocketProtocolError(self._stream.breach)

    async def send(self, messages: Sequence[bytes], *, patience: float = math.inf) -> None:
        """Sends the messages with one write to the stream. One caller at a time.

        If it is cancelled the connection is dropped, since half a frame may be out.

        Args:
            messages: in order.
            patience: how many seconds the other end may take for 256 KiB.

        Raises:
            SocketStalled: it took nothing for so long.
            SocketClosed: the other end is gone.
            trio.BusyResourceError: another task is sending.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this WebSocket")
        self._require_open()
        if not messages:
            await trio.lowlevel.checkpoint()
            return
        self._sending = True
        complete = False
        try:
            with self._stream.paced(patience) as pace:
                self._stream.corked = True
                for message in messages[:-1]:
                    await self._connection.send_message(message)
                self._stream.corked = False
                await self._connection.send_message(messages[-1])
                complete = True
            if pace.cancelled_caught:
                raise SocketStalled(f"nothing was taken for {patience:g} s")
        except ConnectionClosed as closed:
            raise SocketClosed(str(closed.reason)) from None
        except LocalProtocolError as error:
            raise SocketClosed(str(error)) from error
        finally:
            self._sending = False
            if not complete:
                self.drop()

    def drop(self) -> None:
        """Closes the TCP connection at once, without a Close frame; idempotent. Pending calls raise SocketClosed.

        A Close frame wedges a stock automerge-repo client that still has sync messages to apply (measured).
        """
        self._stream.drop()

    async def finish(self, seconds: float) -> None:
        """Ends a connection whose peer should still get what was sent: says "no more", reads and discards, then drops.

        Closing with bytes unread makes TCP send a reset, which may overtake the last message (an `error` frame).

        Args:
            seconds: how long to wait for the other end to hang up.
        """
        with trio.move_on_after(seconds):
            # Whoever waits in the library to hand a message over must read again.
            self._inbox.close()
            await self._stream.discard()
        self.drop()

    async def close(self) -> None:
        """Says goodbye with a Close frame and waits for the answer, at most 2 s. For clients; see drop()."""
        if not self._stream.dropped:
            self._stream.want()
            with trio.move_on_after(CLOSE_SECONDS) as self._reader.awaited_by:
                await self._connection.aclose()
        self.drop()

    async def ping(self, patience: float) -> bool:
        """Whether the other end lives: it answers a ping, or sends anything, at least every `patience` seconds.

        Raises:
            SocketClosed: it is gone.
        """
        self._require_open()
        with trio.CancelScope() as scope:
            self._stream.watch(scope, patience)
            try:
                await self._connection.ping()
            except (ConnectionClosed, LocalProtocolError) as error:
                raise SocketClosed(str(error)) from error
            finally:
                self._stream.watch(None, patience)
        return not scope.cancelled_caught

    def _require_open(self) -> None:
        if self._stream.dropped:
            raise SocketClosed("dropped by this end")


async def keepalive(socket: PeerSocket, *, interval: float = PING_SECONDS, patience: float = PONG_SECONDS) -> None:
    """Pings every `interval` seconds and drops a peer that then says nothing for `patience` seconds.

    Returns when the socket is closed.
    """
    try:
        while True:
            await trio.sleep(interval)
            if not await socket.ping(patience):
                log.warning("no sign of life", seconds=patience)
                socket.drop()
                return
    except SocketClosed:
        pass  # the task that receives hears of it, too


@asynccontextmanager
async def accept_socket(stream: Transport, *, prefix: bytes = b"", max_message_bytes: int) -> AsyncIterator[PeerSocket]:
    """The server's end over an accepted connection; it is dropped at the end of the block, without a Close frame.

    Errors of the block come out as they are, not in a group.

    Args:
        stream: belongs to the socket from here on.
        prefix: what was already read from it: the whole request head, and whatever followed.
        max_message_bytes: a larger message is a protocol error.

    Raises:
        SocketClosed: the handshake failed, or took more than 10 s.
    """

    async def handshake(reader: _Reader, corked: CorkedStream) -> WebSocketConnection:
        # `reader` has the one method of a nursery that the library calls.
        request = await wrap_server_stream(
            reader,  # type: ignore[arg-type]  # see _Reader: it keeps the errors of the library's task apart from ours
            corked,
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=max_message_bytes + BEYOND_BYTES,
            receive_buffer_size=READ_BYTES,
        )
        connection = await request.accept()
        corked.open()
        return connection

    head, rest = _split(prefix)
    async with _running(CorkedStream(stream, head, rest, max_message_bytes), handshake) as socket:
        yield socket


def _split(prefix: bytes) -> tuple[bytes, bytes]:
    # Only to find the end of the head; whether it asks for a WebSocket the library will see.
    parser = h11.Connection(h11.SERVER)
    if prefix:
        parser.receive_data(prefix)
    try:
        parser.next_event()
    except h11.RemoteProtocolError as error:
        raise SocketClosed(f"the handshake failed: {error}") from error
    rest = parser.trailing_data[0]
    return prefix[: len(prefix) - len(rest)], rest


@asynccontextmanager
async def connect_socket(
    url: str, *, token: str | None = None, headers: Sequence[tuple[str, str]] = (), max_message_bytes: int
) -> AsyncIterator[PeerSocket]:
    """The client's end; a block that ends without an error closes it politely, another one drops it.

    Errors of the block come out as they are, not in a group.

    Args:
        url: `ws://host:port/path` or `wss://…`.
        token: sent as `Authorization: Bearer`, so that it stays out of URLs and their logs.
        headers: more of them, for instance `Origin`.
        max_message_bytes: a larger message is a protocol error.

    Raises:
        OSError: nobody listens there.
        SocketRefused: the server refused the upgrade.
        SocketClosed: the handshake took more than 10 s.
        ValueError: `url` is not a WebSocket URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"not a WebSocket URL: {parts.scheme}://{parts.netloc}")
    extra_headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    if token is not None:
        extra_headers.append((b"Authorization", b"Bearer " + token.encode()))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    transport: Transport
    if parts.scheme == "wss":
        transport = await trio.open_ssl_over_tcp_stream(
            parts.hostname, parts.port or 443, ssl_context=ssl.create_default_context(), https_compatible=True
        )
    else:
        transport = await trio.open_tcp_stream(parts.hostname, parts.port or 80)

    async def handshake(reader: _Reader, corked: CorkedStream) -> WebSocketConnection:
        return await wrap_client_stream(
            reader,  # type: ignore[arg-type]  # as in accept_socket
            corked,  # type: ignore[arg-type]  # any stream will do; it only looks at sockets for addresses that we never ask for
            parts.netloc.rpartition("@")[2],
            path,
            extra_headers=extra_headers,
            message_queue_size=_QUEUED_MESSAGES,
            max_message_size=max_message_bytes + BEYOND_BYTES,
            receive_buffer_size=READ_BYTES,
        )

    async with _running(CorkedStream(transport, b"", b"", max_message_bytes), handshake) as socket:
        yield socket
        await socket.close()


@asynccontextmanager
async def _running(
    stream: CorkedStream, handshake: "Callable[[_Reader, CorkedStream], Awaitable[WebSocketConnection]]"
) -> AsyncIterator[PeerSocket]:
    try:
        async with trio.open_nursery() as nursery:
            try:
                reader = _Reader(nursery)
                connection = None
                with trio.move_on_after(HANDSHAKE_SECONDS) as reader.awaited_by:
                    try:
                        connection = await handshake(reader, stream)
                    except (ConnectionClosed, LocalProtocolError) as error:
                        raise SocketClosed(f"the handshake failed: {error}") from error
                if connection is None:
                    raise _handshake_error(reader)
                yield PeerSocket(connection, stream, reader)
            finally:
                stream.drop()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The reader never raises, so one error is the block's own. (Two are two Cancelled, which stay together.)
        if len(group.exceptions) != 1:
            raise
        own = group.exceptions[0]
        raise own from own.__cause__  # noqa: ASYNC123  # the group held nothing else


def _handshake_error(reader: "_Reader") -> Exception:
    if isinstance(reader.error, ConnectionRejected):
        return SocketRefused(reader.error.status_code, reader.error.body or b"")
    if reader.awaited_by.deadline <= trio.current_time():
        return SocketClosed(f"no handshake within {HANDSHAKE_SECONDS} s")
    return SocketClosed(f"the handshake failed: {reader.error or 'it broke off'}")


class _Reader:
    """Stands in for the nursery that trio-websocket wants for its reading task, to keep that task's errors to itself.

    The task may raise (a refused handshake, a ping that crosses our Close, a Host that is no IDNA), and if it ends
    before a handshake is done, the opening or the closing one, the library waits for ever.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        # The scope in which somebody waits for a handshake, which never comes when the task is over.
        self.awaited_by = trio.CancelScope()
        self.error: Exception | None = None

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._run, task)

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as error:  # whatever ends the reader ends this connection and nothing else
            self.error = error
            log.debug("reading ended", error=repr(error))
        finally:
            self.awaited_by.cancel()


log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
