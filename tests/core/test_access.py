from typing import Any

import pytest

from daemon.core.access import Access, AccessPolicy, Refusal, has_query_token

PORT = 8889
POLICY = AccessPolicy(
    port=PORT,
    token="edit-me",
    viewer_token="look-only",
    host_names=("192.0.2.7", "Example.org", "proxy.example:8443", "2001:db8::1"),
    allow_origins=frozenset({"https://example.org", "vscode-webview://abc"}),
)
EDITOR = Access("editor")
VIEWER = Access("viewer")


def headers(**given: str | list[str]) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode(), value.encode())
        for name, values in given.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


def decide(method: str = "GET", target: str = "/sync", policy: AccessPolicy = POLICY, **given: Any) -> Access | str:
    decision = policy.check(
        method, target.encode(), headers(**{"host": f"localhost:{PORT}", "authorization": "Bearer edit-me", **given})
    )
    return decision if isinstance(decision, Access) else decision.reason


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8889",
        "LocalHost:8889",
        "127.0.0.1:8889",
        "[::1]:8889",
        "[::1]",
        "192.0.2.7:8889",
        "example.org",
        "EXAMPLE.org:8889",
        "[2001:db8::1]:8889",
        "localhost:9000",  # a forwarded port
        "proxy.example:8443",
    ],
)
def test_our_names_are_served(host: str) -> None:
    assert decide(host=host) == EDITOR


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:8889",
        "evil.localhost:8889",
        "127.0.0.1.evil.example",
        "127.0.0.2:8889",
        "2130706433",
        "[::ffff:127.0.0.1]:8889",
        "::1",
        "localhost:",
        "localhost:8889:8889",
        "localhost:88a9",
        "localhost@evil.example",
        "user@localhost",
        "localhost.",
        "localhost, evil.example",
        "",
        "proxy.example",
        "proxy.example:8889",
        "proxy.example:8443:8443",
        ["localhost", "localhost"],
        ["localhost", "evil.example"],
        [],
    ],
)
def test_other_names_are_not(host: str | list[str]) -> None:
    assert decide(host=host) == "forbidden_host"


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:8889",
        "http://127.0.0.1:8889",
        "http://[::1]:8889",
        "http://192.0.2.7:8889",
        "http://example.org:8889",
        "http://proxy.example:8443",
        "https://example.org",
        "vscode-webview://abc",
        [],
    ],
)
def test_our_origins_and_the_allowed_ones_pass(origin: str | list[str]) -> None:
    assert decide(origin=origin) == EDITOR


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://localhost:8889",
        "http://localhost",
        "http://localhost:3000",
        "http://localhost:88890",
        "HTTP://LOCALHOST:8889",
        "http://localhost:8889/",
        "http://localhost:8889.evil.example",
        "https://example.org.evil.example",
        "https://example.org:443",
        "https://evil.example",
        "http://example.org",
        "*",
        ["http://localhost:8889", "http://localhost:8889"],
        ["http://localhost:8889", "https://evil.example"],
    ],
)
def test_other_origins_do_not(origin: str | list[str]) -> None:
    assert decide(origin=origin) == "forbidden_origin"


def test_a_page_that_came_through_a_forwarded_port_is_our_own() -> None:
    assert decide(host="localhost:9000", origin="http://localhost:9000") == EDITOR
    assert decide(host="localhost:9000", origin="http://localhost:9001") == "forbidden_origin"


def test_a_rebound_name_does_not_become_our_own_by_its_origin() -> None:
    assert decide(host="evil.example:8889", origin="http://evil.example:8889") == "forbidden_host"


