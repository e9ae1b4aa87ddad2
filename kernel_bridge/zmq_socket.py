"""ZMQ sockets in Trio; the only importer of zmq.

A ZMQ socket's FD is readable when its command mailbox was signalled, not when a message is there: level-triggered for
the mailbox, edge-triggered for messages. So: park only straight after a receive that said "nothing"; after waking,
drain; and since every call on the socket may swallow the signal, look again after each send while somebody is parked.
A reader that takes one message per wake-up loses 99 % of the wake-ups, one that ignores sends 1 % (measured).

All sockets of a context are used from the one thread that runs Trio.
"""

import struct
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import trio
import zmq

from kernel_bridge.core.wire import MAX_FRAMES

# One batch, so that a flood leaves room for others between two checkpoints: about 3 ms of decoding, at 10 us a message.
BATCH_MESSAGES: Final = 256
BATCH_BYTES: Final = 8 * 2**20
# A kernel that left this many requests unread will not read them; without a limit, peers could fill our memory.
SEND_QUEUE: Final = 1_000
# The kernel binds 0.3 s after its start or later; a failed connect to a local socket costs microseconds.
RECONNECT_MS: Final = 20

ConnectionEvent: TypeAlias = Literal["connected", "disconnected"]


class ZmqSocket:
    """One socket: a single task receives, any task sends.

    Attributes:
        monitor: where its connection events come, if they were asked for.
        dry: whether the last receive ended because nothing more was there.
        batch_bytes: the size of what the last receive returned.
        rechecks: how often a send had swallowed the signal that the receiver waited for.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", monitor: "ZmqSocket | None" = None) -> None:
        self.monitor = monitor
        self.dry = False
        self.batch_bytes = 0
        self.rechecks = 0
        self._socket = socket
        self._fd: int = socket.FD
        # Of the receiving task, while it is parked on the FD.
        self._parked: trio.CancelScope | None = None
        # Of a message that did not end within a batch.
        self._frames: list[bytes] = []

    async def receive(self) -> list[list[bytes]]:
        """Waits for messages, and returns what is there, at least one, at most one batch.

        Cancellation loses nothing: it can only happen before the socket was touched or while there was nothing.

        Raises:
            trio.ClosedResourceError: the socket was closed meanwhile.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        parked = False
        while True:
            if batch := self.receive_nowait():
                if not parked:  # a kernel that never stops talking must not keep the loop to itself
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return batch
            if not self.dry:  # in the middle of a message of very many frames
                await trio.lowlevel.checkpoint()
                continue
            # No await and no call on the socket may come between that receive and this wait.
            parked = True
            with trio.CancelScope() as self._parked:
                try:
                    await trio.lowlevel.wait_readable(self._fd)
                finally:
                    self._parked = None

    def receive_nowait(self) -> list[list[bytes]]:
        """Returns the messages that are there, at most one batch; nothing more is there when `dry` is set then.

        Raises:
            trio.ClosedResourceError: the socket is closed.
        """
        if self._socket.closed:
            raise trio.ClosedResourceError("socket already closed")
        batch: list[list[bytes]] = []
        nbytes = nframes = 0
        receive, getsockopt = self._socket.recv, self._socket.getsockopt
        frames = self._frames
        # To ask is cheaper than the exception of a receive in vain, which follows most batches.
        self.dry = not int(getsockopt(zmq.EVENTS)) & zmq.POLLIN
        while not self.dry and len(batch) < BATCH_MESSAGES and nbytes < BATCH_BYTES and nframes < MAX_FRAMES:
            try:
                frame = receive(zmq.NOBLOCK)
            except zmq.Again:
                self.dry = True
                break
            nframes += 1
            nbytes += len(frame)
            # One frame above the limit tells the decoder; the others of such a message are dropped as they come.
            if len(frames) <= MAX_FRAMES:
                frames.append(frame)
            if not getsockopt(zmq.RCVMORE):
                batch.append(frames)
                frames = []
        self._frames = frames
        self.batch_bytes = nbytes
        return batch

    def send(self, frames: Sequence[bytes | memoryview]) -> bool:
        """Hands a message to libzmq.

        Returns:
            Whether it took it; if not, the queue to the other side is full.

        Raises:
            trio.ClosedResourceError: the socket is closed.
        """
        if self._socket.closed:
            raise trio.ClosedResourceError("socket already closed")
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        finally:
            self._recheck()
        return True

    def _recheck(self) -> None:
        # A send processes commands, and with them the signal that the parked receiver waits for.
        if self._parked is not None and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self.rechecks += 1
            self._parked.cancel()

    def close(self) -> None:
        """Closes at once, dropping what was not sent; a parked receiver gets ClosedResourceError."""
        if self._socket.closed:
            return
        if self.monitor is not None:
            # While its other end is open: libzmq would wait for ever to hand a last event to a closed one.
            self._socket.disable_monitor()
            self.monitor.close()
        trio.lowlevel.notify_closing(self._fd)
        self._socket.close(0)


class ZmqContext:
    """The sockets of one kernel, with an I/O thread of their own, so that one kernel's flood delays no other's."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[ZmqSocket] = []

    def connect_dealer(self, endpoint: str, identity: bytes = b"", *, monitored: bool = False) -> ZmqSocket:
        """A DEALER; the kernel finds the way to our stdin by the identity that it shares with shell."""
        socket = self._context.socket(zmq.DEALER)
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
        return self._connect(socket, endpoint, monitored=monitored)

    def connect_subscriber(self, endpoint: str, *, monitored: bool = False) -> ZmqSocket:
        """A SUB for all topics."""
        socket = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        return self._connect(socket, endpoint, monitored=monitored)

    def _connect(self, socket: "zmq.Socket[bytes]", endpoint: str, *, monitored: bool) -> ZmqSocket:
        # Before the connect, or it does not hold: a reader that is late must not make libzmq drop messages.
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        # Not MAXMSGSIZE: a message above it disconnects, and nothing connects again (measured).
        monitor = None
        if monitored:
            monitor = ZmqSocket(socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED))
        socket.connect(endpoint)
        opened = ZmqSocket(socket, monitor)
        self._sockets.append(opened)
        return opened

    def close(self) -> None:
        """Closes all sockets and ends the I/O thread; nothing lingers, so this takes about a millisecond."""
        for socket in self._sockets:
            socket.close()
        self._context.destroy(linger=0)


def connection_event(frames: Sequence[bytes]) -> ConnectionEvent:
    """Reads a message of a monitor socket."""
    event, _value = struct.unpack("=HI", frames[0])
    return "connected" if event == zmq.EVENT_HANDSHAKE_SUCCEEDED else "disconnected"
