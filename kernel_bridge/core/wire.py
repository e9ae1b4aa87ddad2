"""ZMQ multipart <-> messages of the Jupyter wire protocol.

    [identity or topic ...] <IDS|MSG> signature header parent_header metadata content [buffer ...]

The signature is the hex HMAC-SHA256 of the four JSON frames; buffers are not covered by it. jupyter_client's Session
does the same at 26 to 33 us a message; this takes about 3 (measured), and never raises for what a kernel sends.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from kernel_bridge.core.contents import decode_content
from kernel_bridge.core.json_text import loads_leniently
from kernel_bridge.core.messages import Channel, Header, KernelMessage, Oversize, RejectionKind

DELIMITER: Final = b"<IDS|MSG>"
# What Jupyter 5.5 kernels speak; older ones ignore it.
PROTOCOL_VERSION: Final = "5.4"

# A 64 MiB display is real; four times that is a mistake, and hashing and parsing it would stop every notebook's loop.
MAX_MESSAGE_BYTES: Final = 256 * 2**20
# Every item of a JSON container costs at least 16 bytes as an object, typically 64: 256 MB for the worst message.
MAX_JSON_ITEMS: Final = 4_000_000
# Below this size a message cannot have too many items to matter, and they are not counted.
_COUNT_ITEMS_ABOVE: Final = 2**20
# Thousands of arrays in one message of all widgets' states are real; each frame costs 0.5 us to receive.
MAX_FRAMES: Final = 16_384
# Ids, names and a date: real headers have 200 to 300 bytes.
MAX_HEADER_BYTES: Final = 64 * 1024
# A replay is told from a message by its signature; a kernel answers far less than this many requests a second.
_REMEMBERED_SIGNATURES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Rejected:
    """A multipart that is no message of the kernel; `head` is its beginning, for a log."""

    kind: RejectionKind
    nbytes: int
    head: bytes


class Signer:
    """HMAC-SHA256 with the inner and outer blocks hashed once (RFC 2104, 4); 1.8 us where `hmac` takes 2.8."""

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def sign(self, frames: Sequence[bytes]) -> bytes:
        """Returns the signature of the four JSON frames, in hex."""
        inner = self._inner.copy()
        inner.update(b"".join(frames))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest().encode()


@dataclass(slots=True)
class DecoderCounts:
    """What one channel's decoder met so far."""

    messages: int = 0
    nbytes: int = 0
    oversize: int = 0
    ill_typed: int = 0
    rejected: Counter[RejectionKind] = field(default_factory=Counter)

    @property
    def bad(self) -> Counter[str]:
        """The messages that were not what they should be, by what was wrong."""
        counts: Counter[str] = Counter(oversize=self.oversize, ill_typed=self.ill_typed)
        counts.update(self.rejected)
        return +counts


_HEADER: Final = msgspec.json.Decoder(Header | None)
_METADATA: Final = msgspec.json.Decoder(dict[str, Any] | None)
_NO_HEADER: Final = Header()


