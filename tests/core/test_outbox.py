"""What one connection is sent, and in which order: order, bounds, what gives way to what."""

import pytest
from automerge import core

from sync.core.document import Document
from sync.core.frames import DocUnavailable, Ephemeral, ErrorFrame, Frame, Sync, decode_data, decode_frame, encode_data
from sync.core.identifiers import PeerId, SessionId, document_id
from sync.core.limits import MAX_BATCH_BYTES, MAX_HELD_EVENTS, MAX_PEER_BYTES
from sync.core.notices import Notice
from sync.core.outbox import REPLACED_FROM, Outbox, OutboxFull
from sync.core.sync_message import decode_sync_message, encode_sync_message
from tests.fakes.noise import noise

KIB = 1024


class Peers:
    """An outbox with documents, the first of which is the notebook."""

    def __init__(self, count: int = 2, *, opened: bool = True) -> None:
        self.outbox = Outbox(sender=PeerId("daemon"), target=PeerId("peer"), session_id=SessionId("s"))
        self.documents = [Document(document_id(bytes([number]) * 16)) for number in range(count)]
        for document in self.documents:
            commit(document)
            if opened:
                self.open(document)
        if opened:
            self.outbox.next_batch()

    def open(self, document: Document, *, acknowledged: bool = True) -> None:
        subscription = self.outbox.subscribe(document, origin=self, writable=True)
        heads = document.published_heads() if acknowledged else ()
        subscription.receive(decode_sync_message(encode_sync_message(heads, have=None, read_only=None)))

    def event(self, number: int, *, size: int = 1, behind: Document | None = None, topic: str | None = None) -> Notice:
        document = behind or self.documents[0]
        data = encode_data({"number": number, "padding": b"x" * size})
        return Notice(self.documents[0].id, ((document.id, document.published),), data, droppable=True, topic=topic)

    def response(self, number: int, *, size: int = 1, behind: Document | None = None) -> Notice:
        made = self.event(number, size=size, behind=behind)
        return Notice(made.document_id, made.requires, made.data, droppable=False, request_id=number)

    def written(self) -> list[Frame]:
        return [decode_frame(frame) for frame in self.outbox.next_batch()]

    def numbers(self) -> list[int]:
        """Of the notices in the next batch."""
        found = [decode_data(frame.data) for frame in self.written() if isinstance(frame, Ephemeral)]
        return [data["number"] for data in found if isinstance(data, dict)]


def commit(document: Document, size: int = 1) -> None:
    key, value = f"k{len(document.log)}", noise(size, len(document.log))
    document.commit(lambda tx: tx.put(core.ROOT, key, core.ScalarType.Str, value))
    document.publish()


def test_notices_of_a_notebook_are_first_in_first_out_behind_their_frames() -> None:
    peers = Peers()
    runtime = peers.documents[1]
    commit(runtime)
    peers.outbox.push(peers.event(1, behind=runtime))
    peers.outbox.push(peers.response(2))
    commit(runtime)
    peers.outbox.push(peers.event(3, behind=runtime))

    frames = peers.written()

    assert [type(frame).__name__ for frame in frames] == ["Sync", "Ephemeral", "Ephemeral", "Ephemeral"]
    assert isinstance(frames[0], Sync)
    assert frames[0].document_id == runtime.id
    assert [decode_data(frame.data)["number"] for frame in frames[1:]] == [1, 2, 3]  # type: ignore[index, union-attr]


