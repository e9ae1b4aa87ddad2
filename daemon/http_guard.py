"""The one door to every HTTP route: access, cross-origin answers, headers that all responses have, the access log.

It stands around the whole application, so that a route cannot be forgotten; what it lets through has a token, save for
the routes that `AccessPolicy.is_open` names.
"""

import json
from collections.abc import Mapping

import structlog
import trio
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.core.access import Access, AccessPolicy, Headers, Refusal, has_query_token

# Until then a browser need not ask again what an allowed origin may do.
_PREFLIGHT_SECONDS = 600
_PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
    "Access-Control-Allow-Headers": "authorization, content-type, if-none-match, if-range, range",
    "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
}
_COMMON_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # The token may be in the address of the first page.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """An ASGI application around another one.

    Args:
        app: sees only requests that may proceed; its errors are logged here and go no further.
        policy: decides.
    """

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        started = trio.current_time()
        origin = next((value for name, value in scope["headers"] if name == b"origin"), b"").decode("latin-1")
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            # "websocket.http.response.start" where a response takes the place of an upgrade.
            if message["type"].endswith("http.response.start"):
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), origin)
            await send(message)

        method, path = scope.get("method", "GET"), scope["raw_path"]
        answer = self._decide(method, path, scope)
        if scope["type"] == "websocket" and answer is self._app:
            answer = error_response(404, "not_found", "a WebSocket is at /sync, on a connection of its own")
        try:
            await answer(scope, receive, send_with_headers)
        except Exception:
            # One request's failure is not the daemon's. It was answered with 500, or else the connection is closed.
            log.exception("request failed", method=method, path=path.decode("ascii", "replace"))
        seconds = trio.current_time() - started
        # The raw path: it has no query, hence no token, and no characters that could forge a line of the log.
        log_request(method, path, status, seconds)

    def _decide(self, method: str, path: bytes, scope: Scope) -> ASGIApp:
        policy, headers = self._policy, scope["headers"]
        target = path + b"?" + scope["query_string"]
        refusal = policy.check_place(target, headers)
        if refusal is not None:
            return refusal_response(refusal)
        if method == "OPTIONS" and (preflight := self._preflight(headers)) is not None:
            return preflight
        if policy.is_open(method, scope["path"]):
            return self._app
        decision = policy.check(method, target, headers)
        if isinstance(decision, Refusal):
            return refusal_response(decision)
        if method in ("GET", "HEAD") and scope["path"] == "/" and has_query_token(target):
            return self._exchange(decision)
        return self._app

    def _exchange(self, access: Access) -> Response:
        """Puts the token of the address into a cookie, so that it leaves address bar, history and bookmarks."""
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            self._policy.cookie_name, self._policy.cookie_value(access.role), httponly=True, samesite="strict", path="/"
        )
        return response

    def _preflight(self, headers: Headers) -> Response | None:
        """A browser asks, without a token, what a page of another origin may do. Only for --allow-origin."""
        given = dict(headers)
        origin = given.get(b"origin", b"").decode("latin-1")
        if origin not in self._policy.allow_origins or b"access-control-request-method" not in given:
            return None
        # Asked by Chrome when a public page wants something of this machine.
        private = given.get(b"access-control-request-private-network") == b"true"
        extra = {"Access-Control-Allow-Private-Network": "true"} if private else {}
        return Response(status_code=204, headers={**_PREFLIGHT_HEADERS, **extra})

    def _add_headers(self, headers: MutableHeaders, origin: str) -> None:
        for name, value in _COMMON_HEADERS.items():
            headers.setdefault(name, value)
        # A cached answer to a page of ours lacks what a page of an allowed origin needs.
        headers.add_vary_header("Origin")
        if origin in self._policy.allow_origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Content-Range, ETag"


def error_body(reason: str, message: str) -> bytes:
    """The JSON that every error has."""
    return json.dumps({"error": {"reason": reason, "message": message}}, ensure_ascii=False).encode()


def error_response(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a response."""
    return Response(error_body(reason, message), status, headers, media_type="application/json")


def refusal_response(refusal: Refusal) -> Response:
    """A refusal as a response."""
    return error_response(refusal.status, refusal.reason, refusal.message, refusal_headers(refusal))


def refusal_headers(refusal: Refusal) -> dict[str, str]:
    """Headers that belong to the refusal's status (RFC 9110: 401 names a scheme)."""
    return {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}


def log_request(method: str, path: bytes, status: int, seconds: float) -> None:
    """One line of the access log; `path` is without its query, which may hold the token."""
    level = log.debug if status < 400 else log.info
    level("request", method=method, path=path.decode("ascii", "replace"), status=status, ms=round(seconds * 1000, 1))


log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
