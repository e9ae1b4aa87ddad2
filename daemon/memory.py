"""Giving memory back to the system: what a closed notebook took is free, but the C library keeps it for the next one."""

import ctypes
from collections.abc import Callable

import trio


def _find_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim  # of glibc; ctypes lets go of the GIL meanwhile
    except (OSError, AttributeError):
        return None
    return trim


_trim = _find_trim()


async def give_back() -> None:
    """Returns free memory to the system, where the C library can; in a thread, since it takes milliseconds."""
    if _trim is not None:
        await trio.to_thread.run_sync(_trim, 0)
