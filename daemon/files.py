"""Notebook files on disk: which paths are ours, whole reads, atomic writes. Blocking work happens in threads."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import trio

from sync.fsync import fsync, fsync_path

# Files of different notebooks are read and written side by side; a slow network disk must not take every thread.
_LIMITER_TOKENS = 4

_TEMPORARY_PREFIX = ".notebookd-"
_TEMPORARY_SUFFIX = ".tmp"
# A write takes seconds at most; a temporary file of this age is what a crash left.
_STALE_SECONDS = 3600.0
# Of a file that is compared with what we know of it, so much is in memory at a time.
_COMPARED_BYTES = 1024 * 1024


class PathRefused(ValueError):
    """The path names no notebook file that the daemon may touch."""


class OutsideRoot(PathRefused):
    """It leads out of the root, links resolved."""


class NotIpynb(PathRefused):
    """It does not end in .ipynb."""


class FileUnreadable(OSError):
    """The file can't be read; `reason` says why."""

    @property
    def reason(self) -> str:
        """Why, for a person."""
        return str(self.strerror)


class FileUnwritable(OSError):
    """The file can't be written, and is as it was; `reason` says why."""

    @property
    def reason(self) -> str:
        """Why, for a person."""
        return str(self.strerror)


class FileChanged(FileUnwritable):
    """Something else stands there than the version that the caller had."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Which version of a file this is, as far as that can be told without reading it; times are in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStamp":
        """The stamp in what `stat` says."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What a file held when we last read or wrote it. With another stamp it may hold the same: it was touched, or copied."""

    stamp: FileStamp
    digest: bytes

    @classmethod
    def of(cls, data: bytes, status: os.stat_result) -> "FileVersion":
        """The version that has these bytes."""
        return cls(FileStamp.of(status), sha256(data).digest())


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file's bytes, as the version that was read."""

    data: bytes
    version: FileVersion


def resolve_inside(root: Path, path: str | Path) -> Path:
    """The absolute path of a notebook file, links resolved. Looks at the disk, so it may block for as long as that does.

    Args:
        root: The folder that notebooks must be in.
        path: Relative to the root, or absolute. The file need not exist.

    Raises:
        OutsideRoot: The path, or what its links lead to, is not inside the root.
        NotIpynb: The path, or what its links lead to, does not end in .ipynb.
        PathRefused: It is no path at all (a NUL byte, too long, a loop of links).
    """
    try:
        resolved_root = root.resolve(strict=True)
        resolved = (resolved_root / path).resolve()
        resolved.lstat()  # says what `resolve` is silent about: names that are too long, loops
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError, ValueError) as error:
        raise PathRefused(f"{str(path)[:200]!r} is no usable path: {error}") from error
    if any("\ud800" <= character <= "\udfff" for character in str(resolved)):
        # JSON and CBOR can't say it: nobody could be told which notebook this is.
        raise PathRefused(f"{str(path)[:200]!r} leads to a name that is no text")
    if not resolved.is_relative_to(resolved_root):
        raise OutsideRoot(f"{str(path)!r} is outside of {str(root)!r}")
    if not (str(path).endswith(".ipynb") and resolved.name.endswith(".ipynb")):
        raise NotIpynb(f"{str(path)!r} does not end in .ipynb")
    return resolved


async def read_file(path: Path, max_bytes: int) -> FileContent:
    """Reads a regular file.

    Raises:
        FileNotFoundError: There is none.
        FileUnreadable: It is something else (a folder, a pipe), larger than `max_bytes`, or the disk refuses.
    """
    return await trio.to_thread.run_sync(_read, path, max_bytes, limiter=_limiter())


async def write_atomic(path: Path, data: bytes, *, expect: FileVersion | None = None) -> FileVersion:
    """Replaces a file's content, or makes the file: whoever reads it sees the old content or the new one, nothing else.

    On return the content is on disk. The permissions of a file that was there are kept; a link stays a link, what it
    leads to is replaced. (Whether that may be written is the caller's to know: `resolve_inside`.)

    Args:
        path: The file; its folder exists.
        data: The whole content.
        expect: What is to be replaced; with None anything. Where there is no file any more it is made anew.

    Raises:
        FileChanged: The file holds something else than that version, or is none.
        FileUnwritable: It is something else than a regular file, is read-only, or the disk refuses.
    """
    return await trio.to_thread.run_sync(_write, path, data, expect, limiter=_limiter())


async def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> FileVersion:
    """Makes a file; one that is there stays as it is.

    Args:
        path: Its place.
        data: Its content.
        mode: Its permissions, less the umask.

    Raises:
        FileExistsError: There is one.
        FileUnwritable: The disk refuses.
    """
    return await trio.to_thread.run_sync(_write_new, path, data, mode, limiter=_limiter())


async def same_version(path: Path, known: FileVersion) -> FileVersion | None:
    """The file as it is now, if it still holds what it held in the version `known`; None if it holds something else.

    Raises:
        FileNotFoundError: There is none.
        FileUnreadable: It is something else (a folder, a pipe), or the disk refuses.
    """
    return await trio.to_thread.run_sync(_same_version, path, known, limiter=_limiter())


