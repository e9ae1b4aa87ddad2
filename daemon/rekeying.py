"""Gives cells whose position is missing, ill-typed or too long one that is right, when nobody edits (docs/wire.md).

They are shown behind all others, in the order of their ids, until then; and stay where they are shown.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence

from sync.core.binding import Transaction
from sync.core.cell_order import append, is_placed, read_order
from sync.core.document import Document
from sync.core.notebook_schema import NotebookSchema
from sync.core.positions import RANDOM_SPACE, random_digits

# Nobody edits: long enough for a person who thinks between two words, and for an editor that writes a cell's keys one by one.
QUIET_SECONDS = 5.0
# In one commit: a millisecond for a hundred.
MAX_AT_ONCE = 500
# Until the next, when these are in the document.
NEXT_SECONDS = 0.1


class Rekeying:
    """For one notebook document.

    Args:
        write: has the doc-writer write to the notebook document.
    """

    def __init__(self, notebook: Document, write: Callable[[Callable[[Transaction], None]], None]) -> None:
        self._notebook = notebook
        self._write = write
        self._ill: set[str] = set()
        # Of these, in the order in which they are shown, what is to be moved behind the position `_left` while nobody edits.
        self._rest: deque[str] = deque()
        self._left: str | None = None
        self.deadline = math.inf

    def look(self, cell_id: str) -> None:
        """A peer changed the cell."""
        if is_placed(self._notebook.replica, cell_id):
            self._ill.discard(cell_id)
        else:
            self._ill.add(cell_id)

    def edited(self, now: float) -> None:
        """Peers changed something, which was looked at."""
        self._rest.clear()
        self.deadline = now + QUIET_SECONDS if self._ill else math.inf

    def expire(self, now: float) -> None:
        """Writes what is due."""
        if now < self.deadline:
            return
        if not self._rest:
            order = read_order(self._notebook.replica)
            self._rest.extend(cell.cell_id for cell in order if cell.position is None and cell.cell_id in self._ill)
            self._left = next((cell.position for cell in reversed(order) if cell.position is not None), None)
        cells = [self._rest.popleft() for _ in range(min(MAX_AT_ONCE, len(self._rest)))]
        moved = append(self._left, cells, lambda: random_digits(random.randrange(RANDOM_SPACE)))
        if len(moved) < len(cells):  # there is no room behind the last; they stay where they are shown
            self._rest.clear()
        self._ill.difference_update(cells)
        self.deadline = now + NEXT_SECONDS if self._rest else math.inf
        if moved:  # not gone meanwhile
            self._left = moved[-1][1]
            self._write(lambda tx: _move(tx, moved))


def _move(transaction: Transaction, moved: Sequence[tuple[str, str]]) -> None:
    for cell_id, position in moved:
        if not is_placed(transaction, cell_id):  # as somebody did since
            NotebookSchema.set_position(transaction, cell_id, position)
