"""Making one text of another in a document, a slice at a time.

Text goes in and out a character at a time (7 to 9 us each, holding the loop), so that the edits of others merge. Several
characters in one operation would be a thousand times faster, but such a run cannot be cut: an index inside it is out of
bounds, or the end, and JavaScript's edits of it go astray (measured). A peer may have made one all the same; then the text
object is replaced.
"""

from sync.core.binding import ObjId, Transaction
from sync.core.json_text import clean
from sync.core.plain import STR, TEXT

# Characters written in one transaction: 3 ms, 7 at most.
SLICE = 2000


def changed_span(old: str, new: str) -> tuple[int, int, str]:
    """Where two texts differ: the index where they begin to, how much of `old` goes there, and what comes instead."""
    start = _common_prefix(old, new)
    limit = min(len(old), len(new)) - start
    end = _common_prefix(old[len(old) - limit :][::-1], new[len(new) - limit :][::-1])
    return start, len(old) - start - end, new[start : len(new) - end]


def insert_text(tx: Transaction, text: ObjId, index: int, content: str) -> None:
    """Inserts characters before an index (in code points) of a text object; no lone surrogates."""
    for place, character in enumerate(content, index):
        tx.insert(text, place, STR, character)


class SourceEdit:
    """Turns the string at a map's key into `new`, touching only what differs.

    Call `write` until `done`, each time in a transaction of its own if the loop shall breathe. Edits of others may come
    in between: this goes on behind or before them. If the string is replaced as a whole, the rest goes to the old one.

    Args:
        parent: The map.
        key: Where in the map.
        text: The text object that is there; None to put a new one.
        old: What it reads now.
        new: What it shall read.
    """

    def __init__(self, parent: ObjId, key: str, text: ObjId | None, old: str, new: str) -> None:
        self._parent = parent
        self._key = key
        self._text = text
        self._before = "" if text is None else old  # the text as the last slice left it
        self._index, self._deletes, self._rest = changed_span(self._before, clean(new))
        self._checked = False

    @property
    def done(self) -> bool:
        """Whether all is written."""
        return self._text is not None and not self._deletes and not self._rest

    def write(self, tx: Transaction, budget: int = SLICE) -> int:
        """Writes at most `budget` characters, at least one; returns how many it inserted or deleted."""
        if self._text is None:
            self._put_anew(tx)
        elif tx.length(self._text) != len(self._before):
            self._follow(tx)
        deletes = min(max(1, budget), self._deletes)
        inserted = self._rest[: max(1, budget) - deletes]
        after = self._before[: self._index] + inserted + self._before[self._index + deletes :]
        if not self._edit(tx, deletes, inserted, after):
            self._rest = self._before[: self._index] + self._rest + self._before[self._index + self._deletes :]
            self._put_anew(tx)
            return self.write(tx, budget)
        self._index += len(inserted)
        self._deletes -= deletes
        self._rest = self._rest[len(inserted) :]
        self._before = after
        return deletes + len(inserted)

    def _put_anew(self, tx: Transaction) -> None:
        self._text = tx.put_object(self._parent, self._key, TEXT)
        self._index, self._deletes, self._before = 0, 0, ""
        self._checked = True

    def _edit(self, tx: Transaction, deletes: int, inserted: str, after: str) -> bool:
        """Edits at the index; False if the text is not `after` then, as it holds a run that cannot be cut."""
        assert self._text is not None
        try:
            for _ in range(deletes):
                tx.delete(self._text, self._index)
            insert_text(tx, self._text, self._index, inserted)
        except Exception:  # the binding has no other class for "out of bounds"
            return False
        if tx.length(self._text) != len(after):
            return False
        # Where lengths do not tell, the content does; once, since it costs 35 us a 1 000 characters.
        is_right = self._checked or tx.text(self._text) == after
        self._checked = True
        return is_right

    def _follow(self, tx: Transaction) -> None:
        """Moves to where the place of this edit is after edits of others."""
        assert self._text is not None
        now = tx.text(self._text)
        start, deleted, inserted = changed_span(self._before, now)

        def moved(index: int) -> int:
            if index <= start:
                return index
            return max(start, index - deleted) + len(inserted)

        end = moved(self._index + self._deletes)
        # What was inserted just before that which is still to be deleted is not part of it.
        is_before = self._deletes and not deleted and start == self._index
        self._index = moved(self._index) + (len(inserted) if is_before else 0)
        self._deletes = end - self._index
        self._before = now


def _common_prefix(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is a hundred times faster than a loop over characters
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
