"""The daemon's HTTP side, as a client uses it: notebooks are opened and blobs are read here."""

import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import httpx
import trio

from sync.client.errors import ConnectionLost, NotebookError, ProtocolError, RequestFailed

# Opening parses the file, which takes seconds for the biggest; a daemon that says nothing for so long is stuck.
_TIMEOUT_SECONDS = 60
# Requests for blobs at a time, for whomever: enough to hide the round trip, few enough for a daemon with a hundred clients.
_PARALLEL = 8
# Bytes of blobs kept for the next look; a notebook's plots fit.
CACHE_BYTES = 64 * 1024 * 1024

_NOT_FOUND = 404
_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon is, and the token for it."""

    url: str
    sync_url: str
    token: str | None


def parse_address(url: str, token: str | None) -> Address:
    """Reads the daemon's URL; a token in its query (`?token=`) counts where none is given.

    Raises:
        ValueError: it is not an http URL, or the token can be none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"not the URL of a daemon (http://host:port): {url!r}")
    base = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    in_query = parse_qs(parts.query).get("token")
    token = token or (in_query[0] if in_query else None)
    if token is not None and (token.strip() != token or not token.isprintable()):
        # As one that was read from a file with the end of its line.
        raise ValueError("a token has no line breaks, and no blanks around it")
    return Address(base, f"ws{base.removeprefix('http')}/sync", token)


class DaemonHttp:
    """Requests to one daemon, and what was read of its blobs."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._limiter = trio.CapacityLimiter(_PARALLEL)

    @property
    def cached(self) -> Mapping[str, bytes]:
        """What is at hand, by hash."""
        return self._cache

    async def open_notebook(self, path: str, *, create: bool, kernel_name: str | None) -> dict[str, str]:
        """Opens a notebook file: {id, path, notebook, runtime}.

        Raises:
            RequestFailed: the daemon does not.
            ConnectionLost: it can't be reached.
            ProtocolError: it is none.
        """
        body: dict[str, Any] = {"path": path, "create": create}
        if kernel_name is not None:
            body["kernel_name"] = kernel_name
        answer = await self._send("POST", "/api/notebooks", json=body)
        opened = _json(answer)
        if not isinstance(opened, dict) or not all(isinstance(opened.get(key), str) for key in ("notebook", "runtime")):
            raise ProtocolError("the daemon's answer names no notebook")
        return opened

    async def read_blob(self, blob: str) -> bytes:
        """A blob's bytes.

        Raises:
            RequestFailed: the daemon does not have it.
            ConnectionLost: the daemon can't be reached.
        """
        async with self._limiter:
            data = self._cache.get(blob)
            if data is not None:
                self._cache.move_to_end(blob)
                return data
            data = await self.read(f"/blobs/{blob}")
            self.keep(blob, data)
            return data

    def keep(self, blob: str, data: bytes) -> None:
        """Has these bytes at hand for a while."""
        if blob not in self._cache:
            self._cache[blob] = data
            self._cached_bytes += len(data)
            while self._cached_bytes > CACHE_BYTES:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    async def read_blobs(self, blobs: Iterable[str]) -> dict[str, bytes]:
        """Those of these blobs that the daemon has.

        Raises:
            ConnectionLost: the daemon can't be reached.
            RequestFailed: it refuses.
            ProtocolError: it is none.
        """
        loaded: dict[str, bytes] = {}
        errors: list[NotebookError] = []

        async def load(blob: str) -> None:
            try:
                loaded[blob] = await self.read_blob(blob)
            except NotebookError as error:
                if not isinstance(error, RequestFailed) or error.code != _NOT_FOUND:
                    errors.append(error)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for blob in blobs:
                nursery.start_soon(load, blob)
        if errors:
            raise errors[0]
        return loaded

    async def read(self, path: str) -> bytes:
        """What the daemon answers to a GET of this path.

        Raises:
            ConnectionLost: the daemon can't be reached.
            RequestFailed: it refuses.
        """
        return (await self._send("GET", path)).content

    async def read_json(self, path: str) -> dict[str, Any]:
        """The JSON object that the daemon answers to a GET of this path.

        Raises:
            ProtocolError: it is none, so this is no daemon; the others as `read`.
        """
        said = _json(await self._send("GET", path))
        if not isinstance(said, dict):
            raise ProtocolError(f"{path} is no JSON object: this is no notebookd")
        return said

    async def close_unsaved(self, notebook_id: str, peer_id: str) -> bool:
        """Ends a notebook without writing its file; False, and nothing done, if others than this peer are in it or wrote.

        Raises:
            ConnectionLost: the daemon can't be reached.
            RequestFailed: it refuses.
        """
        try:
            await self._send("DELETE", f"/api/notebooks/{notebook_id}", params={"save": "false", "peer": peer_id})
        except RequestFailed as failed:
            if failed.code in (_NOT_FOUND, _CONFLICT):
                return False
            raise
        return True

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise ConnectionLost(f"the daemon at {self._client.base_url} can't be reached: {error!r}") from error
        if not answer.is_success:
            raise refusal(answer.status_code, answer.content)
        return answer


@asynccontextmanager
async def open_http(address: Address) -> AsyncIterator[DaemonHttp]:
    """A client for this daemon, for as long as the block lasts."""
    headers = {} if address.token is None else {b"Authorization": b"Bearer " + address.token.encode()}
    # Proxies from the environment are not asked: the WebSocket does not know them either.
    async with httpx.AsyncClient(
        base_url=address.url, headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False
    ) as client:
        yield DaemonHttp(client)


def refusal(status: int, body: bytes) -> RequestFailed | ProtocolError:
    """What the daemon says by an HTTP answer that is an error, to an upgrade as well; what else is there says it otherwise."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict) and status not in _BETWEEN:
        return ProtocolError(f"HTTP {status}, and not as a notebookd says it: there is something else at this URL")
    data = dict(error) if isinstance(error, dict) else {}
    reason = data.pop("reason", None) or _REASONS.get(status, f"http_{status}")
    return RequestFailed(status, str(reason), data, str(data.get("message", "")))


_REASONS = {401: "unauthorized", 403: "forbidden"}
# Where somebody between here and the daemon may answer in its place.
_BETWEEN = frozenset((401, 403, 407, 408, 429, 500, 502, 503, 504))


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
