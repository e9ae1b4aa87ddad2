"""Peers and a daemon without sockets: every delivery, write and storage answer is one step of somebody's schedule.

The daemon's side is the product's own `Document` and `Outbox`. A peer is a replica with the binding's own sync state,
as a stock client has one; while it has no document yet, each frame waits for its storage by itself and may be applied
out of order, which is what stock clients with storage do.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from automerge import core

from sync.core.change_log import LoggedChange
from sync.core.changes import ChangeLimits, check_changes
from sync.core.document import Document
from sync.core.frames import Ephemeral, Sync, decode_data, decode_frame, encode_data
from sync.core.identifiers import PeerId, SessionId, document_id
from sync.core.notices import Notice
from sync.core.outbox import Outbox
from sync.core.sync_message import decode_sync_message

DAEMON = PeerId("daemon")
LIMITS = ChangeLimits()


@dataclass
class Replica:
    """One document at a peer. `loading`: frames that wait for the peer's storage."""

    document: core.Document = field(default_factory=core.Document)
    state: core.SyncState = field(default_factory=core.SyncState)
    loading: list[bytes] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        return bool(self.document.get_heads())

    def has(self, heads: list[str]) -> bool:
        known = {change.hash.hex() for change in self.document.get_changes([])}
        return all(head in known for head in heads)


@dataclass(eq=False)
class SimulatedPeer:
    """A peer and both directions of its connection."""

    name: str
    outbox: Outbox
    has_storage: bool
    replicas: dict[str, Replica]
    opens_late: bool = False
    to_peer: deque[bytes] = field(default_factory=deque)
    to_daemon: deque[bytes] = field(default_factory=deque)
    events: int = 0
    last_count: int = 0

    def speak(self, document: str) -> None:
        """Sends what the replica's sync state has to say, if anything."""
        replica = self.replicas[document]
        message = replica.document.generate_sync_message(replica.state)
        if message is not None:
            self.to_daemon.append((document, message.encode()))  # type: ignore[arg-type]

    def apply(self, document: str, data: bytes) -> None:
        replica = self.replicas[document]
        replica.document.receive_sync_message(replica.state, core.Message.decode(data))
        self.speak(document)
        if not self.opens_late:
            self.follow(document)

    def follow(self, document: str) -> None:
        """Opens the runtime document that the notebook names."""
        named = self.replicas[document].document.get(core.ROOT, "runtime")
        if named is not None and named[0][1] not in self.replicas:
            self.replicas[named[0][1]] = Replica()
            self.speak(named[0][1])


