"""Our clients and our daemon, frame by frame: nothing lost, nothing told before its state, and silence in the end."""

import random
from datetime import datetime
from functools import reduce

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sync.core.binding import ROOT, ScalarType
from sync.core.change_log import ChangeLog
from sync.core.client_session import MAX_HELD, Answer, ClientSession, RequestInvalid, RequestTooLarge
from sync.core.frames import (
    DocUnavailable,
    Ephemeral,
    ErrorFrame,
    Peer,
    ProtocolError,
    Sync,
    decode_data,
    decode_frame,
    encode_data,
    encode_frame,
)
from sync.core.identifiers import PeerId, SessionId, document_id
from sync.core.jsonrpc import event
from sync.core.limits import MAX_JSONRPC_BYTES
from sync.core.outbox import Notice, Outbox
from tests.fakes.simulated_clients import DAEMON, SimulatedClient, SimulatedDaemon


class WithoutGate(Outbox):
    """A daemon that sends events when they come, whatever the peer was sent."""

    def _covered(self, notice: Notice) -> bool:
        return notice.document_id in self.subscriptions


class Schedules(RuleBasedStateMachine):
    """Edits on all sides, events, roll-overs, lost connections; every read and write in any order and size."""

    outbox_type: type[Outbox] = Outbox

    @initialize()
    def begin(self) -> None:
        self.daemon = SimulatedDaemon(self.outbox_type)
        self.daemon.join("a")
        self.daemon.join("b", expects_runtime=True)

    def client(self, index: int) -> SimulatedClient:
        return self.daemon.clients[index % len(self.daemon.clients)]

    @rule(runtime=st.booleans(), size=st.sampled_from([1, 1, 300]), announced=st.booleans())
    def commit(self, runtime: bool, size: int, announced: bool) -> None:
        self.daemon.commit(self.daemon.runtime if runtime else self.daemon.notebook, size)
        if announced:
            self.daemon.announce()

    @rule(index=st.integers(0, 2))
    def edit(self, index: int) -> None:
        self.client(index).edit()

    @rule(index=st.integers(0, 2))
    def client_writes(self, index: int) -> None:
        self.client(index).write()

    @rule(index=st.integers(0, 2), count=st.integers(1, 4))
    def client_reads(self, index: int, count: int) -> None:
        self.client(index).read(count)

    @rule(index=st.integers(0, 2))
    def daemon_writes(self, index: int) -> None:
        self.daemon.write(self.client(index))

    @rule(index=st.integers(0, 2), count=st.integers(1, 3))
    def daemon_reads(self, index: int, count: int) -> None:
        client = self.client(index)
        for _ in range(min(count, len(client.to_daemon))):
            self.daemon.hear(client)

    @rule()
    def settle(self) -> None:
        self.daemon.settle()

    @rule(index=st.integers(0, 2))
    def reconnect(self, index: int) -> None:
        self.daemon.connect(self.client(index))

    @precondition(lambda self: len(self.daemon.clients) < 3)
    @rule(expects=st.booleans())
    def join(self, expects: bool) -> None:
        self.daemon.join("c", expects_runtime=expects)

    @precondition(lambda self: len(self.daemon.documents) < 6)
    @rule(announced=st.booleans())
    def roll_over(self, announced: bool) -> None:
        # A document that is replaced before a client could open it holds that client's events for ever: the daemon's
        # business, not ours.
        if all(c.outbox is None or self.daemon.runtime.id in c.outbox.subscriptions for c in self.daemon.clients):
            self.daemon.roll_over()
            if announced:
                self.daemon.announce()

    def teardown(self) -> None:
        if not hasattr(self, "daemon"):
            return
        self.daemon.settle()
        self.daemon.announce()
        self.daemon.settle()
        for client in self.daemon.clients:
            session = client.session
            assert session.notebook.replica.heads() == self.daemon.notebook.heads(), "all have the same notebook"
            assert session.notebook.acknowledged
            assert session.runtime is not None
            assert session.runtime.document_id == self.daemon.runtime.id, "the newest runtime document is followed"
            assert session.runtime.replica.heads() == self.daemon.runtime.heads()
            keys = session.notebook.replica.keys(ROOT)
            for other in self.daemon.clients:
                edits = {f"{other.session.peer_id}-{number}" for number in range(1, other.edits + 1)}
                assert edits <= set(keys), "an edit was lost"
            numbers = [event.seq for event in client.events]
            assert numbers == sorted(set(numbers)), "events come in order, each once"
            assert numbers[-1] == self.daemon.seq


