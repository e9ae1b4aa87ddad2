"""Who may come in: Host, Origin and token of a request, in this order, to a decision (docs/wire.md).

A Host that is not ours is a page that rebound its DNS name to this machine; an Origin that is not ours is a page of
another site. Both are refused before the token is looked at, since a browser sends a cookie along for them.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit

Role: TypeAlias = Literal["editor", "viewer"]
# As HTTP parsers give them: names in lower case, values stripped.
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_READING_METHODS: Final = frozenset({"GET", "HEAD"})
# What answers without a token: nothing but "I am here, in this version".
_OPEN_ROUTES: Final = frozenset({("GET", "/health"), ("HEAD", "/health")})


class AccessRulesWrong(ValueError):
    """No daemon can be run with these tokens or origins."""


@dataclass(frozen=True, slots=True)
class Access:
    """The request may proceed, with the rights of `role`."""

    role: Role


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request is answered with this status and `{"error": {"reason", "message"}}`."""

    status: int
    reason: str
    message: str


@dataclass(frozen=True)
class AccessPolicy:
    """The rules of one daemon.

    Args:
        port: on which it listens; names the cookie and the origins that are its own.
        token: of those who may write; not empty.
        viewer_token: of those who may only read; None admits no viewers.
        host_names: --host and --allow-host, besides the local ones: `name` with any port, or `name:port` with that one
            alone. The port is left open because forwarding changes it (ssh -L, docker -p) and rebinding gains nothing.
        allow_origins: --allow-origin: exact values of the header, as `https://example.org`.

    Raises:
        AccessRulesWrong: a token is empty or both are the same; an origin is none (`*`, `null`, with a path, upper case).
    """

    port: int
    token: str = field(repr=False)
    viewer_token: str | None = field(default=None, repr=False)
    host_names: tuple[str, ...] = ()
    allow_origins: frozenset[str] = frozenset()
    _hosts: frozenset[str] = field(init=False, repr=False)
    _origins: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.token or self.viewer_token == "" or self.token == self.viewer_token:
            raise AccessRulesWrong("tokens must not be empty, nor the same for editors and viewers")
        for origin in self.allow_origins:
            if not _is_origin(origin):
                raise AccessRulesWrong(f"not an origin (scheme://host or scheme://host:port, lower case): {origin}")
        hosts = frozenset(_bracketed(name.lower()) for name in (*LOCAL_HOSTS, *self.host_names))
        own = {f"http://{host}" if _port_of(host) else f"http://{host}:{self.port}" for host in hosts}
        object.__setattr__(self, "_hosts", hosts)
        object.__setattr__(self, "_origins", self.allow_origins | own)

    @property
    def cookie_name(self) -> str:
        """Holds the port, because a browser gives cookies to all ports of a host."""
        return f"notebookd-{self.port}"

    def cookie_value(self, role: Role) -> str:
        """What a browser keeps instead of the token, in characters that a cookie may have.

        Servers on other ports of this host can read it; so it opens this daemon but does not tell the token, which may
        be somebody's password. It ends with the token. (A cookie with the token itself is accepted as well.)
        """
        return hmac.new(self._token_of(role).encode(), b"notebookd cookie", hashlib.sha256).hexdigest()

    def check(self, method: str, target: bytes, headers: Headers) -> Access | Refusal:
        """Decides about one request.

        Args:
            method: upper case.
            target: the request target as sent, with its query.
            headers: all of them.
        """
        refusal = self.check_place(target, headers)
        if refusal is not None:
            return refusal
        role = self._role_of(_presented_token(self.cookie_name, target, headers))
        if role is None:
            return Refusal(401, "unauthorized", "a valid token is needed")
        if role == "viewer" and method not in _READING_METHODS:
            return Refusal(403, "forbidden", "this token may only read")
        return Access(role)

    def check_place(self, target: bytes, headers: Headers) -> Refusal | None:
        """The part of `check` that comes before the token, for what needs none: Host and Origin."""
        if not target.startswith(b"/"):
            return Refusal(400, "bad_request", "the request target must be a path")
        host = _only(headers, b"host")
        if host is None or not self._is_own_host(host.lower()):
            return Refusal(403, "forbidden_host", "this Host is not served here; see --allow-host")
        if any(name == b"origin" for name, _ in headers):
            origin = _only(headers, b"origin")
            # A page that we served: its Origin is where this very request went.
            if origin is None or (origin not in self._origins and origin != f"http://{host}"):
                return Refusal(403, "forbidden_origin", "this Origin is not allowed; see --allow-origin")
        return None

    def is_open(self, method: str, path: str) -> bool:
        """Whether this route answers without a token."""
        return (method, path) in _OPEN_ROUTES

    def _is_own_host(self, host: str) -> bool:
        if host in self._hosts:
            return True
        name = host.removesuffix(f":{_port_of(host)}")
        return name in self._hosts and _port_of(name) is None

    def _token_of(self, role: Role) -> str:
        token = self.token if role == "editor" else self.viewer_token
        if token is None:
            raise ValueError("no viewers are admitted")
        return token

    def _role_of(self, presented: bytes | None) -> Role | None:
        if presented is None:
            return None
        found: Role | None = None
        roles: Iterable[Role] = ("editor",) if self.viewer_token is None else ("editor", "viewer")
        for role in roles:
            # Both in full, whatever the outcome: the time must not tell which one was nearly right.
            for accepted in (self._token_of(role), self.cookie_value(role)):
                if hmac.compare_digest(presented, accepted.encode()):
                    found = role
        return found


def has_query_token(target: bytes) -> bool:
    """Whether the target carries `?token=`, which a page then exchanges for the cookie."""
    return bool(_query_tokens(target))


def _presented_token(cookie_name: str, target: bytes, headers: Headers) -> bytes | None:
    """The token of a request: its header's, else its query's, else its cookie's. Two of a kind are none."""
    authorizations = [value for name, value in headers if name == b"authorization"]
    bearers = [
        credentials.strip()
        for scheme, _, credentials in (value.partition(b" ") for value in authorizations)
        if scheme.lower() in (b"bearer", b"token")
    ]
    cookies = [
        value
        for name, header in headers
        if name == b"cookie"
        for key, _, value in (pair.strip().partition(b"=") for pair in header.split(b";"))
        if key == cookie_name.encode()
    ]
    for tokens in (bearers, _query_tokens(target), cookies):
        if tokens:
            return tokens[0] if len(tokens) == 1 else None
    return None


def _query_tokens(target: bytes) -> list[bytes]:
    query = target.partition(b"?")[2].decode("latin-1")
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return [value.encode(errors="surrogateescape") for key, value in pairs if key == "token"]


def _only(headers: Headers, name: bytes) -> str | None:
    values = [value for key, value in headers if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _port_of(host: str) -> str | None:
    name, colon, port = host.rpartition(":")
    # "[::1]" ends in a bracket, not in a port.
    return port if colon and name and port.isascii() and port.isdigit() else None


def _bracketed(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _is_origin(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme and parts.netloc) and text == f"{parts.scheme}://{parts.netloc}" == text.lower()
