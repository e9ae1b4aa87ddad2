"""One end of an open WebSocket, over wsproto, which knows frames and no sockets.

No task of its own stands between a connection and whoever receives from it: what nobody asks for stays in TCP.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from sync.transport import Transport

# Two seconds for the other end to answer our Close; after that the TCP connection is dropped anyway.
CLOSE_SECONDS = 2
# For the other end to take a pong.
PONG_SECONDS = 60

# What may come with one message of the permitted size: heads of its fragments, and pings between them. Without a bound, a
# message that never ends could be made of empty fragments.
_FRAMING_BYTES = 256 * 1024
# Taking a frame apart costs some 10 us, and one read may hold ten thousand: after so many others have their turn.
_FRAMES_AT_ONCE = 256
# The same for what is written and taken at once, without ever waiting.
_BYTES_AT_ONCE = 64 * 1024


class SocketClosed(Exception):
    """The connection is over: the other end left, or this one dropped it."""


class SocketStalled(SocketClosed):
    """The other end took nothing for too long; the connection was dropped."""


class SocketProtocolError(Exception):
    """The peer sent what this protocol does not have; `reason` is for people. The socket can still send."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PeerSocket:
    """One end of an open WebSocket; made by `accept_socket` and `connect_socket`.

    Args:
        transport: belongs to the socket from here on.
        connection: whose handshake is over; it may hold bytes that came right behind.
        max_message_bytes: a larger message is a breach of the protocol.
    """

    def __init__(self, transport: Transport, connection: Connection, max_message_bytes: int) -> None:
        self._transport = transport
        self._connection = connection
        self._max_message_bytes = max_message_bytes
        self._unparsed = True  # whether the library may hold frames that were not looked at
        self._whole: list[bytes] = []  # messages that nobody took yet
        self._part = bytearray()  # of the message that is coming in
        self._unfinished_bytes = 0  # all that came since that message began
        self._breach: str | None = None
        self._end: str | None = None  # why nothing more comes
        self._unwritable = False  # the other end has gone; what it said before can still be received
        self._finishing = False
        self._dropped = False
        self._sending = False
        self._writing = trio.Lock()  # a pong may be due while a batch is written
        self._taken_at_once = 0
        self._to_answer: Ping | CloseConnection | None = None
        self._receiving = False
        self._watched: tuple[trio.CancelScope, float] | None = None
        self._answered = trio.Event()

    # Receiving.

    async def receive(self) -> list[bytes]:
        """The next binary messages in order: waits for one, then takes those that came with it. One caller at a time.

        Raises:
            SocketProtocolError: a text message, one above the limit, or no WebSocket frame; what came before it was
                returned first.
            SocketClosed: nothing more will come.
        """
        self._require_open()
        with self._receives():
            while True:
                await self._take_frames()
                if self._whole:
                    messages, self._whole = self._whole, []
                    return messages
                if self._breach is not None:
                    raise SocketProtocolError(self._breach)
                if self._end is not None:
                    raise SocketClosed(self._end)
                await self._read()

    @contextmanager
    def _receives(self) -> Iterator[None]:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        self._receiving = True
        self._extend()
        try:
            yield
        finally:
            self._receiving = False
            self._extend()

    async def _read(self) -> None:
        try:
            data = await self._transport.read()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise SocketClosed("dropped by this end" if self._dropped else "the connection broke off") from error
        self._extend()
        if not data:
            self._end = "the other end hung up"
            return
        self._unparsed = True
        self._unfinished_bytes += len(data)
        self._connection.receive_data(data)

    async def _take_frames(self) -> None:
        """Takes apart what was read; what it finds is kept, also if this is cancelled."""
        while self._unparsed and self._breach is None and self._end is None:
            for number, event in enumerate(self._connection.events(), 1):
                self._take(event)
                if number == _FRAMES_AT_ONCE or self._breach is not None or self._end is not None:
                    break
            else:
                self._unparsed = False
            try:
                await self._answer()
            except SocketClosed:
                if self._dropped:
                    raise
            if self._unparsed:
                await trio.lowlevel.checkpoint()

    def _take(self, event: Event) -> None:
        match event:
            case BytesMessage():
                self._take_part(event)
            case TextMessage():
                self._breach = "a text message where only binary ones have a meaning"
            case Ping():
                self._to_answer = event
            case Pong():
                self._answered.set()
            case CloseConnection():
                self._take_close(event)
            case _:  # pragma: no cover  # there are no others after the handshake
                raise AssertionError(event)

    def _take_part(self, event: BytesMessage) -> None:
        size = len(self._part) + len(event.data)
        if size > self._max_message_bytes or (
            not event.message_finished and self._unfinished_bytes > self._max_message_bytes + _FRAMING_BYTES
        ):
            self._breach = f"a message of more than {self._max_message_bytes} bytes"
            self._part = bytearray()
        elif not event.message_finished:
            self._part += event.data
        else:
            self._whole.append(bytes(self._part) + event.data if self._part else bytes(event.data))
            self._part, self._unfinished_bytes = bytearray(), 0

    def _take_close(self, event: CloseConnection) -> None:
        if self._connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
            self._end = f"the other end said goodbye: code={int(event.code)} {event.reason or ''}".rstrip()
            self._to_answer = event
        else:
            # The library says it in this way when it can make nothing of what came.
            self._breach = f"no WebSocket frame: {event.reason}"

    # Sending.

    async def send(self, messages: Sequence[bytes], *, patience: float = math.inf) -> None:
        """Sends the messages with one write. One caller at a time.

        If it is cancelled while it writes, the connection is dropped, since half a frame may be out. It waits only if the
        system does not take all of it at once; whoever sends without an end gives way to other tasks every 64 KiB.

        Args:
            messages: in order.
            patience: how many seconds the other end may take for 256 KiB.

        Raises:
            SocketStalled: it took nothing for so long.
            SocketClosed: the other end is gone.
            trio.BusyResourceError: another task is sending.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this WebSocket")
        self._require_writable()
        await trio.lowlevel.checkpoint_if_cancelled()
        if not messages:
            return
        try:
            data = b"".join([self._connection.send(BytesMessage(message)) for message in messages])
        except LocalProtocolError as error:
            raise SocketClosed(self._end or str(error)) from error
        self._sending = True
        try:
            await self._write(data, patience)
        finally:
            self._sending = False
        await self._answer()

    async def _answer(self) -> None:
        """Answers a Close, or the newest ping (RFC 6455 5.5.3); after the batch that is being written, if one is."""
        if self._to_answer is None or self._sending or self._unwritable or self._finishing:
            return
        response, self._to_answer = self._to_answer.response(), None
        try:
            data = self._connection.send(response)
        except LocalProtocolError:
            return  # the connection is closing, or closed, and needs no answer
        await self._write(data, PONG_SECONDS)

    async def _write(self, data: bytes, patience: float = math.inf) -> None:
        try:
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()
        complete = False
        try:
            view = memoryview(data)
            taken = self._transport.write_now(view)
            if taken < len(view):
                await self._write_rest(view[taken:], patience)
            complete = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._unwritable = True
            raise SocketClosed("dropped by this end" if self._dropped else "the other end has gone") from error
        finally:
            self._writing.release()
            if not complete and not self._unwritable:
                self.drop()
        self._taken_at_once += taken
        if self._taken_at_once >= _BYTES_AT_ONCE:
            self._taken_at_once = 0
            await trio.lowlevel.cancel_shielded_checkpoint()  # all of it is out: too late to be cancelled

    async def _write_rest(self, view: memoryview, patience: float) -> None:
        with trio.CancelScope() as pace:

            def extend() -> None:
                pace.deadline = trio.current_time() + patience
                self._extend()  # who takes what we send is alive, though it has no turn to answer a ping

            await self._transport.write(view, extend)
        if pace.cancelled_caught:
            raise SocketStalled(f"nothing was taken for {patience:g} s")
        self._taken_at_once = 0

    # Ending.

    def drop(self) -> None:
        """Closes the TCP connection at once, without a Close frame; idempotent. Pending calls raise SocketClosed.

        A Close frame wedges a stock automerge-repo client that still has sync messages to apply (measured).
        """
        if not self._dropped:
            self._dropped = True
            self._answered.set()
            self._transport.close()

    async def finish(self, seconds: float) -> None:
        """Ends a connection whose peer should still get what was sent: says "no more", reads and discards, then drops.

        Closing with bytes unread makes TCP send a reset, which may overtake the last message (an `error` frame).

        Args:
            seconds: how long to wait for the other end to hang up.
        """
        self._finishing = True  # a ping or a pong behind the end would make TCP send the reset all the same
        with trio.move_on_after(seconds):
            try:
                async with self._writing:
                    ended = await self._transport.end_writing()
                while ended and await self._transport.read():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # they hung up first
        self.drop()

    async def close(self) -> None:
        """Says goodbye with a Close frame and waits for the answer, at most 2 s. For clients; see drop()."""
        try:
            with trio.move_on_after(CLOSE_SECONDS):
                if not self._dropped and self._connection.state is ConnectionState.OPEN:
                    await self._write(self._connection.send(CloseConnection(CloseReason.NORMAL_CLOSURE)))
                    while self._end is None and self._breach is None:
                        self._whole.clear()  # too late to be taken
                        await self._read()
                        await self._take_frames()
        except SocketClosed:
            pass  # which is what was wanted
        self.drop()

    async def ping(self, patience: float) -> bool:
        """Whether the other end lives: it answers a ping, or sends anything, at least every `patience` seconds.

        As long as nobody receives, its silence proves nothing, and this waits.

        Raises:
            SocketClosed: it is gone.
        """
        self._require_writable()
        self._answered = trio.Event()
        with trio.CancelScope() as scope:
            self._watched = scope, patience
            self._extend()
            try:
                await self._write(self._connection.send(Ping()), patience)
                await self._answered.wait()
            except LocalProtocolError as error:
                raise SocketClosed(self._end or str(error)) from error
            finally:
                self._watched = None
        if scope.cancelled_caught:
            return False
        self._require_open()
        return True

    def _extend(self) -> None:
        if self._watched is not None:
            scope, patience = self._watched
            scope.deadline = trio.current_time() + patience if self._receiving else math.inf

    def _require_writable(self) -> None:
        self._require_open()
        if self._unwritable or self._finishing:
            raise SocketClosed("the other end has gone" if self._unwritable else "this end has said all")

    def _require_open(self) -> None:
        if self._dropped:
            raise SocketClosed("dropped by this end")
