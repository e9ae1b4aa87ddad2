"""Frames of automerge-repo's WebSocket protocol, version 1: one CBOR map per binary message.

Frames that we do not know or need (remote heads gossip) decode to `Ignored`; whatever else does not fit raises
`ProtocolError`. Reading is strict in types and bounded in every length; unknown keys are skipped.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cbor2

from sync.core.cbor import ProtocolError, decode_data, encode_data
from sync.core.limits import MAX_CONTROL_FRAME_BYTES, MAX_FRAME_BYTES, MAX_ID_CHARS, MAX_WORD_CHARS

__all__ = [
    "DocUnavailable",
    "Ephemeral",
    "EphemeralFramePrefix",
    "ErrorFrame",
    "Frame",
    "Ignored",
    "Join",
    "Peer",
    "ProtocolError",
    "Sync",
    "SyncFramePrefix",
    "decode_data",
    "decode_frame",
    "encode_data",
    "encode_frame",
]

MAX_COUNT: Final = 2**53  # `count` is a number of JavaScript: above, it can't go up by one any more


@dataclass(frozen=True, slots=True)
class Join:
    """The first frame of a client. `supported_versions` is ("1",) where the client names none."""

    sender_id: str
    supported_versions: tuple[str, ...]
    peer_metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """The server's answer to `Join`."""

    sender_id: str
    target_id: str
    selected_version: str
    peer_metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """What went wrong, in words; stock clients log it."""

    sender_id: str
    target_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync message of one document; `is_request`: the sender has nothing of it and asks whether we do."""

    sender_id: str
    target_id: str
    document_id: str
    data: bytes
    is_request: bool = False


@dataclass(frozen=True, slots=True)
class DocUnavailable:
    """The sender does not have this document."""

    sender_id: str
    target_id: str
    document_id: str


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """A message beside the document. Receivers drop a `count` that is not above the last of (sender, session)."""

    sender_id: str
    target_id: str
    document_id: str
    session_id: str
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame of a type that we do not use."""

    type: str


Frame: TypeAlias = Join | Peer | ErrorFrame | Sync | DocUnavailable | Ephemeral | Ignored


