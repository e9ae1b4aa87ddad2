"""The one door to Automerge's Python binding (automerge.core 1.0.0rc1), with its traps closed.

Measured on the real binding:

- A panic of the Rust core arrives as a `PanicException`, which is no `Exception`: uncaught it would end every task.
- A panic in a read harms nothing. A Counter or a date beyond the year 9999, which any JavaScript peer may write, panics
  when it is read: such a value is `OPAQUE` here. (The core also prints a line on stderr, and a backtrace where
  RUST_BACKTRACE is set.)
- A panic in a write or a receive leaves a lock poisoned: every later call fails for ever. The replica then raises
  `Poisoned`, and its owner builds a new one from its log of changes.
- Freeing a document whose transaction never ended crashes the process.
- A binary value reads back as a list of integers, a date as local time without a zone.
- The kinds of objects equal numbers: `ObjType.Map == False`, so a value could pass for a map. Reads give a `Kind`.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NoReturn, Protocol, TypeAlias, cast

from automerge import core
from automerge.core import ROOT, ObjType, ScalarType

from sync.core.identifiers import ActorId, ChangeHash, Heads
from sync.core.leb128 import encode_uleb, read_uleb
from sync.core.sync_message import wrap_changes

__all__ = [
    "OPAQUE",
    "ROOT",
    "BindingPanic",
    "Change",
    "Chunk",
    "Found",
    "Kind",
    "ObjId",
    "ObjType",
    "Opaque",
    "Poisoned",
    "Reader",
    "Replica",
    "ScalarType",
    "Transaction",
    "Value",
    "object_id",
    "same_object",
]


class BindingPanic(Exception):
    """The Rust core panicked while it wrote or received: the replica is lost."""


class Poisoned(Exception):
    """This replica was lost in an earlier panic; its owner has to build it anew."""


class Opaque(Enum):
    """The type of OPAQUE: a value that is there, but that this binding cannot read."""

    OPAQUE = "opaque"


OPAQUE = Opaque.OPAQUE


class Kind(Enum):
    """What an object is, where one is read; the core's `ObjType` is for writes."""

    MAP = "map"
    LIST = "list"
    TEXT = "text"


# Names an object: bytes of the binding's own, valid in every replica of the document and in what is loaded from it.
ObjId: TypeAlias = bytes
Chunk: TypeAlias = bytes
Value: TypeAlias = str | int | float | bool | bytes | datetime | None | Kind | Opaque
# A value, and the object's id where the value is an object.
Found: TypeAlias = tuple[Value, ObjId]


class Change(Protocol):
    """What the binding tells of a change (its class is not there to be imported).

    `bytes` is the chunk, deflated where that pays; `raw_bytes` never is. Operations count from `start_op` to `max_op`.
    """

    hash: ChangeHash
    deps: list[ChangeHash]
    actor_id: ActorId
    seq: int
    start_op: int
    max_op: int
    bytes: Chunk
    raw_bytes: Chunk


def same_object(one: ObjId, other: ObjId) -> bool:
    """Whether two ids name one object: an id also holds where its author stands in a table, which is told apart here."""
    return _author_and_counter(one) == _author_and_counter(other)


def object_id(actor: ActorId, counter: int) -> ObjId:
    """Names the object that an operation made; the core finds the author's place in its table by itself."""
    return b"\x10" + encode_uleb(len(actor)) + actor + b"\x00" + encode_uleb(counter)


class Reader(Protocol):
    """What can be read of a document; `Replica` and `Transaction` (which sees its own writes) both have it.

    With `heads` it is the document as it was then; unknown heads read as an empty document. An object that was
    overwritten or deleted can still be read by its id.
    """

    def get(self, obj: ObjId, key: str | int, heads: Heads | None = None) -> Found | None:
        """The value at a key or an index; None where there is none. Dates are in UTC."""
        ...

    def keys(self, obj: ObjId, heads: Heads | None = None) -> list[str]:
        """The keys of a map, sorted; none for anything else."""
        ...

    def items(self, obj: ObjId, heads: Heads | None = None) -> list[Found] | None:
        """All items of a list, in one look: one by one, reading n of them at heads takes n * n * 5 ns.

        None if one of them cannot be read; `get` tells which.
        """
        ...

    def length(self, obj: ObjId, heads: Heads | None = None) -> int:
        """Items of a list, code points of a text, keys of a map. With heads it costs as much as reading them."""
        ...

    def text(self, obj: ObjId, heads: Heads | None = None) -> str:
        """The content of a text object."""
        ...

    def kind(self, obj: ObjId) -> Kind:
        """What kind of object this is.

        Raises:
            Exception: there is no such object.
        """
        ...


