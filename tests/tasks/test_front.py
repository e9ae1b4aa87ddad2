import errno
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from starlette.types import ASGIApp
from structlog.testing import capture_logs
from wsproto.frame_protocol import FrameProtocol

from daemon.core.access import Access
from daemon.front import (
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    MAX_PEERS_PER_TOKEN,
    ServeSync,
    _Front,
    open_front_listeners,
    serve_front,
)
from daemon.http_app import build_app
from sync.websocket import PeerSocket, SocketClosed, SocketRefused, connect_socket
from tests.fakes.daemon_api import ALLOWED_ORIGIN, EDITOR, FakeApi, policy

LIMIT = 1_000_000
# What a loaded machine may need for a handful of packets; a test that needs it fails.
PATIENCE = 10


async def echo(socket: PeerSocket, access: Access) -> None:
    """A peer's service: says its role, then repeats what it gets."""
    await socket.send([access.role.encode()])
    while True:
        await socket.send(await socket.receive())


class Running:
    """A front on a free port of this machine."""

    def __init__(self, port: int, listeners: list[trio.SocketListener]) -> None:
        self.port = port
        self.listeners = listeners
        self.url = f"http://127.0.0.1:{port}"
        self.sync_url = f"ws://127.0.0.1:{port}/sync"

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, head: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends bytes, reads to the end: status, headers, body."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(head.replace(b"HOST", f"127.0.0.1:{self.port}".encode()))
            return parse(b"".join([bytes(data) async for data in stream]))


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


def reason(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]["reason"]


@asynccontextmanager
async def front(serve_sync: ServeSync = echo, app: ASGIApp | None = None) -> AsyncIterator[Running]:
    listeners = await open_front_listeners("127.0.0.1", 0)
    running = Running(listeners[0].socket.getsockname()[1], listeners)

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await serve_front(
            listeners,
            policy=policy(running.port),
            serve_sync=serve_sync,
            app=app or build_app(FakeApi()),
            task_status=task_status,
        )

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield running
            nursery.cancel_scope.cancel()


def connect_to(running: Running, token: str = "edit-me") -> AbstractAsyncContextManager[PeerSocket]:
    return connect_socket(running.sync_url, token=token, max_message_bytes=LIMIT)


def upgrade(**headers: str | None) -> bytes:
    given = {
        "Host": "HOST",
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Authorization": "Bearer edit-me",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    return f"GET /sync HTTP/1.1\r\n{lines}\r\n".encode()


# Sync.


@pytest.mark.parametrize(("token", "role"), [("edit-me", b"editor"), ("look-only", b"viewer")])
async def test_a_peer_is_served_with_its_rights(token: str, role: bytes) -> None:
    async with front() as running, connect_to(running, token) as socket:
        assert await socket.receive() == [role]
        await socket.send([b"hello"])
        assert await socket.receive() == [b"hello"]


async def test_a_stock_client_brings_its_token_in_the_address() -> None:
    async with (
        front() as running,
        connect_socket(running.sync_url + "?token=look-only", max_message_bytes=LIMIT) as socket,
    ):
        assert await socket.receive() == [b"viewer"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": None}, (401, "unauthorized")),
        ({"Authorization": "Bearer wrong"}, (401, "unauthorized")),
        ({"Authorization": "Bearer edit-m"}, (401, "unauthorized")),
        ({"Host": "evil.example"}, (403, "forbidden_host")),
        ({"Origin": "https://evil.example"}, (403, "forbidden_origin")),
        ({"Origin": "null"}, (403, "forbidden_origin")),
        ({"Sec_WebSocket_Version": "8"}, (426, "upgrade_required")),
        ({"Sec_WebSocket_Version": None}, (426, "upgrade_required")),
        ({"Sec_WebSocket_Key": None}, (400, "bad_request")),
    ],
)
async def test_an_upgrade_is_refused_before_it_happens(headers: dict[str, Any], expected: tuple[int, str]) -> None:
    async def never(socket: PeerSocket, access: Access) -> None:
        pytest.fail("served")

    async with front(never) as running:
        answer = await running.ask(upgrade(**headers))
    assert reason(answer) == expected
    assert answer[1]["content-type"] == "application/json"
    assert answer[1]["connection"] == "close"


