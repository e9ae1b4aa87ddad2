"""Automerge sync messages: heads, what is needed, what is there, and changes.

The layout, each list behind its length: type (0x42 version 1, 0x43 version 2), heads, need, have (hashes of the last
sync and a Bloom filter each), changes (version 1: one chunk an entry; version 2: none or one run of chunks), and in
newer libraries a list of capability bytes. Bloom filters are skipped unread: sizes in one can make Automerge abort, and
pushed sync has no use for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sync.core.identifiers import ChangeHash, Heads
from sync.core.leb128 import Malformed, encode_uleb, read_uleb
from sync.core.limits import MAX_HAVE, MAX_HEADS, MAX_SYNC_ENTRIES


class SyncMessageInvalid(Exception):
    """The bytes are not a sync message, or it breaks a bound."""


@dataclass(frozen=True, slots=True)
class SyncMessage:
    """A peer's sync message.

    Attributes:
        heads: the sender's, sorted.
        need: changes that the sender asks for, in its order.
        last_sync: for each entry of `have`, the heads that the sender shares with us.
        changes: runs of chunks, unchecked.
        read_only: the sender says that we may not write.
        reset: the sender asks to begin the sync anew.
        supports_reset: the sender understands the two flags above.
        supports_v2: the sender says that it reads version 2, or writes it.
    """

    heads: Heads
    need: tuple[ChangeHash, ...]
    last_sync: tuple[tuple[ChangeHash, ...], ...]
    changes: tuple[bytes, ...]
    read_only: bool
    reset: bool
    supports_reset: bool
    supports_v2: bool


def decode_sync_message(data: bytes) -> SyncMessage:
    """Reads a peer's sync message; what stands behind the capability list (of some later version) is skipped.

    Raises:
        SyncMessageInvalid: unknown type, cut off, or more than MAX_HEADS, MAX_HAVE or MAX_SYNC_ENTRIES of something.
    """
    return _decode_small(data) if len(data) <= _SMALL_BYTES else _decode(data)


def _decode(data: bytes) -> SyncMessage:
    if not data or data[0] not in (_VERSION_1, _VERSION_2):
        raise SyncMessageInvalid("unknown type of sync message")
    end = len(data)
    try:
        heads, position = _read_hashes(data, 1, end)
        need, position = _read_hashes(data, position, end)
        have, position = _read_count(data, position, end, MAX_HAVE)
        last_sync = []
        for _ in range(have):
            hashes, position = _read_hashes(data, position, end)
            bloom, position = read_uleb(data, position, end)
            position = _behind(position, bloom, end)
            last_sync.append(hashes)
        entries, position = _read_count(data, position, end, MAX_SYNC_ENTRIES)
        changes = []
        for _ in range(entries):
            size, start = read_uleb(data, position, end)
            position = _behind(start, size, end)
            changes.append(data[start:position])
        flags, supports_v2 = 0, data[0] == _VERSION_2
        if position < end:
            count, start = read_uleb(data, position, end)
            capabilities = data[start : _behind(start, count, end)]
            supports_v2 = supports_v2 or _CAN_VERSION_2 in capabilities
            for capability in capabilities:
                if capability & _IS_FLAGS:
                    flags |= capability
    except Malformed as error:
        raise SyncMessageInvalid(f"malformed sync message: {error}") from error
    return SyncMessage(
        heads=tuple(sorted(heads)),
        need=need,
        last_sync=tuple(last_sync),
        changes=tuple(changes),
        read_only=bool(flags & _READ_ONLY),
        reset=bool(flags & _RESET),
        supports_reset=bool(flags & _SUPPORTS_RESET),
        supports_v2=supports_v2,
    )


# All peers of a document acknowledge a commit in the same words, within milliseconds of one another.
_SMALL_BYTES = 256
_decode_small = lru_cache(maxsize=64)(_decode)


def encode_sync_message(
    heads: Sequence[ChangeHash],
    *,
    need: Sequence[ChangeHash] = (),
    have: Sequence[ChangeHash] | None,
    changes: Sequence[bytes] = (),
    read_only: bool | None,
) -> bytes:
    """Writes a sync message of version 2.

    Args:
        heads: where the receiver is after `changes`, sorted.
        need: changes that the receiver should send.
        have: hashes of the only entry of `have`, with an empty Bloom filter: the receiver answers with just what is not
            behind these. None: no entry, it answers with nothing.
        changes: runs of chunks; they are joined.
        read_only: what the list of capabilities says. True: the receiver may not write; stock clients then keep their
            changes to themselves. False: it may (again). None: there is no list.
            Stock clients read any list, even an empty one, as "takes version 2", and then send their whole document in
            place of changes whenever these are more than a third of all (measured with JavaScript's library 3.5: the
            first edit of a document of one change). Without a list they send changes, as version 1. What a list once
            said holds until the next list or connection.
    """
    blob_size = sum(map(len, changes))
    parts = [_VERSION_2_BYTE, encode_uleb(len(heads)), *heads, encode_uleb(len(need)), *need]
    if have is None:
        parts.append(b"\x00")
    else:
        parts += [b"\x01", encode_uleb(len(have)), *have, b"\x00"]
    if blob_size:
        parts += [b"\x01", encode_uleb(blob_size), *changes]
    else:
        parts.append(b"\x00")
    if read_only is not None:
        parts.append(_TAIL_READ_ONLY if read_only else _TAIL_WRITABLE)
    return b"".join(parts)


def wrap_changes(chunks: Sequence[bytes]) -> bytes:
    """A message that brings chunks into a document through a fresh SyncState: no heads, so its cost is the chunks'."""
    size = sum(map(len, chunks))
    if not size:
        return _NOTHING_SAID + b"\x00"
    return b"".join((_NOTHING_SAID, b"\x01", encode_uleb(size), *chunks))


def _read_hashes(data: bytes, position: int, end: int) -> tuple[tuple[ChangeHash, ...], int]:
    count, start = _read_count(data, position, end, MAX_HEADS)
    position = _behind(start, count * _HASH_BYTES, end)
    return tuple(data[at : at + _HASH_BYTES] for at in range(start, position, _HASH_BYTES)), position


def _read_count(data: bytes, position: int, end: int, limit: int) -> tuple[int, int]:
    count, position = read_uleb(data, position, end)
    if count > limit:
        raise Malformed(f"a list of {count} entries, {limit} are allowed")
    return count, position


def _behind(position: int, size: int, end: int) -> int:
    if size > end - position:
        raise Malformed("a part is cut off")
    return position + size


_VERSION_1, _VERSION_2 = 0x42, 0x43
_VERSION_2_BYTE = b"\x43"
_NOTHING_SAID = b"\x43\x00\x00\x00"  # version 2; no heads, no need, no have
_HASH_BYTES = 32
_CAN_VERSION_2 = 0x02
_IS_FLAGS, _RESET, _READ_ONLY, _SUPPORTS_RESET = 0x80, 0x01, 0x02, 0x04
# Two capabilities: version 2, and flags (reset is understood).
_TAIL_WRITABLE = bytes((2, _CAN_VERSION_2, _IS_FLAGS | _SUPPORTS_RESET))
_TAIL_READ_ONLY = bytes((2, _CAN_VERSION_2, _IS_FLAGS | _SUPPORTS_RESET | _READ_ONLY))
