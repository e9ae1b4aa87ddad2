"""A hub at work in this process, its blobs and rooms real, and peers by sockets in memory."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio
from trio.testing import wait_all_tasks_blocked

from daemon.config import Config
from daemon.hub import Hub
from daemon.room import Room
from sync.blobs import BlobStore, BlobStoreError
from sync.connection import Connection
from sync.core.document import Document
from sync.core.frames import Ephemeral, Join, Sync, decode_data, encode_data
from sync.core.identifiers import DocumentId, PeerId, SessionId
from sync.core.sync_message import encode_sync_message
from sync.core.values import Blob
from sync.serving import serve_connection
from sync.websocket import PeerSocket
from tests.fakes.memory_socket import MemorySocket

CELLS = [{"cell_type": "code", "id": "a", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}]


class Blobs(BlobStore):
    error: BlobStoreError | None = None

    async def put_all(self, blobs: Sequence[Blob], *, durable: bool = True) -> None:
        if self.error is not None and blobs:
            raise self.error
        await super().put_all(blobs, durable=durable)


class Running:
    """A hub at work, and peers."""

    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.root, self.nursery = root, nursery
        config = Config("localhost", 0, "token", None, root / "state", root)
        self.blobs = Blobs(root / "blobs")
        self.hub = Hub(config, peer_id=PeerId("daemon"), blobs=self.blobs, runtime_dir=root)

    def write(self, name: str, cells: list[dict[str, Any]] = CELLS) -> None:
        notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
        (self.root / name).write_text(json.dumps(notebook))

    async def open(self, name: str = "a.ipynb") -> Room:
        info, _ = await self.hub.open_notebook(name, create=True, kernel_name=None)
        room = self.hub.rooms[DocumentId(info.id)]
        await room.file.loaded.wait()
        return room

    async def connect(self, *rooms: Room) -> "Client":
        client = Client(self.hub)
        socket = cast("PeerSocket", client.socket)
        self.nursery.start_soon(
            lambda: serve_connection(socket, self.hub, role="editor", session_id=SessionId("daemon's"))
        )
        client.socket.say(Join("peer", ("1",), {}))
        for room in rooms:
            for document in (room.notebook, room.runtime_document):
                client.sync(document)
        await wait_all_tasks_blocked()
        return client


class Client:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.socket = MemorySocket()
        self.asked = 0

    @property
    def connection(self) -> Connection:
        return next(c for c in self.hub.connections if c.socket is cast("PeerSocket", self.socket))

    def sync(self, document: Document, changes: bytes = b"", *, heads: tuple[bytes, ...] | None = None) -> None:
        data = encode_sync_message(
            document.published_heads() if heads is None else heads,
            have=None,
            changes=[changes] if changes else [],
            read_only=None,
        )
        self.socket.say(Sync("peer", "daemon", document.id, data))

    def ask(self, room: Room, method: str, *, request_id: int | None = None, **params: Any) -> int:
        self.asked += 1
        request_id = self.asked if request_id is None else request_id
        self.say(room, {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        return request_id

    def say(self, room: Room, message: dict[str, Any]) -> None:
        self.socket.say(Ephemeral("peer", "daemon", room.notebook.id, "s", 1, encode_data(message)))

    @property
    def answers(self) -> dict[int, str]:
        """The reason of each error that came, by request; "ok" for results."""
        found = {}
        for frame in self.socket.of(Ephemeral):
            data = cast("dict[str, Any]", decode_data(frame.data))
            if "id" in data:
                found[data["id"]] = data["error"]["data"]["reason"] if "error" in data else "ok"
        return found

    async def answered(self, *request_ids: int) -> None:
        await self.socket.until(lambda: set(request_ids) <= self.answers.keys())


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        made = Running(root, nursery)
        await nursery.start(made.hub.run)
        yield made
        nursery.cancel_scope.cancel()
