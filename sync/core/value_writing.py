"""Raw values of kernels, files and peers -> values of the documents (docs/wire.md, "Values, manifests").

A value is text up to `INLINE_LIMIT` bytes as it is, or a reference to a blob; what JSON calls an object or an array is
JSON text, with its buffers beside it. What can't be a value is still kept in some form that a reader can show:

- lone surrogates become U+FFFD, in keys as well; NaN inside JSON text becomes null, an infinity 1e999 (`json_text.py`);
  as a trait of its own a NaN or an infinity is a native float;
- JSON deeper than 64 levels is kept as text, not as structure;
- an integer beyond 2**53 is JSON text: a native one would be a BigInt in JavaScript, on which JSON.stringify throws;
- base64 that does not decode stays the text that it is; where the type is not registered as binary, so does all but canonical
  base64, from which encoding the bytes again gives the same text (a SMILES string is letters and spaces);
- keys that no document takes (empty or endless ones) are left out.

Manifests are made of values in `values.py`; reading them back is in `value_reading.py`.
"""

from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any

from sync.core.json_text import TooDeep, clean, depth_and_buffers, encode_json, flat_text, utf8
from sync.core.limits import INLINE_LIMIT, MAX_DEPTH, MIB
from sync.core.media_types import BYTES, JSON, TEXT, blob_media_type, is_binary, media_kind
from sync.core.prepared import Value

# One value: what a page can show and a blob request can serve. A kernel's bigger one is cut, and says so.
MAX_VALUE_BYTES = 256 * MIB

# Keys of a mime bundle or of a comm's state: models have up to 100 traits; each is an operation in every replica.
MAX_KEYS = 4096
# A key is stored again with each operation on it; media types have at most 255 characters, traits are identifiers.
MAX_KEY_CHARS = 255

# Integers that JavaScript's numbers hold exactly.
_MAX_SAFE_INTEGER = 2**53 - 1

