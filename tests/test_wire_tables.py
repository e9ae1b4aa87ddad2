"""The tables of docs/wire.md, row by row, are what the code has."""

import re
from pathlib import Path

import msgspec
from starlette.routing import Route

from daemon.core.comms import MAX_COMMS, MAX_STATE_BYTES
from daemon.core.output_list import OutputLimits
from daemon.dispatcher import RESERVED_FOR_STOPS, STOPS
from daemon.front import MAX_CONNECTIONS, MAX_PEERS_PER_TOKEN
from daemon.http_app import MAX_BODY_BYTES, build_app
from daemon.opening import MAX_FILE_BYTES
from daemon.requests import METHODS
from sync.connection import OPENING_SECONDS, REQUEST_BURST, REQUESTS_PER_SECOND, STALLED_SECONDS
from sync.core import limits
from sync.core.jsonrpc import ErrorCode
from tests.fakes.daemon_api import FakeApi

WIRE = (Path(__file__).parents[1] / "docs" / "wire.md").read_text()


def section(title: str) -> str:
    [text] = re.findall(rf"^## {title}\n(.*?)(?=^## )", WIRE, re.DOTALL | re.MULTILINE)
    return text


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_requests_are_those_that_there_are_with_their_parameters() -> None:
    documented = {}
    for names, params, *_ in (row for row in rows("Requests") if "`" in row[0]):
        plain = re.sub(r"\([^)]*\)|=[^,]*", "", params.replace("-", ""))
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = {word.strip() for word in plain.split(",") if word.strip()}
    assert documented.keys() == METHODS.keys()
    for name, method in METHODS.items():
        fields = msgspec.structs.fields(method.params)
        assert documented[name] == {f.encode_name + ("" if f.required else "?") for f in fields}, name


def test_requests_that_hold_nothing_back_are_named() -> None:
    [sentence] = re.findall(r"never (`interrupt`.*?)\.", section("Requests"), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", sentence)) == {name for name, method in METHODS.items() if not method.ordered}


def test_errors_are_those_that_there_are() -> None:
    documented = {int(row[0]): row[1] for row in rows("Requests") if row[0].startswith("-32")}
    assert documented == {int(code): code.reason for code in ErrorCode}


def test_routes_are_those_that_there_are() -> None:
    documented = set()
    for line in re.findall(r"^\| `([A-Z][^`]*)`", section("HTTP"), re.MULTILINE):
        [path, *_] = re.findall(r"/\S*", re.sub(r"\{.*?\}", "{}", line))
        documented |= {(method, path) for method in re.findall(r"\b(?:GET|HEAD|POST|DELETE)\b", line)}
    served = set()
    for route in build_app(FakeApi()).routes:
        assert isinstance(route, Route)
        served |= {(method, re.sub(r"\{.*?\}", "{}", route.path)) for method in route.methods or ()}
    # The page and the upgrade are told in words; HEAD goes with GET.
    said = {("GET", "/"), ("GET", "/sync")}
    assert {one for one in served if one[0] != "HEAD"} - said == {one for one in documented if one[0] != "HEAD"}


def test_limits_are_those_that_there_are() -> None:
    outputs, mib = OutputLimits(), limits.MIB
    expected = {
        "inbound frame": f"{limits.MAX_FRAME_BYTES // mib} MiB",
        "one JSON-RPC object": f"{limits.MAX_JSONRPC_BYTES // mib} MiB",
        "requests in flight for one peer": f"{limits.MAX_REQUESTS_IN_FLIGHT}; {RESERVED_FOR_STOPS} more of those that stop "
        f"something: {', '.join(f'`{method}`' for method in STOPS)}",
        "requests of one connection": f"{REQUEST_BURST:,} at once, then {REQUESTS_PER_SECOND:,} a second: it is read no faster",
        "peers with one token": f"{MAX_PEERS_PER_TOKEN}, then 429 `too_many_connections`",
        "connections, HTTP included": f"{MAX_CONNECTIONS}, then 503 `too_many_connections`",
        "open notebooks": f"{limits.MAX_ROOMS}, then 429 `too_many_notebooks`",
        "a notebook's file": f"{MAX_FILE_BYTES // mib} MiB, then 422 `invalid_notebook`",
        "the body of an HTTP request": f"{MAX_BODY_BYTES // 1024} KiB, then 413 `too_large`",
        "what is shown of a kernel's output": f"{outputs.stream // mib} MiB for one output, {outputs.outputs:,} outputs and "
        f"{outputs.target // mib} MiB for one cell; a line says what is missing",
        "comms of a kernel": f"{MAX_COMMS:,}, with {MAX_STATE_BYTES // mib} MiB of state each; "
        "a line in `kernel_log` says what is not shown",
        "queued executions of a room": f"{limits.MAX_QUEUED_EXECUTIONS:,}",
        "nesting": f"{limits.MAX_DEPTH}; a JSON output that nests deeper is shown as its text",
        "documents on one connection": f"{limits.MAX_DOCUMENTS_PER_PEER}",
        "what the daemon holds for a peer that does not read": f"{limits.MAX_PEER_BYTES // mib} MiB, "
        f"{limits.MAX_HELD_EVENTS:,} events a notebook; it is dropped when it takes less than 256 KiB in {STALLED_SECONDS} s",
        "results that wait for a document that their peer has not opened": f"{limits.MAX_REQUESTS_IN_FLIGHT}, "
        f"for {OPENING_SECONDS} s",
    }
    documented = {row[0]: row[1] for row in rows("Limits") if row[0] != "what"}
    assert documented == {what: number.replace(",000", " 000") for what, number in expected.items()}
