"""A runtime document's successor: the same content with no history, made while the old document goes on changing.

Automerge has no way to drop history, so a document that only ever grows is replaced (docs/design.md, "Roll-over"). The copy
is made of the old document at fixed heads; what the doc-writer commits to it from then on is written behind it, mutation by
mutation, as it was there. Both have then the same content, since a mutation names what it changes by its path.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from sync.core.binding import ROOT, Transaction
from sync.core.document import Document
from sync.core.identifiers import document_id
from sync.core.plain import STR
from sync.core.prepared import PreparedMutation
from sync.core.runtime_reading import copy_runtime
from sync.core.runtime_schema import RuntimeSchema


class Succession:
    """One document on its way into the place of another.

    Args:
        old: the runtime document as it is now is what is copied.
        identifier: 16 random bytes, for the successor's URL.
        notebook_url: what its `notebook` says.

    Attributes:
        document: the successor; nobody else knows of it until it is complete.
        schema: writes it.
        copied: what the old document held at first is written; `behind` may still be true.
    """

    def __init__(self, old: Document, identifier: bytes, *, notebook_url: str) -> None:
        self.document = Document(document_id(identifier))
        self.schema = RuntimeSchema()
        self._copy: Iterator[PreparedMutation] = copy_runtime(old.replica, old.heads())
        self._since: deque[PreparedMutation] = deque()
        self.copied = False
        self.document.commit(lambda tx: self.schema.create(tx, notebook_url=notebook_url, path=""))

    def follow(self, mutations: Iterable[PreparedMutation]) -> None:
        """Takes what was just committed to the old document."""
        self._since.extend(mutations)

    @property
    def behind(self) -> bool:
        """Whether the old document holds something that the successor does not."""
        return not self.copied or bool(self._since)

    def catch_up(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Writes into the successor what it lacks, in one commit, for as long as `go_on` says so; one mutation at least."""

        def write(tx: Transaction) -> None:
            while (mutation := self._next()) is not None:
                self.schema.apply(tx, [mutation])
                if not go_on():
                    return

        self.document.commit(write)

    def _next(self) -> PreparedMutation | None:
        if not self.copied:
            mutation = next(self._copy, None)
            if mutation is not None:
                return mutation
            self.copied = True
        return self._since.popleft() if self._since else None


def name_successor(tx: Transaction, url: str) -> None:
    """Writes the last change of a runtime document: where it goes on."""
    tx.put(ROOT, "successor", STR, url)
