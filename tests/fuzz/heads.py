"""HTTP heads, and what follows them: read by the front door, judged by the access policy."""

from collections.abc import Sequence
from random import Random
from typing import cast

import h11
import trio

from daemon import front
from daemon.core.access import Access, AccessPolicy
from tests.fuzz.mutation import choose, damage
from tests.fuzz.target import Target

TOKEN = "0123456789abcdef"
POLICY = AccessPolicy(port=8889, token=TOKEN, viewer_token="look")
_METHODS = (b"GET", b"GET", b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"CONNECT", b"TRACE", b"PRI", b"get", b"")
_TARGETS = (
    *(b"/sync", b"/sync", b"/sync?token=" + TOKEN.encode(), b"/sync?token=%zz&token=x", b"/", b"/health", b"/metrics"),
    *(b"/api/notebooks", b"/api/notebooks/..%2f..%2fetc/file", b"/blobs/" + b"a" * 64, b"/blobs/../../etc/passwd"),
    *(b"*", b"http://evil.example/sync", b"//evil.example/sync", b"/" + b"x" * 9000, b"/%00", b"/\xff", b"/sync#f"),
)
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.9", b"HTTPS/1.1", b"")
_HEADERS: Sequence[bytes] = (
    *(b"Upgrade: websocket", b"Upgrade: WebSocket, h2c", b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
    *(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    *(b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Extensions: permessage-deflate"),
    *(b"Authorization: Bearer " + TOKEN.encode(), b"Authorization: bearer", b"Authorization: Basic eDp5"),
    *(b"Origin: null", b"Origin: http://evil.example", b"Origin: http://127.0.0.1:8889", b"Host: evil.example"),
    *(b"Cookie: notebookd-8889=x", b"Cookie: " + b"a=b; " * 900, b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    *(b"Expect: 100-continue", b"Range: bytes=0-,-1,5-2", b"Accept-Encoding: *", b"X: \xff"),
)
_WRONG_HEADERS: Sequence[bytes] = (
    *(b"Content-Length: -1", b"Content-Length: 18446744073709551616", b"Transfer-Encoding: gzip, chunked", b"Host:"),
    *(b"X: " + b"y" * 40_000, b": no name", b"No colon", b" folded", b"X-\xff: \xff", b"X: a\x00b"),
)
_RIGHT = (b"Upgrade: websocket", b"Connection: Upgrade", *_HEADERS[4:5], *_HEADERS[6:7])


def make_head(rng: Random) -> bytes:
    """The first bytes of a connection."""
    method, version = choose(rng, (3, (b"GET", b"HTTP/1.1")), (1, (rng.choice(_METHODS), rng.choice(_VERSIONS))))
    lines = [b" ".join((method, rng.choice(_TARGETS), version))]
    lines += rng.choices((b"Host: 127.0.0.1:8889", b"Host: localhost"), k=choose(rng, (9, 1), (1, 0), (1, 2)))
    lines += rng.sample(_HEADERS, rng.choice((0, 0, 1, 2, 5)))
    lines += rng.sample(_WRONG_HEADERS, choose(rng, (5, 0), (1, 1)))
    if rng.random() < 0.5:
        lines = [b"GET /sync HTTP/1.1", *lines[1:], *_RIGHT]
        if rng.random() < 0.5:
            lines.append(b"Authorization: Bearer " + TOKEN.encode())
    end = choose(rng, (8, b"\r\n"), (1, b"\n"), (1, b"\r"))
    head = end.join(lines) + end * 2 + rng.choice((b"", b"hello", b"\x81\x05hello"))
    if rng.random() < 0.4:
        head = damage(rng, head, (b"\r\n", b"\n", b":", b" ", b"\x00", *_HEADERS, *_WRONG_HEADERS))
    return b"a" * 70_000 if rng.random() < 0.005 else head


class _Bytes:
    """A connection on which these bytes come, in pieces, and then the end."""

    def __init__(self, data: bytes) -> None:
        size = 1 + len(data) // 3
        self._parts = [data[at : at + size] for at in range(0, len(data), size)]

    async def receive_some(self, max_bytes: int) -> bytes:
        if not self._parts:
            return b""
        part, rest = self._parts[0][:max_bytes], self._parts[0][max_bytes:]
        self._parts[:1] = [rest] if rest else []
        return part


async def feed_head(data: bytes) -> str:
    """Read as the front door reads it, then judged; what is let in without the token is a finding."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=front.MAX_HEAD_BYTES)
    try:
        request, _ = await front._read_head(cast("trio.SocketStream", _Bytes(data)), parser)
    except front._Rejected as rejected:
        return str(rejected.refusal.status)
    if request is None:
        return "left"
    decision = POLICY.check(request.method.decode(), request.target, list(request.headers))
    if isinstance(decision, Access):
        if TOKEN.encode() not in data and b"look" not in data:
            raise AssertionError("let in without a token")
        return "sync" if front._asks_for_sync(request) else "http"
    return str(decision.status)


HEADS = Target("heads", make_head, feed_head)
