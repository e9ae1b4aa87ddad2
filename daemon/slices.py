"""Long readings in slices, so that a big notebook holds nobody up."""

from collections.abc import Iterable
from typing import Final, TypeVar

import trio

T = TypeVar("T")

# Cut by the clock: what the loop can be without for once.
SLICE_SECONDS: Final = 0.005


async def in_slices(items: Iterable[T]) -> list[T]:
    """All items, with others' turns in between. Where they must be of one state, they are read at heads: each is read when
    it is asked for.
    """
    taken = []
    pause = trio.current_time() + SLICE_SECONDS
    for item in items:
        taken.append(item)
        if trio.current_time() >= pause:
            await trio.lowlevel.checkpoint()
            pause = trio.current_time() + SLICE_SECONDS
    return taken
