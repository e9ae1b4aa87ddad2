"""The one port: reads the head of a connection's first request and gives the connection to whom it is for.

A request for `/sync` that may be upgraded becomes a WebSocket; everything else is HTTP and goes to hypercorn, which keeps
the connection. Parsing is h11's in both cases.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, H11SendableEvent
from starlette.types import ASGIApp

from daemon.core.access import Access, AccessPolicy, Refusal, Role
from daemon.http_guard import Guard, error_body, log_request, refusal_headers
from sync.core.limits import MAX_FRAME_BYTES
from sync.websocket import PeerSocket, SocketClosed, accept_socket, keepalive

# A browser's cookies and a long query; hypercorn is given the same limit for what follows on a connection.
MAX_HEAD_BYTES: Final = 32 * 1024
# A head is one packet; whoever takes longer holds a connection for nothing.
HEAD_SECONDS: Final = 10
# The same for the next request of a kept connection.
KEEP_ALIVE_SECONDS: Final = 10
# For one chunk of 64 KiB of a response: slower than 1 kB/s is a reader that stopped.
WRITE_SECONDS: Final = 60
# To take an answer after which the connection ends.
FAREWELL_SECONDS: Final = 2
# Each costs a file descriptor, of which a process usually has 1 024; the rest is for files, kernels and rooms.
MAX_CONNECTIONS: Final = 800

# With one token, so that viewers, say, leave room for editors and for HTTP.
MAX_PEERS_PER_TOKEN: Final = 600

ServeSync: TypeAlias = Callable[[PeerSocket, Access], Awaitable[None]]


async def open_front_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Binds the port on every address of `host`; 0 takes a free one, the same on all.

    Raises:
        OSError: EADDRINUSE and the like.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    if port == 0 and len(listeners) > 1:
        port = listeners[0].socket.getsockname()[1]
        for listener in listeners:
            await listener.aclose()
        listeners = await trio.open_tcp_listeners(port, host=host)
    return listeners


async def serve_front(
    listeners: list[trio.SocketListener],
    *,
    policy: AccessPolicy,
    serve_sync: ServeSync,
    app: ASGIApp,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves connections. A connection's failure is logged and ends that connection only.

    Closing the listeners begins the end: HTTP connections that wait for a next request are closed, and it returns when
    the others are done. Cancelling cuts them.

    Args:
        listeners: closed at the end.
        policy: decides about every request.
        serve_sync: serves a peer, whose WebSocket is open and kept alive; it is dropped when this returns.
        app: answers all other requests that the policy admits.
        task_status: started when connections are accepted.
    """
    front = _Front(policy, serve_sync, app)
    async with trio.open_nursery() as connections:
        connections.start_soon(_accept, front, connections, listeners)
        task_status.started()


async def _accept(front: "_Front", connections: trio.Nursery, listeners: list[trio.SocketListener]) -> None:
    try:
        # It waits and tries again when file descriptors run out.
        await trio.serve_listeners(front.serve, listeners, handler_nursery=connections)
    except* trio.ClosedResourceError:
        log.debug("no more connections are accepted")
    finally:
        # Hypercorn's event is set at once; it only has the shape of something that waits.
        with trio.move_on_after(1, shield=True):
            await front.context.terminated.set()


