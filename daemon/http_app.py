"""What the daemon answers over HTTP: health, metrics, the API of notebooks, blobs (docs/wire.md).

Every route is behind `http_guard.Guard`; nothing here looks at tokens.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol
from urllib.parse import quote

import msgspec
import trio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from daemon.http_guard import error_response
from sync.blobs import BlobInfo

# A path and two flags; an honest body has some hundred bytes.
MAX_BODY_BYTES: Final = 64 * 1024
# Such a body comes in one packet.
BODY_SECONDS: Final = 10

# A notebook's file is in memory for as long as its reader takes; nobody downloads many at once.
MAX_FILES_AT_ONCE: Final = 8
# What a reader that is slow has a minute for.
PART_BYTES: Final = 64 * 1024

_BLOB_HEADERS: Final = {
    # The name is the hash of the bytes, so they never change.
    "Cache-Control": "private, max-age=31536000, immutable",
    # A blob is what a kernel printed: opened as a page, it must be nobody's page.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
_BLOB_HASH: Final = re.compile(r"[0-9a-f]{64}")
# One range; 19 digits are any size of a file. Several ranges in one request may be ignored (RFC 9110, 14.2).
_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")

_INDEX: Final = """notebookd: a daemon that owns Jupyter kernels and live notebook documents.

Peers connect to /sync over WebSocket; notebooks are opened with POST /api/notebooks.
"""


class ApiError(Exception):
    """A request fails as its sender should know: HTTP status, `reason` for programs, `message` for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class NotebookInfo:
    """An open notebook. `notebook` and `runtime` are URLs of documents, `id` is the notebook document's id."""

    id: str
    path: str
    notebook: str
    runtime: str
    kernel_status: str
    kernel_name: str | None
    peers: int


class BlobSource(Protocol):
    """The blobs that there are."""

    async def open(self, blob_hash: str, media_type: str | None, /) -> BlobInfo | None:
        """The blob, under this type (None: any); None if it is not stored so."""
        ...


class DaemonApi(Protocol):
    """What the daemon does for HTTP. All of it raises ApiError and nothing else that is to be answered."""

    @property
    def version(self) -> str:
        """The daemon's version."""
        ...

    @property
    def blobs(self) -> BlobSource:
        """The blobs."""
        ...

    async def open_notebook(self, path: str, *, create: bool, kernel_name: str | None) -> tuple[NotebookInfo, bool]:
        """Opens the notebook, or finds it open; whether its file was created.

        Raises:
            ApiError: 400 bad_request, 403 outside_root, 404 not_found, 422 invalid_notebook.
        """
        ...

    def notebooks(self) -> list[NotebookInfo]:
        """The open ones."""
        ...

    async def close_notebook(self, notebook_id: str, *, save: bool, peer_id: str | None) -> None:
        """Saves, ends the kernel, closes the room.

        Raises:
            ApiError: 404 not_found; 403, 409, 500 or 503 where it can't be saved, and so stays open; 409 conflict
                where not to `save` would lose what somebody wrote.
        """
        ...

    async def notebook_file(self, notebook_id: str) -> bytes:
        """The .ipynb.

        Raises:
            ApiError: 404 not_found.
        """
        ...

    async def kernelspecs(self) -> dict[str, Any]:
        """What can be launched, as JSON."""
        ...

    def status(self) -> dict[str, Any]:
        """The daemon and its notebooks, as JSON."""
        ...

    def metrics(self) -> bytes:
        """Prometheus' text format."""
        ...


class _OpenNotebook(msgspec.Struct):
    path: str
    create: bool = False
    kernel_name: Annotated[str, msgspec.Meta(min_length=1)] | None = None


def build_app(api: DaemonApi) -> Starlette:
    """The routes. They must stand behind a `Guard`: none of them asks who is there."""
    routes = _Routes(api)
    app = Starlette(
        routes=[
            Route("/", routes.index),
            Route("/health", routes.health),
            Route("/metrics", routes.metrics),
            Route("/sync", routes.sync),
            Route("/api/notebooks", routes.notebooks, methods=["GET", "POST"]),
            Route("/api/notebooks/{id}", routes.notebook, methods=["DELETE"]),
            Route("/api/notebooks/{id}/file", routes.notebook_file),
            Route("/api/kernelspecs", routes.kernelspecs),
            Route("/api/status", routes.status),
            Route("/blobs/{hash}", routes.blob),
        ],
        exception_handlers={HTTPException: _http_error, ApiError: _api_error, Exception: _internal_error},
    )
    # A redirect would build an address out of the Host header; these paths have one spelling.
    app.router.redirect_slashes = False
    return app