class MessageDecoder:
    """Reads the messages of one channel of one kernel. Not to be used by two threads at once."""

    def __init__(self, channel: Channel, signer: Signer) -> None:
        self.counts = DecoderCounts()
        self._channel: Channel = channel
        self._signer = signer
        # Only requests and replies: on iopub nobody acts on a message twice, and it is where the volume is.
        self._remembers = channel != "iopub"
        self._signatures: dict[bytes, None] = {}
        # Thousands of messages in a row have the same parent.
        self._parent_frame = b"{}"
        self._parent = _NO_HEADER

    def decode(self, frames: Sequence[bytes]) -> KernelMessage | Rejected:
        """Reads one multipart message; whatever is in it, this does not raise."""
        nbytes = sum(map(len, frames))
        self.counts.nbytes += nbytes
        try:
            start = frames.index(DELIMITER)
        except ValueError:
            return self._reject("no_delimiter", frames, nbytes)
        if len(frames) < start + 6:
            return self._reject("few_frames", frames, nbytes)
        signature = frames[start + 1]
        signed = frames[start + 2 : start + 6]
        header_frame, parent_frame, metadata_frame, content_frame = signed
        if len(header_frame) > MAX_HEADER_BYTES or len(parent_frame) > MAX_HEADER_BYTES:
            return self._reject("bad_header", frames, nbytes)
        oversize = nbytes > MAX_MESSAGE_BYTES or len(frames) > MAX_FRAMES
        if not oversize:
            if not hmac.compare_digest(signature, self._signer.sign(signed)):
                return self._reject("bad_signature", frames, nbytes)
            if self._remembers and not self._first_time(signature):
                return self._reject("duplicate", frames, nbytes)
            oversize = nbytes > _COUNT_ITEMS_ABOVE and _items(content_frame, metadata_frame) > MAX_JSON_ITEMS
        header = _decode_header(header_frame)
        if header is None or not header.msg_type:
            return self._reject("bad_header", frames, nbytes)
        if parent_frame != self._parent_frame:
            parent = _decode_header(parent_frame)
            if parent is None:
                return self._reject("bad_header", frames, nbytes)
            self._parent_frame, self._parent = parent_frame, parent
        self.counts.messages += 1
        if oversize:
            self.counts.oversize += 1
            return KernelMessage(
                channel=self._channel,
                header=header,
                parent=self._parent,
                metadata={},
                content=Oversize(nbytes=nbytes),
                nbytes=nbytes,
            )
        try:
            metadata = {} if metadata_frame == b"{}" else _decode_metadata(metadata_frame)
            content, fits = decode_content(header.msg_type, content_frame)
        except ValueError:
            self.counts.messages -= 1
            return self._reject("bad_json", frames, nbytes)
        if not fits:
            self.counts.ill_typed += 1
        return KernelMessage(
            channel=self._channel,
            header=header,
            parent=self._parent,
            metadata=metadata,
            content=content,
            buffers=frames[start + 6 :],
            nbytes=nbytes,
        )

    def _first_time(self, signature: bytes) -> bool:
        if signature in self._signatures:
            return False
        self._signatures[signature] = None
        if len(self._signatures) > _REMEMBERED_SIGNATURES:
            del self._signatures[next(iter(self._signatures))]
        return True

    def _reject(self, kind: RejectionKind, frames: Sequence[bytes], nbytes: int) -> Rejected:
        self.counts.rejected[kind] += 1
        return Rejected(kind, nbytes, b" ".join(frame[:64] for frame in frames[:4])[:128])


def _items(*frames: bytes) -> int:
    # Commas and brackets inside strings count as well: too many, never too few, and at the speed of memchr.
    return sum(frame.count(b",") + frame.count(b"[") + frame.count(b"{") for frame in frames)


def _decode_header(frame: bytes) -> Header | None:
    """Reads a header; null and missing fields are empty strings, as some kernels send them."""
    try:
        return _HEADER.decode(frame) or _NO_HEADER
    except (ValueError, RecursionError):
        pass
    try:
        raw = loads_leniently(frame)
    except ValueError:
        return None
    if raw is None:
        return _NO_HEADER
    if not isinstance(raw, dict):
        return None
    fields = {name: raw[name] for name in Header.__struct_fields__ if isinstance(raw.get(name), str)}
    return Header(**fields)


def _decode_metadata(frame: bytes) -> dict[str, Any]:
    try:
        return _METADATA.decode(frame) or {}
    except (ValueError, RecursionError):
        raw = loads_leniently(frame)
        return raw if isinstance(raw, dict) else {}


def _encode_other(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"no JSON for {type(value).__name__}")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_other)


def _to_json(value: object) -> bytes:
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        # A lone surrogate: JSON can say it as an escape, UTF-8 cannot.
        return json.dumps(value, default=_encode_other).encode()


def header_fields(header: Header) -> dict[str, Any]:
    """The header as the wire has it: {} for an absent one, `subshell_id` only where it is set."""
    if not header.msg_id:
        return {}
    fields = msgspec.structs.asdict(header)
    if header.subshell_id is None:
        del fields["subshell_id"]
    return fields


class MessageEncoder:
    """Writes messages to one kernel."""

    def __init__(self, session: str, username: str, signer: Signer) -> None:
        self.session = session
        self._username = username
        self._signer = signer

    def encode(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        msg_id: str,
        date: str,
        parent: Header | None = None,
        metadata: Mapping[str, Any] | None = None,
        subshell_id: str | None = None,
        buffers: Sequence[bytes | memoryview] = (),
    ) -> list[bytes | memoryview]:
        """Returns the frames of a message, from the delimiter on; `date` is ISO 8601 with an offset."""
        header = Header(
            msg_id=msg_id,
            msg_type=msg_type,
            session=self.session,
            username=self._username,
            date=date,
            version=PROTOCOL_VERSION,
            subshell_id=subshell_id,
        )
        signed = [
            _to_json(header_fields(header)),
            _to_json(header_fields(parent) if parent is not None else {}),
            _to_json(metadata or {}),
            _to_json(content),
        ]
        return [DELIMITER, self._signer.sign(signed), *signed, *buffers]
