"""What a kernel does for a message to a comm, as far as it says so; and the question where its word may be lost."""

# A callback takes longer than this seldom, and who waits behind one whose end is lost does not wait for ever.
ASK_SECONDS = 2.0


class Callback:
    """From busy to idle of a message to a comm.

    Where idle is lost (a queue of the kernel overflowed), the next execution tells that it is over, since a kernel does one
    thing after another. If none comes, the kernel is asked to execute nothing: it does so when the callback is over.

    Attributes:
        running: the kernel works on a message to a comm.
        deadline: when `to_ask` is to be called, if nothing happens before; None if there is nothing to ask.
    """

    def __init__(self) -> None:
        self.running = False
        self.deadline: float | None = None

    def began(self, now: float) -> None:
        """The kernel is busy with it."""
        self.running, self.deadline = True, now + ASK_SECONDS

    def ended(self) -> None:
        """The kernel is idle, or busy with an execution, or gone."""
        self.running, self.deadline = False, None

    def to_ask(self, now: float) -> bool:
        """Whether the deadline passed; there is none after it."""
        if self.deadline is None or now < self.deadline:
            return False
        self.deadline = None
        return True
