"""A wire that a test can cut or hold: a TCP proxy on 127.0.0.1."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import trio


class Wire:
    """Stands before a server; `url` is the server's, as it is reached through here."""

    url: str

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._streams: set[trio.SocketStream] = set()
        self.is_cut = False
        self.connections = 0
        self._flows = trio.Event()
        self._flows.set()

    def cut(self) -> None:
        """Breaks all connections; new ones break at once, until `mend`."""
        self.is_cut = True
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
            both = {inner, outer}
            self._streams |= both
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_copy, inner, outer, nursery.cancel_scope)
                    nursery.start_soon(self._to_client, outer, inner, nursery.cancel_scope)
            finally:
                self._streams -= both
                for stream in both:
                    stream.socket.close()

    async def _to_client(self, server: trio.SocketStream, client: trio.SocketStream, both: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in server:
                await self._flows.wait()
                await client.send_all(data)
        both.cancel()


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    both.cancel()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    """A wire to the server at an http URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    wire = Wire(parts.hostname, parts.port)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, wire.serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        wire.url = urlunsplit((parts.scheme, f"127.0.0.1:{port}", parts.path, "", ""))
        yield wire
        nursery.cancel_scope.cancel()
