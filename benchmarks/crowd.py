"""Many minimal peers in one process: they hold no documents, and acknowledge by sending the heads that came back.

So that their own work stays far below what they cost the daemon; an acknowledgement is what any client would send.
"""

from collections.abc import Sequence
from uuid import uuid4

import trio

from benchmarks.workers import serve_async
from sync.core.frames import DocUnavailable, ErrorFrame, Join, Peer, Sync, SyncFramePrefix, decode_frame, encode_frame
from sync.core.identifiers import DocumentId, Heads, parse_automerge_url
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.sync_message import decode_sync_message, encode_sync_message
from sync.websocket import PeerSocket, connect_socket

# Connections that are opened at the same time.
_AT_ONCE = 8


class Crowd:
    """The peers, and what they received."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._members: list[_Member] = []
        self._frames = 0
        self.may_read = trio.Event()

    async def join(self, sync_url: str, token: str, documents: Sequence[str], count: int) -> None:
        """Returns when `count` peers are connected and have been sent each of these documents."""
        limit = trio.CapacityLimiter(_AT_ONCE)
        self.may_read.set()
        self._members = [_Member(self, sync_url, token, documents) for _ in range(count)]
        async with trio.open_nursery() as joining:
            for member in self._members:
                self._nursery.start_soon(member.run)
                joining.start_soon(member.wait_until_joined, limit)

    async def stall(self) -> None:
        """From now on nobody reads."""
        self.may_read = trio.Event()

    async def leave(self) -> None:
        """All leave."""
        for member in self._members:
            member.scope.cancel()
        for member in self._members:
            await member.left.wait()

    async def frames(self) -> int:
        """Sync messages that were received so far, by all."""
        return self._frames

    def received(self, count: int) -> None:
        """Some sync messages came."""
        self._frames += count


class _Member:
    def __init__(self, crowd: Crowd, sync_url: str, token: str, documents: Sequence[str]) -> None:
        self._crowd = crowd
        self._url = sync_url
        self._token = token
        self._lacking = {parse_automerge_url(url) for url in documents}
        self._may_join = trio.Event()
        self._joined = trio.Event()
        self.scope = trio.CancelScope()
        self.left = trio.Event()

    async def wait_until_joined(self, limit: trio.CapacityLimiter) -> None:
        async with limit:
            self._may_join.set()
            await self._joined.wait()

    async def run(self) -> None:
        with self.scope:
            await self._may_join.wait()
            async with connect_socket(self._url, token=self._token, max_message_bytes=MAX_FRAME_BYTES) as socket:
                await self._serve(socket)
        self.left.set()

    async def _serve(self, socket: PeerSocket) -> None:
        own_id = str(uuid4())
        await socket.send([encode_frame(Join(own_id, ("1",), {"isEphemeral": True}))])
        (data,) = await socket.receive()
        answer = decode_frame(data)
        assert isinstance(answer, Peer), answer
        nothing = encode_sync_message((), have=(), read_only=False)
        await socket.send([
            encode_frame(Sync(own_id, answer.sender_id, document_id, nothing, True)) for document_id in self._lacking
        ])  # fmt: skip
        prefixes = {
            document_id: SyncFramePrefix(own_id, answer.sender_id, document_id) for document_id in self._lacking
        }
        while True:
            heads: dict[DocumentId, Heads] = {}
            messages = 0
            await self._crowd.may_read.wait()
            for data in await socket.receive():
                frame = decode_frame(data)
                assert not isinstance(frame, DocUnavailable | ErrorFrame), frame
                if isinstance(frame, Sync):
                    heads[DocumentId(frame.document_id)] = decode_sync_message(frame.data).heads
                    messages += 1
            self._crowd.received(messages)
            await socket.send([
                prefixes[document_id].frame(encode_sync_message(newest, have=newest, read_only=False))
                for document_id, newest in heads.items()
            ])  # fmt: skip
            if self._lacking:
                self._lacking -= heads.keys()
                if not self._lacking:
                    self._joined.set()


async def _main() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        await serve_async({"join": crowd.join, "leave": crowd.leave, "frames": crowd.frames, "stall": crowd.stall})
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main)
