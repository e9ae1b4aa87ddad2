"""A write goes on as long as the other end takes some of it."""

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair
from wsproto.connection import Connection, ConnectionType

from sync.transport import StreamTransport
from sync.websocket import PeerSocket, SocketStalled

MIB = 1024 * 1024
PATIENCE = 60.0


async def send(pauses: list[float]) -> float:
    """Sends 1 MiB to an end that takes a quarter after each pause; how long it took."""
    ours, theirs = lockstep_stream_pair()
    socket = PeerSocket(StreamTransport(ours), Connection(ConnectionType.SERVER), MIB)

    async def take() -> None:
        for pause in pauses:
            await trio.sleep(pause)
            await theirs.receive_some(MIB)

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        try:
            await socket.send([bytes(MIB - 10)], patience=PATIENCE)  # and 10 for the head of its frame
        finally:
            nursery.cancel_scope.cancel()
    return trio.current_time() - begin


async def test_a_slow_end_has_all_the_time_that_it_needs(autojump_clock: MockClock) -> None:
    assert await send([50, 50, 50, 50]) == 200


async def test_an_end_that_stops_is_given_up(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(SocketStalled):
        await send([50, 100, 0, 0])
    assert trio.current_time() == pytest.approx(50 + PATIENCE)