async def remove_leftovers(folder: Path, now: float) -> int:
    """Removes what writes left that a crash cut short, and returns how many; others' fresh ones are spared.

    Args:
        folder: Where notebooks are saved.
        now: Seconds since the epoch, as files' times are.

    Raises:
        FileUnwritable: The disk refuses.
    """
    return await trio.to_thread.run_sync(_remove_leftovers, folder, now, limiter=_limiter())


_limiters: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("files")


def _limiter() -> trio.CapacityLimiter:
    try:
        return _limiters.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_LIMITER_TOKENS)
        _limiters.set(limiter)
        return limiter


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file to read, as a descriptor, and what `stat` says of it."""
    # Without O_NONBLOCK opening a pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _require_regular(status, FileUnreadable, path)
        yield descriptor, status
    finally:
        os.close(descriptor)


def _read(path: Path, max_bytes: int) -> FileContent:
    with _errors_as(FileUnreadable, path), _opened(path) as (descriptor, status):
        if status.st_size > max_bytes:
            raise FileUnreadable(errno.EFBIG, f"larger than {max_bytes} bytes: {status.st_size}", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(status.st_size + 1)
        if len(data) != status.st_size:
            raise FileUnreadable(errno.EBUSY, "it was changed while it was read", str(path))
        return FileContent(data, FileVersion.of(data, status))


def _write(path: Path, data: bytes, expect: FileVersion | None) -> FileVersion:
    with _errors_as(FileUnwritable, path):
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}")
        mode, expect = _checked(target, expect)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with open(descriptor, "wb") as file:
                if mode is not None:
                    os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                fsync(descriptor)
                # As late as can be: no lock exists that other programs would take.
                _checked(target, expect)
                os.rename(temporary, target)
                version = FileVersion.of(data, os.fstat(descriptor))  # a rename can change the stamp
        except BaseException:
            with suppress(OSError):  # the first error counts
                os.unlink(temporary)
            raise
        fsync_path(target.parent)
        return version


def _write_new(path: Path, data: bytes, mode: int) -> FileVersion:
    with _errors_as(FileUnwritable, path):
        # Takes the name, with nothing in it: only then what is written under another can be moved there.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        try:
            return _write(path, data, None)
        except BaseException:
            with suppress(OSError):  # the first error counts
                os.unlink(path)
            raise


def _checked(target: Path, expect: FileVersion | None) -> tuple[int | None, FileVersion | None]:
    """The permissions to keep (None for a new file), and `expect` as it now is; raises if the file is not to be replaced."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None, expect
    _require_regular(status, FileUnwritable if expect is None else FileChanged, target)
    if expect is not None and FileStamp.of(status) != expect.stamp:
        with suppress(FileNotFoundError):  # it went just now
            expect = _same_version(target, expect)
            if expect is None:
                raise FileChanged(errno.ESTALE, "the file was changed by somebody else", str(target))
    # A rename asks for the folder's permissions alone, but a file that is read-only means it.
    if not os.access(target, os.W_OK):
        raise FileUnwritable(errno.EACCES, "the file is read-only", str(target))
    return stat.S_IMODE(status.st_mode), expect


def _same_version(path: Path, known: FileVersion) -> FileVersion | None:
    with _errors_as(FileUnreadable, path), _opened(path) as (descriptor, status):
        if FileStamp.of(status) == known.stamp:
            return known
        if status.st_size != known.stamp.size:
            return None
        digest, left = sha256(), status.st_size
        with open(descriptor, "rb", closefd=False) as file:
            while part := file.read(min(left + 1, _COMPARED_BYTES)):
                digest.update(part)
                left -= len(part)
                if left < 0:  # it grows while it is read
                    return None
        return FileVersion(FileStamp.of(status), known.digest) if digest.digest() == known.digest else None


def _remove_leftovers(folder: Path, now: float) -> int:
    count = 0
    with _errors_as(FileUnwritable, folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY_PREFIX) and entry.name.endswith(_TEMPORARY_SUFFIX):
                with suppress(FileNotFoundError):  # a write that ended meanwhile
                    if entry.stat(follow_symlinks=False).st_mtime < now - _STALE_SECONDS:
                        os.unlink(entry)
                        count += 1
    return count


def _require_regular(status: os.stat_result, error: type[FileUnreadable] | type[FileUnwritable], path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise error(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL, f"it is {kind}", str(path))


@contextmanager
def _errors_as(error_type: type[FileUnreadable] | type[FileUnwritable], path: Path) -> Iterator[None]:
    """Gives a disk's errors our type; a missing file to read stays FileNotFoundError, one in the way FileExistsError."""
    try:
        yield
    except FileUnreadable as error:
        if error_type is FileUnwritable:  # what is to be replaced can't be compared
            raise FileUnwritable(error.errno, error.reason, str(path)) from error
        raise
    except (FileUnwritable, FileExistsError):
        raise
    except FileNotFoundError as error:
        if error_type is FileUnreadable:
            raise
        raise error_type(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise error_type(error.errno, error.strerror or type(error).__name__, str(path)) from error