def test_of_a_topic_a_peer_that_is_behind_gets_the_last_and_one_that_keeps_up_gets_all() -> None:
    for behind in (False, True):
        peers = Peers()
        peers.outbox.unsubscribe(peers.documents[1].id)
        waits = peers.documents[1] if behind else None
        others = 2 * REPLACED_FROM if behind else REPLACED_FROM // 4
        for number in range(others):
            peers.outbox.push(peers.event(number, behind=waits))
            peers.outbox.push(peers.event(1000 + number, topic="queue_changed"))
        expected = sorted([*range(others), *range(1000, 1000 + others)], key=lambda number: (number % 1000, number))
        if behind:
            assert peers.numbers() == []
            peers.open(peers.documents[1])
            last = 1000 + others - 1
            kept = [n for n in expected if n < 1000 or n == last or n < 1000 + REPLACED_FROM // 2 - 1]
            assert peers.numbers() == kept
            assert peers.outbox.statistics.notices_replaced == len(expected) - len(kept)
        else:
            assert peers.numbers() == expected
        assert peers.outbox.statistics.notices_dropped == 0


def test_the_last_of_a_topic_comes_also_where_no_more_events_are_held() -> None:
    peers = Peers()
    peers.outbox.unsubscribe(peers.documents[1].id)
    for number in range(MAX_HELD_EVENTS - 1):
        peers.outbox.push(peers.event(number, behind=peers.documents[1]))
    for number in (-1, -2, -3):
        peers.outbox.push(peers.event(number, topic="queue_changed"))
    peers.outbox.push(peers.event(-4))
    peers.open(peers.documents[1])
    numbers = peers.numbers()
    assert numbers[-2:] == [MAX_HELD_EVENTS - 2, -3]
    peers.outbox.next_batch()
    assert peers.outbox.statistics.notices_dropped == 1
    assert peers.outbox.held_bytes == 0


def test_one_that_there_is_no_room_for_replaces_nothing() -> None:
    peers = Peers()
    peers.outbox.unsubscribe(peers.documents[1].id)
    share = MAX_PEER_BYTES // (REPLACED_FROM + 1)
    peers.outbox.push(peers.event(-1, topic="queue_changed", behind=peers.documents[1]))
    for number in range(REPLACED_FROM):
        peers.outbox.push(peers.event(number, size=share))
    peers.outbox.push(peers.event(-2, size=2 * share, topic="queue_changed"))
    assert peers.outbox.statistics.notices_dropped == 1
    peers.open(peers.documents[1])
    assert peers.numbers()[0] == -1


def test_a_held_notice_holds_those_behind_it_but_none_of_another_notebook() -> None:
    peers = Peers(4)
    peers.outbox.unsubscribe(peers.documents[1].id)
    held = peers.event(1, behind=peers.documents[1])
    peers.outbox.push(held)
    peers.outbox.push(peers.event(2))
    other = peers.event(3, behind=peers.documents[3])
    peers.outbox.push(Notice(peers.documents[2].id, other.requires, other.data, droppable=True))

    assert peers.numbers() == [3]
    assert peers.outbox.statistics.notices_held == 1
    peers.open(peers.documents[1])
    assert peers.numbers() == [1, 2]


def test_an_error_response_and_presence_are_not_held() -> None:
    peers = Peers()
    peers.outbox.unsubscribe(peers.documents[1].id)
    peers.outbox.push(peers.event(1, behind=peers.documents[1]))
    peers.outbox.push_ephemeral(peers.documents[0].id, encode_data({"number": 2}))
    peers.outbox.push_relayed(
        Ephemeral("other", "daemon", peers.documents[0].id, "their session", 77, encode_data({"number": 3}))
    )

    error, presence = peers.written()
    assert isinstance(error, Ephemeral)
    assert isinstance(presence, Ephemeral)
    assert (presence.sender_id, presence.target_id, presence.session_id, presence.count) == (
        "other",
        "peer",
        "their session",
        77,
    )


def test_nothing_is_relayed_before_the_first_acknowledgement() -> None:
    peers = Peers(opened=False)
    relayed = Ephemeral("other", "daemon", peers.documents[0].id, "s", 1, encode_data({}))
    peers.outbox.push_relayed(relayed)
    peers.open(peers.documents[0], acknowledged=False)
    peers.outbox.push_relayed(relayed)

    assert not any(isinstance(frame, Ephemeral) for frame in peers.written())


def test_counts_go_up_in_the_order_of_writing_also_over_many_batches() -> None:
    peers = Peers()
    for number in range(3):
        peers.outbox.push_ephemeral(peers.documents[0].id, encode_data({"padding": b"x" * (700 * KIB)}))
        peers.outbox.push(peers.event(number, size=700 * KIB))

    counts: list[int] = []
    while frames := peers.written():
        counts += [frame.count for frame in frames if isinstance(frame, Ephemeral)]

    assert counts == [1, 2, 3, 4, 5, 6]


def test_a_peer_is_held_a_bounded_number_of_events() -> None:
    peers = Peers()
    peers.outbox.unsubscribe(peers.documents[1].id)
    for number in range(MAX_HELD_EVENTS + 5):
        peers.outbox.push(peers.event(number, behind=peers.documents[1]))

    assert peers.outbox.statistics.notices_dropped == 5
    peers.open(peers.documents[1])
    assert peers.numbers() == list(range(MAX_HELD_EVENTS))


def test_events_are_dropped_beyond_the_peers_share_and_responses_are_not() -> None:
    peers = Peers()
    for number in range(9):
        peers.outbox.push(peers.event(number, size=1024 * KIB))

    assert peers.outbox.held_bytes <= MAX_PEER_BYTES
    assert peers.outbox.statistics.notices_dropped == 2
    peers.outbox.push(peers.response(100, size=7 * 1024 * KIB))
    assert peers.outbox.statistics.notices_dropped == 9, "events made room for it"
    with pytest.raises(OutboxFull):
        peers.outbox.push(peers.response(101, size=2 * 1024 * KIB))
    assert peers.numbers() == [100]


def test_what_is_being_written_counts_until_the_next_batch() -> None:
    peers = Peers()
    peers.outbox.push(peers.response(1, size=6 * 1024 * KIB))
    assert peers.numbers() == [1]
    assert peers.outbox.held_bytes > 6 * 1024 * KIB

    peers.outbox.push(peers.event(2, size=3 * 1024 * KIB))
    assert peers.outbox.statistics.notices_dropped == 1

    assert peers.numbers() == []
    assert peers.outbox.held_bytes == 0


def test_presence_for_a_peer_that_does_not_read_is_dropped_early() -> None:
    peers = Peers()
    presence = Ephemeral("other", "daemon", peers.documents[0].id, "s", 1, b"x" * 60 * KIB)
    for _ in range(200):
        peers.outbox.push_relayed(presence)

    assert peers.outbox.held_bytes <= MAX_PEER_BYTES // 2
    peers.outbox.push(peers.response(1, size=2 * 1024 * KIB))


def test_one_batch_is_bounded_and_the_round_goes_on_where_it_ended() -> None:
    peers = Peers(12)
    for document in peers.documents:
        commit(document, size=200 * KIB)

    first, second, third = ([f.document_id for f in peers.written() if isinstance(f, Sync)] for _ in range(3))

    assert len(first) <= MAX_BATCH_BYTES // (200 * KIB) + 1
    assert sorted(first + second + third) == sorted(document.id for document in peers.documents)


def test_a_document_that_always_has_more_does_not_starve_the_others() -> None:
    peers = Peers(8)
    seen: set[str] = set()
    for _ in range(3):
        for document in peers.documents:
            commit(document, size=200 * KIB)
        seen |= {frame.document_id for frame in peers.written() if isinstance(frame, Sync)}

    assert seen == {document.id for document in peers.documents}


def test_a_closed_document_gives_back_what_was_held_and_names_its_requests() -> None:
    peers = Peers()
    peers.outbox.unsubscribe(peers.documents[1].id)
    peers.outbox.push(peers.event(1, size=100, behind=peers.documents[1]))
    peers.outbox.push(peers.response(2, size=100, behind=peers.documents[1]))

    assert [notice.request_id for notice in peers.outbox.unsubscribe(peers.documents[0].id)] == [2]
    assert peers.outbox.held_bytes == 0
    assert peers.written() == []


def test_what_speaks_of_a_document_that_is_served_no_longer_goes_and_what_stands_behind_it_comes() -> None:
    peers = Peers(3)
    notebook, old, new = peers.documents
    commit(old, size=400 * KIB)
    commit(old)
    peers.outbox.push(peers.event(1, behind=old, topic="queue_changed"))
    peers.outbox.push(peers.response(2, behind=old))
    commit(new)
    peers.outbox.push(peers.event(3, behind=new))
    assert peers.numbers() == []  # one large change was written, the next is not yet

    gone = peers.outbox.unsubscribe(old.id)

    assert [(notice.document_id, notice.request_id) for notice in gone] == [(notebook.id, 2)]
    assert peers.outbox.statistics.notices_dropped == 1
    assert peers.numbers() == [3]
    assert peers.written() == []
    assert peers.outbox.held_bytes == 0


def test_a_response_that_waits_for_an_unopened_document_can_be_withdrawn() -> None:
    peers = Peers(opened=False)
    notebook, runtime = peers.documents
    peers.open(notebook)
    response = peers.response(1, behind=runtime)
    peers.outbox.push(response)
    assert peers.outbox.unopened(response) == runtime.id
    peers.open(runtime, acknowledged=False)
    assert peers.outbox.unopened(response) == runtime.id, "it never said that it has it"

    assert peers.outbox.withdraw(response)
    assert not peers.outbox.withdraw(response)
    assert peers.outbox.held_bytes == 0


def test_unavailable_and_error_frames_go_out_at_once() -> None:
    peers = Peers()
    peers.outbox.push_unavailable(peers.documents[0].id)
    peers.outbox.push_error("no")

    assert peers.written() == [
        DocUnavailable("daemon", "peer", peers.documents[0].id),
        ErrorFrame("daemon", "peer", "no"),
    ]
