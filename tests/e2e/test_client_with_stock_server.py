"""Our client's sync against a server that we did not write."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from sync.core.binding import ROOT, ScalarType
from sync.core.client_session import ClientSession
from sync.core.identifiers import PeerId, SessionId, parse_automerge_url
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.plain import read_plain
from sync.websocket import PeerSocket, SocketClosed, connect_socket
from tests.fakes.stock_peer import StockServer, open_stock_server, put, splice


@dataclass
class Driven:
    """A client session on a socket: everything is answered at once."""

    session: ClientSession
    socket: PeerSocket
    frames: int = 0
    changed: trio.Event = field(default_factory=trio.Event)
    writing: trio.Lock = field(default_factory=trio.Lock)

    async def write(self) -> None:
        async with self.writing:
            frames = self.session.next_batch()
            self.frames += len(frames)
            await self.socket.send(frames)

    async def edit(self, key: str, value: str) -> None:
        self.session.notebook.write(lambda tx: tx.put(ROOT, key, ScalarType.Str, value))
        await self.write()

    async def read(self) -> None:
        try:
            while True:
                self.session.receive(await self.socket.receive())
                await self.write()
                self.changed.set()
                self.changed = trio.Event()
        except SocketClosed:
            pass

    async def wait_heads(self, heads: list[str]) -> None:
        while sorted(head.hex() for head in self.session.notebook.replica.heads()) != sorted(heads):
            await self.changed.wait()

    @property
    def content(self) -> object:
        return read_plain(self.session.notebook.replica, ROOT)


@asynccontextmanager
async def connected(server: StockServer, session: ClientSession) -> AsyncIterator[Driven]:
    async with connect_socket(server.url, max_message_bytes=MAX_FRAME_BYTES) as socket, trio.open_nursery() as nursery:
        session.begin(SessionId("s"))
        driven = Driven(session, socket)
        await driven.write()
        nursery.start_soon(driven.read)
        yield driven
        nursery.cancel_scope.cancel()


async def test_edits_of_both_sides_meet_also_after_being_apart() -> None:
    async with open_stock_server() as server:
        url = await server.create({"source": "a", "n": 1})
        session = ClientSession(PeerId("ours"), parse_automerge_url(url))
        async with connected(server, session) as ours:
            await ours.wait_heads(await server.heads(url))
            assert ours.content == {"source": "a", "n": 1}
            heads = await server.change(url, splice(["source"], 1, 0, "b"))
            await ours.wait_heads(heads)
            await ours.edit("mine", "1")
            await server.wait_value(url, ["mine"], "1")

        session.notebook.write(lambda tx: tx.put(ROOT, "mine", ScalarType.Str, "2"))
        heads = await server.change(url, put(["n"], 2))
        async with connected(server, session) as ours:
            await server.wait_value(url, ["mine"], "2")
            await ours.wait_heads(await server.heads(url))

            assert ours.content == {"source": "ab", "n": 2, "mine": "2"}
            assert session.notebook.acknowledged


async def test_a_hundred_edits_of_each_side_take_about_as_many_messages() -> None:
    async with open_stock_server() as server:
        url = await server.create({"n": 0})
        async with connected(server, ClientSession(PeerId("ours"), parse_automerge_url(url))) as ours:
            await ours.wait_heads(await server.heads(url))
            for number in range(100):
                await server.change(url, put(["theirs"], number))
                await ours.edit("ours", str(number))
            await server.wait_value(url, ["ours"], "99")
            await ours.wait_heads(await server.heads(url))

        assert ours.frames <= 250
