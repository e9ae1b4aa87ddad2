"""Names of documents, peers and states, as they are written outside.

A document id is base58check (two rounds of SHA-256, four bytes of check) of 16 bytes; its URL is `automerge:` and the
id. A change is named by its SHA-256; the names of the newest changes are the heads, and say which state is meant.
"""

import re
from collections.abc import Iterable
from typing import NewType, TypeAlias

import base58

from sync.core.limits import MAX_HEADS

DocumentId = NewType("DocumentId", str)
PeerId = NewType("PeerId", str)
SessionId = NewType("SessionId", str)
ActorId: TypeAlias = bytes
ChangeHash: TypeAlias = bytes
Heads: TypeAlias = tuple[bytes, ...]

URL_PREFIX = "automerge:"
_ID_BYTES = 16
_MAX_ID_CHARS = 28  # 20 bytes in base 58; decoding is quadratic, so longer texts are not even tried
_HEX_HASH = re.compile(r"[0-9a-f]{64}")


class InvalidIdentifier(ValueError):
    """A text from outside is not a document id, a document URL or a list of heads."""


def document_id(raw16: bytes) -> DocumentId:
    """The id of a document.

    Args:
        raw16: the 16 bytes of a UUID, any version.

    Raises:
        ValueError: not 16 bytes.
    """
    if len(raw16) != _ID_BYTES:
        raise ValueError(f"a document id is made of {_ID_BYTES} bytes, not {len(raw16)}")
    return DocumentId(base58.b58encode_check(raw16).decode("ascii"))


def parse_document_id(text: str) -> DocumentId:
    """Checks a document id from outside: alphabet, check bytes, length, and that it is the one way to write it.

    Raises:
        InvalidIdentifier: it is none.
    """
    if len(text) > _MAX_ID_CHARS:
        raise InvalidIdentifier("a document id has at most 28 characters")
    try:
        raw = base58.b58decode_check(text)
    except ValueError as error:
        raise InvalidIdentifier("not a document id: wrong characters or check bytes") from error
    # The library strips white space.
    if len(raw) != _ID_BYTES or base58.b58encode_check(raw) != text.encode():
        raise InvalidIdentifier("not a document id: it does not hold 16 bytes")
    return DocumentId(text)


def automerge_url(document: DocumentId) -> str:
    """The URL of a document."""
    return URL_PREFIX + document


def parse_automerge_url(text: str) -> DocumentId:
    """The document of a URL `automerge:ID`; heads behind a `#` name a state of it, and are left aside.

    Raises:
        InvalidIdentifier: it is no such URL.
    """
    if not text.startswith(URL_PREFIX):
        raise InvalidIdentifier("not an automerge URL")
    return parse_document_id(text.removeprefix(URL_PREFIX).partition("#")[0])


def heads_to_hex(heads: Iterable[ChangeHash]) -> list[str]:
    """Heads as they are written in events, requests and documents: lowercase hex, sorted, as `getHeads` gives them."""
    return sorted(head.hex() for head in heads)


def heads_from_hex(value: object) -> Heads:
    """Heads from a request or a document.

    Args:
        value: should be an array of 64 lowercase hex digits each.

    Returns:
        The hashes, sorted, each once.

    Raises:
        InvalidIdentifier: anything else, or more than MAX_HEADS.
    """
    if not isinstance(value, list | tuple):
        raise InvalidIdentifier("heads are an array of hex strings")
    if len(value) > MAX_HEADS:
        raise InvalidIdentifier(f"more than {MAX_HEADS} heads")
    hashes = set()
    for item in value:
        if not isinstance(item, str) or _HEX_HASH.fullmatch(item) is None:
            raise InvalidIdentifier("a head is 64 lowercase hex digits")
        hashes.add(bytes.fromhex(item))
    return tuple(sorted(hashes))
