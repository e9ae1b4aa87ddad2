"""ZMQ sockets in Trio: no wake-up is missed and no message lost, whatever else happens on the socket."""

import random
import select
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
import zmq

from kernel_bridge.core.wire import MAX_FRAMES
from kernel_bridge.zmq_socket import BATCH_MESSAGES, SEND_QUEUE, ZmqContext, ZmqSocket, connection_event


@pytest.fixture
async def context() -> AsyncIterator[ZmqContext]:
    opened = ZmqContext()
    yield opened
    opened.close()


@pytest.fixture
async def other_side() -> AsyncIterator["zmq.Socket[bytes]"]:
    """A kernel's end, used without waiting."""
    other: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = other.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    yield socket
    other.destroy(linger=0)


async def dealer(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", folder: Path, *, monitored: bool = False
) -> ZmqSocket:
    """A DEALER that the other side knows as b"me"."""
    endpoint = f"ipc://{folder}/s"
    other_side.bind(endpoint)
    socket = context.connect_dealer(endpoint, b"me", monitored=monitored)
    assert socket.send([b"hello"])
    assert other_side.recv_multipart() == [b"me", b"hello"]
    return socket


async def receive_many(socket: ZmqSocket, count: int) -> list[list[bytes]]:
    messages: list[list[bytes]] = []
    with trio.fail_after(30):
        while len(messages) < count:
            messages += await socket.receive()
    return messages


async def test_many_messages_behind_one_wakeup_all_arrive_in_order_and_in_batches(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)
    for number in range(3_000):
        other_side.send_multipart([b"me", b"%d" % number, b"x"])

    sizes = []
    messages: list[list[bytes]] = []
    with trio.fail_after(30):
        while len(messages) < 3_000:
            batch = await socket.receive()
            sizes.append(len(batch))
            messages += batch

    assert messages == [[b"%d" % number, b"x"] for number in range(3_000)]
    assert max(sizes) <= BATCH_MESSAGES


async def test_a_send_that_swallows_the_signal_wakes_the_parked_reader_itself(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)
    received: list[list[bytes]] = []

    async def read() -> None:
        received.extend(await socket.receive())

    def signalled(seconds: float) -> bool:
        return bool(select.select([socket._fd], [], [], seconds)[0])

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            other_side.send_multipart([b"me", b"down"])
            assert signalled(10)
            # Trio has had no turn since; libzmq looks at its mailbox once a millisecond only, so not at every send.
            while signalled(0):
                assert socket.send([b"up"])
            assert socket.rechecks > 0

    assert received == [[b"down"]]


async def test_sending_and_receiving_in_any_order_loses_nothing(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)
    rng = random.Random(1)
    down = [rng.randrange(4) for _ in range(1_000)] + [1]
    received = 0

    async def read() -> None:
        nonlocal received
        while received < sum(down):
            received += len(await socket.receive())

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for count in down:
                if rng.random() < 0.5:
                    await trio.lowlevel.checkpoint()
                for _ in range(count):
                    other_side.send_multipart([b"me", b"down"])
                # Ours comes last, so that nothing from the other side wakes the reader after it.
                assert socket.send([b"up"])

    assert received == sum(down)


async def test_cancelled_receives_lose_nothing(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)
    received: list[int] = []
    cancelled = 0
    sent = 0
    rng = random.Random(2)
    with trio.fail_after(60):
        while len(received) < 2_000:
            while sent < 2_000 and rng.random() < 0.6:
                other_side.send_multipart([b"me", b"%d" % sent])
                sent += 1
            with trio.CancelScope() as scope:
                scope.deadline = trio.current_time() + rng.choice([-1, 0, 0.0001, 0.001])
                received += [int(message[0]) for message in await socket.receive()]
            cancelled += scope.cancelled_caught

    assert received == list(range(2_000))
    assert cancelled > 0


async def test_a_cancelled_scope_is_noticed_although_messages_are_there(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)
    other_side.send_multipart([b"me", b"1"])
    other_side.send_multipart([b"me", b"2"])
    assert len(await receive_many(socket, 2)) == 2
    other_side.send_multipart([b"me", b"3"])

    with trio.CancelScope() as scope:
        scope.cancel()
        await socket.receive()

    assert scope.cancelled_caught
    assert await receive_many(socket, 1) == [[b"3"]]


async def test_receiving_is_a_checkpoint(context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path) -> None:
    socket = await dealer(context, other_side, tmp_path)
    other_side.send_multipart([b"me", b"1"])
    with trio.testing.assert_checkpoints():
        await socket.receive()


async def test_a_flood_leaves_room_for_other_tasks(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)
    for _ in range(20 * BATCH_MESSAGES):
        other_side.send_multipart([b"me", b"x"])
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await receive_many(socket, 20 * BATCH_MESSAGES)
        nursery.cancel_scope.cancel()

    assert turns >= 15  # one after each batch, give or take those in flight


async def test_a_message_of_very_many_frames_is_cut_and_told_by_one_frame_too_many(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)
    other_side.send_multipart([b"me", *[b""] * (3 * MAX_FRAMES)])
    other_side.send_multipart([b"me", b"next"])

    long, following = await receive_many(socket, 2)

    assert len(long) == MAX_FRAMES + 1
    assert following == [b"next"]


async def test_big_messages_end_a_batch(context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path) -> None:
    socket = await dealer(context, other_side, tmp_path)
    for _ in range(3):
        other_side.send_multipart([b"me", bytes(9 * 2**20)])

    for _ in range(3):
        with trio.fail_after(30):
            assert [len(message[0]) for message in await socket.receive()] == [9 * 2**20]
        assert socket.batch_bytes == 9 * 2**20


async def test_a_queue_that_nobody_reads_is_full_at_some_time(context: ZmqContext, tmp_path: Path) -> None:
    socket = context.connect_dealer(f"ipc://{tmp_path}/nobody")

    taken = sum(socket.send([b"x"]) for _ in range(SEND_QUEUE + 100))

    assert taken == SEND_QUEUE


async def test_closing_wakes_a_parked_reader(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await socket.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        context.close()

    with pytest.raises(trio.ClosedResourceError):
        socket.send([b"x"])
    with pytest.raises(trio.ClosedResourceError):
        await socket.receive()


async def test_connections_made_and_broken_are_told(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path, monitored=True)
    assert socket.monitor is not None
    with trio.fail_after(30):
        assert [connection_event(frames) for frames in await socket.monitor.receive()] == ["connected"]
        other_side.close(0)
        assert [connection_event(frames) for frames in await socket.monitor.receive()] == ["disconnected"]


async def test_what_the_other_side_sent_before_it_closed_is_still_there(
    context: ZmqContext, other_side: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    socket = await dealer(context, other_side, tmp_path, monitored=True)
    assert socket.monitor is not None
    for number in range(5_000):
        other_side.send_multipart([b"me", b"%d" % number])
    other_side.close(10_000)
    told: list[str] = []
    with trio.fail_after(30):
        while "disconnected" not in told:
            told += [connection_event(frames) for frames in await socket.monitor.receive()]

    messages = []
    while batch := socket.receive_nowait():
        messages += batch
    assert messages == [[b"%d" % number] for number in range(5_000)]
    assert socket.dry
