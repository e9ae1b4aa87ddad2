import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import wsproto
import wsproto.events
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode

from sync.websocket import (
    PeerSocket,
    SocketClosed,
    SocketProtocolError,
    SocketRefused,
    accept_socket,
    connect_socket,
    keepalive,
)

LIMIT = 100_000
HEAD = (
    b"GET /sync HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class RecordingStream(trio.abc.SendStream):
    """Remembers each write; `hook` says how long one takes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.hook: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        self.writes.append(bytes(data))
        await self.hook()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self._closed = True

    async def aclose(self) -> None:
        self.close()


class RawPeer:
    """A client down to its frames, over memory streams."""

    def __init__(self) -> None:
        self.to_server = trio.testing.MemoryReceiveStream()
        self.from_server = RecordingStream()
        self.server_stream = trio.StapledStream(self.from_server, self.to_server)
        self._encoder = FrameProtocol(client=True, extensions=[])

    def frame(self, payload: bytes | str, *, fin: bool = True) -> bytes:
        return bytes(self._encoder.send_data(payload, fin))

    def send(self, payload: bytes | str, *, fin: bool = True) -> None:
        self.to_server.put_data(self.frame(payload, fin=fin))

    def say_close(self) -> None:
        self.to_server.put_data(bytes(self._encoder.close(1000)))

    def ping(self, payload: bytes) -> None:
        self.to_server.put_data(bytes(self._encoder.ping(payload)))

    def pong(self, payload: bytes) -> None:
        self.to_server.put_data(bytes(self._encoder.pong(payload)))

    def received(self) -> list[Frame]:
        return list(frames_of(b"".join(self.from_server.writes)))

    @asynccontextmanager
    async def accepted(self, prefix: bytes = HEAD, limit: int = LIMIT) -> AsyncIterator[PeerSocket]:
        async with accept_socket(self.server_stream, prefix=prefix, max_message_bytes=limit) as socket:
            yield socket


def frames_of(data: bytes) -> Iterator[Frame]:
    """The frames that follow the answer to the upgrade."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    decoder = FrameProtocol(client=True, extensions=[])
    decoder.receive_bytes(rest)
    return decoder.received_frames()


async def receive_all(socket: PeerSocket, count: int) -> list[bytes]:
    messages: list[bytes] = []
    while len(messages) < count:
        messages += await socket.receive()
    return messages


# Sending.


async def test_a_batch_leaves_in_one_write() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        before = len(peer.from_server.writes)
        await socket.send([b"one", b"two", b"", b"x" * 70_000, b"five"])
        assert len(peer.from_server.writes) == before + 1
    assert [frame.payload for frame in peer.received()] == [b"one", b"two", b"", b"x" * 70_000, b"five"]


async def test_an_empty_batch_writes_nothing() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        before = len(peer.from_server.writes)
        await socket.send([])
        assert len(peer.from_server.writes) == before


async def test_a_second_sender_is_told_so() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket, trio.open_nursery() as nursery:
        peer.from_server.hook = trio.sleep_forever
        nursery.start_soon(socket.send, [b"first"])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await socket.send([b"second"])
        nursery.cancel_scope.cancel()


async def test_a_cancelled_send_drops_the_connection() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.from_server.hook = trio.sleep_forever
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(socket.send, [b"first", b"second"])
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        with pytest.raises(SocketClosed):
            await socket.send([b"third"])


# Receiving.


async def test_bytes_after_the_request_head_are_the_first_message() -> None:
    peer = RawPeer()
    async with peer.accepted(prefix=HEAD + peer.frame(b"early")) as socket:
        assert await socket.receive() == [b"early"]


async def test_messages_that_are_there_come_at_once_and_in_order() -> None:
    peer = RawPeer()
    expected = [b"%d" % n for n in range(50)]
    async with peer.accepted() as socket:
        for message in expected:
            peer.send(message)
        await trio.testing.wait_all_tasks_blocked()
        assert await socket.receive() == expected


async def test_a_fragmented_message_is_one_message() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.send(b"one ", fin=False)
        peer.send(b"message")
        assert await socket.receive() == [b"one message"]


async def test_a_text_message_is_a_breach_after_which_one_can_still_send() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.send(b"fine")
        peer.send("text")
        assert await socket.receive() == [b"fine"]
        for _ in range(2):
            with pytest.raises(SocketProtocolError, match="text message"):
                await socket.receive()
        await socket.send([b"why"])
    assert [frame.payload for frame in peer.received()] == [b"why"]


async def test_messages_of_the_permitted_size_pass() -> None:
    peer = RawPeer()
    large = b"x" * LIMIT
    async with peer.accepted() as socket:
        for _ in range(20):
            peer.send(large)
        assert await receive_all(socket, 20) == [large] * 20


async def test_a_message_above_the_limit_is_a_breach_and_no_close_frame_follows() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.send(b"x" * (LIMIT + 1))
        with pytest.raises(SocketProtocolError, match="more than 100000 bytes"):
            await socket.receive()
        await socket.send([b"why"])
    assert [frame.payload for frame in peer.received()] == [b"why"]


@pytest.mark.parametrize("fragment", [b"", b"x", b"x" * 10_000])
async def test_a_message_that_never_ends_is_a_breach(fragment: bytes) -> None:
    peer = RawPeer()
    flood = peer.frame(b"start", fin=False) + peer.frame(fragment, fin=False) * (480_000 // (len(fragment) + 6))
    async with peer.accepted() as socket, trio.open_nursery() as nursery:
        peer.to_server.put_data(flood)
        with pytest.raises(SocketProtocolError, match="more than 100000 bytes"):
            await socket.receive()
        await socket.send([b"why"])
        nursery.cancel_scope.cancel()
    assert [frame.payload for frame in peer.received()] == [b"why"]


async def test_nothing_is_read_far_ahead_of_who_receives() -> None:
    client, server = trio.testing.lockstep_stream_pair()
    peer = RawPeer()
    frame = peer.frame(b"x" * 10_000)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for _ in range(200):
            await client.send_all(frame)
            sent += 1

    async def drain() -> None:
        while await client.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        async with accept_socket(server, prefix=HEAD, max_message_bytes=LIMIT) as socket:
            nursery.start_soon(flood)
            await trio.testing.wait_all_tasks_blocked()
            assert sent <= 1
            assert len(await receive_all(socket, 200)) == 200


async def test_garbage_is_a_breach_after_which_one_can_still_send() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.send(b"fine")
        peer.to_server.put_data(b"\xff" * 100)
        assert await socket.receive() == [b"fine"]
        for _ in range(2):
            with pytest.raises(SocketProtocolError, match="no WebSocket frame"):
                await socket.receive()
        await socket.send([b"why"])
    assert [frame.payload for frame in peer.received()] == [b"why"]


async def test_what_came_before_a_close_is_received_before_the_end() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        for n in range(3):
            peer.send(b"%d" % n)
        peer.say_close()
        await trio.testing.wait_all_tasks_blocked()
        assert await socket.receive() == [b"0", b"1", b"2"]
        with pytest.raises(SocketClosed):
            await socket.receive()


async def test_a_connection_that_breaks_off_ends_receiving() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.to_server.put_eof()
        with pytest.raises(SocketClosed):
            await socket.receive()


# Ending.


async def test_drop_ends_what_waits_and_leaves_no_close_frame() -> None:
    peer = RawPeer()
    closed = 0

    async def waits(call: Any) -> None:
        nonlocal closed
        with pytest.raises(SocketClosed):
            await call()
        closed += 1

    async with peer.accepted() as socket:
        await socket.send([b"said"])
        peer.from_server.hook = trio.sleep_forever
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits, socket.receive)
            await trio.testing.wait_all_tasks_blocked()
            socket.drop()
            socket.drop()
        await waits(socket.receive)
        await waits(lambda: socket.send([b"unsaid"]))
        await waits(lambda: socket.ping(1))
    assert closed == 4
    assert [frame.payload for frame in peer.received()] == [b"said"]


async def test_drop_ends_a_send_that_waits_for_the_network() -> None:
    async with tcp_pair() as (client, server), accept_socket(server, prefix=HEAD, max_message_bytes=LIMIT) as socket:

        async def sends() -> None:
            with pytest.raises(SocketClosed):
                await socket.send([b"x" * 50_000_000])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sends)
            await trio.testing.wait_all_tasks_blocked()
            socket.drop()
        with pytest.raises(SocketClosed):
            await socket.receive()
        assert client.socket.fileno() >= 0