def decode_frame(data: bytes) -> Frame:
    """Reads one binary WebSocket message.

    Raises:
        ProtocolError: it is not a frame, or a field is missing, of another type or too long.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of more than {MAX_FRAME_BYTES} bytes")
    fields = decode_data(data)
    if not isinstance(fields, dict):
        raise ProtocolError("a frame is a map")
    kind = _text(fields, "type", MAX_WORD_CHARS)
    match kind:
        case "sync" | "request":
            return Sync(
                _text(fields, "senderId"),
                _text(fields, "targetId"),
                _text(fields, "documentId"),
                _bytes(fields, "data"),
                kind == "request",
            )
        case "ephemeral":
            return Ephemeral(
                _text(fields, "senderId"),
                _text(fields, "targetId"),
                _text(fields, "documentId"),
                _text(fields, "sessionId"),
                _count(fields),
                _bytes(fields, "data"),
            )
        case "doc-unavailable":
            return DocUnavailable(_text(fields, "senderId"), _text(fields, "targetId"), _text(fields, "documentId"))
        case "join" | "peer" | "error":
            if len(data) > MAX_CONTROL_FRAME_BYTES:
                raise ProtocolError(f"a {kind} frame of more than {MAX_CONTROL_FRAME_BYTES} bytes")
            return _control_frame(kind, fields)
        case _:
            return Ignored(kind)


def encode_frame(frame: Frame) -> bytes:
    """Writes a frame as one binary WebSocket message.

    Raises:
        ValueError: an `Ignored`, which holds no content.
    """
    match frame:
        case Sync(sender, target, document, data, is_request):
            kind = "request" if is_request else "sync"
            return SyncFramePrefix(sender, target, document, kind).frame(data)
        case Ephemeral(sender, target, document, session, count, data):
            return EphemeralFramePrefix(sender, target, document, session).frame(count, data)
        case Join(sender, versions, metadata):
            fields = {
                "type": "join",
                "senderId": sender,
                "peerMetadata": metadata,
                "supportedProtocolVersions": list(versions),
            }
        case Peer(sender, target, version, metadata):
            fields = {
                "type": "peer",
                "senderId": sender,
                "targetId": target,
                "peerMetadata": metadata,
                "selectedProtocolVersion": version,
            }
        case ErrorFrame(sender, target, message):
            fields = {"type": "error", "senderId": sender, "targetId": target, "message": message}
        case DocUnavailable(sender, target, document):
            fields = {"type": "doc-unavailable", "senderId": sender, "targetId": target, "documentId": document}
        case Ignored(kind):
            raise ValueError(f"a {kind} frame can't be written")
    return encode_data(fields)


class SyncFramePrefix:
    """Sync frames of one (connection, document): all but the payload is encoded once.

    Args:
        sender: the peer id of this end.
        target: the peer id of the other end.
        document_id: base58check.
        type: "sync" or "request".
    """

    __slots__ = ("_prefix",)

    def __init__(self, sender: str, target: str, document_id: str, type: str = "sync") -> None:  # noqa: A002
        fields = {"type": type, "senderId": sender, "targetId": target, "documentId": document_id}
        self._prefix = _open_map(fields, more=1) + cbor2.dumps("data")

    def frame(self, payload: bytes) -> bytes:
        """A whole frame with this sync message."""
        return b"".join((self._prefix, _bytes_head(len(payload)), payload))


class EphemeralFramePrefix:
    """Ephemeral frames of one (connection, document): all but count and data is encoded once."""

    __slots__ = ("_prefix",)

    def __init__(self, sender: str, target: str, document_id: str, session_id: str) -> None:
        fields = {
            "type": "ephemeral",
            "senderId": sender,
            "targetId": target,
            "documentId": document_id,
            "sessionId": session_id,
        }
        self._prefix = _open_map(fields, more=2) + cbor2.dumps("count")

    def frame(self, count: int, data: bytes) -> bytes:
        """A whole frame; `data` is one encoded CBOR item."""
        return b"".join((self._prefix, encode_data(count), _DATA_KEY, _bytes_head(len(data)), data))


def _control_frame(kind: str, fields: dict[Any, Any]) -> Frame:
    sender = _text(fields, "senderId")
    match kind:
        case "join":
            return Join(sender, _versions(fields), _metadata(fields))
        case "peer":
            version = _text(fields, "selectedProtocolVersion", MAX_WORD_CHARS)
            return Peer(sender, _text(fields, "targetId"), version, _metadata(fields))
        case _:
            return ErrorFrame(sender, _text(fields, "targetId"), _text(fields, "message", MAX_CONTROL_FRAME_BYTES))


def _text(fields: dict[Any, Any], key: str, max_chars: int = MAX_ID_CHARS) -> str:
    value = fields.get(key)
    if type(value) is not str or not value:
        raise ProtocolError(f"{key} is not a string, or missing")
    if len(value) > max_chars:
        raise ProtocolError(f"{key} has more than {max_chars} characters")
    return value


def _bytes(fields: dict[Any, Any], key: str) -> bytes:
    value = fields.get(key)
    if type(value) is not bytes:
        raise ProtocolError(f"{key} is not a byte string, or missing")
    return value


def _count(fields: dict[Any, Any]) -> int:
    value = fields.get("count")
    # JavaScript's encoder writes integers from 2**32 on as float64.
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value < MAX_COUNT:
        raise ProtocolError("count is not an integer from 0 to 2**53")
    return value


def _versions(fields: dict[Any, Any]) -> tuple[str, ...]:
    value = fields.get("supportedProtocolVersions")
    if value is None or value is cbor2.undefined:
        return ("1",)
    if not isinstance(value, list) or len(value) > _MAX_VERSIONS:
        raise ProtocolError("supportedProtocolVersions is not a short array")
    for version in value:
        if type(version) is not str or len(version) > MAX_WORD_CHARS:
            raise ProtocolError("a protocol version is not a short string")
    return tuple(value)


def _metadata(fields: dict[Any, Any]) -> dict[str, Any]:
    value = fields.get("peerMetadata")
    if value is None or value is cbor2.undefined:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError("peerMetadata is not a map")
    # A client without storage sends {storageId: undefined}.
    return {key: item for key, item in value.items() if isinstance(key, str) and item is not cbor2.undefined}


def _open_map(fields: dict[str, str], *, more: int) -> bytes:
    """A map's head for `fields` and `more` entries that the caller writes behind it, and the fields."""
    encoded = cbor2.dumps(fields)  # below 24 entries the head is one byte
    return bytes([encoded[0] + more]) + encoded[1:]


def _bytes_head(length: int) -> bytes:
    if length < 24:
        return bytes((0x40 | length,))
    if length < 0x100:
        return bytes((0x58, length))
    if length < 0x10000:
        return b"\x59" + length.to_bytes(2, "big")
    return b"\x5a" + length.to_bytes(4, "big")


_DATA_KEY = cbor2.dumps("data")
_MAX_VERSIONS = 16  # there is one today
