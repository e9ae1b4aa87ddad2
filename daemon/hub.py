"""Where connections and the HTTP side find what they speak of: documents, notebooks, the daemon's state."""

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio
from structlog.contextvars import bind_contextvars

from daemon.config import Config
from daemon.core.notebook_model import InvalidNotebook
from daemon.dispatcher import Dispatcher
from daemon.http_app import ApiError, NotebookInfo
from daemon.kernel_life import MessageCounts
from daemon.loop_watch import LoopWatch
from daemon.metrics import Metrics
from daemon.room import Room, timestamp
from daemon.rooms import Past, Rooms
from daemon.saving import render_room
from daemon.status import describe
from kernel_bridge import list_kernelspecs
from sync.blobs import BlobStore, BlobStoreError
from sync.connection import Connection, OpenDocument
from sync.core.identifiers import DocumentId, PeerId
from sync.core.jsonrpc import RequestError


class Hub:
    """The daemon, as connections, requests and the HTTP API see it.

    Args:
        peer_id: the daemon's, stable per state directory.
        runtime_dir: short and private, for kernels' sockets and connection files.
    """

    def __init__(self, config: Config, *, peer_id: PeerId, blobs: BlobStore, runtime_dir: Path) -> None:
        self.peer_id = peer_id
        self.version = version("notebookd")
        self.blobs = blobs
        self.connections: set[Connection] = set()
        self.loop_watch = LoopWatch()
        self.started_at = timestamp()
        self._started = trio.current_time()
        self._counted: Counter[str] = Counter()
        self._metrics = Metrics(self)
        self._rooms = Rooms(config, blobs=blobs, runtime_dir=runtime_dir)
        self._dispatcher = Dispatcher(self._rooms.by_id)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the rooms' tasks until cancelled."""
        await self._rooms.run(task_status)

    async def close_all(self, *, save: bool) -> None:
        """Closes every room; none is opened any more."""
        await self._rooms.close_all(save=save)

    async def end_connections(self, seconds: float) -> None:
        """Ends every connection; its peer gets what may be written now, if it takes it in so many seconds."""
        connections = list(self.connections)
        for connection in connections:
            connection.finish(seconds)
        for connection in connections:
            await connection.ended.wait()

    @property
    def rooms(self) -> Mapping[DocumentId, Room]:
        """Open rooms by the id of their notebook document."""
        return self._rooms.by_id

    @property
    def past(self) -> Past:
        """What rooms that have ended had counted."""
        return self._rooms.past

    # sync.connection.Hub

    def find_document(self, document_id: DocumentId) -> OpenDocument | None:
        """The document with this id, if it is open."""
        return self._rooms.documents.get(document_id)

    def connected(self, connection: Connection) -> None:
        """A peer finished its handshake."""
        # Called in the connection's own task: what is logged there, and in the tasks that it starts, names the peer.
        bind_contextvars(peer=connection.peer_id)
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        """A peer left."""
        self.connections.discard(connection)
        for room in self.rooms.values():
            if any(connection in document.subscribers for _, document in room.documents):
                room.left_at = trio.current_time()
        self._counted.update(connection.counts())

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted in all connections, those that have ended too."""
        counted = self._counted.copy()
        for connection in self.connections:
            counted.update(connection.counts())
        return counted

    @property
    def requests(self) -> int:
        """Requests that were taken."""
        return self._dispatcher.requests

    @property
    def kernel_messages(self) -> MessageCounts:
        """What came from and went to kernels, those that have ended too."""
        return sum((room.kernels.message_counts for room in self.rooms.values()), self.past.kernel_messages)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return trio.current_time() - self._started

    async def receive_request(self, connection: Connection, document_id: DocumentId, data: dict[str, Any]) -> None:
        """Takes a JSON-RPC object of the connection's own peer."""
        await self._dispatcher.receive(connection, document_id, data)

    # daemon.api.DaemonApi

    async def open_notebook(self, path: str, *, create: bool, kernel_name: str | None) -> tuple[NotebookInfo, bool]:
        """Opens a notebook file, or finds it open already: `Rooms.open`. What it is, and whether its file was created."""
        room, created = await self._rooms.open(path, create=create, kernel_name=kernel_name)
        return self._info(room), created

    def notebooks(self) -> list[NotebookInfo]:
        """The open notebooks."""
        return [self._info(room) for room in self.rooms.values()]

    async def close_notebook(self, notebook_id: str, *, save: bool = True, peer_id: str | None = None) -> None:
        """Saves, ends the kernel and closes the room: `Rooms.close`."""
        await self._rooms.close(notebook_id, save=save, peer_id=peer_id)

    async def notebook_file(self, notebook_id: str) -> bytes:
        """The notebook as an .ipynb, as it is now.

        Raises:
            ApiError: 404, also if the notebook is closed meanwhile; 500 if an output can't be read.
        """
        room = self._rooms.find(notebook_id)
        try:
            with room.serving():
                await room.file.loaded.wait()
                return (await render_room(room)).data
        except RequestError as closed:
            raise ApiError(404, "not_found", closed.message) from closed
        except (BlobStoreError, InvalidNotebook) as error:
            raise ApiError(500, "internal", f"the file can't be made: {error}") from error

    async def kernelspecs(self) -> dict[str, Any]:
        """The kernels that can be launched here, by name."""
        specs = await trio.to_thread.run_sync(list_kernelspecs)
        return {
            name: {"display_name": spec.display_name, "language": spec.language, "interrupt_mode": spec.interrupt_mode}
            for name, spec in specs.items()
        }

    def status(self) -> dict[str, Any]:
        """The daemon and its notebooks, as JSON."""
        return describe(self)

    def metrics(self) -> bytes:
        """Everything measured, as Prometheus reads it."""
        return self._metrics.render()

    # Inside.

    def _info(self, room: Room) -> NotebookInfo:
        kernel = room.kernels.kernel
        return NotebookInfo(
            id=room.id,
            path=room.shown_path,
            notebook=room.notebook.url,
            runtime=room.runtime_document.url,
            kernel_status=room.runtime.kernel_status,
            kernel_name=room.kernel_name() if kernel is None else kernel.spec.name,
            peers=len(room.notebook.subscribers),
        )
