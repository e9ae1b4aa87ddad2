"""The daemon with a fault put in, to show that a test can see it: before a peer's first acknowledgement of a document,
frames follow each other without waiting. `python -m tests.fakes.mutated_daemon serve ...` is then `notebookd serve ...`.
"""

from daemon.cli import main
from sync.core.subscription import Subscription


class WithoutWaiting:
    """Stands in for `Subscription.waits_for_acknowledgement`."""

    def __get__(self, subscription: Subscription, owner: type[Subscription]) -> bool:
        return False


if __name__ == "__main__":
    setattr(Subscription, "waits_for_acknowledgement", WithoutWaiting())  # noqa: B010  # the type is another, on purpose
    main()
