"""One connection: handshake, breaches, who may say what, what is passed on, and how it ends."""

import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from automerge import core
from trio.testing import MockClock, wait_all_tasks_blocked

from sync.connection import (
    OPENING_SECONDS,
    REQUEST_BURST,
    REQUESTS_PER_SECOND,
    STALLED_SECONDS,
    Connection,
    OpenDocument,
    Role,
)
from sync.core.document import Document
from sync.core.frames import (
    DocUnavailable,
    Ephemeral,
    ErrorFrame,
    Ignored,
    Join,
    Peer,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
)
from sync.core.identifiers import DocumentId, Heads, PeerId, SessionId, document_id
from sync.core.jsonrpc import RequestError
from sync.core.limits import (
    MAX_DEPTH,
    MAX_DOCUMENTS_PER_PEER,
    MAX_JSONRPC_BYTES,
    MAX_RELAYED_BYTES,
    MAX_REQUESTS_IN_FLIGHT,
)
from sync.core.notices import Notice
from sync.core.sync_message import decode_sync_message, encode_sync_message
from sync.decoding import INLINE_BYTES
from sync.handshake import HANDSHAKE_SECONDS
from sync.serving import serve_connection
from sync.websocket import PeerSocket
from tests.fakes.memory_socket import MemorySocket
from tests.fakes.written_documents import WrittenDocuments


class Hub:
    """The documents of one notebook, and what requests came."""

    peer_id = PeerId("daemon")

    def __init__(self, written: WrittenDocuments) -> None:
        self.written = written
        self.connections: list[Connection] = []
        self.left: list[Connection] = []
        self.requests: list[dict[str, Any]] = []
        self.documents = {
            written.notebook.id: OpenDocument(written.notebook, written.writer),
            written.runtime.id: OpenDocument(written.runtime, None),
        }

    def find_document(self, document_id: DocumentId) -> OpenDocument | None:
        return self.documents.get(document_id)

    def connected(self, connection: Connection) -> None:
        self.connections.append(connection)

    def disconnected(self, connection: Connection) -> None:
        self.left.append(connection)

    async def receive_request(self, connection: Connection, document_id: DocumentId, data: dict[str, Any]) -> None:
        del connection, document_id
        self.requests.append(data)

    def add_document(self, number: int) -> Document:
        made = Document(document_id(number.to_bytes(16, "big")))
        made.commit(lambda tx: tx.put(core.ROOT, "schema", core.ScalarType.Int, 1))
        made.publish()
        self.documents[made.id] = OpenDocument(made, None)
        return made


class Client:
    """The other end of one connection."""

    def __init__(self, hub: Hub, name: str = "peer") -> None:
        self.hub, self.name = hub, name
        self.socket = MemorySocket()
        self.notebook, self.runtime = hub.written.notebook, hub.written.runtime

    @property
    def connection(self) -> Connection:
        return next(c for c in self.hub.connections if c.socket is cast("PeerSocket", self.socket))

    def sync(self, document: Document, heads: Heads = (), *, changes: bytes = b"") -> None:
        data = encode_sync_message(heads, have=None, changes=[changes] if changes else [], read_only=None)
        self.socket.say(Sync(self.name, "daemon", document.id, data))

    def open(self, *documents: Document) -> None:
        for document in documents:
            self.sync(document, document.published_heads())

    def say(self, data: object, *, sender: str | None = None, document: Document | None = None) -> None:
        where = (document or self.notebook).id
        self.socket.say(Ephemeral(sender or self.name, "daemon", where, f"{self.name}'s", 1, encode_data(data)))

    def response(self, request_id: int, *, size: int = 1) -> Notice:
        data = encode_data({"jsonrpc": "2.0", "id": request_id, "to": self.name, "result": {"x": b"x" * size}})
        return Notice(
            self.notebook.id, ((self.runtime.id, self.runtime.published),), data, droppable=False, request_id=request_id
        )

    @property
    def answers(self) -> dict[int, str]:
        """The reason of each error that came, by request; "ok" for results."""
        found = {}
        for frame in self.socket.of(Ephemeral):
            data = cast("dict[str, Any]", decode_data(frame.data))
            if "id" in data:
                found[data["id"]] = data["error"]["data"]["reason"] if "error" in data else "ok"
        return found

    @property
    def told(self) -> list[str]:
        return [frame.message for frame in self.socket.of(ErrorFrame)]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(WrittenDocuments(tmp_path / "blobs"))


