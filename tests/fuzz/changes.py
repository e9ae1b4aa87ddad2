"""Changes of Automerge: real ones, damaged in a column, a field or anywhere, their checksums repaired.

So they pass as far as a hostile peer can make them pass: through the check, through the rules of the document, and into the
Rust core. Whatever was taken must be readable, must load again from the log, and no peer may be told what others can't load.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from typing import Any

from sync.core.binding import Replica
from sync.core.change_rows import COLUMNS
from sync.core.changes import MAGIC, ChangeRejected, CheckedChange, check_changes
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.leb128 import encode_uleb, read_sleb, read_uleb
from sync.core.limits import MAX_SKIPPED_OPS
from sync.core.notebook_schema import NotebookSchema
from sync.core.peer_changes import PeerChanges, groups
from sync.core.steps import run_through
from sync.core.subscription import Subscription
from tests.fuzz.corpus import RUNTIME_URL, STEPS, document_with
from tests.fuzz.mutation import EDGES, choose, damage
from tests.fuzz.target import Target

_SPECIFICATIONS = sorted(COLUMNS)
_WORDS = (b"\x7f", b"\x00\x01", b"\x02", b"\x7e", b"\xff\xff\xff\x07", b"\x7f\x00")


@dataclass(frozen=True)
class ChangeParts:
    """A change taken apart; numbers as they are written, so that wrong ones can be said as well."""

    deps: Sequence[bytes]
    actor: bytes
    seq: int
    start_op: int
    time: bytes
    message: bytes
    others: Sequence[bytes]
    columns: Sequence[tuple[int, bytes]]
    rest: bytes = b""

    @classmethod
    def of(cls, chunk: bytes) -> "ChangeParts":
        """Reads a valid change."""
        _, start = read_uleb(chunk, 9, len(chunk))
        body = chunk[start:] if chunk[8] == 1 else zlib.decompress(chunk[start:], wbits=-15)
        end = len(body)
        count, position = read_uleb(body, 0, end)
        deps = [body[at : at + 32] for at in range(position, position + 32 * count, 32)]
        actor, position = _sized(body, position + 32 * count)
        seq, position = read_uleb(body, position, end)
        start_op, position = read_uleb(body, position, end)
        _, behind = read_sleb(body, position, end)
        time = body[position:behind]
        message, position = _sized(body, behind)
        count, position = read_uleb(body, position, end)
        others = []
        for _ in range(count):
            other, position = _sized(body, position)
            others.append(other)
        count, position = read_uleb(body, position, end)
        lengths = []
        for _ in range(count):
            column, position = read_uleb(body, position, end)
            length, position = read_uleb(body, position, end)
            lengths.append((column, length))
        columns = []
        for column, length in lengths:
            columns.append((column, body[position : position + length]))
            position += length
        return cls(deps, actor, seq, start_op, time, message, others, columns, body[position:])

    def body(self) -> bytes:
        """What the checksum is of."""
        return b"".join(
            (
                *(encode_uleb(len(self.deps)), *self.deps, encode_uleb(len(self.actor)), self.actor),
                *(encode_uleb(self.seq), encode_uleb(self.start_op), self.time),
                *(encode_uleb(len(self.message)), self.message, encode_uleb(len(self.others))),
                *(part for other in self.others for part in (encode_uleb(len(other)), other)),
                encode_uleb(len(self.columns)),
                *(encode_uleb(column) + encode_uleb(len(data)) for column, data in self.columns),
                *(data for _, data in self.columns),
                self.rest,
            )
        )


def _sized(body: bytes, position: int) -> tuple[bytes, int]:
    length, position = read_uleb(body, position, len(body))
    return body[position : position + length], position + length


def chunk_of(body: bytes, *, deflated: bool = False) -> bytes:
    """A chunk whose checksum is right."""
    digest = sha256(b"\x01" + encode_uleb(len(body)) + body).digest()
    content = body
    if deflated:
        deflater = zlib.compressobj(wbits=-15)
        content = deflater.compress(body) + deflater.flush()
    return MAGIC + digest[:4] + (b"\x02" if deflated else b"\x01") + encode_uleb(len(content)) + content


@dataclass(frozen=True)
class ChangeInput:
    """What a document holds, and what a peer then sends."""

    before: Sequence[CheckedChange] = field(repr=False)
    blob: bytes

    def __repr__(self) -> str:
        return f"after {len(self.before)} changes: {self.blob.hex()}"


def make_change(rng: Random) -> ChangeInput:
    """A document, and one change or two that may fit it."""
    before, change = rng.choice(STEPS)
    blob = make_chunk(rng, change.chunk)
    if rng.random() < 0.05:
        blob += make_chunk(rng, rng.choice(STEPS)[1].chunk)
    return ChangeInput(before, blob)


def make_chunk(rng: Random, chunk: bytes) -> bytes:
    """A damaged change."""
    match choose(
        rng,
        (8, "column"),
        (8, "nudge"),
        (4, "fields"),
        (2, "columns"),
        (2, "body"),
        (1, "chunk"),
        (1, "right"),
        (0.01, "bomb"),
    ):
        case "right":
            return chunk
        case "chunk":
            return damage(rng, chunk, (MAGIC,))
        case "bomb":
            return _bomb(rng)
        case "body":
            return chunk_of(damage(rng, ChangeParts.of(chunk).body()), deflated=rng.random() < 0.3)
        case "column":
            parts = _in_a_column(rng, ChangeParts.of(chunk), damage)
        case "nudge":
            parts = ChangeParts.of(chunk)
            for _ in range(rng.choice((1, 1, 2, 4))):
                parts = _in_a_column(rng, parts, _nudged)
        case "columns":
            parts = _with_other_columns(rng, ChangeParts.of(chunk))
        case _:
            parts = _with_other_fields(rng, ChangeParts.of(chunk))
    return chunk_of(parts.body(), deflated=rng.random() < 0.2)


def _in_a_column(rng: Random, parts: ChangeParts, how: Any) -> ChangeParts:
    if not parts.columns:
        return parts
    columns = list(parts.columns)
    at = rng.randrange(len(columns))
    column, data = columns[at]
    columns[at] = (column, how(rng, data, _WORDS))
    return replace(parts, columns=columns)


def _nudged(rng: Random, data: bytes, _words: Sequence[bytes]) -> bytes:
    """One byte a little more or less: often another object, element, predecessor, length or kind of value."""
    if not data:
        return data
    out = bytearray(data)
    at = rng.randrange(len(out))
    out[at] = (out[at] + rng.choice((1, -1, 2, -2, 16, -16, rng.randrange(128)))) & 0x7F
    return bytes(out)


def _with_other_columns(rng: Random, parts: ChangeParts) -> ChangeParts:
    columns = list(parts.columns)
    if not columns:
        return parts
    at, other = rng.randrange(len(columns)), rng.randrange(len(columns))
    match rng.randrange(4):
        case 0:
            del columns[at]
        case 1:
            columns[at], columns[other] = (columns[at][0], columns[other][1]), (columns[other][0], columns[at][1])
        case 2:
            columns.append((rng.choice(_SPECIFICATIONS), columns[at][1]))
            columns.sort()
        case _:
            columns[at] = (columns[at][0] ^ rng.choice((1, 2, 4, 8, 0x10)), columns[at][1])
    return replace(parts, columns=columns)


def _with_other_fields(rng: Random, parts: ChangeParts) -> ChangeParts:
    someone = rng.choice((b"\x01" * 16, b"\x02" * 16, b"", rng.randbytes(16), rng.randbytes(65), bytes(16)))
    some_hash = rng.choice((rng.choice(STEPS)[1].hash, rng.randbytes(32)))
    number = rng.choice((*EDGES[:-1], parts.start_op + 1, parts.start_op - 1, parts.start_op * 2, 1_999_999))
    match rng.randrange(9):
        case 0:
            return replace(parts, deps=[])
        case 1:
            return replace(parts, deps=[*parts.deps, some_hash])
        case 2:
            return replace(parts, deps=[some_hash])
        case 3:
            return replace(parts, actor=someone)
        case 4:
            return replace(parts, seq=rng.choice((parts.seq + 1, max(parts.seq - 1, 0), 0, abs(number))))
        case 5:
            return replace(parts, start_op=abs(number))
        case 6:
            return replace(parts, time=rng.choice((b"\xff" * 9 + b"\x7f", b"\x80" * 9 + b"\x7f", b"\x7f")))
        case 7:
            return replace(parts, message=rng.choice((b"\xff", b"x" * 5000)))
        case _:
            return replace(parts, others=sorted([*parts.others, someone]))


def _bomb(rng: Random) -> bytes:
    """A few bytes that inflate to very many, or very many operations."""
    if rng.random() < 0.5:
        return chunk_of(bytes(rng.choice((2**20, 9 * 2**20, 32 * 2**20))), deflated=True)
    _, change = rng.choice(STEPS)
    parts = ChangeParts.of(change.chunk)
    run = encode_uleb(rng.choice((100_001, 2_000_000, 2**31, 2**40)))
    columns = [(column, run + data[1:]) for column, data in parts.columns]
    return chunk_of(replace(parts, columns=columns).body())


def read_notebook(replica: Replica) -> None:
    """All that the daemon ever reads of a notebook document."""
    NotebookSchema.read_cells(replica)
    for cell_id in NotebookSchema.cell_ids(replica):
        NotebookSchema.read_cell_type(replica, cell_id)
    NotebookSchema.read_kernel_name(replica)
    NotebookSchema.read_metadata(replica)


class RefusedPeer:
    """Receives what the doc-writer says of its changes."""

    peer_id = "peer"

    def __init__(self) -> None:
        self.refused: list[str] = []

    def wake(self) -> None:
        pass

    def push(self, notice: object) -> None:
        raise AssertionError(notice)

    def send_error(self, *error: object) -> None:
        raise AssertionError(error)

    def may_write(self, document: Document) -> bool:
        del document
        return not self.refused

    def refuse_changes(self, subscription: Subscription, reason: str) -> None:
        subscription.make_read_only()
        self.refused.append(reason)


async def feed_change(given: ChangeInput) -> str:
    """Through the check and the rules of the document; what it then holds must be sound."""
    try:
        changes = check_changes(given.blob)
    except ChangeRejected:
        return "rejected"
    document = document_with(_ID, given.before)
    cells = NotebookSchema.cells_object(document.replica)
    subscription, peer, queue = Subscription(document, origin=None, writable=True), RefusedPeer(), PeerChanges(document)
    for group in groups(changes):
        queue.add(peer, subscription, group)
    taken = 0
    while queue.waiting:
        taken += len(run_through(queue.taking()).changes)
    if document.replica.heads() != document.log.heads():
        raise AssertionError("the replica is not what the log says")
    if document.log.max_op(document.heads()) > document.operations + MAX_SKIPPED_OPS:
        raise AssertionError("numbers of operations are used up that nobody made")
    if not taken:
        return "refused" if peer.refused else "kept waiting"
    read_notebook(document.replica)
    restoration = NotebookSchema.restore_roots(document.replica, RUNTIME_URL, cells)
    if restoration is not None:
        document.commit(restoration)
    again = Replica()
    again.apply([document.log.payload(0, len(document.log))])
    if again.heads() != document.log.heads():
        raise AssertionError("the log does not load again")
    return "taken" if can_be_saved(document) else "taken, never to be saved"


def can_be_saved(document: Document) -> bool:
    """Whether the document loads again as one chunk. With predecessors under another key, or of another object, it does not:
    the core takes these; `sync.compact` finds it out in a process of its own, and such a document is sent as changes.
    """
    try:
        return Replica.load(document.replica.save()).heads() == document.log.heads()
    except Exception:  # the core has no exceptions of its own
        return False


_ID = document_id(b"n" * 16)

CHANGES: Target[ChangeInput] = Target("changes", make_change, feed_change)