async def test_the_end_of_the_block_leaves_no_close_frame() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        await socket.send([b"said"])
    assert [frame.opcode for frame in peer.received()] == [Opcode.BINARY]


async def test_errors_of_the_block_come_out_as_they_are() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with RawPeer().accepted():
            raise KeyError("mine")


async def test_cancelling_the_block_ends_it() -> None:
    with trio.CancelScope() as scope:
        async with RawPeer().accepted() as socket:
            scope.cancel()
            await socket.receive()
    assert scope.cancelled_caught


async def test_finish_lets_the_last_message_arrive_although_the_peer_is_still_sending() -> None:
    async with tcp_pair() as (client, server), trio.open_nursery() as nursery:

        async def serve() -> None:
            async with accept_socket(server, prefix=HEAD, max_message_bytes=10) as socket:
                with pytest.raises(SocketProtocolError):
                    await socket.receive()
                await socket.send([b"too much"])
                await socket.finish(5)

        nursery.start_soon(serve)
        await client.send_all(RawPeer().frame(b"x" * 3_000_000))
        answer = b""
        async for data in client:
            answer += data
        assert [frame.payload for frame in frames_of(answer)] == [b"too much"]
        await client.aclose()


async def test_finish_reads_past_messages_that_nobody_took(autojump_clock: trio.testing.MockClock) -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.to_server.put_data(peer.frame(b"x") * 5000)
        await trio.testing.wait_all_tasks_blocked()
        peer.to_server.put_eof()
        started = trio.current_time()
        await socket.finish(3)
        assert trio.current_time() == started


