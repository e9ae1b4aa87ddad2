"""The content-addressed store of blobs: one file per blob, found by its SHA-256.

    ROOT/ab/cdef...                    the bytes; the name is the hash, two digits of it as folder
    ROOT/ab/cdef....0.1200.text%2Fcss  an empty file that says: stored as text/css, 1200 bytes; 0 is the first type
    ROOT/incoming/...                  files that are being written; what is there at start is a crash's leftover

A blob appears under its name by rename, so what has a name was written whole. A power cut can still take the bytes of
what was not stored durably; such a file has not the size that its mark says, and counts as missing. The same bytes as
several types are one file with several marks. A file's modification time is when it was last stored; the collector
spares what was stored a short while ago, since the commit that names it may be still to come.
"""

import os
import re
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import trio

from sync.core.media_types import blob_media_type
from sync.core.values import Blob
from sync.fsync import fsync, fsync_path

_HASH = re.compile(r"[0-9a-f]{64}")
_REST = re.compile(r"[0-9a-f]{62}")

# Rooms store side by side, so that one room's flood does not hold up another's commit; a disk gains nothing from more.
_WRITERS = 4
_READERS = 8


class BlobStoreError(Exception):
    """The disk did not do it; the text says what it said."""


class BlobMissing(BlobStoreError, LookupError):
    """No such blob."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A stored blob. `media_type` is the one asked for, else the first that it was stored as."""

    path: Path
    size: int
    media_type: str
    media_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BlobStatistics:
    """Since this store was opened; `tasks_waiting` is now."""

    stored: int
    stored_bytes: int
    repeated: int
    collected: int
    tasks_waiting: int


