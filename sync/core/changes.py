"""Changes from peers, checked before they reach the Rust core.

The core trusts its input: a change of 115 bytes with 2 million operations takes it 5.8 s and 1 GB, operations that do
not exist make it panic or save a document that it can't load again, and damaged content is dropped without an error.
So chunks are parsed here first: checksum, size after inflating, the number of operations (from the run lengths, never
expanded), and that the columns fit each other.

What this can't see is whether the objects and operations that a change refers to exist: that needs the whole document.

A chunk: magic (4 bytes), checksum (4), type (1), length, body. Its hash is the SHA-256 of type, length and body; the
checksum is the hash's first four bytes. Type 2 is type 1 with a deflated body; checksum and hash are those of type 1.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Final

from sync.core.change_rows import COLUMNS, checking_rows, checking_writing, count_operations
from sync.core.identifiers import ActorId, ChangeHash
from sync.core.leb128 import Malformed, encode_uleb, read_sleb, read_uleb
from sync.core.limits import (
    MAX_ACTOR_BYTES,
    MAX_ACTORS,
    MAX_CHANGE_BYTES,
    MAX_CHANGE_OPS,
    MAX_CHANGES_BYTES,
    MAX_DEPS,
    MAX_DOCUMENT_OPS,
)
from sync.core.steps import Steps, run_through

MAGIC: Final = b"\x85\x6f\x4a\x83"


@dataclass(frozen=True, slots=True)
class ChangeLimits:
    """What changes may have at most.

    Attributes:
        max_ops: operations of one change, and as many predecessors of operations.
        max_op: the counter of the last operation.
        max_inflated_bytes: of one body.
        max_deps: changes that one builds on.
        max_actors: actors that one names.
        max_total_ops: operations of all changes in one blob.
        max_total_bytes: of all bodies in one blob.
    """

    max_ops: int = MAX_CHANGE_OPS
    max_op: int = MAX_DOCUMENT_OPS
    max_inflated_bytes: int = MAX_CHANGE_BYTES
    max_deps: int = MAX_DEPS
    max_actors: int = MAX_ACTORS
    max_total_ops: int = MAX_DOCUMENT_OPS
    max_total_bytes: int = MAX_CHANGES_BYTES


class ChangeRejected(Exception):
    """A chunk is not a change that we take.

    Attributes:
        reason: a clause, fit for an `error` frame and a log line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class CheckedChange:
    """A change that passed.

    Attributes:
        hash: SHA-256, 32 bytes.
        deps: hashes of the changes that it builds on.
        actor: who made it.
        seq: 1, 2, ... among the changes of its actor.
        start_op: the counter of its first operation.
        op_count: how many operations it has.
        chunk: as it was received.
        inflated_size: bytes of its body.
    """

    hash: ChangeHash
    deps: tuple[ChangeHash, ...]
    actor: ActorId
    seq: int
    start_op: int
    op_count: int
    chunk: bytes
    inflated_size: int

    @property
    def max_op(self) -> int:
        """The counter of the last operation. A change without operations has that of the one before it."""
        return self.start_op + self.op_count - 1


def split_chunks(blob: bytes) -> list[bytes]:
    """Cuts a run of chunks apart, by their lengths alone.

    Raises:
        ChangeRejected: wrong magic, cut off, or bytes behind the last chunk.
    """
    chunks = []
    position = 0
    while position < len(blob):
        _, _, end = _read_header(blob, position)
        chunks.append(blob[position:end])
        position = end
    return chunks


def check_changes(blob: bytes, limits: ChangeLimits = ChangeLimits()) -> list[CheckedChange]:
    """Checks a run of chunks, such as all changes of one sync message joined.

    Raises:
        ChangeRejected: one of them is not a change that we take; none of them should be taken then.
    """
    return run_through(checking_changes(blob, limits))


def checking_changes(blob: bytes, limits: ChangeLimits = ChangeLimits()) -> Steps[list[CheckedChange]]:
    """As `check_changes`, in steps: a change takes 20 us to 300 ms."""
    ops = size = 0
    changes = []
    for chunk in split_chunks(blob):
        checked = yield from _checking_change(chunk, limits)
        ops += checked.op_count
        size += checked.inflated_size
        if ops > limits.max_total_ops or size > limits.max_total_bytes:
            raise ChangeRejected(
                f"more than {limits.max_total_ops} operations or {limits.max_total_bytes} bytes at once"
            )
        changes.append(checked)
        yield
    return changes


