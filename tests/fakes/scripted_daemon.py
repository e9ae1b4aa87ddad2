"""A daemon in the test's own process, on a real socket, that does what the test says and nothing else."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from sync.core.document import Document
from sync.core.frames import encode_data
from sync.core.identifiers import document_id
from sync.core.jsonrpc import RequestError, error_response, event, response
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.mutations import AddCell, AddExecution, Mutation, SetCell, SetExecution, SetFile, SetKernel, SetQueue
from sync.core.notebook_schema import NotebookSchema
from sync.core.runtime_schema import RuntimeSchema
from sync.core.values import prepare
from sync.websocket import PeerSocket, SocketClosed, accept_socket
from tests.fakes.simulated_clients import SimulatedClient, SimulatedDaemon

Reply = Callable[[dict[str, Any]], dict[str, Any] | None]


class ScriptedDaemon(SimulatedDaemon):
    """One notebook with its runtime document; `replies` says what is answered to a method, `requests` what was asked.

    `refusals` are the HTTP statuses by which the next connections are refused.

    A reply is a function of the params; None leaves the request without an answer, a RequestError is an error.
    """

    url: str

    def __init__(self) -> None:
        self.schema = RuntimeSchema()
        self.requests: list[dict[str, Any]] = []
        self.replies: dict[str, Reply] = {}
        self.sockets: dict[SimulatedClient, PeerSocket] = {}
        self.accepts = True
        self.refusals: list[int] = []
        self.runtimes = 0
        self.asked = trio.Event()
        super().__init__(max_payload=256 * 1024)
        for document in list(self.documents.values()):
            del self.documents[document.id]
        self.notebook = Document(document_id(b"N" * 16))
        self.documents[self.notebook.id] = self.notebook
        self.notebook.commit(lambda tx: NotebookSchema.create(tx, runtime_url="", metadata={}))
        self.renew_runtime()

    def renew_runtime(self) -> None:
        """A fresh runtime document takes the place of the old one, which stays."""
        self.runtimes += 1
        self.runtime = Document(document_id(bytes([100 + self.runtimes]) * 16))
        self.documents[self.runtime.id] = self.runtime
        self.schema = RuntimeSchema()
        self.runtime.commit(lambda tx: self.schema.create(tx, notebook_url=self.notebook.url, path="a.ipynb"))
        self.change(SetFile(status="ready"), SetKernel(status="idle"))
        self.notebook.commit(lambda tx: NotebookSchema.set_runtime(tx, self.runtime.url))
        self.publish()

    def change(self, *mutations: Mutation) -> None:
        prepared, _ = prepare(mutations)
        self.runtime.commit(lambda tx: self.schema.apply(tx, prepared))
        self.publish()

    def start(self, execution_id: str, cell_id: str, *more: Mutation) -> None:
        """An execution of a cell is running."""
        self.change(
            AddCell(cell_id),
            AddExecution(execution_id, cell_id, 1),
            SetExecution(execution_id, status="running"),
            SetCell(cell_id, execution_id=execution_id),
            SetQueue(execution_id, ()),
            *more,
        )

    def end(self, execution_id: str, status: str = "done", *, count: int = 1) -> None:
        """It has ended; nobody is told."""
        self.change(SetExecution(execution_id, status=status, execution_count=count), SetQueue(None, ()))  # type: ignore[arg-type]

    def tell(self, method: str, **params: Any) -> None:
        """An event about the newest state."""
        self.seq += 1
        said = event(method, {"epoch": "e", "seq": self.seq, **params, **self.stamp()})
        self.notify(said, list(self.sockets), droppable=True)

    def answer(self, client: SimulatedClient, sender: str, request: dict[str, Any]) -> None:
        self.requests.append(request)
        self.asked.set()
        self.asked = trio.Event()
        try:
            result = self.replies.get(request["method"], lambda _: {})(request["params"])
        except RequestError as error:
            assert client.outbox is not None
            client.outbox.push_ephemeral(self.notebook.id, encode_data(error_response(request["id"], sender, error)))
            return
        if result is not None:
            self.notify(response(request["id"], sender, {**self.stamp(), **result}), [client], droppable=False)

    def methods(self) -> list[str]:
        """What was asked, but for barriers."""
        return [request["method"] for request in self.requests if request["method"] != "barrier"]

    async def wait_asked(self, method: str, times: int = 1) -> dict[str, Any]:
        """The params of a request, once it was made so many times."""
        while True:
            params: list[dict[str, Any]] = [one["params"] for one in self.requests if one["method"] == method]
            if len(params) >= times:
                return params[times - 1]
            await self.asked.wait()

    async def flush(self) -> None:
        """Writes what is due to everyone, in one write each."""
        for client, socket in list(self.sockets.items()):
            await self._flush(client, socket)

    def drop(self) -> None:
        """Breaks all connections."""
        for socket in self.sockets.values():
            socket.drop()

    async def serve(self, stream: trio.SocketStream) -> None:
        if not self.accepts:
            await stream.aclose()
            return
        if self.refusals:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.refusals.pop(0))
            await stream.aclose()
            return
        client = SimulatedClient(session=None)  # type: ignore[arg-type]  # the real one is at the other end
        try:
            async with accept_socket(stream, max_message_bytes=MAX_FRAME_BYTES) as socket:
                self.sockets[client] = socket
                while True:
                    client.to_daemon.extend(await socket.receive())
                    while client.to_daemon:
                        self.hear(client)
                    await self._flush(client, socket)
        except SocketClosed:
            pass
        finally:
            self.sockets.pop(client, None)

    async def _flush(self, client: SimulatedClient, socket: PeerSocket) -> None:
        while self.write(client):
            pass
        frames: Sequence[bytes] = list(client.to_client)
        client.to_client.clear()
        if frames:
            await socket.send(frames)


@asynccontextmanager
async def scripted_daemon() -> AsyncIterator[ScriptedDaemon]:
    """A scripted daemon that listens on 127.0.0.1."""
    daemon = ScriptedDaemon()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, daemon.serve, 0, host="127.0.0.1"))
        daemon.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield daemon
        nursery.cancel_scope.cancel()