class SimulatedDaemon:
    """A notebook, its runtime documents, any number of peers; `deliver` sees every event the moment it reaches its peer.

    `documents`: the runtime document that is written, and the notebook; `replaced`: those before it that are served on.
    """

    def __init__(self, outbox_type: type[Outbox] = Outbox, max_payload: int = 600) -> None:
        self.outbox_type = outbox_type
        self.max_payload = max_payload
        self.notebook = Document(document_id(b"n" * 16))
        self.runtime = Document(document_id(b"r" * 16))
        self.replaced: list[Document] = []
        self.roll_overs = 0
        self.peers: list[SimulatedPeer] = []
        self.early: list[str] = []
        self.held = 0
        self.seq = 0
        self.connections = 0
        self.runtime.commit(lambda tx: tx.put(core.ROOT, "schema", core.ScalarType.Int, 1))
        self._name_runtime()

    def _name_runtime(self) -> None:
        self.notebook.commit(lambda tx: tx.put(core.ROOT, "runtime", core.ScalarType.Str, self.runtime.id))
        for document in self.documents:
            document.publish()

    def roll_over(self) -> None:
        """Another runtime document takes the place of the one before, as the doc-writer does it."""
        self.roll_overs += 1
        self.replaced.append(self.runtime)
        self.runtime = Document(document_id(bytes([self.roll_overs]) * 16))
        self.runtime.commit(lambda tx: tx.put(core.ROOT, "schema", core.ScalarType.Int, 1))
        self._name_runtime()

    def retire(self) -> None:
        """The oldest of the replaced documents is served no longer."""
        old = self.replaced.pop(0)
        for peer in self.peers:
            peer.outbox.unsubscribe(old.id)

    @property
    def documents(self) -> tuple[Document, Document]:
        return self.runtime, self.notebook

    def connect(self, *, has_storage: bool, replicas: dict[str, Replica] | None = None) -> SimulatedPeer:
        self.connections += 1
        outbox = self.outbox_type(
            sender=DAEMON,
            target=PeerId(f"peer{self.connections}"),
            session_id=SessionId(str(self.connections)),
            max_payload=self.max_payload,
        )
        if replicas is None:
            kept = {document.id: Replica() for document in self.documents}
        else:
            kept = {document: Replica(replica.document) for document, replica in replicas.items()}
        peer = SimulatedPeer(f"peer{self.connections}", outbox, has_storage, kept)
        self.peers.append(peer)
        for document in kept:
            peer.speak(document)
        return peer

    def disconnect(self, peer: SimulatedPeer) -> None:
        self.held += peer.outbox.statistics.notices_held
        self.peers.remove(peer)
        # What was in flight is lost with the connection; what waits for storage is not.
        for document, replica in list(peer.replicas.items()):
            for data in replica.loading:
                peer.apply(document, data)

    def commit(self, document: Document, value: int, size: int) -> None:
        document.commit(lambda tx: tx.put(core.ROOT, f"k{value}", core.ScalarType.Str, f"{value}" * size))
        document.publish()

    def announce(self, *, cells: bool) -> None:
        """An event about the newest state of the runtime document, and of the notebook if it is about `cells`, to all."""
        self.seq += 1
        params: dict[str, Any] = {
            "seq": self.seq,
            "runtime": self.runtime.id,
            "heads": [head.hex() for head in self.runtime.published_heads()],
            "notebook_heads": [head.hex() for head in self.notebook.published_heads()] if cells else [],
        }
        requires = tuple((document.id, document.published) for document in self.documents[: 2 if cells else 1])
        notice = Notice(self.notebook.id, requires, encode_data({"params": params}), droppable=True)
        for peer in self.peers:
            peer.outbox.push(notice)

    def write(self, peer: SimulatedPeer) -> None:
        """The connection's writer runs once."""
        peer.to_peer.extend(peer.outbox.next_batch())

    def hear(self, peer: SimulatedPeer) -> None:
        """The connection's reader takes one message of the peer."""
        document_id_, data = peer.to_daemon.popleft()
        document = next((d for d in (*self.documents, *self.replaced) if d.id == document_id_), None)
        if document is None:
            return  # it is unavailable
        subscription = peer.outbox.subscriptions.get(document.id)
        if subscription is None:
            writable = document is self.notebook
            subscription = peer.outbox.subscribe(document, origin=peer, writable=writable)
        message = decode_sync_message(data)  # type: ignore[arg-type]
        subscription.receive(message)
        if subscription.writable:
            checked = [change for blob in message.changes for change in check_changes(blob, LIMITS)]
            fresh = [change for change in checked if change.hash not in document.log]
            if fresh:
                document.apply(
                    [(LoggedChange(c.hash, c.deps, c.chunk, c.max_op, peer), c.actor, c.seq, c.op_count) for c in fresh]
                )
                document.publish()

    def deliver(self, peer: SimulatedPeer) -> None:
        """One frame reaches the peer."""
        frame = decode_frame(peer.to_peer.popleft())
        if isinstance(frame, Sync):
            replica = peer.replicas[frame.document_id]
            if peer.has_storage and not replica.ready:
                replica.loading.append(frame.data)
            else:
                peer.apply(frame.document_id, frame.data)
        elif isinstance(frame, Ephemeral):
            assert frame.count > peer.last_count
            peer.last_count = frame.count
            peer.events += 1
            params = decode_data(frame.data)["params"]  # type: ignore[index]
            runtime, notebook = peer.replicas[params["runtime"]], peer.replicas[self.notebook.id]
            if not (runtime.has(params["heads"]) and notebook.has(params["notebook_heads"])):
                self.early.append(f"event {params['seq']} reached {peer.name} before its state")

    def storage_answers(self, peer: SimulatedPeer, document: str, index: int) -> None:
        """The peer's storage answers for one of the frames that wait for it."""
        loading = peer.replicas[document].loading
        peer.apply(document, loading.pop(index % len(loading)))

    def settle(self) -> None:
        """Runs everything to the end, in order."""
        for peer in self.peers:
            peer.opens_late = False
            peer.follow(self.notebook.id)
        moved = True
        while moved:
            moved = False
            for peer in self.peers:
                before = len(peer.to_peer)
                self.write(peer)
                moved = moved or len(peer.to_peer) > before
                while peer.to_peer:
                    self.deliver(peer)
                    moved = True
                for document, replica in list(peer.replicas.items()):
                    while replica.loading:
                        self.storage_answers(peer, document, 0)
                        moved = True
                while peer.to_daemon:
                    self.hear(peer)
                    moved = True
