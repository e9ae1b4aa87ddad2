"""`python -m tests.fuzz TARGET [--seed N] [--first N] [--inputs N]`: feeds inputs, prints a report as one line of JSON.

Under a limit of its address space, since an input that takes too much memory must not take this machine's. Ends with 1 and
the input on stderr if one did harm.
"""

import argparse
import json
import mmap
import os
import resource
import sys
from pathlib import Path

import structlog
import trio

from tests.fuzz.target import Finding, Target, fuzz
from tests.fuzz.targets import TARGETS

MAX_MEMORY_BYTES = 1024**3


def main() -> int:
    """Runs one target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--note", type=Path, help="where to keep the index of the input that is being fed")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    os.environ["RUST_BACKTRACE"] = "0"  # a backtrace for each panic would be all that there is to read
    structlog.configure(
        processors=[structlog.processors.LogfmtRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    indexes = range(options.first, options.first + options.inputs)
    return trio.run(_run, TARGETS[options.target], options.seed, indexes, options.note)


async def _run(target: Target[object], seed: int, indexes: range, note: Path | None) -> int:
    with mmap.mmap(-1, 8) if note is None else _noted(note) as noted:

        def write(index: int) -> None:
            noted[:8] = index.to_bytes(8, "little")

        try:
            report = await fuzz(target, seed, indexes, write)
        except Finding as finding:
            print(finding, file=sys.stderr)
            return 1
    report.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(report.as_dict()))
    return 0


def _noted(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


if __name__ == "__main__":
    sys.exit(main())
