"""Whose cell a message of the kernel belongs to, by its parent: an execution, or a message that we sent to a comm."""

from collections import OrderedDict
from typing import Final

# Of each kind. An output can come long after its execution (threads); older parents than these go to the kernel log.
REMEMBERED_PARENTS: Final = 10_000

NO_CELL: Final = ""


class Parents:
    """The cells of the newest parents. Each kind has its own room: a dragged slider's messages push no execution out."""

    def __init__(self) -> None:
        self._executions: OrderedDict[str, str] = OrderedDict()
        self._comm_messages: OrderedDict[str, str] = OrderedDict()
        self._questions: OrderedDict[str, str] = OrderedDict()

    def executes(self, execution_id: str, cell_id: str) -> None:
        """This execution, whose id is its message's, is of this cell."""
        _remember(self._executions, execution_id, cell_id)

    def sent_to_comm(self, msg_id: str, cell_id: str) -> None:
        """This message went to a comm that belongs to this cell."""
        _remember(self._comm_messages, msg_id, cell_id)

    def asks(self, msg_id: str) -> None:
        """This message is a question of the daemon's own: what the kernel shows while it works on that belongs to no cell."""
        _remember(self._questions, msg_id, NO_CELL)

    def answered(self, msg_id: str) -> None:
        """The kernel is idle after this message. What has it as its parent from now on is a thread's, if it is a question."""
        self._questions.pop(msg_id, None)

    def cell_of(self, msg_id: str) -> str | None:
        """The cell's id, or `NO_CELL`; None for a message that is not ours, or that was forgotten."""
        if msg_id in self._questions:
            return NO_CELL
        return self._executions.get(msg_id, self._comm_messages.get(msg_id))


def _remember(parents: OrderedDict[str, str], msg_id: str, cell_id: str) -> None:
    parents[msg_id] = cell_id
    while len(parents) > REMEMBERED_PARENTS:
        parents.popitem(last=False)
