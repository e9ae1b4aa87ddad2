"""A connection as the doc-writer sees it, which writes down what it is told."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sync.core.document import Document
from sync.core.frames import decode_data
from sync.core.identifiers import DocumentId
from sync.core.jsonrpc import RequestError
from sync.core.notices import Notice
from sync.core.subscription import Subscription


@dataclass(eq=False)
class RecordingRecipient:
    peer_id: str = "peer"
    notices: list[Notice] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    errors: list[tuple[str | int | None, str]] = field(default_factory=list)
    rebuilt: list[bool] = field(default_factory=list)
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1

    def push(self, notice: Notice) -> None:
        self.notices.append(notice)

    def document_rebuilt(self, document: Document, authors: Collection[object]) -> None:
        document.subscribers.discard(self)
        self.rebuilt.append(self in authors)

    def may_write(self, document: Document) -> bool:
        del document
        return not self.refused

    def refuse_changes(self, subscription: Subscription, reason: str) -> None:
        subscription.make_read_only()
        self.refused.append(reason)

    def send_error(self, document_id: DocumentId, request_id: str | int | None, error: RequestError) -> None:
        del document_id
        self.errors.append((request_id, error.reason))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What the notices say."""
        return [decode_data(notice.data) for notice in self.notices]  # type: ignore[misc] # objects of JSON-RPC
