"""Long work in the loop, with others' turns in between."""

from typing import Final, TypeVar

import trio

from sync.core.steps import Steps

T = TypeVar("T")

# Cut by the clock: what the loop can be without for once.
TURN_SECONDS: Final = 0.005


async def in_turns(steps: Steps[T]) -> T:
    """Works until it is done and returns the result; whatever takes longer than `TURN_SECONDS` gives way to others."""
    pause = trio.current_time() + TURN_SECONDS
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if trio.current_time() >= pause:
            await trio.lowlevel.checkpoint()
            pause = trio.current_time() + TURN_SECONDS