@asynccontextmanager
async def serving(
    hub: Hub, *names: str, role: Role = "editor", joined: bool = True
) -> AsyncIterator[tuple[Client, ...]]:
    """Connected clients, and the doc-writer at work."""
    clients = tuple(Client(hub, name) for name in names or ("peer",))
    async with hub.written.running(), trio.open_nursery() as nursery:
        for client in clients:

            async def connect(client: Client = client) -> None:
                socket = cast("PeerSocket", client.socket)
                await serve_connection(socket, hub, role=role, session_id=SessionId("daemon's"))

            nursery.start_soon(connect)
            if joined:
                client.socket.say(Join(client.name, ("1",), {}))
        await wait_all_tasks_blocked()
        yield clients
        for client in clients:
            client.socket.leave()


async def test_a_join_is_answered(hub: Hub) -> None:
    async with serving(hub) as (client,):
        assert client.socket.frames == [Peer("daemon", "peer", "1", {"isEphemeral": False})]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (DocUnavailable("peer", "daemon", "x"), "the first frame must be join"),
        (Join("peer", ("2", "3"), {}), "this daemon speaks version 1 of the protocol"),
        (Join("daemon", ("1",), {}), "this peer id is the daemon's"),
    ],
)
async def test_a_bad_first_frame_is_answered_with_the_reason_and_the_connection_ends(
    hub: Hub, frame: Join | DocUnavailable, reason: str
) -> None:
    async with serving(hub, joined=False) as (client,):
        client.socket.say(frame)
        await wait_all_tasks_blocked()
        assert client.socket.frames == [ErrorFrame("daemon", frame.sender_id, reason)]
        assert client.socket.dropped
        assert hub.connections == []


async def test_who_says_nothing_is_given_up(hub: Hub, autojump_clock: MockClock) -> None:
    async with serving(hub, joined=False) as (client,):
        await trio.sleep(HANDSHAKE_SECONDS + 0.1)
        assert client.socket.dropped


@pytest.mark.parametrize(
    ("breach", "told"),
    [
        (Join("peer", ("1",), {}), "a second join"),
        (b"\xff", "CBOR"),
        (Sync("peer", "daemon", "not an id", b""), "documentId is malformed"),
    ],
)
async def test_a_breach_is_told_and_ends_the_connection(hub: Hub, breach: Join | Sync | bytes, told: str) -> None:
    async with serving(hub) as (client,):
        client.socket.say(breach)
        await wait_all_tasks_blocked()
        assert len(client.told) == 1
        assert told in client.told[0]
        assert client.socket.finished, "what was written must arrive"
        assert len(hub.left) == 1


async def test_a_peer_that_leaves_is_nobodys_subscriber(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook, client.runtime)
        await wait_all_tasks_blocked()
        connection = client.connection
        assert connection in client.runtime.subscribers
        client.socket.leave()
        await wait_all_tasks_blocked()
        assert connection not in client.runtime.subscribers | client.notebook.subscribers
        # A room's doc-writer may still have something for it.
        connection.push(client.response(1))
        assert connection.outbox.held_bytes == 0
        connection.document_closed(client.runtime.id, RequestError.shutting_down())
        connection.push(client.response(2))
        connection.tell("nobody hears this")
        await connection.drain()
        assert connection.outbox.held_bytes == 0


async def test_an_unknown_document_is_unavailable_and_what_is_said_about_it_goes_nowhere(hub: Hub) -> None:
    async with serving(hub) as (client,):
        unknown = Document(document_id(b"u" * 16))
        client.sync(unknown)
        client.say({"cursor": 1}, document=unknown)
        await wait_all_tasks_blocked()
        assert client.socket.frames[1:] == [DocUnavailable("daemon", "peer", unknown.id)]


