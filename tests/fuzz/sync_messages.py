"""Sync messages: of both versions, with lists of any length, Bloom filters that kill, and capabilities of the future."""

from collections.abc import Sequence
from random import Random

from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.leb128 import encode_uleb
from sync.core.subscription import Subscription
from sync.core.sync_message import SyncMessageInvalid, decode_sync_message
from tests.fuzz.corpus import EDITS, base_document
from tests.fuzz.mutation import EDGES, damage
from tests.fuzz.target import Target

MAX_PAYLOAD = 256 * 1024
# One entry, ten bits, seven probes: what stock clients send; and those that make Automerge abort.
_BLOOMS = (
    b"",
    b"\x01\x0a\x07\x00\x00",
    b"\x01\x00\x07\x00\x00",
    b"\x01\x0a\xff\xff\xff\xff\x0f\x00\x00",
    b"\xff\xff\xff\xff\x0f\x0a\x07",
)


def make_sync_message(rng: Random, hashes: Sequence[bytes] = (), changes: Sequence[bytes] = ()) -> bytes:
    """A sync message; `hashes` are those that the receiver knows, `changes` chunks that it may take."""
    hashes = hashes or tuple(change.hash for change in EDITS)
    message = _message(rng, hashes, changes)
    return damage(rng, message, (b"\x42", b"\x43", b"\x02\x02\x84", b"\x02\x02\x86")) if rng.random() < 0.6 else message


def _message(rng: Random, hashes: Sequence[bytes], changes: Sequence[bytes]) -> bytes:
    def some_hashes() -> bytes:
        count = rng.choice((0, 0, 1, 1, 2, 5, 1001))
        known = [rng.choice(hashes) if rng.random() < 0.7 else rng.randbytes(32) for _ in range(count)]
        return _count(rng, count) + b"".join(known)

    have = rng.choice((0, 1, 1, 1, 2, 17))
    haves = b""
    for _ in range(have):
        bloom = rng.choice(_BLOOMS)
        haves += some_hashes() + _count(rng, len(bloom)) + bloom
    entries = [rng.choice(changes) if changes else rng.randbytes(9) for _ in range(rng.choice((0, 0, 1, 2)))]
    blobs = b"".join(_count(rng, len(entry)) + entry for entry in entries)
    tail = rng.choice((b"", b"", b"\x01\x02", b"\x02\x02\x84", b"\x02\x02\x86", b"\x02\x02\x87", b"\x03\x02\x84\xff"))
    kind = rng.choice((b"\x42", b"\x43", b"\x43"))
    return kind + some_hashes() + some_hashes() + _count(rng, have) + haves + _count(rng, len(entries)) + blobs + tail


def _count(rng: Random, count: int) -> bytes:
    if rng.random() < 0.03:
        return encode_uleb(rng.choice(EDGES[:-1]))
    return encode_uleb(count)


_DOCUMENT: Document = base_document(document_id(b"s" * 16))


async def feed_sync_message(data: bytes) -> str:
    """Read, taken by a subscription of a peer that may write, and answered with whatever is then due."""
    try:
        message = decode_sync_message(data)
    except SyncMessageInvalid:
        return "refused"
    subscription = Subscription(_DOCUMENT, origin=None, writable=True)
    for _ in range(2):
        subscription.receive(message)
    answers = 0
    while subscription.next_payload(MAX_PAYLOAD) is not None:
        answers += 1
        if answers > 3:
            raise AssertionError("one message is answered without an end")
    return f"{answers} answers"


SYNC_MESSAGES = Target("sync", make_sync_message, feed_sync_message)
