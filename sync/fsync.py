"""Bytes on the way to the disk itself: the one place that calls fsync, so that they are counted."""

import os
import threading
from pathlib import Path

_lock = threading.Lock()
_count = 0


def fsync(descriptor: int) -> None:
    """Returns when the disk has what was written to an open file. Blocks: for threads.

    Raises:
        OSError: it has not, and may never.
    """
    global _count  # noqa: PLW0603  # disks belong to the process, as file descriptors do
    os.fsync(descriptor)
    with _lock:
        _count += 1


def fsync_path(path: Path) -> None:
    """The same for a file that is not open, or for a folder: the names in it.

    Raises:
        OSError: as `fsync`, or it can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def fsyncs() -> int:
    """How many succeeded since the start of the process."""
    return _count
