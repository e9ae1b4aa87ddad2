"""Who waits until the notebook document holds what a peer says that it has: a request may overtake the edit before it (P2)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import trio

from sync.core.document import Document
from sync.core.identifiers import ChangeHash, Heads, heads_to_hex
from sync.core.peer_changes import Recipient


class HeadsRefused(Exception):
    """The awaited heads name a change that was refused: it will never come."""


class WriterEnded(Exception):
    """The room is over: nothing more is committed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    peer: Recipient
    missing: set[ChangeHash]
    done: trio.Event = field(default_factory=trio.Event)


class AwaitedHeads:
    """Those of one room; its doc-writer says when to look.

    Args:
        document: the notebook document.
        has_refused: whether one of these changes was refused.
    """

    def __init__(self, document: Document, has_refused: Callable[[Collection[ChangeHash]], bool]) -> None:
        self._document = document
        self._has_refused = has_refused
        self._waiters: list[_Waiter] = []
        self._ended = False

    async def wait(self, heads: Heads, peer: Recipient) -> None:
        """Returns once the document holds all of `heads`, which `peer` named.

        Raises:
            HeadsRefused: one of them was refused, or is missing and changes of this peer are not taken.
            WriterEnded: the room ended meanwhile.
        """
        waiter = _Waiter(peer, self._missing(heads))
        if not waiter.missing:
            return
        if self._ended:
            raise WriterEnded
        if not self._can_come(waiter):
            raise HeadsRefused
        self._waiters.append(waiter)
        try:
            await waiter.done.wait()
        finally:
            self._waiters.remove(waiter)
        if waiter.missing:
            raise WriterEnded if self._ended else HeadsRefused

    def missing(self, heads: Heads) -> list[str]:
        """Those of `heads` that the document lacks, in hex."""
        return sorted(heads_to_hex(self._missing(heads)))

    def look(self) -> None:
        """Changes were taken or refused: whoever waited for them need not any longer."""
        for waiter in self._waiters:
            waiter.missing.intersection_update(self._missing(waiter.missing))
            if not waiter.missing or not self._can_come(waiter):
                waiter.done.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        for waiter in self._waiters:
            waiter.done.set()

    def _missing(self, heads: Collection[ChangeHash]) -> set[ChangeHash]:
        return {change_hash for change_hash in heads if change_hash not in self._document.log}

    def _can_come(self, waiter: _Waiter) -> bool:
        return waiter.peer.may_write(self._document) and not self._has_refused(waiter.missing)