async def test_frames_of_unknown_kinds_are_passed_over(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.socket.say(encode_data({"type": "remote-subscription-change", "senderId": "peer"}))
        client.open(client.notebook)
        await wait_all_tasks_blocked()
        assert client.socket.of(Sync)
        assert Ignored("x") not in client.socket.frames


async def test_a_frame_is_its_connections_whatever_it_says_of_sender_and_target(hub: Hub) -> None:
    async with serving(hub, "one", "two") as (one, two):
        one.open(one.notebook)
        await wait_all_tasks_blocked()
        had = len(one.socket.frames)
        heads = encode_sync_message((b"\x07" * 32,), have=None, read_only=None)
        two.socket.say(Sync("one", "nobody", two.notebook.id, heads))
        two.socket.say(Ephemeral("one", "daemon", two.notebook.id, "one's", 1, encode_data({"cursor": 1})))
        await wait_all_tasks_blocked()
        assert [frame.target_id for frame in two.socket.of(Sync)] == ["two"], "the answer goes to who asked"
        assert len(one.socket.frames) == had
        assert two.connection.counts()["foreign_ephemerals"] == 1
        assert two.told == []


async def test_too_many_documents_are_a_breach(hub: Hub) -> None:
    documents = [hub.add_document(number) for number in range(MAX_DOCUMENTS_PER_PEER + 1)]
    async with serving(hub) as (client,):
        client.open(*documents)
        await wait_all_tasks_blocked()
        assert client.told == [f"more than {MAX_DOCUMENTS_PER_PEER} documents on one connection"]
        assert client.socket.dropped


async def test_a_request_counts_under_the_peers_own_id_alone(hub: Hub) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "barrier"}
    async with serving(hub) as (client,):
        client.say(request, sender="another")
        client.say(request)
        await wait_all_tasks_blocked()
        assert hub.requests == [request]
        assert client.connection.counts()["foreign_ephemerals"] == 1


async def test_a_request_that_is_too_large_is_answered(hub: Hub) -> None:
    async with serving(hub) as (client,):
        params = {"buffers": [b"x" * MAX_JSONRPC_BYTES]}
        client.say({"jsonrpc": "2.0", "id": 5, "method": "comm_custom", "params": params})
        await client.socket.until(lambda: client.answers)
        assert client.answers == {5: "too_large"}
        assert not client.socket.dropped
        assert hub.requests == []


async def test_a_request_that_nests_too_deep_is_answered_and_what_is_none_is_a_breach(hub: Hub) -> None:
    deep: Any = 0
    for _ in range(MAX_DEPTH):
        deep = [deep]
    async with serving(hub) as (client,):
        client.say({"jsonrpc": "2.0", "id": 5, "method": "comm_custom", "params": {"content": deep}})
        await client.socket.until(lambda: client.answers)
        assert client.answers == {5: "too_large"}
        assert not client.socket.dropped
        client.say({"jsonrpc": "2.0", "id": 6, "to": "daemon", "result": deep})  # never answer an answer
        client.say({"jsonrpc": "2.0", "method": "comm_custom", "params": {"content": deep}})
        await client.socket.until(lambda: client.socket.of(ErrorFrame))
        assert client.answers == {5: "too_large"}
        assert not client.socket.dropped
        assert hub.requests == []
        client.say({"cursor": deep})
        await client.socket.until(lambda: client.socket.dropped)


async def test_presence_reaches_the_others_unchanged_and_nobody_else(hub: Hub) -> None:
    async with serving(hub, "one", "two", "three") as (one, two, three):
        one.open(one.notebook)
        two.open(two.notebook)
        await wait_all_tasks_blocked()
        one.say({"cursor": 7})
        one.say({"jsonrpc": "2.0", "method": "execution_done"})
        one.say({"cursor": b"x" * MAX_RELAYED_BYTES})
        one.say({"cursor": 8})
        await two.socket.until(lambda: len(two.socket.of(Ephemeral)) == 2)

        relayed, _ = two.socket.of(Ephemeral)
        assert (relayed.sender_id, relayed.target_id, relayed.session_id, relayed.count) == ("one", "two", "one's", 1)
        assert decode_data(relayed.data) == {"cursor": 7}
        assert one.socket.of(Ephemeral) == three.socket.of(Ephemeral) == []
        assert one.connection.counts()["relays_dropped"] == 1


