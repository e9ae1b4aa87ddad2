"""A daemon in the test's own process whose kernel is a recorded trace: real rooms, doc-writers, sockets, HTTP, no kernel."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio

from daemon.config import Config
from daemon.core.access import Access, AccessPolicy
from daemon.core.comm import SendComm
from daemon.front import open_front_listeners, serve_front
from daemon.http_app import build_app
from daemon.hub import Hub
from daemon.room import Room
from kernel_bridge import Kernel
from kernel_bridge.core.trace import TraceEntry
from sync.blobs import BlobStore
from sync.core.identifiers import DocumentId, PeerId, SessionId
from sync.serving import serve_connection
from sync.websocket import PeerSocket
from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.trace_player import TracePlayer
from tests.fakes.widget_story import notebook_file, open_story

CELLS = 20  # more than a scenario has


class _SilentKernel:
    """Takes what the room sends to its kernel."""

    def __init__(self, player: "RoomPlayer") -> None:
        self._player = player

    def send(
        self,
        channel: str,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        msg_id: str,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
    ) -> str:
        assert channel == "shell"
        if msg_type != "execute_request":
            self._player.sent(SendComm(msg_id, msg_type, dict(content), tuple(buffers), metadata))
        return msg_id


class RoomPlayer(TracePlayer):
    """Plays a trace to an open notebook."""

    def __init__(self, room: Room) -> None:
        super().__init__(room.runtime)
        self._news = trio.Event()
        self.room = room
        room.kernels.kernel = cast("Kernel", _SilentKernel(self))

    def sent(self, message: SendComm) -> None:
        super().sent(message)
        self._news.set()
        self._news = trio.Event()

    async def play(self, entries: Iterable[TraceEntry]) -> None:
        """One message after the other, each of them committed and published before the next."""
        for entry in entries:
            while self.misses(entry):
                await self._news.wait()
            self.step(entry)
            self.room.kernels.carry_out()
            await self.room.writer.flush()


class ReplayingDaemon(ServedDaemon):
    """A daemon in this process; its log is pytest's."""

    hub: Hub

    async def open_for_replay(self) -> tuple[Opened, RoomPlayer]:
        """A notebook with cells c1, c2, ..., and who plays its kernel."""
        cells = [{**cell, "id": f"c{n}"} for n, cell in enumerate(notebook_file([""] * CELLS)["cells"], 1)]
        opened = await open_story(self, file={**notebook_file([]), "cells": cells})
        room = self.hub.rooms[DocumentId(opened.id)]
        await room.file.loaded.wait()
        return opened, RoomPlayer(room)


@asynccontextmanager
async def replaying_daemon() -> AsyncIterator[ReplayingDaemon]:
    """Serves on 127.0.0.1 until the block is left."""
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        folder = Path(name)
        listeners = await open_front_listeners("127.0.0.1", 0)
        port: int = listeners[0].socket.getsockname()[1]
        config = Config("127.0.0.1", port, "token", None, folder / "state", folder)
        hub = Hub(config, peer_id=PeerId("daemon"), blobs=BlobStore(folder / "blobs"), runtime_dir=folder)
        policy = AccessPolicy(
            port=port, token="token", viewer_token=None, host_names=("127.0.0.1",), allow_origins=frozenset()
        )

        async def serve_sync(socket: PeerSocket, access: Access) -> None:
            await serve_connection(socket, hub, role=access.role, session_id=SessionId(os.urandom(16).hex()))

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            await serve_front(
                listeners, policy=policy, app=build_app(hub), serve_sync=serve_sync, task_status=task_status
            )

        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            await nursery.start(serve)
            sync_url = f"ws://127.0.0.1:{port}/sync"
            daemon = ReplayingDaemon(os.getpid(), f"http://127.0.0.1:{port}", sync_url, "token", folder, folder, {})
            object.__setattr__(daemon, "hub", hub)
            yield daemon
            await hub.close_all(save=False)
            nursery.cancel_scope.cancel()