def test_host_comes_before_origin_and_origin_before_the_token() -> None:
    assert decide(host="evil.example", origin="null", authorization="Bearer no") == "forbidden_host"
    assert decide(origin="null", authorization="Bearer no") == "forbidden_origin"
    assert decide(authorization="Bearer no") == "unauthorized"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"authorization": "Bearer edit-me"}, EDITOR),
        ({"authorization": "bearer edit-me"}, EDITOR),
        ({"authorization": "token edit-me"}, EDITOR),
        ({"authorization": "Token  edit-me"}, EDITOR),
        ({"authorization": "Bearer look-only"}, VIEWER),
        ({"target": "/sync?token=edit-me"}, EDITOR),
        ({"target": "/sync?a=b&token=edit%2Dme"}, EDITOR),
        ({"target": "/sync?token=look-only"}, VIEWER),
        ({"cookie": f"notebookd-{PORT}=edit-me"}, EDITOR),
        ({"cookie": f"a=b; notebookd-{PORT}={POLICY.cookie_value('editor')}; c=d"}, EDITOR),
        ({"cookie": ["a=b", f"notebookd-{PORT}={POLICY.cookie_value('viewer')}"]}, VIEWER),
        # A proxy's own password is no token of ours.
        ({"authorization": "Basic eDp5", "target": "/?token=edit-me"}, EDITOR),
        # A header wins over the query, the query over a cookie that may be old.
        ({"authorization": "Bearer look-only", "target": "/?token=edit-me"}, VIEWER),
        ({"target": "/?token=edit-me", "cookie": f"notebookd-{PORT}=old"}, EDITOR),
    ],
)
def test_a_token_is_found_in_its_three_places(given: dict[str, Any], expected: Access) -> None:
    assert decide(**{"authorization": [], **given}) == expected


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"authorization": ""},
        {"authorization": "edit-me"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer edit-m"},
        {"authorization": "Bearer edit-mee"},
        {"authorization": "Bearer EDIT-ME"},
        {"authorization": "Bearer edit-me, Bearer edit-me"},
        {"authorization": "Basic edit-me"},
        {"authorization": "Bearer é"},
        {"authorization": ["Bearer edit-me", "Bearer edit-me"]},
        {"authorization": "Bearer wrong", "target": "/?token=edit-me"},
        {"target": "/?token="},
        {"target": "/?token"},
        {"target": "/?Token=edit-me"},
        {"target": "/?token=%ff%00"},
        {"target": "/?token=edit-me&token=edit-me"},
        {"target": "/#?token=%20edit-me"},
        {"target": "/token=edit-me"},
        {"cookie": "notebookd-8888=edit-me"},
        {"cookie": "notebookd-8889"},
        {"cookie": "notebookd-8889="},
        {"cookie": f"notebookd-{PORT}=edit-me; notebookd-{PORT}=edit-me"},
        {"cookie": "token=edit-me"},
    ],
)
def test_anything_else_is_no_token(given: dict[str, Any]) -> None:
    assert decide(**{"authorization": [], **given}) == "unauthorized"


def test_tokens_may_hold_any_characters() -> None:
    policy = AccessPolicy(port=PORT, token="pä ss;=+&\u2028")
    assert decide(policy=policy, authorization="Bearer pä ss;=+&\u2028") == EDITOR
    assert decide(policy=policy, authorization=[], target="/?token=p%C3%A4+ss%3B%3D%2B%26%E2%80%A8") == EDITOR
    cookie = f"{policy.cookie_name}={policy.cookie_value('editor')}"
    assert decide(policy=policy, authorization=[], cookie=cookie) == EDITOR
    assert cookie.isascii()
    assert ";" not in cookie


def test_without_a_viewer_token_there_are_no_viewers() -> None:
    policy = AccessPolicy(port=PORT, token="edit-me")
    assert decide(policy=policy, authorization="Bearer look-only") == "unauthorized"
    assert decide(policy=policy, authorization="Bearer None") == "unauthorized"
    with pytest.raises(ValueError, match="no viewers"):
        policy.cookie_value("viewer")


@pytest.mark.parametrize(
    ("method", "expected"),
    [("GET", VIEWER), ("HEAD", VIEWER), ("POST", "forbidden"), ("DELETE", "forbidden"), ("OPTIONS", "forbidden")],
)
def test_a_viewer_may_only_read(method: str, expected: Access | str) -> None:
    assert decide(method, authorization="Bearer look-only") == expected
    assert decide(method) == EDITOR


@pytest.mark.parametrize("target", ["http://localhost:8889/sync", "http://evil.example/", "*", "localhost:8889", ""])
def test_only_paths_are_targets(target: str) -> None:
    assert decide(target=target) == "bad_request"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/health", True),
        ("HEAD", "/health", True),
        ("POST", "/health", False),
        ("GET", "/health/", False),
        ("GET", "/", False),
        ("GET", "/metrics", False),
        ("GET", "/sync", False),
    ],
)
def test_health_alone_is_open(method: str, path: str, expected: bool) -> None:
    assert POLICY.is_open(method, path) is expected


def test_statuses_are_those_of_the_wire() -> None:
    host = headers(host="localhost")
    statuses = [
        POLICY.check("GET", b"/", headers(host="evil.example")),
        POLICY.check("GET", b"/", [*host, *headers(origin="null")]),
        POLICY.check("GET", b"/", host),
        POLICY.check("POST", b"/", [*host, *headers(authorization="Bearer look-only")]),
    ]
    assert [refusal.status for refusal in statuses if isinstance(refusal, Refusal)] == [403, 403, 401, 403]


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": ""},
        {"viewer_token": ""},
        {"viewer_token": "edit-me"},
        {"allow_origins": frozenset({"*"})},
        {"allow_origins": frozenset({"null"})},
        {"allow_origins": frozenset({"https://example.org/"})},
        {"allow_origins": frozenset({"HTTPS://example.org"})},
        {"allow_origins": frozenset({"example.org"})},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"token|origin"):
        AccessPolicy(**{"port": PORT, "token": "edit-me", **wrong})


def test_a_policy_does_not_show_its_tokens() -> None:
    assert "edit-me" not in repr(POLICY)
    assert "look-only" not in repr(POLICY)
    assert "edit-me" not in POLICY.cookie_value("editor")


def test_a_query_token_is_seen() -> None:
    assert has_query_token(b"/?token=x")
    assert has_query_token(b"/?a=b&token=")
    assert not has_query_token(b"/?tokens=x")
    assert not has_query_token(b"/token=x")
