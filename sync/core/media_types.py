"""Media types as the wire reads them (docs/wire.md, "Reading a blob")."""

import re
from functools import lru_cache
from typing import Literal, TypeAlias

MediaKind: TypeAlias = Literal["json", "text", "bytes"]

TEXT = "text/plain"
JSON = "application/json"
BYTES = "application/octet-stream"

# RFC 6838 names, less the characters that a file name or a header would have to escape; 127 is that RFC's limit on
# each half, taken here for the whole so that a media type fits a file name.
_WELL_FORMED = re.compile(r"[a-z0-9][a-z0-9._+-]*/[a-z0-9][a-z0-9._+-]*")
_LONGEST = 127
_TEXT_OUTSIDE_TEXT = frozenset({"application/javascript", "application/xml", "image/svg+xml"})
# Of what is no text: registered as binary, so that it can be nothing but base64 in a mime bundle.
_BINARY_TREES = ("image/", "audio/", "video/", "font/")
_BINARY_SUFFIXES = ("+zip", "+gzip", "+cbor")
_BINARY = frozenset(
    {BYTES, "application/pdf", "application/zip", "application/gzip", "application/wasm", "application/cbor"}
)


# A kernel can invent media types without end; the usual ones of a session are a few dozen.
@lru_cache(maxsize=512)
def media_kind(media_type: str) -> MediaKind:
    """How a blob of this type is read: parsed as JSON, as UTF-8 text, or as bytes (base64 in a notebook file)."""
    essence = _essence(media_type)
    if essence == JSON or essence.endswith("+json"):
        return "json"
    if essence.startswith("text/") or essence.endswith("+xml") or essence in _TEXT_OUTSIDE_TEXT:
        return "text"
    return "bytes"


@lru_cache(maxsize=512)
def is_binary(media_type: str) -> bool:
    """Whether this type is registered as binary; of another one that `media_kind` reads as bytes nobody knows."""
    essence = _essence(media_type)
    return media_kind(essence) == "bytes" and (
        essence.startswith(_BINARY_TREES) or essence.endswith(_BINARY_SUFFIXES) or essence in _BINARY
    )


@lru_cache(maxsize=512)
def blob_media_type(media_type: str) -> str | None:
    """The lower-case type without parameters, or None if it is not well formed.

    It ends in a `Content-Type` header and in a file name, and a kernel may send anything as the key of a mime bundle.
    """
    essence = _essence(media_type)
    if len(essence) <= _LONGEST and _WELL_FORMED.fullmatch(essence):
        return essence
    return None


def _essence(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()
