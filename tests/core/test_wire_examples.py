"""The examples of docs/wire.md, bytes included, are what the code really writes and reads."""

import re
from pathlib import Path

import pytest

from sync.core.frames import (
    DocUnavailable,
    Ephemeral,
    ErrorFrame,
    Join,
    Peer,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
    encode_frame,
)
from sync.core.jsonrpc import ErrorCode, RequestError, error_response, event, parse_request, response
from sync.core.sync_message import decode_sync_message, encode_sync_message

WIRE = Path(__file__).parents[2] / "docs" / "wire.md"
DOCUMENT = "4NMNnkMhL8jXrdJ9jamS58PAVdXu"
RUNTIME = "3hMNnkMhL8jXrdJ9jamS58PAVdXu"
HEAD = bytes(range(32))
STATE = {"runtime": RUNTIME, "heads": [HEAD.hex()]}

REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "execute_cell", "params": {"cell_id": "a1"}}
STARTED = {"cell_id": "a1", "execution_id": "f2b3…", "execution_count": 1, "epoch": "9c1d…", "seq": 7}

EXAMPLES: dict[str, tuple[str, bytes]] = {
    "join": (
        "`join`, as a peer sends it first:",
        encode_frame(Join("peer-1", ("1",), {"isEphemeral": True})),
    ),
    "peer": ("`peer`, the answer:", encode_frame(Peer("notebookd-1", "peer-1", "1", {"isEphemeral": False}))),
    "error": (
        '`error`, "the first frame must be join":',
        encode_frame(ErrorFrame("notebookd-1", "peer-1", "the first frame must be join")),
    ),
    "doc-unavailable": (
        "`doc-unavailable`:",
        encode_frame(DocUnavailable("notebookd-1", "peer-1", DOCUMENT)),
    ),
    "request": (
        "`request` with the sync message of a replica that has nothing:",
        encode_frame(Sync("peer-1", "notebookd-1", DOCUMENT, bytes.fromhex("42000001000000020284"), is_request=True)),
    ),
    "sync-writable": (
        "A sync message of the daemon, to a peer that may write, without changes:",
        encode_sync_message((HEAD,), have=(HEAD,), read_only=None),
    ),
    "sync-read-only": (
        "The same to a peer that may not:",
        encode_sync_message((HEAD,), have=(HEAD,), read_only=True),
    ),
    "ephemeral": (
        "`ephemeral` with the request `execute_cell`:",
        encode_frame(Ephemeral("peer-1", "notebookd-1", DOCUMENT, "s1", 1, encode_data(REQUEST))),
    ),
    "response": ("The data of its response:", encode_data(response(1, "peer-1", {"execution_id": "f2b3…", **STATE}))),
    "error-response": (
        "The data of a response that is an error:",
        encode_data(
            error_response(1, "peer-1", RequestError(ErrorCode.NOT_FOUND, "there is no such cell", kind="cell"))
        ),
    ),
    "event": ("The data of an event:", encode_data(event("execution_started", {**STARTED, **STATE}))),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_documented_bytes_are_those_that_are_written(name: str) -> None:
    written = re.findall(rf"```text {name}\n(.*?)```", WIRE.read_text(), re.DOTALL)

    assert [bytes.fromhex("".join(block.split())) for block in written] == [EXAMPLES[name][1]]


def test_every_documented_example_is_checked() -> None:
    assert set(re.findall(r"```text ([\w-]+)\n", WIRE.read_text())) == set(EXAMPLES)


def test_the_examples_read_as_what_they_say() -> None:
    frames = {name: decode_frame(EXAMPLES[name][1]) for name in ("join", "peer", "error", "request", "ephemeral")}

    assert isinstance(frames["join"], Join)
    assert isinstance(frames["peer"], Peer)
    assert isinstance(frames["error"], ErrorFrame)
    asked = frames["request"]
    assert isinstance(asked, Sync)
    assert decode_sync_message(asked.data).heads == ()
    told = frames["ephemeral"]
    assert isinstance(told, Ephemeral)
    assert parse_request(decode_data(told.data)).method == "execute_cell"
    assert not decode_sync_message(EXAMPLES["sync-writable"][1]).read_only
    assert decode_sync_message(EXAMPLES["sync-read-only"][1]).read_only
