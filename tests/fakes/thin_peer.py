"""A thin peer for end-to-end tests: two replicas, one task that reads, one that writes, and nothing held back.

It takes frames one at a time and hands events on as they come, so it can tell whether the state that an event speaks of
was there when it arrived (`early`). Its runtime replica keeps the history: `states` reads what each commit showed.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import httpx
import trio

from sync.core.binding import ROOT, Reader
from sync.core.frames import (
    Ephemeral,
    EphemeralFramePrefix,
    ErrorFrame,
    Frame,
    Join,
    Peer,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
    encode_frame,
)
from sync.core.identifiers import (
    Heads,
    InvalidIdentifier,
    PeerId,
    SessionId,
    heads_from_hex,
    heads_to_hex,
    parse_automerge_url,
)
from sync.core.limits import MAX_FRAME_BYTES
from sync.core.notebook_schema import Cell, CellType, NotebookSchema
from sync.core.plain import read_found, read_string
from sync.core.positions import between
from sync.core.replica_session import ReplicaSession
from sync.core.runtime_reading import read_cell
from sync.core.sync_message import decode_sync_message
from sync.core.value_reading import decode_manifest, decode_value
from sync.websocket import PeerSocket, SocketClosed, connect_socket

PATIENCE = 30.0  # seconds for one thing to happen: a kernel starts in 1 to 3, a loaded machine needs ten times that

T = TypeVar("T")


class Served(Protocol):
    """A daemon that can be reached."""

    @property
    def url(self) -> str: ...
    @property
    def sync_url(self) -> str: ...
    @property
    def token(self) -> str: ...


class Documents(Protocol):
    """URLs of a notebook's documents."""

    @property
    def notebook(self) -> str: ...
    @property
    def runtime(self) -> str: ...


class ConnectionEnded(Exception):
    """The daemon ended the connection."""


class RequestFailed(Exception):
    """The daemon answered with an error."""

    def __init__(self, code: int, message: str, data: Mapping[str, Any]) -> None:
        super().__init__(f"{code} {message} {dict(data)}")
        self.code = code
        self.reason: str = data["reason"]
        self.data = data


@dataclass(frozen=True)
class Heard:
    """An event as it arrived; `early`: a replica lacked the state that it speaks of."""

    method: str
    params: dict[str, Any]
    early: bool


@dataclass(eq=False)
class Asked:
    """A request under way."""

    response: dict[str, Any] = field(default_factory=dict)
    arrived: trio.Event = field(default_factory=trio.Event)

    async def result(self, within: float = PATIENCE) -> dict[str, Any]:
        """Waits for the answer.

        Raises:
            RequestFailed: it is an error.
        """
        with trio.move_on_after(within) as scope:
            await self.arrived.wait()
        assert not scope.cancelled_caught, f"no answer within {within} s"
        error = self.response.get("error")
        if error is not None:
            raise RequestFailed(error["code"], error["message"], error["data"])
        result: dict[str, Any] = self.response["result"]
        return result


