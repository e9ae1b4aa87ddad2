"""The standard streams as the commands have them: a stdout whose loss is told from other errors, and a word on stderr."""

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from daemon.core.control_characters import escaped


class StdoutLost(Exception):
    """Stdout can't be written any more.

    Attributes:
        is_unread: because nobody reads it, as a `head` that has enough: no fault that is worth a word.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"stdout can't be written: {error.strerror or error}")
        self.is_unread = error.errno == errno.EPIPE


class Stdout(io.TextIOWrapper):
    """Stdout, of which nothing is written any more once it was lost.

    Attributes:
        on_lost: called then; raises the `StdoutLost` that it is given, unless somebody means to go on without.
    """

    def __init__(self, stdout: io.TextIOWrapper) -> None:
        encoding, errors, line_buffering = stdout.encoding, stdout.errors, stdout.line_buffering
        super().__init__(stdout.detach(), encoding, errors, line_buffering=line_buffering)
        self.on_lost: Callable[[StdoutLost], None] = _throw

    def write(self, text: str, /) -> int:
        """As of any file.

        Raises:
            StdoutLost: it can't be.
        """
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """As `write`."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        # What is buffered goes there, too, and so does the interpreter's flush at its end.
        _silence_stdout()
        super().flush()
        self.on_lost(StdoutLost(error))


def guard_stdout() -> None:
    """Makes `sys.stdout` a `Stdout`, and closed standard streams /dev/null: else sockets would get their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one
    # Python has none where the descriptor was closed. They are for the life of the process.
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", buffering=1)  # noqa: SIM115
    stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    if isinstance(stdout, io.TextIOWrapper):
        sys.stdout = Stdout(stdout)


def outlive_stdout(consequence: str) -> None:
    """From now on the loss of stdout is no error; it is told on stderr, with its consequence."""
    if isinstance(sys.stdout, Stdout):
        sys.stdout.on_lost = lambda lost: complain(f"{lost}; {consequence}")


def complain(line: str) -> None:
    """One line of ours on stderr."""
    with suppress(OSError):  # nobody is left to be told
        print(f"notebookd: {escaped(line)}", file=sys.stderr)


def _silence_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _throw(lost: StdoutLost) -> None:
    raise lost