async def test_finish_does_not_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        started = trio.current_time()
        await socket.finish(3)
        assert trio.current_time() - started <= 3


# Handshakes.


async def test_a_head_that_is_no_upgrade_ends_at_once() -> None:
    peer = RawPeer()
    with pytest.raises(SocketClosed, match="handshake failed"):
        async with peer.accepted(prefix=HEAD.replace(b"Version: 13", b"Version: 12")):
            pytest.fail("accepted")


async def test_an_old_protocol_ends_at_once() -> None:
    with pytest.raises(SocketClosed, match="handshake failed"):
        async with RawPeer().accepted(
            prefix=HEAD.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: localhost\r\n", b"")
        ):
            pytest.fail("accepted")


async def test_a_handshake_that_stalls_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    peer = RawPeer()
    with pytest.raises(SocketClosed, match="no handshake within 10 s"):
        async with peer.accepted(prefix=HEAD[:-2]):
            pytest.fail("accepted")


async def test_two_ends_talk_over_tcp_and_part_politely() -> None:
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        assert stream.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY)
        async with accept_socket(stream, max_message_bytes=LIMIT) as socket:
            await socket.send(await receive_all(socket, 2))
            with pytest.raises(SocketClosed, match="code=1000"):
                await socket.receive()
            ended.set()

    async with served(serve) as port:
        async with connect_socket(f"ws://127.0.0.1:{port}/sync", token="T", max_message_bytes=LIMIT) as socket:
            transport = socket._transport._stream
            assert isinstance(transport, trio.SocketStream)
            assert transport.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY)
            await socket.send([b"a", b"b" * 80_000])
            assert await receive_all(socket, 2) == [b"a", b"b" * 80_000]
        await ended.wait()


