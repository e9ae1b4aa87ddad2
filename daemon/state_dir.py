"""The state directory: one daemon at a time, and how the other commands find it."""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from sync.fsync import fsync

DAEMON_FILE = "daemon.json"


class StateDirTaken(Exception):
    """Another daemon runs on this state directory."""


class StateDirUnusable(Exception):
    """The state directory can't be made, read or written."""


@dataclass(frozen=True, slots=True)
class StateDir:
    """An opened state directory; the lock is held as long as the context that gave it."""

    path: Path
    peer_id: str
    kept_token: str

    @property
    def blobs(self) -> Path:
        """Where blobs are stored."""
        return self.path / "blobs"

    def announce(self, info: dict[str, Any]) -> None:
        """Writes `daemon.json`, readable by the owner alone: it holds the token."""
        _write_private(self.path / DAEMON_FILE, json.dumps(info) + "\n")


@contextmanager
def open_state_dir(path: Path) -> Iterator[StateDir]:
    """Makes the directory if needed and takes its lock; `daemon.json` goes when the context ends.

    Raises:
        StateDirTaken: a daemon runs on it.
        StateDirUnusable: it can't be made, read or written.
    """
    with _unusable(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with _unusable(path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateDirTaken(f"a notebookd runs on {path} already") from None
            (path / DAEMON_FILE).unlink(missing_ok=True)  # of one that was killed
            peer_id = _kept(path / "peer_id", lambda: f"notebookd-{secrets.token_hex(8)}")
            # Hexadecimal, so that no command line takes the one token in 64 that would begin with "-" for an option.
            token = _kept(path / "token", lambda: secrets.token_hex(32))
        try:
            yield StateDir(path, peer_id, token)
        finally:
            (path / DAEMON_FILE).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def read_announcement(path: Path) -> dict[str, Any] | None:
    """What the daemon on this state directory said of itself; None if none runs.

    Raises:
        OSError: the directory can't be read.
    """
    try:
        info = json.loads((path / DAEMON_FILE).read_text())
        descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ValueError):
        return None
    try:
        # One that was killed left its file behind, and its process id may be somebody else's by now.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return info if isinstance(info, dict) else None
    finally:
        os.close(descriptor)
    return None


async def wait_until_free(path: Path, seconds: float) -> bool:
    """Waits until no daemon runs on this state directory, however it ended; False if one still does after `seconds`."""
    descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with trio.move_on_after(seconds):
            # The lock is the last thing that a daemon gives back, and a killed one gives it back as well.
            await trio.to_thread.run_sync(fcntl.flock, descriptor, fcntl.LOCK_SH, abandon_on_cancel=True)
            return True
        return False
    finally:
        os.close(descriptor)


@contextmanager
def _unusable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateDirUnusable(f"{error.strerror or error}: {error.filename or path}") from error


def _kept(path: Path, make: Callable[[], str]) -> str:
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if not kept:
        kept = make()
        _write_private(path, kept + "\n")
    return kept


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)  # what a crash left there may have been anybody's
        file.write(text)
        file.flush()
        fsync(file.fileno())
    temporary.replace(path)