class ThinPeer:
    """One connection to one notebook.

    Attributes:
        events: all that were heard, in order.
        early: events and answers that came before their state.
        errors: texts of `error` frames.
        ended: the daemon ended the connection.
        holds_edits: while true, edits stay here (and so do acknowledgements of the notebook document).
        reads: while it is not set, nothing that comes is taken; to stop reading, put a new one here.
    """

    def __init__(self, daemon: Served, documents: Documents, socket: PeerSocket) -> None:
        self.peer_id = PeerId(f"thin-{uuid4()}")
        self.daemon_id: PeerId | None = None
        self.notebook = ReplicaSession(parse_automerge_url(documents.notebook))
        self.runtime = ReplicaSession(parse_automerge_url(documents.runtime))
        self._runtimes = {self.runtime.document_id: self.runtime}
        self.events: list[Heard] = []
        self.early: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.ended = trio.Event()
        self.holds_edits = False
        self.reads = trio.Event()
        self.reads.set()
        self._daemon = daemon
        self._socket = socket
        self._session_id = SessionId(str(uuid4()))
        self._count = 0
        self._last_request = 0
        self._asked: dict[int | str, Asked] = {}
        self._outgoing: list[bytes] = []
        self._due = trio.Event()
        self._news = trio.Event()

    # Requests.

    def ask(self, method: str, *, rpc_id: int | str | None = None, **params: Any) -> Asked:
        """Sends a request behind the edits made before it; a repeated id gets a new place for its answer."""
        if rpc_id is None:
            self._last_request += 1
            rpc_id = self._last_request
        return self.send({"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": params})

    def send(self, request: Mapping[str, Any]) -> Asked:
        """Sends any JSON-RPC object that has an id; the place for its answer."""
        asked = self._asked[request["id"]] = Asked()
        self.say(request)
        return asked

    async def request(self, method: str, *, within: float = PATIENCE, **params: Any) -> dict[str, Any]:
        """Sends a request and waits for its result.

        Raises:
            RequestFailed: it is refused.
            ConnectionEnded: there will be no answer.
        """
        asked = self.ask(method, **params)
        await self.wait(asked.arrived.is_set, within)
        return await asked.result()

    async def refusal(self, method: str, **params: Any) -> RequestFailed:
        """Sends a request that must be refused; the error."""
        try:
            result = await self.request(method, **params)
        except RequestFailed as failed:
            return failed
        raise AssertionError(f"{method} was not refused: {result}")

    def say(self, data: Mapping[str, Any]) -> None:
        """Sends any ephemeral message on the notebook document."""
        self._outgoing.append(encode_data(data))
        self._due.set()

    async def execute(self, cell_id: str, **params: Any) -> str:
        """Asks to execute a cell as this peer has it; returns the execution's id, once it is queued."""
        result = await self.request("execute_cell", cell_id=cell_id, notebook_heads=self.notebook_heads(), **params)
        execution_id: str = result["execution_id"]
        return execution_id

    async def done(self, execution_id: str, within: float = PATIENCE) -> str:
        """Waits until an execution has ended; its status."""
        event = await self.event("execution_done", within=within, execution_id=execution_id)
        status: str = event.params["status"]
        return status

    async def run(self, cell_id: str, within: float = PATIENCE) -> str:
        """Executes a cell to its end; its status."""
        return await self.done(await self.execute(cell_id), within)

    async def show(self, source: str, cell_id: str | None = None, within: float = PATIENCE) -> list[dict[str, Any]]:
        """Executes a source in a cell, by default a new one; its outputs as a notebook file has them."""
        cell_id = self.edit(cell_id, source) if cell_id is not None else self.add_cell(source)
        await self.run(cell_id, within)
        return await self.outputs(cell_id)

    # Edits.

    def notebook_heads(self) -> list[str]:
        """Heads of the notebook document as it is here, in hex."""
        return heads_to_hex(self.notebook.replica.heads())

    def add_cell(self, source: str, cell_id: str | None = None, cell_type: CellType = "code") -> str:
        """Appends a cell; returns its id."""
        cell_id = cell_id or f"cell-{uuid4()}"
        cells = NotebookSchema.read_cells(self.notebook.replica)
        position = between(cells[-1].position if cells else None, None, "xyz")
        cell = Cell(cell_id, cell_type, position, source)
        self.notebook.write(lambda tx: NotebookSchema.add_cell(tx, cell))
        self._due.set()
        return cell_id

    def edit(self, cell_id: str, source: str) -> str:
        """Gives a cell another source; returns its id."""
        self.notebook.write(lambda tx: NotebookSchema.edit_source(tx, cell_id, source))
        self._due.set()
        return cell_id

    def delete_cell(self, cell_id: str) -> None:
        """Deletes a cell."""
        self.notebook.write(lambda tx: NotebookSchema.delete_cell(tx, cell_id))
        self._due.set()

    def release_edits(self) -> None:
        """Sends what `holds_edits` held."""
        self.holds_edits = False
        self._due.set()

    # What is here.

    def read(self, *path: str, heads: Heads | None = None) -> Any:
        """What stands at a path of the runtime document, as plain Python; None if nothing does."""
        return read(self.runtime.replica, *path, heads=heads)

    @property
    def runtimes(self) -> list[ReplicaSession]:
        """The runtime documents that the notebook named, in order."""
        return list(self._runtimes.values())

    def status(self, execution_id: str) -> str | None:
        """An execution's status in the document."""
        status: str | None = self.read("executions", execution_id, "status")
        return status

    def manifests(self, cell_id: str) -> list[dict[str, Any]]:
        """A cell's outputs as the document has them."""
        cell = read_cell(self.runtime.replica, cell_id)
        return [] if cell is None else cell["outputs"]

    async def outputs(self, cell_id: str) -> list[dict[str, Any]]:
        """A cell's outputs as a notebook file has them, blobs fetched by HTTP."""
        return await self.decode(self.manifests(cell_id))

    async def decode(self, manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Manifests as a notebook file has them."""
        return await self._with_blobs(lambda load: [decode_manifest(manifest, load) for manifest in manifests])

    async def value(self, value: Any) -> Any:
        """What a value of the document stands for."""
        return await self._with_blobs(lambda load: decode_value(value, load))

    def states(self, cell_id: str, since: Heads = ()) -> list[list[dict[str, Any]]]:
        """A cell's outputs after each commit that changed them, oldest first.

        Args:
            since: Heads of the runtime document; only commits after them.
        """
        states: list[list[dict[str, Any]]] = []
        for change in self.runtime.replica.changes_since(since):
            cell = read_cell(self.runtime.replica, cell_id, (bytes(change.hash),))
            outputs = [] if cell is None else cell["outputs"]
            if not states or outputs != states[-1]:
                states.append(outputs)
        return states

    def heard(self, method: str, **params: Any) -> list[Heard]:
        """The events with this method and these params."""
        return [event for event in self.events if _matches(event, method, params)]

    # Waiting.

    async def wait(self, condition: Callable[[], T], within: float = PATIENCE) -> T:
        """Waits until a condition over what is here holds; its value.

        Raises:
            AssertionError: it does not hold within so many seconds; what is here instead is in the message.
            ConnectionEnded: the connection ended before it held.
        """
        with trio.move_on_after(within):
            while not (value := condition()):
                if self.ended.is_set():
                    raise ConnectionEnded(self._summary())
                await self._news.wait()
            return value
        raise AssertionError(f"not within {within} s; {self._summary()}")

    async def event(self, method: str, *, since: int = 0, within: float = PATIENCE, **params: Any) -> Heard:
        """Waits for an event, past or coming, with this method and these params."""

        def first() -> Heard | None:
            return next((event for event in self.events[since:] if _matches(event, method, params)), None)

        found = await self.wait(first, within)
        assert found is not None
        return found

    async def shows(self, cell_id: str, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Waits until a condition holds over a cell's outputs as a notebook file has them."""
        while not condition(await self.decode(seen := self.manifests(cell_id))):
            await self._changed(cell_id, seen)

    async def settle(self) -> None:
        """Waits until this peer has what the daemon had accepted when it took this request."""
        await self.request("barrier", notebook_heads=self.notebook_heads())

    # Inside.

    async def _changed(self, cell_id: str, seen: list[dict[str, Any]]) -> None:
        await self.wait(lambda: self.manifests(cell_id) != seen)

    def _summary(self) -> str:
        last = [(event.method, event.params) for event in self.events[-5:]]
        state = {key: self.read(key) for key in ("kernel", "queue", "file")}
        return f"ended: {self.ended.is_set()}, errors: {self.errors}, {state}, last events: {last}"

    async def _with_blobs(self, decode: Callable[[Callable[[str], bytes]], T]) -> T:
        headers = {"Authorization": f"Bearer {self._daemon.token}"}

        def work() -> T:
            with httpx.Client(base_url=self._daemon.url, headers=headers, timeout=PATIENCE) as client:
                return decode(lambda digest: client.get(f"/blobs/{digest}").raise_for_status().content)

        return await trio.to_thread.run_sync(work)

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def read_loop(self) -> None:
        """Takes frames until the connection ends."""
        try:
            while True:
                received = await self._socket.receive()
                await self.reads.wait()
                for data in received:
                    self._take(decode_frame(data))
                self._due.set()
                self._tell()
        except SocketClosed:
            self.ended.set()
            self._tell()

    async def write_loop(self) -> None:
        """Writes what is due until the connection ends."""
        with suppress(SocketClosed):  # the reading task says so
            await self._socket.send([encode_frame(Join(self.peer_id, ("1",), {"isEphemeral": True}))])
            while not self.ended.is_set():
                self._due = trio.Event()
                frames = self._frames()
                if frames:
                    await self._socket.send(frames)
                else:
                    await self._due.wait()

    def _frames(self) -> list[bytes]:
        if self.daemon_id is None:
            return []
        frames = []
        for session in (self.notebook, *self._runtimes.values()):
            if session is self.notebook and self.holds_edits:
                continue
            while True:
                is_request = not session.replica.heads()
                data = session.next_message()
                if data is None:
                    break
                frames.append(encode_frame(Sync(self.peer_id, self.daemon_id, session.document_id, data, is_request)))
        prefix = EphemeralFramePrefix(self.peer_id, self.daemon_id, self.notebook.document_id, self._session_id)
        for data in self._outgoing:
            self._count += 1
            frames.append(prefix.frame(self._count, data))
        self._outgoing.clear()
        return frames

    def _take(self, frame: Frame) -> None:
        match frame:
            case Peer(sender_id=sender):
                self.daemon_id = PeerId(sender)
            case Sync(document_id=document_id, data=data):
                for session in (self.notebook, *self._runtimes.values()):
                    if session.document_id == document_id:
                        session.receive([decode_sync_message(data)])
                if document_id == self.notebook.document_id:
                    self._follow()
            case Ephemeral(sender_id=sender, data=data) if sender == self.daemon_id:
                self._hear(decode_data(data))
            case ErrorFrame(message=message):
                self.errors.append(message)
            case _:
                pass

    def _follow(self) -> None:
        """Opens the runtime document that the notebook names; it is the one to read once something was heard of it."""
        try:
            named = parse_automerge_url(read_string(self.notebook.replica, ROOT, "runtime") or "")
        except InvalidIdentifier:
            return
        if named not in self._runtimes:
            self._runtimes[named] = ReplicaSession(named)
            self.ask("barrier", rpc_id=f"what is in {named}")

    def _hear(self, data: Any) -> None:
        is_event = "method" in data
        if not is_event and data.get("to") != self.peer_id:
            return
        said = data["params"] if is_event else data.get("result", {})
        early = not self._is_here(said)
        if early:
            self.early.append(data)
        if is_event:
            self.events.append(Heard(data["method"], said, early))
        else:
            asked = self._asked[data["id"]]
            assert not asked.arrived.is_set(), f"answered twice: {data}"
            asked.response = data
            asked.arrived.set()

    def _is_here(self, said: Mapping[str, Any]) -> bool:
        runtime = self._runtimes.get(said.get("runtime", self.runtime.document_id))
        if runtime is None or not runtime.holds(heads_from_hex(said.get("heads", []))):
            return False
        self.runtime = runtime
        return self.notebook.holds(heads_from_hex(said.get("notebook_heads", [])))


def read(replica: Reader, *path: str, heads: Heads | None = None) -> Any:
    """What stands at a path of a document, as plain Python; None if nothing does."""
    obj = ROOT
    for key in path[:-1]:
        found = replica.get(obj, key, heads)
        if found is None:
            return None
        obj = found[1]
    found = replica.get(obj, path[-1], heads)
    return None if found is None else read_found(replica, found, heads)


def _matches(event: Heard, method: str, params: Mapping[str, Any]) -> bool:
    return event.method == method and all(event.params.get(key) == value for key, value in params.items())


@asynccontextmanager
async def open_thin_peer(daemon: Served, documents: Documents, *, token: str | None = None) -> AsyncIterator[ThinPeer]:
    """A peer that has joined and holds the whole notebook; at the end no event or answer may have come early."""
    failure: BaseException | None = None
    connected = connect_socket(daemon.sync_url, token=token or daemon.token, max_message_bytes=MAX_FRAME_BYTES)
    async with connected as socket, trio.open_nursery() as nursery:
        peer = ThinPeer(daemon, documents, socket)
        nursery.start_soon(peer.read_loop)
        nursery.start_soon(peer.write_loop)
        try:
            await peer.wait(lambda: peer.read("file", "status") not in (None, "loading"))
            await peer.settle()  # the notebook document may come later than the runtime document
            yield peer
            assert not peer.early, peer.early
        except Exception as error:  # the nursery would wrap it: it is easier to expect, and to read, as it was
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