class SchedulesWithoutGate(Schedules):
    outbox_type = WithoutGate


def explore(machine: type[Schedules], schedules: int) -> None:
    config = settings(max_examples=schedules, stateful_step_count=40)
    run_state_machine_as_test(machine, settings=config)


def test_nothing_is_lost_or_told_too_early_over_random_schedules() -> None:
    explore(Schedules, 150)


def test_events_wait_for_their_state_even_where_the_daemon_does_not() -> None:
    explore(SchedulesWithoutGate, 100)


@pytest.mark.soak
@pytest.mark.parametrize("machine", [Schedules, SchedulesWithoutGate])
def test_nothing_is_lost_over_ten_thousand_schedules(machine: type[Schedules]) -> None:
    explore(machine, 10_000)


@pytest.fixture
def daemon() -> SimulatedDaemon:
    return SimulatedDaemon()


def test_what_is_told_of_a_document_is_read_there_even_if_it_was_replaced_meanwhile(daemon: SimulatedDaemon) -> None:
    client = daemon.join("a")
    daemon.settle()
    first = daemon.runtime.id
    daemon.roll_over()
    for _ in range(2):  # the client asks for the second document, and hears an event about it with the third one's name
        daemon.write(client)
        client.read(len(client.to_client))
        client.write()
        while client.to_daemon:
            daemon.hear(client)
    daemon.announce()
    daemon.roll_over()
    daemon.settle()

    assert client.session.runtime is not None
    assert client.session.runtime.document_id == daemon.runtime.id
    assert client.session.has_left(first)
    assert [event.seq for event in client.events] == [1]


def test_one_read_of_many_frames_is_acknowledged_once_for_each_document(daemon: SimulatedDaemon) -> None:
    client = daemon.join("a")
    daemon.settle()
    for _ in range(5):
        daemon.commit(daemon.runtime)
        daemon.commit(daemon.notebook)
        daemon.write(client)
    client.read(len(client.to_client))

    assert client.write() == 2
    daemon.settle()
    assert client.write() == 0


def test_an_edit_goes_out_before_the_request_made_after_it(daemon: SimulatedDaemon) -> None:
    client = daemon.join("a")
    daemon.settle()
    client.session.request("barrier", {})
    client.edit()

    frames = [decode_frame(data) for data in client.session.next_batch()]

    assert [type(frame) for frame in frames] == [Sync, Ephemeral]


def test_edits_made_offline_go_out_with_the_first_message(daemon: SimulatedDaemon) -> None:
    client = daemon.join("a")
    daemon.settle()
    client.edit()
    daemon.connect(client)
    for _ in range(2):
        client.write()
        while client.to_daemon:
            daemon.hear(client)
        client.read(1)

    assert "a-1" in daemon.notebook.replica.keys(ROOT)


def test_a_daemon_that_was_put_back_to_an_older_state_gets_what_it_had_acknowledged(daemon: SimulatedDaemon) -> None:
    client = daemon.join("a")
    daemon.settle()
    older = [daemon.notebook.log[index] for index in range(len(daemon.notebook.log))]
    client.edit()
    daemon.settle()
    assert client.session.notebook.acknowledged

    daemon.notebook.log = ChangeLog()
    for change in older:
        daemon.notebook.log.append(change)
    daemon.notebook.rebuild()
    daemon.notebook.published = len(older)
    daemon.connect(client)
    daemon.settle()

    assert "a-1" in daemon.notebook.replica.keys(ROOT)


def test_a_client_that_may_not_write_keeps_its_edits_until_it_may(daemon: SimulatedDaemon) -> None:
    client = daemon.join("a")
    daemon.settle()
    assert client.outbox is not None
    client.outbox.subscriptions[daemon.notebook.id].make_read_only()
    daemon.settle()
    client.edit()
    daemon.commit(daemon.notebook)
    daemon.settle()
    assert client.session.notebook.read_only
    assert "a-1" not in daemon.notebook.replica.keys(ROOT)

    daemon.connect(client)
    daemon.settle()

    assert "a-1" in daemon.notebook.replica.keys(ROOT)
    assert client.session.notebook.acknowledged