async def test_allowed_origins_and_our_own_are_upgraded() -> None:
    async with front() as running:
        for origin in (ALLOWED_ORIGIN, running.url):
            stream = await running.connect()
            await stream.send_all(upgrade(Host=f"127.0.0.1:{running.port}", Origin=origin))
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            await stream.aclose()


async def test_a_refused_client_of_ours_learns_the_status() -> None:
    async with front() as running:
        with pytest.raises(SocketRefused) as refused:
            async with connect_socket(running.sync_url, token="wrong", max_message_bytes=LIMIT):
                pytest.fail("accepted")
    assert refused.value.status == 401
    assert b"unauthorized" in refused.value.body


async def test_frames_sent_along_with_the_head_reach_the_peers_service() -> None:
    frame = bytes(FrameProtocol(client=True, extensions=[]).send_data(b"early", True))
    got: list[bytes] = []
    done = trio.Event()

    async def serve(socket: PeerSocket, access: Access) -> None:
        got.extend(await socket.receive())
        done.set()

    async with front(serve) as running:
        stream = await running.connect()
        await stream.send_all(upgrade(Host=f"127.0.0.1:{running.port}") + frame)
        await done.wait()
        await stream.aclose()
    assert got == [b"early"]


async def test_a_head_in_single_bytes_is_understood() -> None:
    async with front() as running:
        stream = await running.connect()
        for byte in upgrade(Host=f"127.0.0.1:{running.port}"):
            await stream.send_all(bytes([byte]))
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        await stream.aclose()


async def test_accepted_connections_do_not_wait_to_fill_packets() -> None:
    nodelay: list[int] = []

    async def serve(socket: PeerSocket, access: Access) -> None:
        transport = socket._transport._stream
        assert isinstance(transport, trio.SocketStream)
        nodelay.append(int(transport.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY)))

    async with front(serve) as running, connect_to(running) as socket:
        with pytest.raises(SocketClosed):
            await socket.receive()
    assert nodelay[0]


async def test_one_peers_failure_ends_its_connection_and_nothing_else() -> None:
    calls = 0

    async def serve(socket: PeerSocket, access: Access) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        await echo(socket, access)

    with capture_logs() as logs:
        async with front(serve) as running:
            async with connect_to(running) as socket:
                with pytest.raises(SocketClosed):
                    await socket.receive()
            async with connect_to(running) as socket:
                assert await socket.receive() == [b"editor"]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["connection failed"]


# HTTP.


async def test_http_is_answered_and_the_connection_kept() -> None:
    async with front() as running, httpx.AsyncClient(base_url=running.url, headers=EDITOR) as client:
        addresses = set()
        for path, status in (("/health", 200), ("/api/notebooks", 200), ("/nothing", 404), ("/metrics", 200)):
            response = await client.get(path)
            assert response.status_code == status
            addresses.add(response.extensions["network_stream"].get_extra_info("client_addr"))
        opened = await client.post("/api/notebooks", json={"path": "a.ipynb", "create": True})
        assert opened.status_code == 201
        assert len(addresses) == 1
        assert "server" not in opened.headers


async def test_each_request_of_a_kept_connection_is_checked() -> None:
    async with front() as running, httpx.AsyncClient(base_url=running.url) as client:
        assert (await client.get("/metrics", headers=EDITOR)).status_code == 200
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={**EDITOR, "Host": "evil.example"})).status_code == 403


async def test_a_blob_streams_through_and_in_parts(tmp_path: Path) -> None:
    api, data = FakeApi(), bytes(range(256)) * 20_000
    digest = hashlib.sha256(data).hexdigest()
    api.blobs.put(tmp_path / "blob", digest, data, "image/png")
    async with front(app=build_app(api)) as running, httpx.AsyncClient(base_url=running.url, headers=EDITOR) as client:
        assert (await client.get(f"/blobs/{digest}")).content == data
        part = await client.get(f"/blobs/{digest}", headers={"Range": "bytes=1000000-1999999"})
        assert (part.status_code, part.content) == (206, data[1_000_000:2_000_000])
        assert (await client.get(f"/blobs/{digest}", headers={"If-None-Match": f'"{digest}"'})).status_code == 304
        assert (await client.head(f"/blobs/{digest}")).headers["content-length"] == str(len(data))


