"""A write goes on as long as the other end takes some of it."""

import trio
from trio.testing import MockClock, lockstep_stream_pair

from sync.corked_stream import CorkedStream

MIB = 1024 * 1024
PATIENCE = 60.0


async def taken(pauses: list[float]) -> tuple[bool, float]:
    """Whether 1 MiB went out to an end that takes a quarter after each pause, and how long it took."""
    ours, theirs = lockstep_stream_pair()
    corked = CorkedStream(ours, b"", b"", MIB)

    async def take() -> None:
        for pause in pauses:
            await trio.sleep(pause)
            await theirs.receive_some(MIB)

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        with corked.paced(PATIENCE) as pace:
            await corked.send_all(bytes(MIB))
        nursery.cancel_scope.cancel()
    return not pace.cancelled_caught, trio.current_time() - begin


async def test_a_slow_end_has_all_the_time_that_it_needs(autojump_clock: MockClock) -> None:
    assert await taken([50, 50, 50, 50]) == (True, 200)


async def test_an_end_that_stops_is_given_up(autojump_clock: MockClock) -> None:
    assert await taken([50, 100, 0, 0]) == (False, 50 + PATIENCE)
