"""Who may do what, over a real daemon: every route, frame type and method, taken from the code, with every kind of visitor.

The three tables below must name all that the code has; one that is added without a line here fails the test of its table.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import httpx
import pytest
import trio
from starlette.routing import Route

from daemon.core.access import AccessPolicy
from daemon.http_app import build_app
from daemon.requests import METHODS
from sync.core.binding import ROOT, Replica
from sync.core.frames import (
    DocUnavailable,
    Ephemeral,
    ErrorFrame,
    Frame,
    Ignored,
    Join,
    Peer,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
    encode_frame,
)
from sync.core.identifiers import DocumentId
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.notebook_schema import NotebookSchema
from sync.core.plain import INT
from sync.core.replica_session import ReplicaSession
from sync.core.sync_message import decode_sync_message, encode_sync_message
from sync.websocket import PeerSocket, SocketClosed, SocketRefused, connect_socket
from tests.e2e.notebooks import Notebook, open_notebook
from tests.fakes.daemon_api import FakeApi
from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.fakes.thin_peer import RequestFailed, open_thin_peer

TOKEN, VIEWER = "edit-me-0123456789", "look-only-0123456789"
ALLOWED = "https://good.example"
SECRET = "never tell"

# What a route answers to whom may use it, by (method, path): an editor, a viewer. The fixture's notebook and blob are there.
ROUTES = {
    ("GET", "/"): (200, 200),
    ("GET", "/health"): (200, 200),
    ("GET", "/metrics"): (200, 200),
    ("GET", "/sync"): (426, 426),
    ("GET", "/api/notebooks"): (200, 200),
    ("POST", "/api/notebooks"): (200, 403),
    ("GET", "/api/notebooks/{id}/file"): (200, 200),
    ("GET", "/api/kernelspecs"): (200, 200),
    ("GET", "/api/status"): (200, 200),
    ("GET", "/blobs/{hash}"): (404, 404),
    ("DELETE", "/api/notebooks/{id}"): (404, 403),  # of another id, as the editor's would close it
}
OPEN = {("GET", "/health"), ("HEAD", "/health")}


def routes() -> Iterator[tuple[str, str]]:
    for route in build_app(FakeApi()).routes:
        assert isinstance(route, Route)
        for method in sorted(route.methods or ()):
            yield method, route.path


def test_the_table_names_every_route() -> None:
    assert {route for route in routes() if route[0] != "HEAD"} == set(ROUTES)


@asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[DaemonProcess, Notebook]]:
    """A daemon with tokens for editors and viewers, and a notebook with one cell."""
    options = ("--viewer-token", VIEWER, "--allow-origin", ALLOWED)
    async with running_daemon(tmp_path, *options, token=TOKEN) as daemon:
        notebook = await open_notebook(daemon, {"a": "print(1)"})
        yield daemon, notebook


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def cookie(daemon: DaemonProcess, token: str, *, of: int | None = None) -> dict[str, str]:
    """The cookie that a daemon sets, under the name for the port `of` (its own by default)."""
    port = port_of(daemon.url)
    value = AccessPolicy(port=port, token=token).cookie_value("editor")
    return {"Cookie": f"notebookd-{of or port}={value}"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def strangers(daemon: DaemonProcess, other: DaemonProcess) -> dict[str, tuple[dict[str, str], int]]:
    """Headers of those who may not in, and the status that tells them so; with `Authorization` replaced or left alone."""
    port = port_of(daemon.url)
    good = bearer(TOKEN)
    return {
        "no token": ({}, 401),
        "a wrong token": (bearer("wrong"), 401),
        "a truncated token": (bearer(TOKEN[:-1]), 401),
        "a longer token": (bearer(TOKEN + "0"), 401),
        "an empty token": ({"Authorization": "Bearer"}, 401),
        "another daemon's token": (bearer(other.token), 401),
        "another daemon's cookie": (cookie(other, other.token), 401),
        "another daemon's cookie under our name": (cookie(other, other.token, of=port), 401),
        "our cookie under another port": (cookie(daemon, TOKEN, of=port_of(other.url)), 401),
        "a truncated cookie": ({"Cookie": cookie(daemon, TOKEN)["Cookie"][:-1]}, 401),
        "a foreign origin": ({**good, "Origin": "http://evil.example"}, 403),
        "an origin that begins like an allowed one": ({**good, "Origin": f"{ALLOWED}.evil.com"}, 403),
        "an origin that ends like an allowed one": ({**good, "Origin": "https://evil-good.example"}, 403),
        "an allowed origin in upper case": ({**good, "Origin": ALLOWED.upper()}, 403),
        "an allowed origin by http": ({**good, "Origin": "http://good.example"}, 403),
        "the origin null": ({**good, "Origin": "null"}, 403),
        "the origin of another port": ({**good, "Origin": other.url}, 403),
        "a foreign origin with a cookie": ({**cookie(daemon, TOKEN), "Origin": "http://evil.example"}, 403),
        "a rebinding host": ({**good, "Host": f"evil.example:{port}"}, 403),
        "a rebinding host with its own origin": (
            {**good, "Host": "evil.example", "Origin": "http://evil.example"},
            403,
        ),
        "a host that begins like ours": ({**good, "Host": f"127.0.0.1.evil.example:{port}"}, 403),
    }


def guests(daemon: DaemonProcess) -> dict[str, dict[str, str]]:
    """Headers of those who may do everything."""
    port = port_of(daemon.url)
    return {
        "the token": bearer(TOKEN),
        "the cookie": cookie(daemon, TOKEN),
        "the cookie from our own page": {**cookie(daemon, TOKEN), "Origin": daemon.url},
        "an allowed origin": {**bearer(TOKEN), "Origin": ALLOWED},
        "a host in upper case": {**bearer(TOKEN), "Host": f"LOCALHOST:{port}"},
    }


async def test_every_route_is_open_to_those_alone_who_may(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "one").mkdir()
    async with (
        guarded(tmp_path / "one") as (daemon, notebook),
        running_daemon(tmp_path / "other") as other,
        httpx.AsyncClient(base_url=daemon.url, timeout=60) as client,
    ):

        async def ask(method: str, path: str, headers: dict[str, str], query: str = "") -> httpx.Response:
            target = "1" * 28 if method == "DELETE" else notebook.id
            path = path.replace("{id}", target).replace("{hash}", "0" * 64)
            body = {"path": "test.ipynb"} if method == "POST" else None
            client.cookies.clear()  # what an address with a token is exchanged for
            return await client.request(method, path + query, headers=headers, json=body)

        before = await _state(daemon, notebook)
        tried = 0
        for method, path in routes():
            editor, viewer = ROUTES["GET" if method == "HEAD" else method, path]
            is_open = (method, path) in OPEN
            for who, (headers, refused) in strangers(daemon, other).items():
                answer = await ask(method, path, headers)
                expected = editor if is_open and refused == 401 else refused
                assert answer.status_code == expected, (method, path, who)
                if method != "HEAD" and not (is_open and refused == 401):
                    assert set(answer.json()) == {"error"}, (method, path, who)
                tried += 1
            for who, headers in guests(daemon).items():
                assert (await ask(method, path, headers)).status_code == editor, (method, path, who)
            for where in (
                await ask(method, path, bearer(VIEWER)),
                await ask(method, path, {}, f"?token={VIEWER}"),
            ):
                assert where.status_code in (viewer, 303 if path == "/" else viewer), (method, path)
            for token, status in (("wrong", 401), (TOKEN[:-1], 401), (other.token, 401)):
                answer = await ask(method, path, {}, f"?token={token}")
                assert answer.status_code == (editor if is_open else status), (method, path, token)
        assert await _state(daemon, notebook) == before
    assert tried > 300


async def _state(daemon: DaemonProcess, notebook: Notebook) -> Any:
    """What a visitor could have changed: the notebooks, their files, their documents and kernels."""
    status = (await daemon.get("/api/status")).json()
    for room in status["notebooks"]:
        del room["peers"]
    files = sorted((path.name, path.read_bytes()) for path in daemon.root.iterdir())
    changes = await notebook.metric("notebookd_changes")
    return status["notebooks"], files, changes, (await daemon.get(f"/api/notebooks/{notebook.id}/file")).json()


async def test_the_upgrade_is_for_those_alone_who_may(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "one").mkdir()
    async with guarded(tmp_path / "one") as (daemon, _), running_daemon(tmp_path / "other") as other:

        async def status(headers: dict[str, str], query: str = "") -> int:
            return await _upgrade(daemon, headers, query)

        for who, (headers, refused) in strangers(daemon, other).items():
            assert await status(headers) == refused, who
        for token in ("", "wrong", TOKEN[:-1], TOKEN + "0", other.token):
            assert await status({}, f"?token={token}") == 401, token
        for who, headers in guests(daemon).items():
            assert await status(headers) == 101, who
        for query in (f"?token={TOKEN}", f"?token={VIEWER}"):
            assert await status({}, query) == 101, query


async def _upgrade(daemon: DaemonProcess, headers: dict[str, str], query: str) -> int:
    """Asks for a WebSocket; the status of the answer."""
    port = port_of(daemon.url)
    given = {
        "Host": f"127.0.0.1:{port}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET /sync{query} HTTP/1.1\r\n{lines}\r\n".encode())
        return int(bytes(await stream.receive_some()).split()[1])


# Methods.

COMM = {"comm_id": "c" * 32}
# Every method, with params that an editor's request would do something by; True: a viewer may.
CALLS: dict[str, tuple[dict[str, Any], bool]] = {
    "launch_kernel": ({}, False),
    "execute_cell": ({"cell_id": "a"}, False),
    "run_all_cells": ({}, False),
    "cancel_execution": ({"execution_id": str(uuid4())}, False),
    "interrupt": ({}, False),
    "restart_kernel": ({}, False),
    "shutdown_kernel": ({}, False),
    "clear_outputs": ({}, False),
    "update_comm": ({**COMM, "state": {"value": 7}}, False),
    "comm_custom": ({**COMM, "content": 1}, False),
    "comm_open": ({**COMM, "target_name": "jupyter.widget", "data": {}}, False),
    "comm_close": (COMM, False),
    "input_reply": ({"request_id": "r", "value": "v"}, False),
    "complete": ({"code": "pri", "cursor_pos": 3}, False),
    "inspect": ({"code": "print"}, False),
    "is_complete": ({"code": "print"}, False),
    "history": ({}, False),
    "save_notebook": ({"path": "stolen.ipynb"}, False),
    "barrier": ({}, True),
}


def test_the_table_names_every_method() -> None:
    assert set(CALLS) == set(METHODS)
    assert {name for name, method in METHODS.items() if method.viewers} == {n for n, (_, may) in CALLS.items() if may}


async def test_a_viewer_may_call_nothing_that_does_something(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (daemon, notebook), open_thin_peer(daemon, _Urls(notebook)) as editor:
        # A kernel, outputs and a running cell: there is something to interrupt, clear, ask and end.
        await editor.run("a")
        waiting = await editor.execute(editor.add_cell("input('who? ')"))
        asked = await editor.wait(lambda: editor.read("kernel", "input_request"))
        before = await _state(daemon, notebook)
        async with open_thin_peer(daemon, _Urls(notebook), token=VIEWER) as viewer:
            for method, (params, may) in CALLS.items():
                real = {"request_id": asked["request_id"]} if method == "input_reply" else {}
                real |= {"execution_id": waiting} if method == "cancel_execution" else {}
                if may:
                    await viewer.request(method, **params)
                    continue
                refused = await viewer.refusal(method, **{**params, **real})
                assert (refused.code, refused.reason) == (-32003, "forbidden"), method
                # Without an id there is no answer, and nothing happens either.
                viewer.say({"jsonrpc": "2.0", "method": method, "params": {**params, **real}})
            with pytest.raises(RequestFailed, match="method_not_found"):
                await viewer.request("no_such_method")
            await viewer.settle()
        assert await _state(daemon, notebook) == before
        assert editor.status(waiting) == "running"
        await editor.request("interrupt")
        assert await editor.done(waiting) == "interrupted"


class _Urls:
    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.runtime = notebook.url, notebook.runtime


# Frames.


class Attacker:
    """A viewer that sends frames of any kind: what it may not send by itself, it makes by hand."""

    def __init__(self, socket: PeerSocket, notebook: Notebook, daemon_id: str) -> None:
        self.socket = socket
        self.daemon_id = daemon_id
        self.notebook_id = notebook.url.removeprefix("automerge:")
        self.runtime_id = notebook.runtime.removeprefix("automerge:")
        self._sessions: dict[str, ReplicaSession] = {}

    async def replica(self, document_id: str) -> Replica:
        """A copy of the document as this peer is given it, which it acknowledges."""
        session = self._sessions.get(document_id)
        if session is None:
            session = self._sessions[document_id] = ReplicaSession(DocumentId(document_id))
            await self._sync(session, is_request=True)
            while not session.replica.heads():
                for frame in map(decode_frame, await self.socket.receive()):
                    if isinstance(frame, Sync) and frame.document_id == document_id:
                        session.receive([decode_sync_message(frame.data)])
            await self._sync(session)
        return Replica.load(session.replica.save())

    async def _sync(self, session: ReplicaSession, *, is_request: bool = False) -> None:
        data = session.next_message()
        assert data is not None
        await self.send(Sync("attacker", self.daemon_id, session.document_id, data, is_request))

    async def forged(self, document_id: str, *, is_request: bool = False) -> Sync:
        """A sync message with a change that is valid in all but who made it, and a tail that claims the right to write."""
        replica = await self.replica(document_id)
        before = replica.heads()
        with replica.transaction() as transaction:
            if document_id == self.notebook_id:
                NotebookSchema.edit_source(transaction, "a", "hacked")
            else:
                transaction.put(ROOT, "hacked", INT, 1)
        chunks = [bytes(change.bytes) for change in replica.changes_since(before)]
        assert chunks
        data = encode_sync_message(replica.heads(), have=before, changes=chunks, read_only=False)
        return Sync("attacker", self.daemon_id, document_id, data, is_request)

    async def send(self, *frames: Frame) -> None:
        await self.socket.send([encode_frame(frame) for frame in frames])

    def says(self, data: dict[str, Any], sender: str = "attacker") -> Ephemeral:
        return Ephemeral(sender, self.daemon_id, self.notebook_id, "session", 1, encode_data(data))


Attack = Callable[[Attacker], Awaitable[list[bytes]]]


async def _sync(attacker: Attacker) -> list[bytes]:
    frames = [await attacker.forged(attacker.notebook_id), await attacker.forged(attacker.notebook_id, is_request=True)]
    return [encode_frame(frame) for frame in (*frames, await attacker.forged(attacker.runtime_id))]


async def _ephemeral(attacker: Attacker) -> list[bytes]:
    execute = {"jsonrpc": "2.0", "id": 1, "method": "execute_cell", "params": {"cell_id": "a"}}
    made_up = {"jsonrpc": "2.0", "id": 1, "to": "editor", "result": {}}
    event = {"jsonrpc": "2.0", "method": "execution_done", "params": {}}
    frames = [attacker.says(execute), attacker.says(execute, "editor"), attacker.says(made_up), attacker.says(event)]
    return [encode_frame(frame) for frame in frames]


async def _once(frame: Frame | bytes) -> list[bytes]:
    return [frame if isinstance(frame, bytes) else encode_frame(frame)]


# What a viewer sends of each type, and whether its connection stays.
FRAMES: dict[type, tuple[Attack, bool]] = {
    Join: (lambda a: _once(Join("editor", ("1",), {})), False),
    Peer: (lambda a: _once(Peer("attacker", a.daemon_id, "1", {})), True),
    ErrorFrame: (lambda a: _once(ErrorFrame("attacker", a.daemon_id, "stop")), True),
    Sync: (_sync, True),
    DocUnavailable: (lambda a: _once(DocUnavailable("attacker", a.daemon_id, a.notebook_id)), True),
    Ephemeral: (_ephemeral, True),
    Ignored: (lambda a: _once(encode_data({"type": "remote-subscription-change", "senderId": "attacker"})), True),
}


def test_the_table_names_every_type_of_frame() -> None:
    assert set(FRAMES) == set(get_args(Frame))


async def test_no_frame_of_a_viewer_changes_anything(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (daemon, notebook), open_thin_peer(daemon, _Urls(notebook)) as editor:
        await editor.run("a")
        before = await _state(daemon, notebook)
        heads = editor.notebook_heads()
        for kind, (attack, stays) in FRAMES.items():
            async with connect_socket(daemon.sync_url, token=VIEWER, max_message_bytes=MAX_FRAME_BYTES) as socket:
                await socket.send([encode_frame(Join("attacker", ("1",), {"isEphemeral": True}))])
                peer = decode_frame((await socket.receive())[0])
                assert isinstance(peer, Peer)
                attacker = Attacker(socket, notebook, peer.sender_id)
                await socket.send(await attack(attacker))
                # A request that a viewer may make is answered behind it all, unless the connection ended.
                barrier = {"jsonrpc": "2.0", "id": "last", "method": "barrier", "params": {}}
                try:
                    for document_id in (attacker.notebook_id, attacker.runtime_id):
                        await attacker.replica(document_id)
                    await attacker.send(attacker.says(barrier))
                    await _answer(attacker, "last")
                    stayed = True
                except SocketClosed:
                    stayed = False
                assert stayed == stays, kind
            assert await _state(daemon, notebook) == before, kind
        assert editor.notebook_heads() == heads
        assert editor.read("hacked") is None
        assert not editor.errors
        # Nothing that was made up reached the editor: its own events go on without a gap.
        assert await editor.run("a") == "done"
        assert [event.params["seq"] for event in editor.events] == list(range(1, len(editor.events) + 1))


async def _answer(attacker: Attacker, request_id: str) -> None:
    while True:
        for frame in map(decode_frame, await attacker.socket.receive()):
            of_daemon = isinstance(frame, Ephemeral) and frame.sender_id == attacker.daemon_id
            if of_daemon and decode_data(frame.data).get("id") == request_id:
                return


async def test_before_its_join_a_peer_is_nobody(tmp_path: Path) -> None:
    """An editor's token, even: whatever comes first and is no join ends the connection and does nothing."""
    async with guarded(tmp_path) as (daemon, notebook):
        before = await _state(daemon, notebook)
        for kind in FRAMES:
            if kind is Join:
                continue
            async with connect_socket(daemon.sync_url, token=TOKEN, max_message_bytes=MAX_FRAME_BYTES) as socket:
                attacker = Attacker(socket, notebook, "notebookd")
                execute = {"jsonrpc": "2.0", "id": 1, "method": "execute_cell", "params": {"cell_id": "a"}}
                first = {
                    Sync: encode_frame(Sync("editor", "notebookd", attacker.notebook_id, b"\x42\0\0\0\0")),
                    Ephemeral: encode_frame(attacker.says(execute, "editor")),
                }.get(kind) or (await FRAMES[kind][0](attacker))[0]
                await socket.send([first])
                with pytest.raises(SocketClosed):
                    while True:
                        await socket.receive()
            assert await _state(daemon, notebook) == before, kind


