import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from starlette.routing import Route
from starlette.types import ASGIApp
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from daemon.http_app import MAX_BODY_BYTES, MAX_FILES_AT_ONCE, PART_BYTES, build_app
from daemon.http_guard import Guard
from tests.fakes.daemon_api import ALLOWED_ORIGIN, EDITOR, PORT, VIEWER, FakeApi, policy

BASE = f"http://localhost:{PORT}"
DATA = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def api(tmp_path: Path) -> FakeApi:
    api = FakeApi()
    api.blobs.put(tmp_path / "blob", DIGEST, DATA, "image/png", "text/html")
    return api


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Guard(build_app(api), policy()))
    async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=EDITOR) as client:
        yield client


def error(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"reason", "message"}
    assert response.headers["content-type"] == "application/json"
    return response.status_code, body["error"]["reason"]


# Access: every route, from the table itself, so that a new one cannot be forgotten.

KNOWN_STATUSES = {
    ("GET", "/"): 200,
    ("GET", "/health"): 200,
    ("GET", "/metrics"): 200,
    ("GET", "/sync"): 426,
    ("GET", "/api/notebooks"): 200,
    ("POST", "/api/notebooks"): 400,  # without a body
    ("DELETE", "/api/notebooks/{id}"): 404,
    ("GET", "/api/notebooks/{id}/file"): 200,
    ("GET", "/api/kernelspecs"): 200,
    ("GET", "/api/status"): 200,
    ("GET", "/blobs/{hash}"): 200,
}


def routes() -> Iterator[tuple[str, str]]:
    for route in build_app(FakeApi()).routes:
        assert isinstance(route, Route)
        for method in sorted(route.methods or ()):
            yield method, route.path


async def test_the_table_below_names_every_route() -> None:
    assert {route for route in routes() if route[0] != "HEAD"} == set(KNOWN_STATUSES)


@pytest.mark.parametrize(("method", "path"), list(routes()))
async def test_every_route_asks_who_is_there(client: httpx.AsyncClient, method: str, path: str) -> None:
    url = path.replace("{id}", "some").replace("{hash}", DIGEST)
    reading = method in ("GET", "HEAD")
    served = KNOWN_STATUSES["GET" if method == "HEAD" else method, path]
    open_to_all = path == "/health"

    async def status(**headers: str) -> int:
        del client.headers["Authorization"]
        response = await client.request(method, url, headers=headers)
        client.headers.update(EDITOR)
        return response.status_code

    assert await status() == (served if open_to_all else 401)
    assert await status(Authorization="Bearer wrong") == (served if open_to_all else 401)
    assert await status(**EDITOR) == served
    assert await status(**VIEWER) == (served if reading else 403)
    assert await status(**EDITOR, Host="evil.example") == 403
    assert await status(**EDITOR, Origin="http://evil.example") == 403
    assert await status(**EDITOR, Origin=BASE) == served


@pytest.mark.parametrize(
    "path", ["/nothing", "/health/", "/api", "/api/notebooks/", f"{BASE}//health", "/%2e%2e/health"]
)
async def test_what_is_no_route_is_as_closed_and_then_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert error(await client.get(path)) == (404, "not_found")
    del client.headers["Authorization"]
    assert error(await client.get(path)) == (401, "unauthorized")


async def test_methods_that_a_route_lacks_are_405_in_json(client: httpx.AsyncClient) -> None:
    response = await client.put("/api/notebooks")
    assert error(response) == (405, "method_not_allowed")
    assert {method.strip() for method in response.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}
    assert error(await client.post(f"/blobs/{DIGEST}")) == (405, "method_not_allowed")


async def test_a_401_names_the_scheme(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await client.get("/metrics")).headers["www-authenticate"] == "Bearer"


