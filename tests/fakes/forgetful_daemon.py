"""The daemon, but it leaves a runtime document behind after a thousand operations, where the real one takes twenty thousand
and three times what is shown. `python -m tests.fakes.forgetful_daemon serve ...` is then `notebookd serve ...`.
"""

from daemon import rolling_over
from daemon.cli import main

if __name__ == "__main__":
    rolling_over.MIN_OPERATIONS = 1_000  # type: ignore[misc]
    rolling_over.GROWTH = 1.2  # type: ignore[misc, assignment]
    rolling_over.MAX_SERVED = 1_000  # type: ignore[misc]  # some are replaced in a second here
    main()
