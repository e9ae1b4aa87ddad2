"""What a room's producers hand to its doc-writer: mutations, and the events and answers that stand behind them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from sync.core.binding import Transaction
from sync.core.mutations import Mutation
from sync.core.peer_changes import Recipient
from sync.core.steps import Steps


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event before it has heads; `cells`: it speaks of cells or sources, so it names notebook heads as well."""

    method: str
    params: dict[str, Any]
    cells: bool = False


@dataclass(frozen=True, slots=True)
class PendingResponse:
    """The result of a request, for one peer."""

    recipient: Recipient
    request_id: str | int
    result: dict[str, Any]
    cells: bool = False


@dataclass(slots=True)
class Batch:
    """What a source held: applied in order, in one commit.

    Attributes:
        changes_file: a notebook file would hold something else.
        more: the source holds notices that come with the next one.
    """

    mutations: list[Mutation] = field(default_factory=list)
    notices: list[PendingEvent | PendingResponse] = field(default_factory=list)
    notebook_writes: list[Callable[[Transaction], None]] = field(default_factory=list)
    changes_file: bool = False
    more: bool = False


class Source(Protocol):
    """The bounded buffer between a room's producers and its doc-writer."""

    def drain(self) -> Batch:
        """Gives everything that waits and forgets it; of very many notices the first (`more`)."""
        ...

    def notebook_changed(self, keys: Collection[str] | None) -> Steps[None]:
        """Peers' changes were just applied; `keys` of maps may have other values now (see `Taken`), None: any may.

        What follows from that is done in steps. Nobody else changes the documents meanwhile.
        """
        ...