async def test_an_answer_arrives_although_the_request_is_still_being_sent() -> None:
    head = b"POST /api/notebooks HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer edit-me\r\nContent-Length: 9000000\r\n\r\n"
    async with front() as running:
        assert reason(await running.ask(head + b" " * 9_000_000)) == (413, "too_large")
        head = head.replace(b"edit-me", b"wrong")
        assert reason(await running.ask(head + b" " * 9_000_000)) == (401, "unauthorized")


async def test_an_answer_before_the_requests_end_says_that_the_connection_ends() -> None:
    """A client that sends head and body apart would else send its next request into a connection that is closed."""
    head = b"POST /api/notebooks HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer TOKEN\r\nContent-Length: 2\r\n\r\n"
    async with front() as running:
        for token in (b"look-only", b"wrong"):
            status, headers, _ = await running.ask(head.replace(b"TOKEN", token))
            assert (status, headers["connection"]) == (403 if token == b"look-only" else 401, "close")
        async with httpx.AsyncClient(base_url=running.url, headers={"Authorization": "Bearer look-only"}) as client:
            for _ in range(50):
                assert (await client.post("/api/notebooks", json={"path": "a.ipynb"})).status_code == 403
                assert (await client.get("/metrics")).status_code == 200


async def test_a_body_that_breaks_off_is_no_failure_of_ours() -> None:
    head = b"POST /api/notebooks HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer edit-me\r\n"
    with capture_logs() as logs:
        async with front() as running:
            await running.ask(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{....\r\nzz\r\n")
            stream = await running.connect()
            await stream.send_all(head + b"Content-Length: 100\r\n\r\n{")
            await stream.aclose()
            assert (await running.ask(b"GET /health HTTP/1.0\r\nHost: HOST\r\n\r\n"))[0] == 200
    assert [line for line in logs if line["log_level"] == "error"] == []


@pytest.mark.parametrize("path", ["/..", "/../../etc/passwd", "/blobs/../health", "/blobs/..", "//health", "/./health"])
async def test_paths_are_taken_as_they_are(path: str) -> None:
    async with front() as running:
        head = f"GET {path} HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer edit-me\r\nConnection: close\r\n\r\n"
        assert reason(await running.ask(head.encode())) == (404, "not_found")


async def test_sync_without_an_upgrade_says_what_it_wants() -> None:
    async with front() as running:
        answer = await running.ask(upgrade(Upgrade=None, Connection="close"))
        assert reason(answer) == (426, "upgrade_required")
        assert reason(await running.ask(upgrade(Upgrade=None, Connection="close", Authorization=None)))[0] == 401


@pytest.mark.parametrize("path", ["/", "/health", "/sync2", "/sync/", "/api/notebooks"])
async def test_no_other_path_is_a_websocket(path: str) -> None:
    async with front() as running:
        head = upgrade().replace(b"GET /sync ", f"GET {path} ".encode())
        assert reason(await running.ask(head)) == (404, "not_found")
        head = upgrade(Authorization=None).replace(b"GET /sync ", f"GET {path} ".encode())
        assert reason(await running.ask(head)) == ((404, "not_found") if path == "/health" else (401, "unauthorized"))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("token", ["edit-me", None])
async def test_bytes_behind_an_upgrade_elsewhere_are_no_failure_of_ours(together: bool, token: str | None) -> None:
    head = upgrade(Host="localhost", Authorization=token and f"Bearer {token}").replace(b"/sync", b"/other")
    with capture_logs() as logs:
        async with front() as running:
            for _ in range(5):
                stream = await running.connect()
                async with stream:
                    await stream.send_all(head + b"\x81\x05hello" * together)
                    if not together:
                        await stream.send_all(b"\x81\x05hello")
                    assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 4")
                    while await stream.receive_some():
                        pass
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_an_upgrade_on_a_kept_connection_is_refused() -> None:
    first = b"GET /health HTTP/1.1\r\nHost: HOST\r\n\r\n"
    async with front() as running:
        stream = await running.connect()
        async with stream:
            await stream.send_all(first.replace(b"HOST", b"localhost"))
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            await stream.send_all(upgrade(Host="localhost"))
            rest = b"".join([bytes(data) async for data in stream])
    # The end of the first answer may stand before it.
    assert reason(parse(rest[rest.index(b"HTTP/1.1 4") :])) == (404, "not_found")


async def test_http2_is_not_spoken() -> None:
    asks = (
        "GET /health HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    )
    async with front() as running:
        assert (await running.ask(asks.encode()))[0] == 200
        assert reason(await running.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) == (505, "http_version")


# Heads.


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500 + b"\r\n\r\n", (400, "bad_request")),
        (b"GET /\r\n\r\n", (400, "bad_request")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "bad_request")),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n", (400, "bad_request")),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nBad Name: x\r\n\r\n", (400, "bad_request")),
        (b"GET http://HOST/health HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n", (400, "bad_request")),
        (b"GET /health HTTP/1.0\r\n\r\n", (403, "forbidden_host")),
        (b"HEAD / HTTP/1.9\r\nHost: HOST\r\n\r\n", (505, "http_version")),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nX: " + b"x" * MAX_HEAD_BYTES, (431, "head_too_large")),
        (b"GET /" + b"x" * 10 * MAX_HEAD_BYTES, (431, "head_too_large")),
    ],
    ids=range(10),
)
async def test_a_head_that_is_none_is_answered(head: bytes, expected: tuple[int, str]) -> None:
    async with front() as running:
        assert reason(await running.ask(head)) == expected


