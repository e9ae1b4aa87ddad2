"""The opening handshake of a WebSocket, both ends of it; what follows is sync/websocket.py's."""

from collections.abc import Sequence

import h11
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from sync.transport import Transport

# What a server says instead of an upgrade is a line for people, or a small JSON object.
_MAX_REFUSAL_BYTES = 64 * 1024


class UpgradeFailed(Exception):
    """The other end broke off, or speaks something else."""


class SocketRefused(Exception):
    """A server answered the upgrade with an HTTP response instead: its status and body."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}: {body[:200].decode(errors='replace')}")
        self.status = status
        self.body = body


async def grant_upgrade(transport: Transport, prefix: bytes) -> Connection:
    """The server's end: reads the request, unless it is in `prefix`, and accepts it.

    Raises:
        UpgradeFailed: it asks for no WebSocket, or broke off.
    """
    parser = h11.Connection(h11.SERVER)
    handshake = H11Handshake(ConnectionType.SERVER)
    try:
        parser.receive_data(prefix or await _read(transport))
        while (request := parser.next_event()) is h11.NEED_DATA:
            parser.receive_data(await _read(transport))
        if not isinstance(request, h11.Request):
            raise UpgradeFailed("it broke off")
        handshake.initiate_upgrade_connection(list(request.headers), request.target)
    except (h11.ProtocolError, RemoteProtocolError, UnicodeError) as error:  # HTTP/1.0, or a Host that is no IDNA
        raise UpgradeFailed(str(error)) from error
    await _write(transport, handshake.send(AcceptConnection()))
    # Not the handshake's own connection, to which nobody gives what came behind the head.
    return Connection(ConnectionType.SERVER, trailing_data=parser.trailing_data[0])


async def ask_for_upgrade(
    transport: Transport, host: str, target: str, headers: Sequence[tuple[bytes, bytes]]
) -> Connection:
    """The client's end.

    Args:
        transport: to the server.
        host: and its port, as in the URL.
        target: path and query.
        headers: more of them.

    Raises:
        SocketRefused: the server answers with something else.
        UpgradeFailed: it broke off, or its answer is no HTTP.
    """
    handshake = H11Handshake(ConnectionType.CLIENT)
    await _write(transport, handshake.send(Request(host=host, target=target, extra_headers=list(headers))))
    refusal: RejectConnection | None = None
    body = b""
    while True:
        try:
            handshake.receive_data(await _read(transport))
        except RemoteProtocolError as error:
            raise UpgradeFailed(str(error)) from error
        except UpgradeFailed:
            if refusal is not None:  # its body ends with the connection
                raise SocketRefused(refusal.status_code, body) from None
            raise
        for event in handshake.events():
            if isinstance(event, AcceptConnection) and handshake.connection is not None:
                return handshake.connection
            if isinstance(event, RejectConnection):
                refusal = event
            elif isinstance(event, RejectData):
                body += event.data
            ended = isinstance(event, RejectData) and event.body_finished
            if refusal is not None and (ended or not refusal.has_body or len(body) > _MAX_REFUSAL_BYTES):
                raise SocketRefused(refusal.status_code, body)


async def _read(transport: Transport) -> bytes:
    try:
        data = await transport.read()
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise UpgradeFailed("it broke off") from error
    if not data:
        raise UpgradeFailed("it broke off")
    return data


async def _write(transport: Transport, data: bytes) -> None:
    try:
        await transport.write(memoryview(data), lambda: None)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise UpgradeFailed("it broke off") from error
