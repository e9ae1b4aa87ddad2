"""How many files, sockets and pipes the process may have open."""

import resource
from contextlib import suppress
from typing import Final

# 22 for each kernel, one for each connection: 300 kernels beside all the connections that are taken. Systems give 256 or 1 024
# to a process that does not ask for more, and most would give it more; beyond 10 240, macOS refuses.
WANTED: Final = 8_192


def raise_limit() -> None:
    """Asks for WANTED, or for as many as the system gives; kernels have the same limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # then with what there is: a kernel too many is refused
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
