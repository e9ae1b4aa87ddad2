"""`python -m sync.compact`: a run of changes on stdin, the document chunk that stands for them on stdout.

In a process of its own, because loading and saving hold the interpreter (0.5 s for 1 000 cells, measured), and because what
was saved is loaded again before anybody gets it: Automerge takes some hostile changes whose document it can't load any more.
If that is so, it ends with `UNSOUND`, and on stdout are the hashes of the changes that are to blame, one a line in hex.
"""

import os
import resource
import sys
from collections.abc import Sequence

from sync.core.binding import Replica
from sync.core.changes import open_change, split_chunks
from sync.core.identifiers import ChangeHash

# Two million operations, the most that a document may have, take about 1 GB; twice, since both documents are in memory.
MAX_MEMORY_BYTES = 4 * 1024**3
UNSOUND = 3


def main() -> int:
    """Reads, compacts, verifies, writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > MAX_MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, hard))
    os.nice(10)  # nobody waits for it
    changes = split_chunks(sys.stdin.buffer.read())
    chunk = save(changes)
    if chunk is not None:
        sys.stdout.buffer.write(chunk)
        return 0
    print(*(change_hash.hex() for change_hash in find_culprits(changes)), sep="\n")
    return UNSOUND


def save(changes: Sequence[bytes]) -> bytes | None:
    """The document chunk of a run of changes; None if it does not load again.

    Raises:
        MemoryError: who knows.
    """
    try:
        replica = Replica()
        replica.apply([b"".join(changes)] if changes else [])
        chunk = replica.save()
        return chunk if Replica.load(chunk).heads() == replica.heads() else None
    except MemoryError:
        raise
    except Exception:  # of the core, which has none of its own; and a panic, which the binding makes one
        return None


def find_culprits(changes: Sequence[bytes]) -> list[ChangeHash]:
    """The changes without which, and without what builds on them, the rest can be saved and loaded; dependencies first."""
    good, culprits = list(changes), []
    while save(good) is None:
        sound, unsound = 0, len(good)
        while unsound - sound > 1:
            middle = (sound + unsound) // 2
            if save(good[:middle]) is None:
                unsound = middle
            else:
                sound = middle
        culprits.append(open_change(good[sound]).hash)
        good = _without(good, culprits[-1])
    return culprits


def _without(changes: Sequence[bytes], culprit: ChangeHash) -> list[bytes]:
    gone, kept = {culprit}, []
    for chunk in changes:
        opened = open_change(chunk)
        if opened.hash in gone or not gone.isdisjoint(opened.deps):
            gone.add(opened.hash)
        else:
            kept.append(chunk)
    return kept


if __name__ == "__main__":
    sys.exit(main())
