"""Our own clients and a daemon without sockets: frames move only when a schedule says so.

The daemon's side is the product's `Document`, `Subscription` and `Outbox`; the clients' side is its `ClientSession`.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sync.core.binding import ROOT, ScalarType
from sync.core.change_log import LoggedChange, missing_dependencies
from sync.core.changes import check_changes
from sync.core.client_session import Answer, ClientSession, Event, Received
from sync.core.document import Document
from sync.core.frames import Ephemeral, Join, Peer, Sync, decode_data, decode_frame, encode_data, encode_frame
from sync.core.identifiers import DocumentId, PeerId, SessionId, document_id, heads_from_hex, heads_to_hex
from sync.core.jsonrpc import event, response
from sync.core.outbox import Notice, Outbox
from sync.core.sync_message import decode_sync_message

DAEMON = PeerId("daemon")


@dataclass(eq=False)
class SimulatedClient:
    """A client session, both directions of its connection, and what it was told."""

    session: ClientSession
    outbox: Outbox | None = None
    to_client: deque[bytes] = field(default_factory=deque)
    to_daemon: deque[bytes] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    frames_sent: int = 0
    edits: int = 0

    def read(self, count: int) -> Received:
        """One read of the socket, with so many frames in it."""
        batch = [self.to_client.popleft() for _ in range(min(count, len(self.to_client)))]
        received = self.session.receive(batch)
        for message in received.messages:
            if isinstance(message, Event):
                self.check(message.params)
                self.events.append(message)
            else:
                self.check(message.result or {})
                self.answers.append(message)
        return received

    def check(self, said: dict[str, Any]) -> None:
        session = self.session
        assert session.notebook.holds(heads_from_hex(said.get("notebook_heads", []))), "told before the notebook"
        assert session.runtime is not None
        if said["runtime"] == session.runtime.document_id:
            assert session.runtime.holds(heads_from_hex(said["heads"])), "told before the runtime document"
        else:
            assert session.has_left(said["runtime"]), "told of a document that is not read yet"

    def write(self) -> int:
        frames = self.session.next_batch()
        self.to_daemon.extend(frames)
        self.frames_sent += len(frames)
        return len(frames)

    def edit(self) -> None:
        self.edits += 1
        key = f"{self.session.peer_id}-{self.edits}"
        self.session.notebook.write(lambda tx: tx.put(ROOT, key, ScalarType.Int, self.edits))


class SimulatedDaemon:
    """One notebook, its runtime documents, and any number of clients."""

    def __init__(self, outbox_type: type[Outbox] = Outbox, max_payload: int = 400) -> None:
        self.outbox_type = outbox_type
        self.max_payload = max_payload
        self.notebook = Document(document_id(b"n" * 16))
        self.documents = {self.notebook.id: self.notebook}
        self.clients: list[SimulatedClient] = []
        self.connections = self.values = self.seq = 0
        self.notebook.commit(lambda tx: tx.put(ROOT, "schema", ScalarType.Int, 1))
        self.roll_over()

    def roll_over(self) -> None:
        self.runtime = Document(document_id(bytes([len(self.documents)]) * 16))
        self.documents[self.runtime.id] = self.runtime
        self.runtime.commit(lambda tx: tx.put(ROOT, "schema", ScalarType.Int, 1))
        self.notebook.commit(lambda tx: tx.put(ROOT, "runtime", ScalarType.Str, self.runtime.url))
        self.publish()

    def publish(self) -> None:
        self.runtime.publish()
        self.notebook.publish()

    def commit(self, document: Document, size: int = 1) -> None:
        self.values += 1
        document.commit(lambda tx: tx.put(ROOT, f"k{self.values}", ScalarType.Str, f"{self.values}" * size))
        self.publish()

    def join(self, name: str, *, expects_runtime: bool = False) -> SimulatedClient:
        client = SimulatedClient(ClientSession(PeerId(name), self.notebook.id))
        if expects_runtime:
            client.session.expect(self.runtime.id)
        self.clients.append(client)
        self.connect(client)
        return client

    def connect(self, client: SimulatedClient) -> None:
        """A new connection; what was under way on the old one is lost."""
        self.connections += 1
        client.to_client.clear()
        client.to_daemon.clear()
        client.outbox = None
        client.session.begin(SessionId(f"s{self.connections}"))

    def announce(self) -> None:
        self.seq += 1
        params = {"epoch": "e", "seq": self.seq, **self.stamp()}
        self.notify(event("queue_changed", params), self.clients, droppable=True)

    def write(self, client: SimulatedClient) -> int:
        """The connection's writer runs once."""
        if client.outbox is None:
            return 0
        frames = client.outbox.next_batch()
        client.to_client.extend(frames)
        return len(frames)

    def hear(self, client: SimulatedClient) -> None:
        """The connection's reader takes one frame."""
        frame = decode_frame(client.to_daemon.popleft())
        if isinstance(frame, Join):
            self.connections += 1
            session_id = SessionId(f"d{self.connections}")
            client.outbox = self.outbox_type(
                sender=DAEMON, target=PeerId(frame.sender_id), session_id=session_id, max_payload=self.max_payload
            )
            client.to_client.append(encode_frame(Peer(DAEMON, frame.sender_id, "1", {})))
        elif isinstance(frame, Sync):
            self._hear_sync(client, frame)
        elif isinstance(frame, Ephemeral):
            request = decode_data(frame.data)
            assert isinstance(request, dict)
            self.answer(client, frame.sender_id, request)

    def answer(self, client: SimulatedClient, sender: str, request: dict[str, Any]) -> None:
        """Answers a request, all of them like a barrier."""
        self.notify(response(request["id"], sender, self.stamp()), [client], droppable=False)

    def _hear_sync(self, client: SimulatedClient, frame: Sync) -> None:
        assert client.outbox is not None
        document = self.documents.get(DocumentId(frame.document_id))
        if document is None:
            client.outbox.push_unavailable(DocumentId(frame.document_id))
            return
        subscription = client.outbox.subscriptions.get(document.id)
        if subscription is None:
            subscription = client.outbox.subscribe(document, origin=client, writable=document is self.notebook)
        message = decode_sync_message(frame.data)
        subscription.receive(message)
        if not message.changes or not subscription.writable:
            assert document is self.notebook or not message.changes, "a document that others write was written"
            return
        changes = [change for blob in message.changes for change in check_changes(blob)]
        fresh = [change for change in changes if change.hash not in document.log]
        logged = [LoggedChange(c.hash, c.deps, c.chunk, c.max_op, client) for c in fresh]
        missing = missing_dependencies(document.log, logged)
        if missing:
            subscription.need(missing)
        elif fresh:
            document.apply([(one, c.actor, c.seq, c.op_count) for one, c in zip(logged, fresh, strict=True)])
            self.publish()

    def stamp(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime.id,
            "heads": heads_to_hex(self.runtime.published_heads()),
            "notebook_heads": heads_to_hex(self.notebook.published_heads()),
        }

    def notify(self, message: dict[str, Any], clients: list[SimulatedClient], *, droppable: bool) -> None:
        """An event or a response about the newest state."""
        requires = tuple((document.id, document.published) for document in (self.runtime, self.notebook))
        notice = Notice(self.notebook.id, requires, encode_data(message), droppable)
        for client in clients:
            if client.outbox is not None:
                client.outbox.push(notice)

    def settle(self, rounds: int = 200) -> None:
        """Lets everything arrive.

        Raises:
            AssertionError: the two ends still talk after so many rounds.
        """
        for _ in range(rounds):
            moved = False
            for client in self.clients:
                moved |= bool(client.write())
                while client.to_daemon:
                    self.hear(client)
                moved |= bool(self.write(client))
                if client.to_client:
                    client.read(len(client.to_client))
            if not moved:
                return
        raise AssertionError("they never fall silent")