def test_many_offline_edits_go_out_in_several_messages(daemon: SimulatedDaemon) -> None:
    client = daemon.join("a")
    daemon.settle()
    for number in range(5):
        data = random.Random(number).randbytes(400_000)
        client.session.notebook.write(lambda tx, n=number, d=data: tx.put(ROOT, f"big{n}", ScalarType.Bytes, d))  # type: ignore[misc]
    frames = client.session.next_batch()
    client.to_daemon.extend(frames)
    daemon.settle()

    assert len(frames) > 1
    assert daemon.notebook.heads() == client.session.notebook.replica.heads()


def joined() -> ClientSession:
    session = ClientSession(PeerId("a"), document_id(b"n" * 16))
    session.begin(SessionId("s"))
    session.next_batch()
    session.receive([encode_frame(Peer(DAEMON, "a", "1", {}))])
    return session


def said(data: object, *, count: int = 1, sender: str = DAEMON, session_id: str = "d") -> bytes:
    return encode_frame(Ephemeral(sender, "a", document_id(b"n" * 16), session_id, count, encode_data(data)))


def test_only_the_daemon_and_only_what_is_for_us_is_heard() -> None:
    session = joined()
    answer = {"jsonrpc": "2.0", "id": 1, "to": "a", "result": {"right": True}}

    received = session.receive(
        [
            said(event("queue_changed", {}), sender="another"),
            said({**answer, "to": "b"}, count=2),
            said({"hello": 1}, count=3),
            said(answer, count=4),
            said(answer, count=4),
            said({**answer, "id": 2, "result": None, "error": {"code": -32005}}, count=5),
        ]
    )

    # An error speaks of no state, so it does not wait in line.
    assert received.messages == [Answer(2, None, {"code": -32005}), Answer(1, {"right": True}, None)]


def test_what_names_an_unknown_state_is_held_and_the_rest_behind_it_too() -> None:
    session = joined()
    held = event("queue_changed", {"seq": 1, "runtime": document_id(b"r" * 16), "heads": ["ab" * 32]})
    received = session.receive([said(held), said(event("queue_changed", {"seq": 2}), count=2)])

    assert received.messages == []


def test_complaints_and_a_missing_document_are_reported() -> None:
    session = joined()
    notebook = document_id(b"n" * 16)
    received = session.receive(
        [encode_frame(ErrorFrame(DAEMON, "a", "no")), encode_frame(DocUnavailable(DAEMON, "a", notebook))]
    )

    assert received.complaints == ["no"]
    assert session.notebook.unavailable
    assert session.next_batch() == []


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Peer(DAEMON, "a", "1", {})),
        encode_frame(Sync(DAEMON, "a", document_id(b"n" * 16), b"nonsense")),
        said(event("x", {"runtime": 1, "heads": []})),
        said(event("x", {"runtime": "r", "heads": ["short"]})),
        said(event("x", {"runtime": "r", "heads": []})),
        b"nonsense",
    ],
    ids=["second peer", "sync", "runtime", "heads", "no heads", "no frame"],
)
def test_a_daemon_that_breaks_the_protocol_is_an_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        joined().receive([frame])


def test_frames_before_the_answer_to_join_are_an_error() -> None:
    session = ClientSession(PeerId("a"), document_id(b"n" * 16))
    session.begin(SessionId("s"))
    with pytest.raises(ProtocolError, match="before"):
        session.receive([said(event("x", {}))])


def test_no_more_is_held_than_a_daemon_may_send() -> None:
    session = joined()
    params = {"runtime": "r", "heads": ["ab" * 32]}
    with pytest.raises(ProtocolError, match="too many"):
        session.receive([said(event("x", params), count=count) for count in range(1, MAX_HELD + 2)])


@pytest.mark.parametrize(
    "value",
    [{1: "a number as a key"}, object(), datetime(2026, 1, 1), reduce(lambda inner, _: [inner], range(100), [])],
    ids=["key", "type", "date", "depth"],
)
def test_a_request_for_which_a_daemon_would_hang_up_is_refused_here(value: object) -> None:
    session = joined()
    session.next_batch()
    with pytest.raises(RequestInvalid):
        session.request("update_comm", {"state": {"value": [value]}})

    assert session.next_batch() == []


def test_a_request_that_fits_no_message_is_refused_here() -> None:
    session = joined()
    with pytest.raises(RequestTooLarge):
        session.request("comm_custom", {"buffers": [bytes(MAX_JSONRPC_BYTES)]})
    session.next_batch()
    request_id = session.request("interrupt", {})
    frame = decode_frame(session.next_batch()[0])

    assert isinstance(frame, Ephemeral)
    assert decode_data(frame.data) == {"jsonrpc": "2.0", "id": request_id, "method": "interrupt", "params": {}}
