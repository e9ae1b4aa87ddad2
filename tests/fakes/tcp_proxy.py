"""A wire that a test can cut, slow down and stall: a TCP proxy on 127.0.0.1. It reorders nothing, as TCP does not.

What happens to a WebSocket connection is its `Fault`, planned before it is made. A cut is at a frame's boundary or at any
byte, by an end of the stream or by a reset; what was sent before it arrives.
"""

import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import trio

Direction = Literal["to_server", "to_client"]
_CHUNK = 16 * 1024
# SO_LINGER with no time: close() sends a reset, and throws away what the other end has not taken.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What one WebSocket connection meets.

    Attributes:
        direction: in which bytes and frames are counted, and which is stalled.
        cut_after_frames: cut at this boundary; 0 is the one between the HTTP heads and the first frame.
        cut_after_bytes: cut at this byte, HTTP head included.
        reset: the cut is a reset, not an end.
        delay: each piece waits 0 to so many seconds.
        stall_after_bytes: from here on nothing is passed on for `stall_seconds`, though the connection stands.
        vanish_after_bytes: from here on whatever either end sends goes nowhere, and nobody is told: half-open for both.
    """

    direction: Direction = "to_client"
    cut_after_frames: int | None = None
    cut_after_bytes: int | None = None
    reset: bool = False
    delay: float = 0.0
    stall_after_bytes: int | None = None
    stall_seconds: float = 0.0
    vanish_after_bytes: int | None = None


NO_FAULT = Fault()


class FrameBoundaries:
    """Finds where WebSocket frames end in one direction of a connection, from the HTTP head on."""

    def __init__(self) -> None:
        self.passed = -1  # boundaries so far, but the head's
        self._head = b""
        self._header = b""
        self._left = 0

    def first_end(self, data: bytes) -> int | None:
        """How far `data` goes until the next boundary, which is then passed; None: it is all in the same frame."""
        used = 0
        if self.passed < 0:
            before = len(self._head)
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return None
            self.passed = 0
            return end + 4 - before
        while used < len(data) or self._left == 0:
            if self._left == 0:
                self._header += data[used : used + 1]
                used += 1
                if used > len(data):
                    return None
                size = _frame_size(self._header)
                if size is None:
                    continue
                self._left = size
                self._header = b""
            taken = min(self._left, len(data) - used)
            self._left -= taken
            used += taken
            if self._left == 0:
                self.passed += 1
                return used
        return None


def _frame_size(header: bytes) -> int | None:
    """Bytes after the header of a frame; None while the header is not whole."""
    if len(header) < 2:
        return None
    short, mask = header[1] & 0x7F, 4 if header[1] & 0x80 else 0
    extended = {126: 2, 127: 8}.get(short, 0)
    if len(header) < 2 + extended + mask:
        return None
    return int.from_bytes(header[2 : 2 + extended], "big") if extended else short


class Wire:
    """Stands before a server; `url` is the server's, as it is reached through here.

    Attributes:
        plan: gives each new WebSocket connection its fault.
        missed: gets back the fault of a connection that ended before it came about.
        connections: how many of any kind were made.
        faults_met: those that came about.
        given_up: which end of a connection that had vanished gave it up, in order.
    """

    url: str

    def __init__(self, host: str, port: int, seed: int = 0) -> None:
        self._target = host, port
        self._streams: set[trio.SocketStream] = set()
        self._rng = random.Random(seed)
        self.is_cut = False
        self.connections = 0
        self.plan: Callable[[], Fault] = lambda: NO_FAULT
        self.missed: Callable[[Fault], None] = lambda fault: None
        self.faults_met: list[Fault] = []
        self.given_up: list[Literal["server", "client"]] = []
        self._gave_up = trio.Event()
        self._flows = trio.Event()
        self._flows.set()

    def cut(self) -> None:
        """Breaks all connections; new ones break at once, until `mend`."""
        self.is_cut = True
        self.break_all()

    def break_all(self) -> None:
        """Breaks all connections that stand."""
        for stream in self._streams:
            stream.socket.close()

    def mend(self) -> None:
        self.is_cut = False

    def hold(self) -> None:
        """Takes nothing more from the server, as a client that does not read, until `flow`; what it had taken arrives."""
        self._flows = trio.Event()

    def flow(self) -> None:
        self._flows.set()

    async def serve(self, inner: trio.SocketStream) -> None:
        self.connections += 1
        if self.is_cut:
            await inner.aclose()
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            outer = await trio.open_tcp_stream(*self._target)
            for stream in (inner, outer):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            both = {inner, outer}
            self._streams |= both
            try:
                head = await inner.receive_some(_CHUNK)
                fault = self.plan() if head.startswith(b"GET /sync") else NO_FAULT
                counted = _Counted(fault)
                try:
                    async with trio.open_nursery() as nursery:
                        ends = nursery.cancel_scope
                        nursery.start_soon(self._copy, inner, outer, ends, counted, "to_server", bytes(head))
                        nursery.start_soon(self._copy, outer, inner, ends, counted, "to_client", b"")
                finally:
                    if not counted.came_about:
                        self.missed(fault)
            finally:
                self._streams -= both
                for stream in both:
                    stream.socket.close()

    async def wait_given_up(self, end: Literal["server", "client"]) -> None:
        """Returns when this end of a connection that had vanished has given it up."""
        while end not in self.given_up:
            await self._gave_up.wait()

    async def _copy(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        both: trio.CancelScope,
        counted: "_Counted",
        direction: Direction,
        data: bytes,
    ) -> None:
        fault = counted.fault
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data or (data := bytes(await source.receive_some(_CHUNK))):
                if direction == "to_client":
                    await self._flows.wait()
                if fault.delay:
                    await trio.sleep(self._rng.uniform(0, fault.delay))
                if fault.direction == direction:
                    data = await self._meet(counted, data, sink)
                if counted.is_cut:
                    self._end(fault, source, sink)
                    break
                if not counted.has_vanished:
                    await sink.send_all(data)
                data = b""
        if counted.has_vanished:
            self.given_up.append("client" if direction == "to_server" else "server")
            self._gave_up.set()
            self._gave_up = trio.Event()
            # The other end has not heard of it, and never will.
            await trio.sleep_forever()
        both.cancel()

    async def _meet(self, counted: "_Counted", data: bytes, sink: trio.SocketStream) -> bytes:
        """What of `data` passes after the fault, or, if it is a cut, nothing more."""
        passing, rest = counted.split(data)
        if counted.is_cut:
            counted.came_about = True
            self.faults_met.append(counted.fault)
            await sink.send_all(passing)
            return b""
        if counted.vanishes_now:
            counted.vanishes_now = False
            counted.has_vanished = True
            self.faults_met.append(counted.fault)
            await sink.send_all(passing)
            return b""
        if counted.stalls_now:
            counted.stalls_now = False
            self.faults_met.append(counted.fault)
            await sink.send_all(passing)
            await trio.sleep(counted.fault.stall_seconds)
            return rest
        return passing + rest

    def _end(self, fault: Fault, *streams: trio.SocketStream) -> None:
        # One that `break_all` has closed already is reset, or was ended as it is.
        for stream in streams if fault.reset else ():
            if stream.socket.fileno() != -1:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class _Counted:
    """How far one direction has come towards its fault."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.is_cut = False
        self.stalls_now = False
        self.vanishes_now = False
        self.has_vanished = False
        self.came_about = False  # a cut
        self._bytes = 0
        self._boundaries = FrameBoundaries()

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """What passes before the fault, and what is left behind it."""
        fault, start = self.fault, self._bytes
        self._bytes += len(data)
        if fault.cut_after_bytes is not None and fault.cut_after_bytes <= self._bytes:
            self.is_cut = True
            return data[: max(0, fault.cut_after_bytes - start)], b""
        if fault.vanish_after_bytes is not None and start < fault.vanish_after_bytes <= self._bytes:
            self.vanishes_now = True
            return data[: fault.vanish_after_bytes - start], b""
        if fault.stall_after_bytes is not None and start < fault.stall_after_bytes <= self._bytes:
            self.stalls_now = True
            at = fault.stall_after_bytes - start
            return data[:at], data[at:]
        if fault.cut_after_frames is not None:
            used = 0
            while (end := self._boundaries.first_end(data[used:])) is not None:
                used += end
                if self._boundaries.passed >= fault.cut_after_frames:
                    self.is_cut = True
                    return data[:used], b""
        return data, b""


@asynccontextmanager
async def wire_to(url: str, seed: int = 0) -> AsyncIterator[Wire]:
    """A wire to the server at an http URL; the seed is of its delays."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    wire = Wire(parts.hostname, parts.port, seed)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, wire.serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        wire.url = urlunsplit((parts.scheme, f"127.0.0.1:{port}", parts.path, "", ""))
        yield wire
        nursery.cancel_scope.cancel()
