"""Events and responses on their way to peers: what they say, and which state must be there first."""

from dataclasses import dataclass

from sync.core.identifiers import DocumentId


@dataclass(frozen=True, slots=True, eq=False)
class Notice:
    """An event or a response that may be written once its state was.

    `requires` maps documents to positions in their logs; `data` is the encoded JSON-RPC object, shared by all peers.
    `droppable`: an event, which may be left out when a peer is too slow (the gap shows in `seq`); responses never are.
    `request_id` is what a response answers. `topic`: of the events of a topic only the last counts, so that a peer that is
    behind need not get the others.
    """

    document_id: DocumentId
    requires: tuple[tuple[DocumentId, int], ...]
    data: bytes
    droppable: bool
    request_id: str | int | None = None
    topic: str | None = None

    @property
    def speaks_of(self) -> set[DocumentId]:
        """The notebook document and those whose state it waits for: without one of them it means nothing."""
        return {self.document_id, *(document_id for document_id, _ in self.requires)}


# Events that say all of what is now: the queue as it is, how far an environment is.
LAST_COUNTS = frozenset({"queue_changed", "env_progress"})
