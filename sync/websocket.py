"""A WebSocket behind three calls: receive a batch, send a batch, close or drop. Here both ends of one are opened.

Nothing else in the project knows which library speaks the protocol, so that it can be swapped: what an open one does is in
sync/peer_socket.py, its handshake in sync/upgrade.py, the bytes below in sync/transport.py.
"""

import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import structlog
import trio

from sync.peer_socket import PONG_SECONDS, PeerSocket, SocketClosed, SocketProtocolError, SocketStalled
from sync.transport import Stream, transport_over
from sync.upgrade import SocketRefused, UpgradeFailed, ask_for_upgrade, grant_upgrade

__all__ = [
    "PeerSocket",
    "SocketClosed",
    "SocketProtocolError",
    "SocketRefused",
    "SocketStalled",
    "accept_socket",
    "connect_socket",
    "keepalive",
]

# To connect is one round trip, and so is the upgrade: an other end that takes longer is gone.
HANDSHAKE_SECONDS = 10
# What docs/wire.md promises. A stock server's 5 s hit clients that were only busy.
PING_SECONDS = 30

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


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
async def accept_socket(stream: Stream, *, prefix: bytes = b"", max_message_bytes: int) -> AsyncIterator[PeerSocket]:
    """The server's end over an accepted connection; it is dropped at the end of the block, without a Close frame of ours.

    Args:
        stream: belongs to the socket from here on.
        prefix: what was already read from it: the whole request head, and whatever followed.
        max_message_bytes: a larger message is a protocol error.

    Raises:
        SocketClosed: the handshake failed, or took more than 10 s.
    """
    transport = transport_over(stream)
    try:
        with _within_handshake_time():
            connection = await grant_upgrade(transport, prefix)
        yield PeerSocket(transport, connection, max_message_bytes)
    finally:
        transport.close()


@asynccontextmanager
async def connect_socket(
    url: str, *, token: str | None = None, headers: Sequence[tuple[str, str]] = (), max_message_bytes: int
) -> AsyncIterator[PeerSocket]:
    """The client's end; a block that ends without an error closes it politely, another one drops it.

    Args:
        url: `ws://host:port/path` or `wss://…`.
        token: sent as `Authorization: Bearer`, so that it stays out of URLs and their logs.
        headers: more of them, for instance `Origin`.
        max_message_bytes: a larger message is a protocol error.

    Raises:
        OSError: nobody listens there.
        SocketRefused: the server refused the upgrade.
        SocketClosed: to connect, or the handshake, took more than 10 s.
        ValueError: `url` is not a WebSocket URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"not a WebSocket URL: {parts.scheme}://{parts.netloc}")
    extra_headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    if token is not None:
        extra_headers.append((b"Authorization", b"Bearer " + token.encode()))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    stream: Stream
    with _within_handshake_time():  # the system would go on for two minutes
        if parts.scheme == "wss":
            stream = await trio.open_ssl_over_tcp_stream(
                parts.hostname, parts.port or 443, ssl_context=ssl.create_default_context(), https_compatible=True
            )
        else:
            stream = await trio.open_tcp_stream(parts.hostname, parts.port or 80)
    transport = transport_over(stream)
    try:
        with _within_handshake_time():
            connection = await ask_for_upgrade(transport, parts.netloc.rpartition("@")[2], path, extra_headers)
        socket = PeerSocket(transport, connection, max_message_bytes)
        yield socket
        await socket.close()
    finally:
        transport.close()


@contextmanager
def _within_handshake_time() -> Iterator[None]:
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            yield
    except trio.TooSlowError:
        raise SocketClosed(f"no handshake within {HANDSHAKE_SECONDS} s") from None
    except UpgradeFailed as error:
        raise SocketClosed(f"the handshake failed: {error}") from error