async def test_much_at_once_is_decoded_beside_the_loop(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """250 000 numbers in 250 KB held the loop for up to 0.5 s."""
    threads: list[tuple[str, str]] = []

    def noting(name: str, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def note(data: bytes) -> Any:
            threads.append((name, "loop" if threading.current_thread() is threading.main_thread() else "beside"))
            return decode(data)

        return note

    monkeypatch.setattr("sync.connection.decode_frame", noting("frame", decode_frame))
    monkeypatch.setattr("sync.connection.decode_data", noting("data", decode_data))
    async with serving(hub) as (peer,):
        threads.clear()
        for numbers in (list(range(10)), list(range(INLINE_BYTES))):
            peer.say({"jsonrpc": "2.0", "method": "x", "params": {"numbers": numbers}})
        peer.say({"jsonrpc": "2.0", "method": "y"})
        peer.sync(Document(document_id(b"?" * 16)))
        await peer.socket.until(lambda: peer.socket.of(DocUnavailable))
    assert threads[:6] == [(name, where) for where in ("loop", "beside", "loop") for name in ("frame", "data")]
    assert [request["method"] for request in hub.requests] == ["x", "x", "y"], "in order all the same"


async def test_a_flood_of_presence_is_cut(hub: Hub, autojump_clock: MockClock) -> None:
    async with serving(hub, "one", "two") as (one, two):
        one.open(one.notebook)
        two.open(two.notebook)
        for _ in range(1_000):
            one.say({"cursor": b"x" * 1_000})
        await trio.sleep(0.1)
        came = len(two.socket.of(Ephemeral))
        assert 0 < came < 500
        await trio.sleep(10)
        one.say({"cursor": 1})
        await trio.sleep(0.1)
        assert len(two.socket.of(Ephemeral)) == came + 1


async def test_a_slow_peer_gets_fewer_and_larger_messages(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """A payload is made when the socket can take it, so what came meanwhile is in one."""
    async with serving(hub, "fast", "slow") as (fast, slow):
        fast.open(fast.notebook)
        slow.open(slow.notebook)
        await wait_all_tasks_blocked()
        before = [len(client.socket.of(Sync)) for client in (fast, slow)]
        slow.socket.reads = trio.Event()
        for number in range(100):
            await hub.written.submit(hub.written.edit(f"{number}"))
            await hub.written.writer.flush()
            await wait_all_tasks_blocked()
        assert slow.connection.outbox.held_bytes == 0, "nothing is made in advance"
        slow.socket.reads.set()
        await wait_all_tasks_blocked()

        messages = [client.socket.of(Sync)[had:] for client, had in zip((fast, slow), before, strict=True)]
        sizes = [sum(len(frame.data) for frame in frames) // len(frames) for frames in messages]
        with capsys.disabled():
            print(
                f"\nA slow peer: {len(messages[1])} messages of {sizes[1]} bytes for 100 commits, "
                f"a fast one {len(messages[0])} of {sizes[0]}",
                file=sys.stderr,
            )
        assert len(messages[0]) == 100
        assert len(messages[1]) == 2, "the one that was being written, and the rest"
        for client in (fast, slow):
            assert decode_sync_message(client.socket.of(Sync)[-1].data).heads == client.notebook.published_heads()


async def test_a_flood_of_requests_is_taken_at_a_bounded_rate(hub: Hub, autojump_clock: MockClock) -> None:
    """None is lost, and what else this peer says waits behind them; another peer's are taken at once."""
    async with serving(hub, "one", "two") as (one, two):
        flood = REQUEST_BURST + 2 * REQUESTS_PER_SECOND
        for number in range(flood):
            one.say({"jsonrpc": "2.0", "id": number, "method": "barrier"})
        await trio.sleep(1)
        assert REQUEST_BURST <= len(hub.requests) <= REQUEST_BURST + REQUESTS_PER_SECOND + 1
        two.say({"jsonrpc": "2.0", "id": "two's", "method": "barrier"})
        await wait_all_tasks_blocked()
        assert hub.requests[-1]["id"] == "two's"
        await trio.sleep(2)
        assert len(hub.requests) == flood + 1


async def test_a_peer_that_takes_nothing_is_dropped_and_the_others_are_served(
    hub: Hub, autojump_clock: MockClock
) -> None:
    async with serving(hub, "one", "two") as (one, two):
        one.open(one.notebook)
        two.open(two.notebook)
        await trio.sleep(1)
        one.socket.reads = trio.Event()
        for number in range(3):
            await hub.written.submit(hub.written.edit(f"{number}"))
            await hub.written.writer.flush()
        await trio.sleep(STALLED_SECONDS - 1)
        assert not one.socket.dropped
        await trio.sleep(2)
        assert one.socket.dropped
        assert not two.socket.dropped
        assert decode_sync_message(two.socket.of(Sync)[-1].data).heads == two.notebook.published_heads()


async def test_an_answer_about_a_document_that_is_not_opened_becomes_an_error_that_names_it(
    hub: Hub, autojump_clock: MockClock
) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        await trio.sleep(1)
        client.connection.push(client.response(1))
        await trio.sleep(OPENING_SECONDS - 1)
        assert client.answers == {}
        await trio.sleep(2)
        assert client.answers == {1: "timeout"}
        [frame] = client.socket.of(Ephemeral)
        assert client.runtime.url.encode() in frame.data


async def test_an_answer_waits_for_the_document_that_is_being_opened(hub: Hub, autojump_clock: MockClock) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        await trio.sleep(1)
        client.connection.push(client.response(1))
        await trio.sleep(1)
        client.open(client.runtime)
        await trio.sleep(2 * OPENING_SECONDS)
        assert client.answers == {1: "ok"}


async def test_only_so_many_answers_wait_for_a_document_to_be_opened(hub: Hub, autojump_clock: MockClock) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        await trio.sleep(1)
        for number in range(MAX_REQUESTS_IN_FLIGHT + 3):
            client.connection.push(client.response(number))
        await trio.sleep(1)
        assert list(client.answers.values()) == ["timeout"] * 3
        await trio.sleep(OPENING_SECONDS)
        assert len(client.answers) == MAX_REQUESTS_IN_FLIGHT + 3


async def test_an_answer_that_is_too_large_becomes_an_error(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook, client.runtime)
        await wait_all_tasks_blocked()
        client.connection.push(client.response(1, size=MAX_JSONRPC_BYTES))
        await wait_all_tasks_blocked()
        assert client.answers == {1: "too_large"}
        assert not client.socket.dropped


async def test_a_closed_document_is_unavailable_and_its_requests_are_answered(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        await wait_all_tasks_blocked()
        client.connection.push(client.response(1))
        client.connection.document_closed(client.notebook.id, RequestError.shutting_down())
        await wait_all_tasks_blocked()
        assert client.answers == {1: "shutting_down"}
        assert client.socket.of(DocUnavailable) == [DocUnavailable("daemon", "peer", client.notebook.id)]


async def test_changes_are_taken_and_acknowledged(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        change = hub.written.edit()
        client.sync(client.notebook, (change.hash,), changes=change.chunk)
        await wait_all_tasks_blocked()
        await hub.written.writer.flush()
        await client.socket.until(lambda: decode_sync_message(client.socket.of(Sync)[-1].data).heads == (change.hash,))


async def test_what_a_peer_said_before_it_went_is_taken_though_nothing_can_be_written(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        await wait_all_tasks_blocked()
        connection = client.connection
        client.socket.gone = True
        changes = [hub.written.edit(f"key {number}") for number in range(30)]
        for change in changes:
            client.sync(client.notebook, (change.hash,), changes=change.chunk)
        await wait_all_tasks_blocked()
        assert connection.ended.is_set()
        assert connection in hub.connections
        assert connection not in hub.left
        client.socket.leave()
        await wait_all_tasks_blocked()
        assert connection in hub.left
        await hub.written.writer.changes_taken()
        assert hub.written.notebook.has(change.hash for change in changes)


async def test_a_viewers_changes_are_dropped_and_it_is_told_once(hub: Hub) -> None:
    async with serving(hub, role="viewer") as (client,):
        client.open(client.notebook)
        for number in range(3):
            change = hub.written.edit(f"{number}")
            client.sync(client.notebook, (change.hash,), changes=change.chunk)
        await wait_all_tasks_blocked()
        assert len(client.told) == 1
        assert all(decode_sync_message(frame.data).read_only for frame in client.socket.of(Sync))
        assert len(client.notebook.log) == 1
        assert client.connection.counts()["changes_dropped"] == 3


async def test_changes_to_the_runtime_document_are_dropped_without_a_word(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.runtime)
        await wait_all_tasks_blocked()
        before = len(client.socket.frames)
        change = hub.written.edit()
        client.sync(client.runtime, (change.hash,), changes=change.chunk)
        await wait_all_tasks_blocked()
        assert client.socket.frames[before:] == []


async def test_a_change_that_fails_the_check_makes_the_document_read_only_with_one_error(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        for number in range(3):
            change = hub.written.edit(f"{number}")
            client.sync(client.notebook, (change.hash,), changes=change.chunk[:-1] + b"?")
        await wait_all_tasks_blocked()
        assert len(client.told) == 1
        assert "read-only for this connection" in client.told[0]
        assert decode_sync_message(client.socket.of(Sync)[-1].data).read_only
        assert not client.connection.may_write(client.notebook)
        assert not client.socket.dropped


async def test_two_that_drain_both_go_on(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        await wait_all_tasks_blocked()
        client.socket.reads = trio.Event()
        client.connection.tell("something to write")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(client.connection.drain)
                await wait_all_tasks_blocked()
            client.socket.reads.set()
        assert client.told == ["something to write"]


async def test_a_connection_that_is_finished_writes_what_is_due_and_reads_no_more(hub: Hub) -> None:
    async with serving(hub) as (client,):
        client.open(client.notebook)
        await wait_all_tasks_blocked()
        client.connection.tell("the last")
        client.connection.finish(1)
        client.say({"jsonrpc": "2.0", "id": 1, "method": "barrier"})
        await client.connection.ended.wait()
        assert client.told == ["the last"]
        assert hub.requests == []