async def test_a_token_in_the_address_becomes_a_cookie(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await client.head("/?token=look-only")).status_code == 303
    client.cookies.clear()
    response = await client.get("/?token=look-only")
    assert response.status_code == 303
    assert response.headers["location"] == "/"
    cookie = response.headers["set-cookie"]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert attributes == {"httponly", "path=/", "samesite=strict"}
    assert cookie.startswith(f"notebookd-{PORT}=")
    assert "look-only" not in cookie
    # The client kept it.
    assert (await client.get("/")).status_code == 200
    assert error(await client.post("/api/notebooks", json={})) == (403, "forbidden")


async def test_a_wrong_token_in_the_address_gets_no_cookie(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    response = await client.get("/?token=wrong")
    assert error(response) == (401, "unauthorized")
    assert "set-cookie" not in response.headers


# Other origins.


async def test_a_page_of_an_allowed_origin_may_read_answers_and_errors(client: httpx.AsyncClient) -> None:
    for path, status in (("/api/notebooks", 200), ("/nothing", 404), ("/health", 200)):
        response = await client.get(path, headers={"Origin": ALLOWED_ORIGIN})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
        assert "access-control-allow-credentials" not in response.headers
    del client.headers["Authorization"]
    refused = await client.get("/metrics", headers={"Origin": ALLOWED_ORIGIN})
    assert error(refused) == (401, "unauthorized")
    assert refused.headers["access-control-allow-origin"] == ALLOWED_ORIGIN


async def test_no_other_page_may(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"Origin": BASE}, {"Origin": "https://example.org.evil.example"}, {"Origin": "null"}):
        response = await client.get("/api/notebooks", headers=headers)
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["vary"] == "Origin"


async def test_a_preflight_carries_no_token(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    asked = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
    response = await client.options("/api/notebooks/some", headers={"Origin": ALLOWED_ORIGIN, **asked})
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "DELETE" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert "access-control-allow-private-network" not in response.headers
    private = {"Origin": ALLOWED_ORIGIN, "Access-Control-Request-Private-Network": "true", **asked}
    response = await client.options("/sync", headers=private)
    assert response.headers["access-control-allow-private-network"] == "true"


async def test_a_preflight_of_others_is_refused(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    asked = {"Access-Control-Request-Method": "GET"}
    assert error(await client.options("/", headers={"Origin": "https://evil.example", **asked}))[0] == 403
    assert error(await client.options("/", headers={"Origin": BASE, **asked}))[0] == 401
    assert error(await client.options("/", headers={"Origin": ALLOWED_ORIGIN}))[0] == 401


# Notebooks.


async def test_health_says_the_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok", "version": "1.2.3"}


async def test_metrics_are_prometheus_text(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.text == "notebookd_peers 3.0\n"
    assert response.headers["content-type"].startswith("text/plain; version=")


async def test_opening_creates_once(client: httpx.AsyncClient, api: FakeApi) -> None:
    expected = {
        "id": "id-a.ipynb",
        "path": "a.ipynb",
        "notebook": "automerge:a.ipynb",
        "runtime": "automerge:run-a.ipynb",
    }
    first = await client.post("/api/notebooks", json={"path": "a.ipynb", "create": True, "kernel_name": "bash"})
    second = await client.post("/api/notebooks", json={"path": "a.ipynb", "create": True})
    third = await client.post("/api/notebooks", content=b'{"path": "a.ipynb", "new_in_the_next_version": 1}')
    assert [response.status_code for response in (first, second, third)] == [201, 200, 200]
    assert [response.json() for response in (first, second, third)] == [expected] * 3
    assert api.asked == [
        ("open", "a.ipynb", True, "bash"),
        ("open", "a.ipynb", True, None),
        ("open", "a.ipynb", False, None),
    ]


async def test_errors_of_the_daemon_are_passed_on(client: httpx.AsyncClient) -> None:
    assert error(await client.post("/api/notebooks", json={"path": "/etc/passwd"})) == (403, "outside_root")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"path": 7}',
        b'{"path": "a\\u0000.ipynb"}',
        b'{"path": "\\ud800.ipynb"}',
        b'{"create": true}',
        b'{"path": "a.ipynb", "create": "yes"}',
        b'{"path": "a.ipynb", "kernel_name": []}',
        b'{"path": "a.ipynb", "kernel_name": ""}',
        b'{"path": "a.ipynb", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"path": "a.ipynb"} trailing',
    ],
    ids=lambda body: body[:30].decode("latin-1"),
)
async def test_a_body_that_is_not_wanted_is_a_bad_request(client: httpx.AsyncClient, api: FakeApi, body: bytes) -> None:
    assert error(await client.post("/api/notebooks", content=body)) == (400, "bad_request")
    assert not api.asked