class _Reading:
    """The reads, for a document and for a transaction on one."""

    __slots__ = ("_source",)

    _source: core.Document | core.Transaction

    def get(self, obj: ObjId, key: str | int, heads: Heads | None = None) -> Found | None:
        try:
            found = self._source.get(obj, key, cast("list[bytes]", heads))
        except BaseException as error:
            if not _is_panic(error):
                raise
            # A key that the core cannot take panics as well; no document has such a key.
            return (OPAQUE, b"") if _is_possible(key) else None
        return None if found is None else _found(*found)

    def items(self, obj: ObjId, heads: Heads | None = None) -> list[Found] | None:
        try:
            values = self._source.values(obj, cast("list[bytes]", heads))
        except BaseException as error:
            if not _is_panic(error):
                raise
            return None
        return [_found(value, child) for value, child in values]

    def keys(self, obj: ObjId, heads: Heads | None = None) -> list[str]:
        try:
            return self._source.keys(obj, cast("list[bytes]", heads))
        except BaseException as error:
            if not _is_panic(error):
                raise
            return []

    def length(self, obj: ObjId, heads: Heads | None = None) -> int:
        try:
            return self._source.length(obj, cast("list[bytes]", heads))
        except BaseException as error:
            if not _is_panic(error):
                raise
            return 0

    def text(self, obj: ObjId, heads: Heads | None = None) -> str:
        try:
            return self._source.text(obj, cast("list[bytes]", heads))
        except BaseException as error:
            if not _is_panic(error):
                raise
            return ""

    def kind(self, obj: ObjId) -> Kind:
        return _KINDS[int(cast("Any", self._source.object_type(obj)))]


class Transaction(_Reading):
    """An open transaction: the binding's own writes, and the guarded reads.

    The writes take a key of a map or an index of a list or text (in code points). They are the binding's methods
    themselves: a call between would cost a tenth of each write. Keys must not be empty (an exception) nor hold lone
    surrogates (a panic); `plain.py` sees to that for values from outside.
    """

    __slots__ = ("delete", "insert", "insert_object", "put", "put_object")

    def __init__(self, transaction: core.Transaction) -> None:
        self._source = transaction
        self.put = transaction.put
        self.put_object = transaction.put_object
        self.insert = transaction.insert
        self.insert_object = transaction.insert_object
        self.delete = transaction.delete


