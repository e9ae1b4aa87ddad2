"""Long readings in slices, so that a big notebook holds nobody up."""

from collections.abc import Iterable
from typing import TypeVar

from sync.core.steps import Steps
from sync.turns import in_turns

T = TypeVar("T")


async def in_slices(items: Iterable[T]) -> list[T]:
    """All items, with others' turns in between. Where they must be of one state, they are read at heads: each is read when
    it is asked for.
    """

    def take_all() -> Steps[list[T]]:
        taken = []
        for item in items:
            taken.append(item)
            yield
        return taken

    return await in_turns(take_all())