# Tokens stay out of what is written down.


async def test_no_token_and_no_source_is_in_logs_metrics_or_status(tmp_path: Path) -> None:
    """Right and wrong ones, in header, address and cookie; at the most talkative level, in both formats."""
    for log_format in ("json", "text"):
        folder = tmp_path / log_format
        folder.mkdir()
        wrong = "wrong-token-0123456789"
        options = ("--viewer-token", VIEWER, "--log-format", log_format, "--log-level", "debug")
        said = ""
        async with running_daemon(folder, *options, token=TOKEN) as daemon:
            notebook = await open_notebook(daemon, {"a": f"print('{SECRET}')\nraise ValueError('{SECRET}')"})
            name = f"notebookd-{port_of(daemon.url)}"
            given = (TOKEN, VIEWER, wrong)
            async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
                for token in given:
                    for headers, query in (
                        (bearer(token), ""),
                        ({"Authorization": f"token {token}"}, ""),
                        ({}, f"?token={token}"),
                        ({"Cookie": f"{name}={token}"}, ""),
                    ):
                        for path in ("/", "/metrics", "/api/status", "/sync", "/nowhere", "/api/notebooks/x/file"):
                            said += (await client.get(path + query, headers=headers)).text
                        await client.post("/api/notebooks" + query, headers=headers, json={"path": "../x.ipynb"})
                        await client.post("/api/notebooks" + query, headers=headers, content=token)
                        await _upgrade(daemon, headers, query)
                        said += (await client.get("/" + query, headers={**headers, "Host": "evil.example"})).text
                exchanged = await client.get("/", params={"token": TOKEN})
                cookies = [cookie.partition("=")[2] for cookie in exchanged.headers["set-cookie"].split(";")[:1]]
            with pytest.raises(SocketRefused):
                async with connect_socket(daemon.sync_url, token=wrong, max_message_bytes=MAX_FRAME_BYTES):
                    pytest.fail("accepted")
            async with open_thin_peer(daemon, _Urls(notebook)) as editor:
                assert await editor.run("a") == "error"
                await editor.refusal("execute_cell", cell_id="a", execution_id=SECRET)
                async with open_thin_peer(daemon, _Urls(notebook), token=VIEWER) as viewer:
                    await viewer.refusal("execute_cell", cell_id=SECRET)
                await editor.request("restart_kernel")
                await editor.request("save_notebook")
            said += (await daemon.get("/metrics")).text + json.dumps((await daemon.get("/api/status")).json())
        log = daemon.stderr.decode()
        # The log is what it should be, so that its silence means something.
        for expected in ("/api/notebooks", "101", "401", "peer connected", "kernel ready", "execution", notebook.id):
            assert expected in log, expected
        assert cookies[0] not in log + said
        for secret in (*given, SECRET):
            assert secret not in log, (log_format, secret)
            assert secret not in said.replace(SECRET, "", 0) or secret == SECRET, (log_format, secret)
        assert SECRET not in said
