"""`python -m sync.compact`: a run of changes on stdin, the document chunk that stands for them on stdout.

In a process of its own, because loading and saving hold the interpreter (0.5 s for 1 000 cells, measured), and because what
was saved is loaded again before anybody gets it: Automerge takes some hostile changes whose document it can't load any more.
Ends with 1, and a reason on stderr, if that is so.
"""

import resource
import sys

from sync.core.binding import Replica

# Two million operations, the most that a document may have, take about 1 GB; twice, since both documents are in memory.
MAX_MEMORY_BYTES = 4 * 1024**3


def main() -> int:
    """Reads, compacts, verifies, writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > MAX_MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, hard))
    replica = Replica()
    replica.apply([sys.stdin.buffer.read()])
    chunk = replica.save()
    if Replica.load(chunk).heads() != replica.heads():
        print("the saved document does not load", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(chunk)
    return 0


if __name__ == "__main__":
    sys.exit(main())