async def test_the_token_goes_into_a_header_and_the_path_as_it_is() -> None:
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        heads.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope")

    async with served(serve) as port:
        with pytest.raises(SocketRefused) as refused:
            async with connect_socket(
                f"ws://127.0.0.1:{port}/sync?a=b", token="Té", headers=[("Origin", "http://x")], max_message_bytes=LIMIT
            ):
                pytest.fail("accepted")
    assert (refused.value.status, refused.value.body) == (401, b"nope")
    assert heads[0].startswith(b"GET /sync?a=b HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in heads[0]
    assert b"Authorization: Bearer T\xc3\xa9\r\n" in heads[0]
    assert b"Origin: http://x\r\n" in heads[0]


async def test_a_refusal_whose_body_ends_with_the_connection_is_one() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nnot here")

    async with served(serve) as port:
        with pytest.raises(SocketRefused, match="not here"):
            async with connect_socket(f"ws://127.0.0.1:{port}/", max_message_bytes=LIMIT):
                pytest.fail("accepted")


async def test_a_server_that_hangs_up_is_not_waited_for() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with served(serve) as port:
        with pytest.raises(SocketClosed, match="broke off"):
            async with connect_socket(f"ws://127.0.0.1:{port}/", max_message_bytes=LIMIT):
                pytest.fail("accepted")


async def test_nobody_listening_is_an_os_error() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(OSError, match="connect"):
        async with connect_socket(f"ws://127.0.0.1:{port}/", max_message_bytes=LIMIT):
            pytest.fail("connected")


@pytest.mark.parametrize("url", ["http://localhost/", "ws:///sync", "localhost:80"])
async def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a WebSocket URL"):
        async with connect_socket(url, max_message_bytes=LIMIT):
            pytest.fail("connected")


async def test_a_ping_that_crosses_our_close_harms_nobody() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        encoder = FrameProtocol(client=False, extensions=[])
        request = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        request.receive_data(await stream.receive_some())
        await stream.send_all(request.send(wsproto.events.AcceptConnection()))
        await stream.receive_some()
        await stream.send_all(bytes(encoder.ping(b"late")) + bytes(encoder.close(1000)))

    async with served(serve) as port, connect_socket(f"ws://127.0.0.1:{port}/", max_message_bytes=LIMIT):
        pass


# Keepalive.


async def test_a_peer_that_answers_pings_stays(autojump_clock: trio.testing.MockClock) -> None:
    peer = RawPeer()
    pings = 0

    async def answer() -> None:
        nonlocal pings
        await trio.lowlevel.checkpoint()
        data = peer.from_server.writes[-1]
        if data[0] == 0x80 | Opcode.PING:
            pings += 1
            peer.pong(data[2:])

    async with peer.accepted() as socket, trio.open_nursery() as nursery:
        peer.from_server.hook = answer
        nursery.start_soon(keepalive, socket)
        with trio.move_on_after(305):
            await socket.receive()
        await socket.send([b"still here"])
        nursery.cancel_scope.cancel()
    assert pings == 10


async def test_a_silent_peer_is_dropped_90_s_later(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    async with RawPeer().accepted() as socket, trio.open_nursery() as nursery:
        nursery.start_soon(keepalive, socket)
        with pytest.raises(SocketClosed):
            await socket.receive()
    assert trio.current_time() - started == pytest.approx(90, abs=1)


async def test_any_bytes_are_a_sign_of_life(autojump_clock: trio.testing.MockClock) -> None:
    peer = RawPeer()
    async with peer.accepted() as socket, trio.open_nursery() as nursery:
        nursery.start_soon(keepalive, socket)
        for _ in range(10):
            await trio.sleep(50)
            peer.send(b"busy with a large document")
            await socket.receive()
        nursery.cancel_scope.cancel()


async def test_a_peer_is_not_dropped_because_we_do_not_read(autojump_clock: trio.testing.MockClock) -> None:
    peer = RawPeer()
    async with peer.accepted(limit=1_000_000) as socket, trio.open_nursery() as nursery:
        nursery.start_soon(keepalive, socket)
        for _ in range(10):
            peer.send(b"x" * 100_000)
        await trio.sleep(500)
        assert len(await receive_all(socket, 10)) == 10
        nursery.cancel_scope.cancel()


async def test_pings_are_answered_the_newest_of_many_at_once() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        for payload in (b"first", b"second"):
            peer.ping(payload)
        peer.send(b"message")
        assert await socket.receive() == [b"message"]
        await socket.send([b"answer"])
    assert [(frame.opcode, frame.payload) for frame in peer.received()] == [
        (Opcode.PONG, b"second"),
        (Opcode.BINARY, b"answer"),
    ]


async def test_a_ping_is_answered_behind_the_batch_that_is_being_written() -> None:
    peer = RawPeer()
    taken = trio.Event()
    async with peer.accepted() as socket, trio.open_nursery() as nursery:
        peer.from_server.hook = taken.wait
        nursery.start_soon(socket.send, [b"batch"])
        await trio.testing.wait_all_tasks_blocked()
        peer.ping(b"there?")
        peer.send(b"message")
        assert await socket.receive() == [b"message"]
        taken.set()
    assert [frame.opcode for frame in peer.received()] == [Opcode.BINARY, Opcode.PONG]


@pytest.mark.parametrize("last", ["ping", "close"])
async def test_what_a_peer_said_before_it_went_is_received_though_nothing_can_be_answered(last: str) -> None:
    peer = RawPeer()

    async def refuse() -> None:
        raise trio.BrokenResourceError

    async with peer.accepted() as socket:
        peer.from_server.hook = refuse
        peer.send(b"one")
        if last == "ping":
            peer.ping(b"there?")
            peer.send(b"two")
            peer.to_server.put_eof()
            assert await socket.receive() == [b"one", b"two"]
        else:
            peer.say_close()
            assert await socket.receive() == [b"one"]
        for call in (socket.receive, lambda: socket.send([b"unsaid"]), lambda: socket.ping(1)):
            with pytest.raises(SocketClosed):
                await call()


async def test_a_slow_peer_that_takes_what_it_is_sent_lives_though_it_has_no_turn_to_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer = RawPeer()

    async def take_slowly() -> None:
        await trio.sleep(25)  # for 256 KiB

    async with peer.accepted() as socket, trio.open_nursery() as nursery:
        peer.from_server.hook = take_slowly
        nursery.start_soon(socket.receive)
        nursery.start_soon(keepalive, socket)
        await socket.send([b"x" * 4_000_000], patience=60)
        assert trio.current_time() > 350
        nursery.cancel_scope.cancel()


async def test_fragments_cost_no_more_than_their_message() -> None:
    peer = RawPeer()
    count = 40_000
    fragments = peer.frame(b"st", fin=False) + peer.frame(b"xy", fin=False) * count
    async with peer.accepted(limit=1_000_000) as socket, trio.open_nursery() as nursery:
        peer.to_server.put_data(fragments)
        tracemalloc.start()
        nursery.start_soon(socket.receive)
        await trio.testing.wait_all_tasks_blocked()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        nursery.cancel_scope.cancel()
    assert held < 10 * count  # two bytes each; one object each would be fifty


async def test_a_flood_of_pings_is_no_message_and_lets_others_work() -> None:
    peer = RawPeer()
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with peer.accepted() as socket, trio.open_nursery() as nursery:
        for _ in range(80_000):  # more bytes than belong to one message
            peer.ping(b"")
        peer.send(b"message")
        nursery.start_soon(take_turns)
        assert await socket.receive() == [b"message"]
        nursery.cancel_scope.cancel()
    assert turns > 80_000 / 256 / 2


async def test_what_was_taken_apart_is_kept_when_receiving_is_cancelled() -> None:
    peer = RawPeer()
    taken: list[bytes] = []

    async def receive() -> None:
        taken.extend(await socket.receive())

    expected = [b"%d" % n for n in range(600)]
    some = trio.Event()
    async with peer.accepted() as socket:
        take = socket._take

        def take_and_tell(event: wsproto.events.Event) -> None:
            take(event)
            some.set()

        socket._take = take_and_tell
        for message in expected:
            peer.send(message)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await some.wait()  # it gives way to others in the middle of them
            nursery.cancel_scope.cancel()
        assert not taken
        assert await receive_all(socket, 600) == expected


async def test_a_goodbye_is_answered() -> None:
    peer = RawPeer()
    async with peer.accepted() as socket:
        peer.say_close()
        with pytest.raises(SocketClosed, match="code=1000"):
            await socket.receive()
        with pytest.raises(SocketClosed, match="code=1000"):
            await socket.send([b"unsaid"])
    assert [frame.opcode for frame in peer.received()] == [Opcode.CLOSE]


async def test_keepalive_ends_with_the_socket(autojump_clock: trio.testing.MockClock) -> None:
    async with RawPeer().accepted() as socket, trio.open_nursery() as nursery:
        nursery.start_soon(keepalive, socket)
        await trio.testing.wait_all_tasks_blocked()
        socket.drop()


# Streams.


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """A raw client, whose upgrade was answered, and the server's end of one connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.testing.open_stream_to_socket_listener(listener)
        assert isinstance(client, trio.SocketStream)
        async with client, await listener.accept() as server:
            yield client, server


@asynccontextmanager
async def served(serve: Any) -> AsyncIterator[int]:
    """A listener on a free port, each of whose connections is served by `serve(stream)`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