def check_change(chunk: bytes, limits: ChangeLimits = ChangeLimits()) -> CheckedChange:
    """Checks one chunk.

    Time and memory are bounded by `limits.max_ops` and `limits.max_inflated_bytes`.

    Raises:
        ChangeRejected: it is not a change that we take.
    """
    return run_through(_checking_change(chunk, limits))


def _checking_change(chunk: bytes, limits: ChangeLimits) -> Steps[CheckedChange]:
    kind, start, end = _read_header(chunk, 0)
    if end != len(chunk):
        raise ChangeRejected("bytes behind a change")
    if kind == _DEFLATED_CHANGE:
        body = _inflate(chunk[start:], limits.max_inflated_bytes)
    elif kind == _CHANGE:
        body = chunk[start:]
        if len(body) > limits.max_inflated_bytes:
            raise ChangeRejected(f"a change of more than {limits.max_inflated_bytes} bytes")
    else:
        raise ChangeRejected(f"a chunk of {_OTHER_TYPES.get(kind, 'an unknown type')}; only changes are taken")
    digest = _hash(body)
    if digest[:4] != chunk[4:8]:
        raise ChangeRejected("the checksum of a change is wrong")
    try:
        return (yield from _checking_body(body, digest, chunk, limits))
    except Malformed as error:
        raise ChangeRejected(f"a malformed change: {error}") from error


def _read_header(blob: bytes, position: int) -> tuple[int, int, int]:
    """Type of the chunk at `position`, start and end of its body."""
    if blob[position : position + 4] != MAGIC:
        raise ChangeRejected("not a chunk of Automerge's format")
    if position + _HEADER_BYTES > len(blob):
        raise ChangeRejected("a chunk is cut off")
    try:
        length, start = read_uleb(blob, position + _HEADER_BYTES, len(blob))
    except Malformed as error:
        raise ChangeRejected(f"the length of a chunk is malformed: {error}") from error
    if length > len(blob) - start:
        raise ChangeRejected("a chunk is cut off")
    return blob[position + 8], start, start + length