_TRAIT_MEDIA_TYPES = {"_esm": "text/javascript", "_css": "text/css"}


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that live outside the documents; `hash` is their SHA-256 in lower-case hex."""

    hash: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(slots=True)
class Encoder:
    """Encodes the values of one output or one batch, and collects the blobs that they name.

    Attributes:
        blobs: To be stored before the commit that names them.
        cut: The size in bytes of the biggest value that had to be cut, 0 if none was.
    """

    blobs: list[Blob] = field(default_factory=list)
    cut: int = 0

    def text(self, text: str, media_type: str = TEXT) -> Value:
        """Text as a value; `media_type` should be one that is read as text, else a reader would take it for bytes."""
        if len(text) <= INLINE_LIMIT and text.isascii():
            return text
        text, data = utf8(text)
        if len(data) <= INLINE_LIMIT:
            return text
        if len(data) > MAX_VALUE_BYTES:
            data = self._cut(data)
        return self._reference(data, media_type if media_kind(media_type) == "text" else TEXT)

    def binary(self, data: bytes | bytearray | memoryview, media_type: str = BYTES) -> Value:
        """Bytes as a value: a blob, however small; null if there are too many."""
        if memoryview(data).nbytes > MAX_VALUE_BYTES:
            self.cut = max(self.cut, memoryview(data).nbytes)
            return None
        return self._reference(bytes(data), media_type)

    def composite(self, value: object, media_type: str = JSON) -> Value:
        """A list or a map (or a number, where only JSON is allowed) as JSON text, its buffers as blobs beside it."""
        depth, has_buffers = depth_and_buffers(value)
        buffers: list[dict[str, Any]] = []
        if has_buffers and depth <= MAX_DEPTH:  # deeper JSON is kept as text, its buffers as base64 in it
            value = self._without_buffers(value, [], buffers)
        try:
            data = encode_json(value)
        except TooDeep:
            return self.text(flat_text(value))
        if len(data) > MAX_VALUE_BYTES:
            self.cut = max(self.cut, len(data))
            return None
        encoded: dict[str, Any] = {"json": data.decode()}
        if len(data) > INLINE_LIMIT:
            encoded = self._reference(data, media_type)
        if buffers:
            encoded["buffers"] = buffers
        return encoded

    def mime_value(self, mime: str, raw: object) -> Value:
        """One value of a mime bundle as Jupyter sends or stores it."""
        kind = media_kind(mime)
        if kind == "json":
            # A string is itself in JSON too; in a blob it has to be JSON, since that is how the blob is read.
            if isinstance(raw, str) and len(raw) <= INLINE_LIMIT:
                text, data = utf8(raw)
                if len(data) <= INLINE_LIMIT:
                    return text
            return self.composite(raw, mime)
        if isinstance(raw, list) and all(isinstance(line, str) for line in raw):
            raw = "".join(raw)
        if isinstance(raw, (bytes, bytearray, memoryview)):
            return self.binary(raw, mime)
        if not isinstance(raw, str):
            return self.composite(raw)
        if kind == "bytes" and raw:
            decoded = _base64(raw, canonical=not is_binary(mime))
            if decoded is not None:
                return self.binary(decoded, mime)
        return self.text(raw, mime)

    def trait(self, name: str, value: object) -> Value:
        """One trait of a comm's state; what JSON and Automerge both have stays native."""
        if isinstance(value, str):
            return self.text(value, _TRAIT_MEDIA_TYPES.get(name, TEXT))
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            return value if -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER else self.composite(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.binary(value)
        return self.composite(value)

    def traits(self, state: Mapping[str, Any]) -> dict[str, Value]:
        """A comm's state, or some traits of it."""
        return {name: self.trait(name, value) for name, value in usable_items(state)}

    def _reference(self, data: bytes, media_type: str) -> dict[str, Any]:
        media_type = blob_media_type(media_type) or _fallback(media_type)
        blob = Blob(sha256(data).hexdigest(), media_type, data)
        self.blobs.append(blob)
        return {"blob": blob.hash, "size": len(data), "media_type": media_type}

    def _without_buffers(self, value: Any, path: list[str | int], buffers: list[dict[str, Any]]) -> Any:
        """A copy without the bytes in it: map keys go, list items become null; depth is bounded by the caller."""
        if isinstance(value, dict):
            kept = {}
            for key, item in value.items():
                if _is_buffer(item):
                    self._take(item, [*path, clean(key)], buffers)
                else:
                    kept[key] = self._without_buffers(item, [*path, clean(key)], buffers)
            return kept
        if isinstance(value, (list, tuple)):
            items: list[Any] = []
            for index, item in enumerate(value):
                if _is_buffer(item):
                    self._take(item, [*path, index], buffers)
                    items.append(None)
                else:
                    items.append(self._without_buffers(item, [*path, index], buffers))
            return items
        return value

    def _take(self, data: bytes | bytearray | memoryview, path: list[str | int], buffers: list[dict[str, Any]]) -> None:
        reference = self.binary(data)
        if isinstance(reference, dict):
            buffers.append({"path": path, **reference})

    def _cut(self, data: bytes) -> bytes:
        self.cut = max(self.cut, len(data))
        head = data[: MAX_VALUE_BYTES - _CUT_NOTE_BYTES].decode(errors="ignore").encode()
        return head + f"\n[cut here: {len(data)} bytes in all]\n".encode()


_CUT_NOTE_BYTES = 100


def usable_items(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The items whose keys a document takes, surrogates replaced; at most `MAX_KEYS`."""
    items = mapping.items() if len(mapping) <= MAX_KEYS else islice(mapping.items(), MAX_KEYS)
    return [(key if key.isascii() else clean(key), value) for key, value in items if key and len(key) <= MAX_KEY_CHARS]


def encode_text(text: str, media_type: str = TEXT) -> tuple[Value, list[Blob]]:
    """Text as a value, and the blobs that it names."""
    encoder = Encoder()
    return encoder.text(text, media_type), encoder.blobs


def encode_mime_value(mime: str, raw: object) -> tuple[Value, list[Blob]]:
    """One value of a mime bundle (text, list of lines, base64, JSON), and the blobs that it names."""
    encoder = Encoder()
    return encoder.mime_value(mime, raw), encoder.blobs


def encode_trait(name: str, value: object) -> tuple[Value, list[Blob]]:
    """One trait of a comm's state (plain JSON, bytes anywhere in it), and the blobs that it names."""
    encoder = Encoder()
    return encoder.trait(name, value), encoder.blobs


def encode_attachments(attachments: Mapping[str, Any]) -> tuple[dict[str, dict[str, Value]], list[Blob]]:
    """A cell's attachments, `{name: {mime: raw}}` -> `{name: {mime: value}}`; what has no such shape is left out."""
    encoder = Encoder()
    encoded = {
        name: {mime: encoder.mime_value(mime, raw) for mime, raw in usable_items(bundle)}
        for name, bundle in usable_items(attachments)
        if isinstance(bundle, Mapping)
    }
    return encoded, encoder.blobs


def distinct(blobs: Sequence[Blob]) -> list[Blob]:
    """Each (hash, media type) once, in order."""
    return list({(blob.hash, blob.media_type): blob for blob in blobs}.values())


def _is_buffer(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview))


def _base64(text: str, *, canonical: bool) -> bytes | None:
    """The bytes, or None where encoding them again would not give this text back, white space aside if not `canonical`."""
    compact = text if canonical else "".join(text.split())
    try:
        data = a2b_base64(compact, strict_mode=True)
    except (Base64Error, ValueError):
        return None
    # Strict mode leaves one freedom, the unused bits of the last group.
    last = len(data) % 3 or 3
    return data if b64encode(data[-last:]).decode() == compact[-4:] else None


def _fallback(media_type: str) -> str:
    """How a blob is stored whose media type is not well formed: as what its kind is read as."""
    return {"json": JSON, "text": TEXT, "bytes": BYTES}[media_kind(media_type)]