class _Front:
    def __init__(self, policy: AccessPolicy, serve_sync: ServeSync, app: ASGIApp) -> None:
        self._policy = policy
        self._serve_sync = serve_sync
        self._app = ASGIWrapper(Guard(app, policy))  # type: ignore[arg-type]  # two vocabularies of types for ASGI
        self._config = _http_config()
        self.context = WorkerContext(None)
        self._open = 0
        # By role, since each has one token.
        self._peers: Counter[Role] = Counter()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serves one connection; `trio.serve_listeners` closes it."""
        self._open += 1
        try:
            await self._serve(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, SocketClosed):
            log.debug("connection broke off")
        except* Exception:
            # Whatever this connection did to us ends it and nothing else.
            log.exception("connection failed")
        finally:
            self._open -= 1

    async def _serve(self, stream: trio.SocketStream) -> None:
        started = trio.current_time()
        path = b"-"
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            if self._open > MAX_CONNECTIONS:
                raise _Rejected(Refusal(503, "too_many_connections", f"{MAX_CONNECTIONS} connections are open"))
            request, prefix = await _read_head(stream, parser)
            if request is None:
                return
            if not _asks_for_sync(request):
                # Awaiting the server runs it.
                await _HttpServer(
                    self._app,
                    self._config,
                    self.context,
                    ConnectionState({}),
                    _ReplayedStream(stream, prefix),  # type: ignore[arg-type]  # it uses what this one has
                )
                return
            path = b"/sync"
            access = self._admit(request)
        except _Rejected as rejected:
            log_request("GET", path, rejected.refusal.status, trio.current_time() - started)
            await _farewell(stream, rejected)
            return
        log_request("GET", path, 101, trio.current_time() - started)
        self._peers[access.role] += 1
        try:
            async with (
                accept_socket(stream, prefix=prefix, max_message_bytes=MAX_FRAME_BYTES) as socket,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(keepalive, socket)
                await self._serve_sync(socket, access)
                nursery.cancel_scope.cancel()
        finally:
            self._peers[access.role] -= 1

    def _admit(self, request: h11.Request) -> Access:
        headers = list(request.headers)
        decision = self._policy.check("GET", request.target, headers)
        if isinstance(decision, Refusal):
            raise _Rejected(decision)
        given = dict(headers)
        if given.get(b"sec-websocket-version") != b"13":
            refusal = Refusal(426, "upgrade_required", "/sync speaks version 13 of WebSocket")
            raise _Rejected(refusal, {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
        if b"sec-websocket-key" not in given:
            raise _Rejected(Refusal(400, "bad_request", "Sec-WebSocket-Key is missing"))
        if self._peers[decision.role] >= MAX_PEERS_PER_TOKEN:
            message = f"{MAX_PEERS_PER_TOKEN} peers are connected with this token"
            raise _Rejected(Refusal(429, "too_many_connections", message))
        return decision


class _Rejected(Exception):
    """The connection ends with this answer."""

    def __init__(self, refusal: Refusal, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.headers = headers or refusal_headers(refusal)


async def _read_head(stream: trio.SocketStream, parser: h11.Connection) -> tuple[h11.Request | None, bytes]:
    """The first request and every byte read so far; None if the other end left without one.

    Raises:
        _Rejected: it is too long, takes too long, or is no HTTP/1.
    """
    prefix = b""
    with trio.move_on_after(HEAD_SECONDS):
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                reason = "head_too_large" if error.error_status_hint == 431 else "bad_request"
                raise _Rejected(Refusal(error.error_status_hint, reason, str(error))) from error
            if isinstance(event, h11.Request):
                if event.http_version not in (b"1.0", b"1.1"):
                    raise _Rejected(Refusal(505, "http_version", "HTTP/1.1 is spoken here"))
                return event, prefix
            if event is not h11.NEED_DATA:
                return None, prefix
            data = bytes(await stream.receive_some(MAX_HEAD_BYTES))
            prefix += data
            parser.receive_data(data)
    if not prefix:
        # Browsers open connections in advance; nobody waits for an answer.
        return None, prefix
    raise _Rejected(Refusal(408, "timeout", f"no whole request within {HEAD_SECONDS} s"))


def _asks_for_sync(request: h11.Request) -> bool:
    headers = [(name, value.lower()) for name, value in request.headers]
    tokens = [token.strip() for name, value in headers if name == b"connection" for token in value.split(b",")]
    return (
        request.method == b"GET"
        and request.http_version == b"1.1"
        and request.target.partition(b"?")[0] == b"/sync"
        and b"upgrade" in tokens
        and (b"upgrade", b"websocket") in headers
    )


async def _farewell(stream: trio.SocketStream, rejected: _Rejected) -> None:
    """Answers, and waits for the other end to hang up: closing with bytes unread may destroy the answer on its way."""
    refusal = rejected.refusal
    body = error_body(refusal.reason, refusal.message)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **rejected.headers,
    }
    events = (
        h11.Response(status_code=refusal.status, headers=list(headers.items())),
        h11.Data(data=body),
        h11.EndOfMessage(),
    )
    # Not with the parser of the request, in whatever state that is: to a HEAD it would refuse to write a body.
    answer = b"".join(map(h11.Connection(h11.SERVER).send, events))  # type: ignore[arg-type]  # None is for ConnectionClosed
    with trio.move_on_after(FAREWELL_SECONDS):
        await stream.send_all(answer)
        await stream.send_eof()
        while await stream.receive_some(MAX_HEAD_BYTES):
            pass


def _http_config() -> Config:
    config = Config()
    # Our own log has what theirs would say, without tokens.
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    return config


class _HttpServer(TCPServer):
    """Hypercorn's server of one connection, but for what strangers could use against us.

    That is HTTP/2, a write without end, a connection that stays for its keep-alive time after the other end left, and an
    answer that is lost because the connection closes while its request is still being sent.
    """

    _left = False

    async def _read_data(self) -> None:
        theirs = self.protocol
        self.protocol = _Http1Protocol(  # type: ignore[assignment]  # the part of it that is called is the same
            theirs.app,
            theirs.config,
            theirs.context,
            theirs.task_group,
            theirs.state,
            theirs.ssl,
            theirs.client,
            theirs.server,
            theirs.send,
        )
        with trio.CancelScope() as self._reading:
            await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Does what the protocol wants done with the stream."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            await self._say_no_more()
            await self.protocol.handle(Closed())
        elif not self._left:
            await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        """Writes with a deadline and cancellably; theirs waits, shielded, for as long as nobody reads."""
        async with self.send_lock:
            try:
                with trio.fail_after(WRITE_SECONDS):
                    await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await self.stream.aclose()
                await self.protocol.handle(Closed())

    async def _say_no_more(self) -> None:
        """Ends the writing direction; what still comes is read, to nothing, for a moment (see `_farewell`)."""
        self._reading.deadline = min(self._reading.deadline, trio.current_time() + FAREWELL_SECONDS)
        async with self.send_lock:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # they left first
                await self.stream.send_eof()

    async def _close(self) -> None:
        await self.stream.aclose()


class _Http1Protocol(H11Protocol):
    """HTTP/1 alone: no upgrade to HTTP/2, which no peer of ours needs and strangers could load with streams."""

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """Writes it, unless another answer to the same request is under way: the first one stands, and the connection ends.

        Who sends bytes behind a request to upgrade makes hypercorn answer that, too. An answer to a request that is
        still on its way, or that comes while the daemon ends, says that the connection ends with it, as hypercorn then
        does: else the other end takes it for one that is kept, and its next request is lost (RFC 9112 9.3).
        """
        ends = self.connection.their_state is h11.SEND_BODY or self.context.terminated.is_set()
        if isinstance(event, h11.Response) and ends:
            event = h11.Response(
                status_code=event.status_code, headers=[*event.headers.raw_items(), (b"Connection", b"close")]
            )
        try:
            await super()._send_h11_event(event)
        except h11.LocalProtocolError as error:
            log.info("a second answer to one request", reason=str(error))
            await self.send(Closed())


class _ReplayedStream(trio.abc.HalfCloseableStream):
    """A stream from which some bytes were already read."""

    def __init__(self, stream: trio.SocketStream, prefix: bytes) -> None:
        self._stream = stream
        self._prefix = prefix
        # Hypercorn asks it for addresses.
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The bytes that were read before, then what comes."""
        if self._prefix:
            await trio.lowlevel.checkpoint()
            data, self._prefix = self._prefix, b""
            return data
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream has it."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream has it."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream has it."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As the stream has it."""
        await self._stream.aclose()


log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