# The client, which is refused in the middle of its body, leaves it unread.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx.*garbage collected:ResourceWarning")
async def test_a_body_above_the_limit_is_not_read_to_its_end(client: httpx.AsyncClient, api: FakeApi) -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1024

    async with aclosing(endless()) as body:
        assert error(await client.post("/api/notebooks", content=body)) == (413, "too_large")
    assert sent <= MAX_BODY_BYTES / 1024 + 1
    exact = json.dumps({"path": "a.ipynb"}).encode().ljust(MAX_BODY_BYTES)
    assert (await client.post("/api/notebooks", content=exact)).status_code == 200
    assert error(await client.post("/api/notebooks", content=exact + b" ")) == (413, "too_large")


async def test_a_body_that_does_not_come_is_not_waited_for(client: httpx.AsyncClient, autojump_clock: Any) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await trio.sleep(1000)

    assert error(await client.post("/api/notebooks", content=stalled())) == (408, "timeout")


async def test_open_notebooks_are_listed(client: httpx.AsyncClient) -> None:
    await client.post("/api/notebooks", json={"path": "a.ipynb"})
    assert (await client.get("/api/notebooks")).json() == {
        "notebooks": [
            {
                "id": "id-a.ipynb",
                "path": "a.ipynb",
                "notebook": "automerge:a.ipynb",
                "runtime": "automerge:run-a.ipynb",
                "kernel": {"status": "idle", "name": "python3"},
                "peers": 2,
            }
        ]
    }


async def test_closing_answers_without_a_body(client: httpx.AsyncClient, api: FakeApi) -> None:
    await client.post("/api/notebooks", json={"path": "a.ipynb"})
    response = await client.delete("/api/notebooks/id-a.ipynb")
    assert (response.status_code, response.content) == (204, b"")
    assert error(await client.delete("/api/notebooks/other")) == (404, "not_found")


async def test_the_file_is_a_download_with_its_name(client: httpx.AsyncClient) -> None:
    await client.post("/api/notebooks", json={"path": 'sub/ä "1".ipynb'})
    response = await client.get("/api/notebooks/id-sub%2Fä%20%221%22.ipynb/file")
    assert response.status_code == 404  # an id has no slash
    await client.post("/api/notebooks", json={"path": 'ä "1".ipynb'})
    response = await client.get("/api/notebooks/id-ä%20%221%22.ipynb/file")
    assert response.content == b"{}"
    assert response.headers["content-type"] == "application/x-ipynb+json"
    assert response.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%A4%20%221%22.ipynb"