async def test_a_connection_that_says_nothing_is_closed_silently() -> None:
    async with front() as running:
        stream = await running.connect()
        async with stream:
            await stream.send_eof()
            assert await stream.receive_some() == b""


class FakeSocketStream(trio.abc.HalfCloseableStream):
    """A connection in memory, since a clock that jumps does not wait for a network."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self.socket = self
        self.family = trio.socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    getsockname = getpeername

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def served_in_memory(talk: Callable[[trio.StapledStream[Any, Any]], Awaitable[None]]) -> float:
    """Seconds for which a connection is served whose client behaves as `talk`, then waits for the end."""
    client, server = trio.testing.lockstep_stream_pair()
    served = _Front(policy(8889), echo, build_app(FakeApi()))
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk, client)
        await served.serve(FakeSocketStream(server))  # type: ignore[arg-type]  # it has what is used
        nursery.cancel_scope.cancel()
    return trio.current_time() - started


async def test_a_head_that_drips_is_given_up_after_10_s(autojump_clock: trio.testing.MockClock) -> None:
    answer = b""

    async def drip(client: trio.StapledStream[Any, Any]) -> None:
        async def read() -> None:
            nonlocal answer
            async for data in client:
                answer += data

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100:
                await client.send_all(bytes([byte]))
                await trio.sleep(1)

    assert await served_in_memory(drip) == pytest.approx(10, abs=2.1)
    assert reason(parse(answer)) == (408, "timeout")


async def test_a_connection_opened_in_advance_is_closed_after_10_s(autojump_clock: trio.testing.MockClock) -> None:
    async def wait(client: trio.StapledStream[Any, Any]) -> None:
        await trio.sleep_forever()

    assert await served_in_memory(wait) == pytest.approx(10, abs=0.1)


async def test_a_connection_whose_client_left_is_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    async def ask_and_leave(client: trio.StapledStream[Any, Any]) -> None:
        await client.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += await client.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()

    assert await served_in_memory(ask_and_leave) < 0.1


async def test_a_kept_connection_is_closed_after_10_s(autojump_clock: trio.testing.MockClock) -> None:
    async def ask_once(client: trio.StapledStream[Any, Any]) -> None:
        await client.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HT")
        async for _ in client:
            pass

    assert await served_in_memory(ask_once) == pytest.approx(10, abs=0.1)


async def test_who_does_not_read_its_answer_is_cut_after_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def ask_only(client: trio.StapledStream[Any, Any]) -> None:
        await client.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.sleep_forever()

    assert await served_in_memory(ask_only) == pytest.approx(60, abs=0.1)


# Life.


async def test_a_port_in_use_is_an_os_error() -> None:
    listeners = await open_front_listeners("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use") as caught:
        await open_front_listeners("127.0.0.1", listeners[0].socket.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE
    for listener in listeners:
        await listener.aclose()


async def test_any_free_port_is_the_same_on_every_address() -> None:
    listeners = await open_front_listeners("localhost", 0)
    assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        await listener.aclose()


async def test_closing_the_listeners_lets_peers_finish() -> None:
    ended = trio.Event()

    async def serve(socket: PeerSocket, access: Access) -> None:
        await socket.receive()
        await socket.send([b"still here"])
        ended.set()

    async with front(serve) as running:
        idle = httpx.AsyncClient(base_url=running.url)
        await idle.get("/health")
        async with connect_to(running) as socket:
            for listener in running.listeners:
                await listener.aclose()
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(OSError, match="connect"):
                await running.connect()
            await socket.send([b"?"])
            assert await socket.receive() == [b"still here"]
            await ended.wait()
        await idle.aclose()


async def test_cancelling_is_not_held_up_by_who_does_not_read(tmp_path: Path) -> None:
    api = FakeApi()
    (tmp_path / "blob").touch()
    with (tmp_path / "blob").open("r+b") as file:
        file.truncate(100_000_000)
    api.blobs.put(tmp_path / "small", "0" * 64, b"", "text/plain")
    (tmp_path / "blob").rename(tmp_path / "small")
    async with front(app=build_app(api)) as running:
        stream = await running.connect()
        await stream.send_all(f"GET /blobs/{'0' * 64}?token=edit-me HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert await stream.receive_some(100)
        # The rest is more than any buffer of the system.
        await trio.testing.wait_all_tasks_blocked(0.05)
    await stream.aclose()


async def test_more_connections_than_there_are_descriptors_for_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CONNECTIONS < 1024
    monkeypatch.setattr("daemon.front.MAX_CONNECTIONS", 2)
    async with front() as running:
        streams = [await running.connect() for _ in range(2)]
        for stream in streams:
            await stream.send_all(upgrade(Host="localhost"))
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        assert reason(await running.ask(b"GET /health HTTP/1.1\r\nHost: HOST\r\n\r\n")) == (503, "too_many_connections")
        for stream in streams:
            await stream.aclose()


async def test_more_peers_with_one_token_than_are_allowed_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PEERS_PER_TOKEN < MAX_CONNECTIONS
    monkeypatch.setattr("daemon.front.MAX_PEERS_PER_TOKEN", 2)
    async with front() as running:
        async with connect_to(running, "look-only") as one, connect_to(running, "look-only"):
            refused = await running.ask(upgrade(Authorization="Bearer look-only"))
            assert reason(refused) == (429, "too_many_connections")
            async with connect_to(running) as editor:
                assert await editor.receive(), "another token has its own share"
            await one.receive()
        async with connect_to(running, "look-only") as later:
            assert await later.receive(), "who left makes room"


async def test_no_token_gets_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        async with front() as running:
            async with connect_socket(running.sync_url + "?token=edit-me", max_message_bytes=LIMIT) as socket:
                await socket.receive()
            await running.ask(upgrade(Authorization=None).replace(b"/sync", b"/sync?token=wrong-token"))
            async with httpx.AsyncClient(base_url=running.url) as client:
                await client.get("/api/notebooks", params={"token": "edit-me"})
    ours = str(logs) + "".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert "101" in ours
    assert "edit-me" not in ours
    assert "wrong-token" not in ours