def _inflate(deflated: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        # One byte more than allowed tells "too long" from "just as long".
        body = inflater.decompress(deflated, max_bytes + 1)
    except zlib.error as error:
        raise ChangeRejected("a deflated change can't be inflated") from error
    if len(body) > max_bytes:
        raise ChangeRejected(f"a change of more than {max_bytes} bytes")
    if not inflater.eof or inflater.unused_data:
        raise ChangeRejected("a deflated change is cut off, or followed by other bytes")
    return body


@dataclass(frozen=True, slots=True)
class ChangeBody:
    """A change's body, and where in it things are; `actors` are all that it names, its own first."""

    body: bytes
    deps: tuple[ChangeHash, ...]
    actors: tuple[ActorId, ...]
    seq: int
    start_op: int
    columns: Mapping[int, tuple[int, int]]

    @property
    def hash(self) -> ChangeHash:
        """Of the change."""
        return _hash(self.body)


def open_change(chunk: bytes) -> ChangeBody:
    """Reads a change that was checked, or that this daemon made.

    Raises:
        Malformed: it is none.
    """
    kind, start, _ = _read_header(chunk, 0)
    body = chunk[start:] if kind == _CHANGE else zlib.decompress(chunk[start:], wbits=-zlib.MAX_WBITS)
    return _read_body(body, _OWN_LIMITS)


def _hash(body: bytes) -> ChangeHash:
    return sha256(b"\x01" + encode_uleb(len(body)) + body).digest()


def _checking_body(body: bytes, digest: bytes, chunk: bytes, limits: ChangeLimits) -> Steps[CheckedChange]:
    opened = _read_body(body, limits)
    columns, start_op, actors = opened.columns, opened.start_op, len(opened.actors)
    op_count = count_operations(body, columns, limits.max_ops)
    if start_op + op_count - 1 > limits.max_op:
        raise Malformed("an operation counter that can't be")
    next_op = start_op + op_count
    yield from checking_rows(body, columns, op_count, actors=actors, next_op=next_op, max_preds=limits.max_ops)
    yield from checking_writing(body, columns, actors)
    return CheckedChange(
        hash=digest,
        deps=opened.deps,
        actor=opened.actors[0],
        seq=opened.seq,
        start_op=start_op,
        op_count=op_count,
        chunk=chunk,
        inflated_size=len(body),
    )


def _read_body(body: bytes, limits: ChangeLimits) -> ChangeBody:
    end = len(body)
    count, position = _read_length(body, 0, end, limits.max_deps, "dependencies")
    behind = _behind(position, count * _HASH_BYTES, end)
    deps = tuple(body[at : at + _HASH_BYTES] for at in range(position, behind, _HASH_BYTES))
    if any(one >= other for one, other in pairwise(deps)):
        raise Malformed("dependencies are not in order")
    actor, position = _read_actor(body, behind, end)
    seq, position = read_uleb(body, position, end)
    start_op, position = read_uleb(body, position, end)
    # The core counts operations in 32 bits and breaks beyond; a counter above the number of operations of the whole
    # document is not honest in any case.
    if not 1 <= start_op <= limits.max_op + 1 or not 1 <= seq <= limits.max_op:
        raise Malformed("a sequence number or operation counter that can't be")
    time, position = read_sleb(body, position, end)
    if abs(time) > _MAX_TIME:
        raise Malformed("a time that is none")
    length, position = read_uleb(body, position, end)
    behind = _behind(position, length, end)
    try:
        body[position:behind].decode()
    except UnicodeDecodeError as error:
        raise Malformed("a message that is not UTF-8") from error
    count, position = _read_length(body, behind, end, limits.max_actors, "actors")
    actors = [actor]
    previous = b""
    for _ in range(count):
        other, position = _read_actor(body, position, end)
        if other <= previous or other == actor:
            raise Malformed("actors are not in order")
        previous = other
        actors.append(other)
    return ChangeBody(body, deps, tuple(actors), seq, start_op, _read_columns(body, position, end))


def _read_columns(body: bytes, position: int, end: int) -> dict[int, tuple[int, int]]:
    """Start and end of each column in the body, by its specification."""
    count, position = _read_length(body, position, end, len(COLUMNS), "columns")
    lengths = []
    previous = -1
    for _ in range(count):
        column, position = read_uleb(body, position, end)
        length, position = read_uleb(body, position, end)
        if column not in COLUMNS:
            # Also those with the bit for "deflated" (8), which only whole documents use.
            raise Malformed(f"a column of unknown kind {column:#x}")
        if column <= previous:
            raise Malformed("columns are not in order")
        previous = column
        lengths.append((column, length))
    columns = {}
    for column, length in lengths:
        start, position = position, _behind(position, length, end)
        columns[column] = (start, position)
    if position != end:
        # Kept by the Python library for later versions of the format; the JavaScript library panics on some (measured).
        raise Malformed("bytes behind the columns")
    return columns


def _read_actor(body: bytes, position: int, end: int) -> tuple[ActorId, int]:
    length, position = _read_length(body, position, end, MAX_ACTOR_BYTES, "bytes in an actor id")
    behind = _behind(position, length, end)
    return body[position:behind], behind


def _read_length(body: bytes, position: int, end: int, limit: int, what: str) -> tuple[int, int]:
    length, position = read_uleb(body, position, end)
    if length > limit:
        raise Malformed(f"more than {limit} {what}")
    return length, position


def _behind(position: int, size: int, end: int) -> int:
    if size > end - position:
        raise Malformed("a part is cut off")
    return position + size


# What this daemon writes in one transaction is bounded where it writes it.
_OWN_LIMITS = ChangeLimits(max_op=2**32)
_CHANGE, _DEFLATED_CHANGE = 1, 2
_OTHER_TYPES = {0: "a whole document", 3: "a bundle of changes"}
_HEADER_BYTES = 9  # magic, checksum, type; the length follows
_HASH_BYTES = 32
_MAX_TIME = 2**53  # what a number of JavaScript holds; the core subtracts times in 64 bits
