"""`python -m tests.soak [--seconds N] [--seed N] [--folder F]`: ends with 1 and says why if something is not flat."""

import argparse
import os
import sys
from pathlib import Path

import trio

from tests.soak.run import describe, soak


def main() -> int:
    """Runs one soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("NOTEBOOKD_SOAK_SECONDS", "3600")))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    result = trio.run(soak, options.seconds, options.seed, options.folder)
    for name, value in describe(result).items():
        print(f"{name}: {value}")
    (options.folder / "soak.json").write_text(result.as_json() + "\n")
    print("\n".join(result.faults) or "flat")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