class Reader:
    """One who asks for a notebook's file, and takes of it as the test says."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.reads = trio.Event()
        self.status = 0
        self.parts: list[bytes] = []

    async def ask(self) -> None:
        scope = {"type": "http", "method": "GET", "path": "/api/notebooks/x/file", "headers": [], "query_string": b""}
        await self.app(scope, self.receive, self.send)

    async def receive(self) -> Any:
        raise AssertionError

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("body"):
            await self.reads.wait()
            self.parts.append(message["body"])


async def test_a_file_is_sent_in_parts_and_to_a_few_readers_at_once(api: FakeApi) -> None:
    """A big one took more than the minute that one write may take; and each is in memory while its reader takes it."""
    api.file = bytes(range(256)) * 1000
    app = build_app(api)
    slow = [Reader(app) for _ in range(MAX_FILES_AT_ONCE)]
    async with trio.open_nursery() as nursery:
        for reader in slow:
            nursery.start_soon(reader.ask)
        await wait_all_tasks_blocked()
        one_more = Reader(app)
        one_more.reads.set()
        await one_more.ask()
        assert one_more.status == 429
        assert len(api.asked) == MAX_FILES_AT_ONCE, "nor was it made"
        slow[0].reads.set()
        await wait_all_tasks_blocked()
        assert b"".join(slow[0].parts) == api.file
        assert max(map(len, slow[0].parts)) == PART_BYTES
        one_more = Reader(app)
        one_more.reads.set()
        await one_more.ask()
        assert (one_more.status, b"".join(one_more.parts)) == (200, api.file)
        nursery.cancel_scope.cancel()
    again = [Reader(app) for _ in range(MAX_FILES_AT_ONCE)]
    async with trio.open_nursery() as nursery:
        for reader in again:
            nursery.start_soon(reader.ask)
        await wait_all_tasks_blocked()
        assert [reader.status for reader in again] == [200] * MAX_FILES_AT_ONCE, "whoever has gone holds no place"
        nursery.cancel_scope.cancel()


async def test_kernelspecs_are_passed_on(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/kernelspecs")).json() == {"python3": {"language": "python"}}


async def test_the_upgrade_is_asked_for(client: httpx.AsyncClient) -> None:
    response = await client.get("/sync")
    assert error(response) == (426, "upgrade_required")
    assert response.headers["upgrade"] == "websocket"


async def test_a_failure_inside_tells_nothing(client: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        response = await client.post("/api/notebooks", json={"path": "crash.ipynb"})
    assert error(response) == (500, "internal")
    assert "secret" not in response.text
    assert any(line["event"] == "request failed" and line["log_level"] == "error" for line in logs)


# Blobs.


async def test_a_blob_is_served_for_ever_and_as_nobodys_page(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/blobs/{DIGEST}")
    assert response.status_code == 200
    assert response.content == DATA
    expected = {
        "content-type": "image/png",
        "content-length": str(len(DATA)),
        "etag": f'"{DIGEST}"',
        "cache-control": "private, max-age=31536000, immutable",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "accept-ranges": "bytes",
    }
    assert {name: response.headers[name] for name in expected} == expected


async def test_head_of_a_blob_has_the_same_headers_and_no_body(client: httpx.AsyncClient) -> None:
    head, get = await client.head(f"/blobs/{DIGEST}"), await client.get(f"/blobs/{DIGEST}")
    assert head.status_code == 200
    assert head.content == b""
    assert dict(head.headers) == dict(get.headers)
    assert (await client.head(f"/blobs/{DIGEST}", headers={"Range": "bytes=0-1"})).status_code == 200


async def test_the_type_of_a_blob_can_be_picked(client: httpx.AsyncClient) -> None:
    html = await client.get(f"/blobs/{DIGEST}?media_type=text/html")
    assert html.headers["content-type"].startswith("text/html")
    assert html.headers["content-security-policy"].startswith("sandbox")
    assert error(await client.get(f"/blobs/{DIGEST}?media_type=text/plain")) == (404, "not_found")


@pytest.mark.parametrize(
    "name",
    [
        "0" * 64,
        DIGEST.upper(),
        DIGEST[:-1],
        DIGEST + "0",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "%00",
        f"{DIGEST}%00",
        f"{DIGEST}%0a",
        f"{DIGEST}/",
        "",
    ],
)
async def test_other_names_are_not_found(client: httpx.AsyncClient, name: str) -> None:
    assert error(await client.get(f"/blobs/{name}")) == (404, "not_found")


async def test_a_blob_that_was_collected_meanwhile_is_not_found(
    client: httpx.AsyncClient, api: FakeApi, tmp_path: Path
) -> None:
    (tmp_path / "blob").unlink()
    assert error(await client.get(f"/blobs/{DIGEST}")) == (404, "not_found")


@pytest.mark.parametrize("tags", [f'"{DIGEST}"', f'W/"{DIGEST}"', f'"x", "{DIGEST}"', "*"])
async def test_a_known_blob_is_not_sent_again(client: httpx.AsyncClient, tags: str) -> None:
    response = await client.get(f"/blobs/{DIGEST}", headers={"If-None-Match": tags})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == f'"{DIGEST}"'
    assert "immutable" in response.headers["cache-control"]


async def test_another_tag_is_no_knowledge(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"/blobs/{DIGEST}", headers={"If-None-Match": '"x"'})).status_code == 200


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=255990-", 255_990, 255_999),
        ("bytes=-10", 255_990, 255_999),
        ("bytes=0-99999999", 0, 255_999),
        ("bytes=-99999999", 0, 255_999),
        ("bytes=65530-131080", 65_530, 131_080),
    ],
)
async def test_a_part_of_a_blob(client: httpx.AsyncClient, header: str, first: int, last: int) -> None:
    response = await client.get(f"/blobs/{DIGEST}", headers={"Range": header})
    assert response.status_code == 206
    assert response.content == DATA[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/256000"
    assert response.headers["content-security-policy"].startswith("sandbox")


@pytest.mark.parametrize("header", ["bytes=256000-", "bytes=999999-1000000", "bytes=-0"])
async def test_a_part_that_there_is_not(client: httpx.AsyncClient, header: str) -> None:
    response = await client.get(f"/blobs/{DIGEST}", headers={"Range": header})
    assert error(response) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == "bytes */256000"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=5-2",
        "bytes=-",
        "bytes=",
        "bytes=a-b",
        "bytes=0-1,5-6",
        "lines=0-1",
        "0-1",
        f"bytes={'9' * 5000}-",
        f"bytes={','.join(['0-'] * 3000)}",
    ],
    ids=lambda header: header[:20],
)
async def test_a_range_that_makes_no_sense_is_ignored(client: httpx.AsyncClient, header: str) -> None:
    response = await client.get(f"/blobs/{DIGEST}", headers={"Range": header})
    assert response.status_code == 200
    assert response.content == DATA


async def test_a_part_is_only_sent_of_the_blob_that_was_meant(client: httpx.AsyncClient) -> None:
    async def status(if_range: str) -> int:
        headers = {"Range": "bytes=0-9", "If-Range": if_range}
        return (await client.get(f"/blobs/{DIGEST}", headers=headers)).status_code

    assert await status(f'"{DIGEST}"') == 206
    assert await status('"other"') == 200


async def test_no_part_of_an_empty_blob(client: httpx.AsyncClient, api: FakeApi, tmp_path: Path) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    api.blobs.put(tmp_path / "empty", empty, b"", "text/plain")
    assert (await client.get(f"/blobs/{empty}")).content == b""
    assert error(await client.get(f"/blobs/{empty}", headers={"Range": "bytes=0-"}))[0] == 416
    assert error(await client.get(f"/blobs/{empty}", headers={"Range": "bytes=-5"}))[0] == 416


# The log.


async def test_no_token_gets_into_the_log(client: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        await client.get("/?token=edit-me")
        await client.get("/api/notebooks?token=edit-me&x=y")
        await client.get("/nothing?token=wrong-token")
        await client.get("/a%0ab?token=edit-me")
        await client.post("/api/notebooks", json={"path": "crash.ipynb"})
    assert "edit-me" not in str(logs)
    assert "wrong-token" not in str(logs)
    requests = [(line["method"], line["path"], line["status"]) for line in logs if line["event"] == "request"]
    assert requests == [
        ("GET", "/", 303),
        ("GET", "/api/notebooks", 200),
        ("GET", "/nothing", 404),
        ("GET", "/a%0ab", 404),
        ("POST", "/api/notebooks", 500),
    ]
