"""Whether the kernel is past a message to a comm, where it does not say so; and what it works on for one, as far as it does.

A kernel does one thing after another, on its main thread, and iopub keeps the order. So when it is busy with an execution of
nothing, what was to come of the messages sent before that has come, or never will: a queue overflowed, the kernel dropped the
request, or it says neither echo nor idle of such messages. A callback that only takes its time has the question behind it.
"""

from collections.abc import Collection, Iterable

# An answer takes milliseconds, a callback seldom seconds. A question costs one silent execution.
ASK_SECONDS = 2.0


class CommAnswers:
    """Finds out when to ask, and what an answer tells. Messages that are open are the caller's to know.

    Attributes:
        running: the message to a comm that the kernel is busy with, as far as it says so.
        deadline: when `to_ask` is to be called, if nothing happens before; None if there is nothing to ask.
    """

    def __init__(self) -> None:
        self.running: str | None = None
        self.deadline: float | None = None
        self._suspects: frozenset[str] = frozenset()  # what was waited for when the deadline was set
        self._question: str | None = None
        self._covered: tuple[str, ...] = ()  # what was open when it was put
        self._patience = ASK_SECONDS  # until it is put again
        self._unheard = 0  # questions of which the reply alone has come

    def watch(self, open_messages: Collection[str], *, in_flight: bool, now: float) -> None:
        """To be called when anything happened.

        Args:
            open_messages: ids of those that were sent to comms and not dealt with, oldest first.
            in_flight: an execution is with the kernel, behind which all waits; nothing is asked then, nor was.
        """
        if in_flight or (not open_messages and self.running is None):
            self._forget_question()
        elif self.deadline is None and self._question is None:
            self._suspects = self._waited_for(open_messages)
            self.deadline = now + ASK_SECONDS

    def to_ask(self, open_messages: Collection[str], now: float) -> bool:
        """Whether the kernel is to be asked now; `asked` is to follow."""
        if self.deadline is None or now < self.deadline:
            return False
        self.deadline = None
        if self._question is None and not self._suspects & self._waited_for(open_messages):
            # The kernel answers: these are newer.
            self.watch(open_messages, in_flight=False, now=now)
            return False
        return True

    def asked(self, msg_id: str, open_messages: Iterable[str], now: float) -> None:
        """The kernel is asked by this message; and again, later and later, until it answers: a question may be dropped."""
        self._question, self._covered = msg_id, tuple(open_messages)
        self._patience *= 2
        self.deadline = now + self._patience

    def ask_again(self, now: float, msg_id: str | None = None) -> None:
        """The question may be lost: it could not be sent, its reply came and nothing by iopub yet, somebody interrupted.

        Args:
            msg_id: the question, if it is another's nothing is done; None: any.
        """
        if self._question is not None and msg_id in (None, self._question):
            self.deadline = now + ASK_SECONDS

    def replied(self, msg_id: str, now: float) -> bool:
        """The reply to the question came; whether the kernel is past it, though it says nothing of that by iopub.

        That may be on its way, or lost; of a kernel that replied to two questions in this way nothing more is to come.
        """
        if msg_id != self._question:
            return False
        self._unheard += 1
        self.ask_again(now, msg_id)
        return self._unheard > 1

    def begun(self, msg_id: str) -> None:
        """The kernel is busy with a message to a comm."""
        self.running = msg_id

    def ended(self) -> None:
        """It is idle, or busy with an execution."""
        self.running = None

    def passed(self, msg_id: str) -> tuple[str, ...]:
        """The kernel is busy or done with an execution; if it is the question, the messages before it that it is past."""
        if msg_id != self._question:
            return ()
        covered, self._covered = self._covered, ()
        self._forget_question()
        return covered

    def clear(self) -> None:
        """The kernel is gone, or the connection to it is new: nothing is waited for."""
        self.running = None
        self._forget_question()

    def _forget_question(self) -> None:
        self.deadline = self._question = None
        self._patience, self._unheard = ASK_SECONDS, 0

    def _waited_for(self, open_messages: Collection[str]) -> frozenset[str]:
        oldest = next(iter(open_messages), None)
        return frozenset(msg_id for msg_id in (oldest, self.running) if msg_id is not None)