class BlobStore:
    """Blobs under `root`, which is made if need be. One store per root: a second one would remove what we write.

    Raises:
        BlobStoreError: The folder can't be made or read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._writers = trio.CapacityLimiter(_WRITERS)
        self._readers = trio.CapacityLimiter(_READERS)
        self._collector = trio.CapacityLimiter(1)
        # Between threads: the collector must not remove a file after a writer found it there.
        self._lock = threading.Lock()
        self._stored = self._stored_bytes = self._repeated = self._collected = 0
        with _disk_errors():
            self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in self._incoming.iterdir():
                leftover.unlink()

    async def put_all(self, blobs: Sequence[Blob], *, durable: bool = True) -> None:
        """Stores the blobs; those that are there already only count as stored now.

        Args:
            blobs: Each (hash, type) once, better.
            durable: Whether they are on disk, and not only with the system, when this returns: 1 to 7 ms a blob more
                (measured on one SSD). What only a runtime document names need not be, since that document ends with
                the daemon.

        Raises:
            BlobStoreError: A disk error. Some of the blobs may be stored; trying again is safe.
        """
        if blobs:
            await trio.to_thread.run_sync(self._put_all, blobs, durable, limiter=self._writers)

    async def open(self, blob_hash: str, media_type: str | None = None) -> BlobInfo | None:
        """Where a blob is; None if there is none with this hash, or it was never stored as that type.

        Args:
            blob_hash: 64 lower-case hex digits; with anything else there is no such blob.
            media_type: One of the types that it was stored as.

        Raises:
            BlobStoreError: A disk error.
        """
        if not _HASH.fullmatch(blob_hash):
            return None
        if media_type is not None:
            media_type = blob_media_type(media_type) or ""
        return await trio.to_thread.run_sync(self._open, blob_hash, media_type, limiter=self._readers)

    async def read(self, blob_hash: str) -> bytes:
        """A blob's bytes.

        Raises:
            BlobMissing: There is no such blob.
            BlobStoreError: A disk error, or bytes that do not have this hash.
        """
        return await trio.to_thread.run_sync(self.read_blocking, blob_hash, limiter=self._readers)

    async def read_all(self, blob_hashes: Collection[str], *, lenient: bool = False) -> dict[str, bytes]:
        """The bytes of many blobs by hash; those that do not exist are left out.

        Args:
            lenient: those that can't be read are left out as well.

        Raises:
            BlobStoreError: As for `read`.
        """
        return await trio.to_thread.run_sync(self._read_all, frozenset(blob_hashes), lenient, limiter=self._readers)

    def _read_all(self, blob_hashes: frozenset[str], lenient: bool) -> dict[str, bytes]:
        found = {}
        for blob_hash in blob_hashes:
            with suppress(BlobStoreError if lenient else BlobMissing):
                found[blob_hash] = self.read_blocking(blob_hash)
        return found

    def read_blocking(self, blob_hash: str) -> bytes:
        """`read`, for code that runs in a thread already."""
        if not _HASH.fullmatch(blob_hash):
            raise BlobMissing(f"no blob {blob_hash[:64]!r}")
        try:
            with _disk_errors():
                data = self._path(blob_hash).read_bytes()
        except BlobStoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise BlobMissing(f"no blob {blob_hash}") from None
            raise
        if sha256(data).hexdigest() != blob_hash:
            raise BlobStoreError(f"the bytes of blob {blob_hash} have changed on disk")
        return data

    async def collect(self, reachable: Collection[str], grace_seconds: float, now: float) -> int:
        """Removes the blobs that are neither reachable nor young, and returns how many.

        Args:
            reachable: The hashes that any document, file or message still names.
            grace_seconds: How long after its last `put_all` a blob stays, reachable or not. Longer than it takes from
                `put_all` to the commit, and from taking stock of `reachable` to here.
            now: The time, in seconds since the epoch, as files' times are.

        Raises:
            BlobStoreError: A disk error; what was removed before stays removed.
        """
        kept = frozenset(reachable)
        return await trio.to_thread.run_sync(self._collect, kept, now - grace_seconds, limiter=self._collector)

    def statistics(self) -> BlobStatistics:
        """Counters for metrics."""
        waiting = sum(limiter.statistics().tasks_waiting for limiter in (self._writers, self._readers, self._collector))
        return BlobStatistics(self._stored, self._stored_bytes, self._repeated, self._collected, waiting)

    # In threads.

    def _put_all(self, blobs: Sequence[Blob], durable: bool) -> None:
        folders: dict[Path, None] = {}  # in order, so that a failure comes at the same place each time
        with _disk_errors():
            for blob in blobs:
                path = self._path(blob.hash)
                if not self._repeat(path, blob, durable):
                    self._write(path, blob, durable)
                folders[path.parent] = None
            if durable:
                for folder in folders:
                    fsync_path(folder)

    def _repeat(self, path: Path, blob: Blob, durable: bool) -> bool:
        """Whether the blob is there, whole; it then counts as stored now, and as stored with this type too."""
        with self._lock:
            try:
                if path.stat().st_size != len(blob.data):
                    return False
                os.utime(path)
            except FileNotFoundError:
                return False
            _mark(path, blob)
            self._repeated += 1
        if durable:
            fsync_path(path)
        return True

    def _write(self, path: Path, blob: Blob, durable: bool) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if durable:
                fsync_path(self.root)
        self._incoming.mkdir(mode=0o700, exist_ok=True)  # somebody may have emptied the root under us
        descriptor, temporary = tempfile.mkstemp(dir=self._incoming)
        try:
            with open(descriptor, "wb") as file:
                file.write(blob.data)
                file.flush()
                if durable:
                    fsync(descriptor)
            with self._lock:
                _mark(path, blob)
                os.rename(temporary, path)
                self._stored += 1
                self._stored_bytes += len(blob.data)
        except BaseException:
            with suppress(OSError):  # the first error counts; leftovers go at the next start
                os.unlink(temporary)
            raise

    def _open(self, blob_hash: str, media_type: str | None) -> BlobInfo | None:
        path = self._path(blob_hash)
        with _disk_errors():
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                return None
            media_types = tuple(mark.media_type for mark in _marks(path) if mark.size == size)
        if not media_types or (media_type is not None and media_type not in media_types):
            return None
        return BlobInfo(path, size, media_type or media_types[0], media_types)

    def _collect(self, reachable: frozenset[str], oldest_kept: float) -> int:
        count = 0
        with _disk_errors():
            for folder in self._folders():
                present: set[str] = set()
                marks: list[str] = []
                for name in os.listdir(folder):
                    if not _REST.fullmatch(name):
                        marks.append(name)
                    elif folder.name + name in reachable or not self._remove(folder / name, oldest_kept):
                        present.add(name)
                    else:
                        count += 1
                for mark in marks:
                    if mark.partition(".")[0] not in present:
                        self._remove(folder / mark, oldest_kept, blob=folder / mark.partition(".")[0])
        self._collected += count
        return count

    def _remove(self, path: Path, oldest_kept: float, blob: Path | None = None) -> bool:
        """Removes a blob, or a mark whose blob is gone, if it was not stored since."""
        with self._lock, suppress(FileNotFoundError):  # somebody else was faster
            if path.stat().st_mtime < oldest_kept and not (blob is not None and blob.exists()):
                path.unlink()
                return True
        return False

    def _folders(self) -> Iterator[Path]:
        for name in sorted(os.listdir(self.root)):
            if len(name) == 2:
                yield self.root / name

    def _path(self, blob_hash: str) -> Path:
        return self.root / blob_hash[:2] / blob_hash[2:]


class _Mark(NamedTuple):
    number: int
    size: int
    media_type: str


def _marks(path: Path) -> list[_Mark]:
    """A blob's marks, in the order in which its types came."""
    prefix, marks = path.name + ".", []
    for name in os.listdir(path.parent):
        if name.startswith(prefix):
            number, size, media_type = name.removeprefix(prefix).split(".", 2)
            marks.append(_Mark(int(number), int(size), unquote(media_type)))
    return sorted(marks)


def _mark(path: Path, blob: Blob) -> None:
    """Says that the blob was stored as this type too. Under the store's lock, so that each type has its number."""
    marks = _marks(path)
    if all(mark.media_type != blob.media_type for mark in marks):
        name = f"{path.name}.{len(marks)}.{len(blob.data)}.{quote(blob.media_type, safe='+')}"
        path.with_name(name).touch(mode=0o600)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turns an OSError into a BlobStoreError that says what the disk said."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise BlobStoreError(f"{error.strerror or type(error).__name__}{where}") from error