class _InParts(Response):
    """A notebook file, sent in parts; `sent` is called when it is, or its reader has gone."""

    media_type = "application/x-ipynb+json"

    def __init__(self, data: bytes, headers: Mapping[str, str], sent: Callable[[], None]) -> None:
        super().__init__(data, headers=headers)
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        try:
            start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            await send(start)
            for at in range(0, len(self.body), PART_BYTES):
                part = self.body[at : at + PART_BYTES]
                await send({"type": "http.response.body", "body": bytes(part), "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            self._sent()


class _Routes:
    def __init__(self, api: DaemonApi) -> None:
        self._api = api
        self._files = trio.CapacityLimiter(MAX_FILES_AT_ONCE)

    async def index(self, request: Request) -> Response:
        return PlainTextResponse(_INDEX)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": self._api.version})

    async def metrics(self, request: Request) -> Response:
        return Response(self._api.metrics(), media_type=CONTENT_TYPE_LATEST)

    async def sync(self, request: Request) -> Response:
        return error_response(426, "upgrade_required", "/sync speaks WebSocket", {"Upgrade": "websocket"})

    async def notebooks(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._open(request)
        return JSONResponse({"notebooks": [_listed(info) for info in self._api.notebooks()]})

    async def _open(self, request: Request) -> Response:
        wanted = _decode(await _read_body(request))
        if "\0" in wanted.path:
            raise ApiError(400, "bad_request", "a path has no NUL")
        info, created = await self._api.open_notebook(wanted.path, create=wanted.create, kernel_name=wanted.kernel_name)
        return JSONResponse(_opened(info), 201 if created else 200)

    async def notebook(self, request: Request) -> Response:
        save = request.query_params.get("save", "true")
        if save not in ("true", "false"):
            raise ApiError(400, "bad_request", "save is true or false")
        peer_id = request.query_params.get("peer")
        await self._api.close_notebook(request.path_params["id"], save=save == "true", peer_id=peer_id)
        return Response(status_code=204)

    async def notebook_file(self, request: Request) -> Response:
        try:
            self._files.acquire_on_behalf_of_nowait(request)
        except trio.WouldBlock:
            raise ApiError(429, "too_many_requests", f"{MAX_FILES_AT_ONCE} files are being read") from None
        try:
            notebook_id = request.path_params["id"]
            data = await self._api.notebook_file(notebook_id)
            paths = [info.path for info in self._api.notebooks() if info.id == notebook_id]
            name = quote(Path(paths[0]).name if paths else "notebook.ipynb", safe="")
            headers = {"Content-Disposition": f"attachment; filename*=utf-8''{name}"}
            return _InParts(data, headers, lambda: self._files.release_on_behalf_of(request))
        except BaseException:
            self._files.release_on_behalf_of(request)
            raise

    async def kernelspecs(self, request: Request) -> Response:
        return JSONResponse(await self._api.kernelspecs())

    async def status(self, request: Request) -> Response:
        return JSONResponse(self._api.status())

    async def blob(self, request: Request) -> Response:
        digest = request.path_params["hash"]
        if not _BLOB_HASH.fullmatch(digest):
            raise _no_blob()
        blob = await self._api.blobs.open(digest, request.query_params.get("media_type"))
        if blob is None:
            raise _no_blob()
        try:
            stat = await trio.to_thread.run_sync(os.stat, blob.path)
        except FileNotFoundError:
            # Collected since it was found.
            raise _no_blob() from None
        headers = {**_BLOB_HEADERS, "ETag": f'"{digest}"'}
        if _is_known(request.headers.get("if-none-match"), digest):
            return Response(status_code=304, headers=headers)
        if not _keep_range(request, digest, stat.st_size):
            headers |= {"Content-Range": f"bytes */{stat.st_size}"}
            return error_response(416, "range_not_satisfiable", f"the blob has {stat.st_size} bytes", headers)
        return FileResponse(blob.path, headers=headers, media_type=blob.media_type, stat_result=stat)


def _opened(info: NotebookInfo) -> dict[str, Any]:
    return {"id": info.id, "path": info.path, "notebook": info.notebook, "runtime": info.runtime}


def _listed(info: NotebookInfo) -> dict[str, Any]:
    name = {} if info.kernel_name is None else {"name": info.kernel_name}
    return {**_opened(info), "kernel": {"status": info.kernel_status, **name}, "peers": info.peers}


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS) as scope:
        try:
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise ApiError(413, "too_large", f"a body of more than {MAX_BODY_BYTES} bytes")
        except ClientDisconnect:
            raise ApiError(400, "bad_request", "the body breaks off") from None
    if scope.cancelled_caught:
        raise ApiError(408, "timeout", f"the body took more than {BODY_SECONDS} s")
    return bytes(body)


def _decode(body: bytes) -> _OpenNotebook:
    try:
        return msgspec.json.decode(body, type=_OpenNotebook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "bad_request", f"the body is not what is wanted: {error}") from error


def _no_blob() -> ApiError:
    return ApiError(404, "not_found", "no such blob")


def _is_known(if_none_match: str | None, digest: str) -> bool:
    tags = [] if if_none_match is None else [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or f'"{digest}"' in tags


def _keep_range(request: Request, digest: str, size: int) -> bool:
    """Whether the request can be answered; a Range that is to be ignored (RFC 9110, 14.2) is taken away from it."""
    header = request.headers.get("range")
    if header is None:
        return True
    match = _RANGE.fullmatch(header)
    first, last = match.groups() if match else ("", "")
    if_range = request.headers.get("if-range", f'"{digest}"')
    backwards = bool(first and last) and int(last) < int(first)
    if not (first or last) or backwards or if_range != f'"{digest}"' or request.method != "GET":
        request.scope["headers"] = [item for item in request.scope["headers"] if item[0] != b"range"]
        return True
    return int(first) < size if first else int(last) > 0 and size > 0


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error.status, error.reason, error.message)


async def _http_error(request: Request, error: Exception) -> Response:
    """The router's own errors."""
    assert isinstance(error, HTTPException)
    reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return error_response(error.status_code, reason, error.detail, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    # The guard logs it; its text may speak of things that are nobody's business.
    return error_response(500, "internal", "internal error")
