"""Frames of the WebSocket protocol: each kind as real peers send it, damaged in its fields, in its bytes, or huge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import cbor2

from sync.core.cbor import decode_data
from sync.core.frames import Ephemeral, ProtocolError, Sync, decode_frame
from sync.core.identifiers import automerge_url, document_id
from sync.core.jsonrpc import is_jsonrpc
from sync.core.sync_message import SyncMessageInvalid, decode_sync_message
from tests.fuzz.mutation import EDGES, choose, damage, damage_value, odd_value
from tests.fuzz.requests import make_request
from tests.fuzz.sync_messages import make_sync_message
from tests.fuzz.target import Target

_KINDS = ("join", "peer", "sync", "request", "ephemeral", "doc-unavailable", "error", "remote-subscription-change")
_WORDS = tuple(cbor2.dumps(word) for word in (*_KINDS, "type", "senderId", "targetId", "documentId", "data", "count"))


@dataclass(frozen=True)
class Addresses:
    """Who talks with whom about what; the live daemon's in a live run."""

    sender: str = "peer-1"
    target: str = "daemon"
    documents: Sequence[str] = (document_id(b"n" * 16), document_id(b"r" * 16))
    session: str = "s"
    sync_payloads: Sequence[bytes] = field(default=(b"\x42\x00\x00\x01\x00\x00\x00",))


def make_frame(rng: Random, addresses: Addresses = Addresses()) -> bytes:
    """One binary WebSocket message."""
    kind = choose(rng, (3, "fields"), (3, "bytes"), (2, "inner"), (1, "right"), (1, "values"), (0.02, "bomb"))
    if kind == "bomb":
        return make_bomb(rng)
    fields = _fields(rng, addresses, damaged=kind == "inner")
    match kind:
        case "fields":
            return _encoded(damage_value(rng, fields, _cbor_value))
        case "bytes":
            return damage(rng, cbor2.dumps(fields), _WORDS)
        case "values":
            return _encoded(_cbor_value(rng))
        case _:
            return cbor2.dumps(fields)


def make_bomb(rng: Random) -> bytes:
    """Few bytes, or many, that stand for much more."""
    depth = rng.choice((65, 1000, 100_000))
    many = rng.choice((10_000, 300_000, 1_000_000))
    match rng.randrange(9):
        case 0:
            return rng.choice((b"\x81", b"\xa1\x61k", b"\xc1", b"\xd9\xd9\xf7", b"\x9f", b"\xbf\x61k")) * depth
        case 1:
            head = rng.choice((0x5B, 0x7B, 0x9B, 0xBB))
            return bytes((head,)) + rng.choice(EDGES[-12:-1]).to_bytes(8, "big") + rng.randbytes(20)
        case 2:
            return b"\x9a" + many.to_bytes(4, "big") + rng.choice((b"\xa0", b"\x80", b"\x60", b"\xf6", b"\x01")) * many
        case 3:  # one key many times
            return b"\xba" + many.to_bytes(4, "big") + b"\x61k\x01" * many
        case 4:  # many keys
            keys = min(many, 300_000)
            return (
                b"\xba"
                + keys.to_bytes(4, "big")
                + b"".join(b"\x1a" + n.to_bytes(4, "big") + b"\x01" for n in range(keys))
            )
        case 5:  # shared parts: a list of a list of a list, each twice
            return b"\xd8\x1c\x82" * 40 + b"\xd8\x1d\x00" * 80
        case 6:  # chunks of an endless string
            return rng.choice((b"\x5f", b"\x7f")) + rng.choice((b"\x40", b"\x60", b"\x41a")) * many
        case 7:  # a number of a million bits
            return b"\xc2\x5a" + many.to_bytes(4, "big") + b"\xff" * many
        case _:
            return cbor2.dumps({"type": "sync", "senderId": "x" * many, "targetId": "", "documentId": "", "data": b""})


def _fields(rng: Random, addresses: Addresses, *, damaged: bool) -> dict[str, Any]:
    kind = choose(rng, (4, "sync"), (1, "request"), (5, "ephemeral"), (1, None))
    if kind is None:
        kind = rng.choice(_KINDS)
    document = rng.choice(addresses.documents)
    fields: dict[str, Any] = {"type": kind, "senderId": addresses.sender, "targetId": addresses.target}
    match kind:
        case "join":
            return {
                **fields,
                "peerMetadata": {"isEphemeral": True, "storageId": cbor2.undefined},
                "supportedProtocolVersions": ["1"],
            }
        case "peer":
            return {**fields, "peerMetadata": {}, "selectedProtocolVersion": "1"}
        case "sync" | "request":
            data = make_sync_message(rng) if damaged else rng.choice(addresses.sync_payloads)
            return {**fields, "documentId": document, "data": data}
        case "ephemeral":
            said = make_request(rng) if damaged or rng.random() < 0.5 else {"cursor": odd_value(rng)}
            data = cbor2.dumps(said)
            return {
                **fields,
                "documentId": document,
                "sessionId": addresses.session,
                "count": rng.choice((1, 2, 3, rng.randrange(2**40))),
                "data": damage(rng, data) if damaged and rng.random() < 0.3 else data,
            }
        case "doc-unavailable":
            return {**fields, "documentId": document}
        case "error":
            return {**fields, "message": "no"}
        case _:
            return {**fields, "add": [automerge_url(document_id(b"s" * 16))], "remove": []}


def _cbor_value(rng: Random) -> Any:
    """A value of JSON, or one that JSON does not have."""
    match rng.randrange(8):
        case 0:
            return cbor2.CBORTag(
                rng.choice((0, 1, 2, 4, 25, 30, 35, 64, 100, 258, 259, 55799, 2**32)), odd_value(rng, 1)
            )
        case 1:
            return cbor2.undefined
        case 2:
            return cbor2.CBORSimpleValue(rng.choice((0, 19, 32, 255)))
        case 3:
            return rng.randbytes(rng.choice((0, 1, 16, 300)))
        case 4:
            return {rng.choice((1, b"k", None, 1.5, True)): 1}
        case _:
            return odd_value(rng)


def _encoded(value: Any) -> bytes:
    return cbor2.dumps(value)


async def feed_frame(data: bytes) -> str:
    """As a connection reads it, up to where documents and requests begin."""
    try:
        frame = decode_frame(data)
        if isinstance(frame, Sync):
            decode_sync_message(frame.data)
        elif isinstance(frame, Ephemeral):
            return "jsonrpc" if is_jsonrpc(decode_data(frame.data)) else "presence"
    except ProtocolError:
        return "refused"
    except SyncMessageInvalid:
        return "sync refused"
    return type(frame).__name__.lower()


FRAMES = Target("frames", make_frame, feed_frame)