class Replica(_Reading):
    """One Automerge document in memory.

    Every call raises `Poisoned` after a `BindingPanic`. Not for two threads at once.
    """

    def __init__(self, actor: ActorId | None = None) -> None:
        """An empty document; without `actor` a random one, which no other replica may ever use."""
        self._document = self._source = core.Document(actor)

    @classmethod
    def load(cls, data: bytes) -> "Replica":
        """A document from `save()` and from changes, in any order; the actor is a fresh one.

        Holds the loop: 0.5 s for 1 000 cells. Changes whose dependencies are missing are kept aside without a word, so
        the caller compares the heads.

        Raises:
            BindingPanic: the core panicked.
            Exception: the data are cut off or damaged.
        """
        replica = cls.__new__(cls)
        try:
            replica._document = replica._source = core.Document.load(data)
        except BaseException as error:
            if not _is_panic(error):
                raise
            raise BindingPanic(str(error)) from None
        return replica

    @property
    def actor(self) -> ActorId:
        """Who the next change is by."""
        return self._document.get_actor()

    def heads(self) -> Heads:
        """The newest changes, sorted."""
        return tuple(sorted(self._document.get_heads()))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Collects writes into one change, made at the end; an exception takes all of them back.

        A transaction that changes nothing makes no change.

        Raises:
            BindingPanic: the core panicked in a write.
            Exception: another transaction is open.
        """
        scope = self._document.transaction()
        transaction = scope.__enter__()
        try:
            yield Transaction(transaction)
        except BaseException as error:
            if _is_panic(error):
                self._die_of(error, scope, transaction)
            # Not by a `with`: after a panic the binding's own exit raises another exception, which would hide it.
            transaction.__exit__(type(error), error, error.__traceback__)
            raise
        try:
            transaction.__exit__(None, None, None)
        except BaseException as error:
            if not _is_panic(error):
                raise
            self._die_of(error, scope, transaction)

    def changes_since(self, heads: Heads) -> list[Change]:
        """Changes that are not behind `heads`, dependencies first; all of them if any of the heads is unknown."""
        return cast("list[Change]", self._document.get_changes(cast("list[bytes]", heads)))

    def apply(self, chunks: Sequence[bytes]) -> None:
        """Takes changes of others, 12 us and up.

        Only for chunks that were checked: a corrupt one is dropped without an error, and one whose dependencies are
        missing is kept aside and would be asked of every peer. So the caller compares the heads.

        Args:
            chunks: Runs of chunks, dependencies first.

        Raises:
            BindingPanic: the core panicked; nothing can be said of the replica but that it is lost.
            Exception: the core refused the chunks, or a transaction is open.
        """
        try:
            # A fresh SyncState and no heads in the message: with heads it would cost as much as there are changes.
            self._document.receive_sync_message(core.SyncState(), core.Message.decode(wrap_changes(chunks)))
        except BaseException as error:
            if not _is_panic(error):
                raise
            self._die_of(error)

    def save(self) -> bytes:
        """The whole document as one chunk; holds the loop, 40 to 80 ms for 1 000 cells.

        Raises:
            BindingPanic: the core panicked.
        """
        try:
            return self._document.save()
        except BaseException as error:
            if not _is_panic(error):
                raise
            self._die_of(error)

    def _die_of(self, error: BaseException, *open_transaction: object) -> NoReturn:
        if open_transaction:
            # Freeing a document with an open transaction is a use after free, in any order, and at exit too. The memory
            # is given up for the life of the process; it takes a panic in one of our own writes.
            for leaked in (self._document, *open_transaction):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(leaked))
        self._document = self._source = cast("core.Document", _Lost())
        raise BindingPanic(str(error)) from None


class _Lost:
    """Stands where a poisoned document was."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Poisoned("the replica was lost in a panic of the core")


def _author_and_counter(obj: ObjId) -> tuple[bytes, bytes]:
    # A version byte, then length and bytes of the actor id, its index, the counter; numbers are LEB128.
    size, start = read_uleb(obj, 1, len(obj))
    _, counter = read_uleb(obj, start + size, len(obj))
    return obj[start : start + size], obj[counter:]


def _is_panic(error: BaseException) -> bool:
    # The class can't be imported: pyo3 makes it inside the extension. By name, then.
    return type(error).__name__ == "PanicException" and not isinstance(error, Exception)


def _is_possible(key: str | int) -> bool:
    if isinstance(key, int):
        return 0 <= key < 2**63
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


_KINDS = (Kind.MAP, Kind.LIST, Kind.TEXT)  # by the number of the core's ObjType


def _found(value: Any, obj: ObjId) -> Found:
    if isinstance(value, ObjType):
        return _KINDS[int(cast("Any", value))], obj
    _, scalar = value
    if isinstance(scalar, list):
        return bytes(scalar), b""
    if isinstance(scalar, datetime):
        return _in_utc(scalar), b""
    return scalar, b""


def _in_utc(local: datetime) -> datetime | Opaque:
    try:
        return local.astimezone(UTC)
    except (OverflowError, ValueError):  # within a day of the years 1 and 9999
        return OPAQUE
