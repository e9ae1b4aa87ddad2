"""One document as one connection sees it: joining, coming back, asking for more, reading only."""

from automerge import core

from sync.core.change_log import LoggedChange
from sync.core.changes import check_changes, split_chunks
from sync.core.document import Document
from sync.core.identifiers import Heads, document_id
from sync.core.subscription import Subscription
from sync.core.sync_message import SyncMessage, decode_sync_message, encode_sync_message
from tests.fakes.noise import noise

PLENTY = 256 * 1024


def document(changes: int = 3) -> Document:
    made = Document(document_id(b"d" * 16))
    for _ in range(changes):
        commit(made)
    return made


def commit(made: Document, size: int = 1) -> None:
    key, value = f"k{len(made.log)}", noise(size, len(made.log))
    made.commit(lambda tx: tx.put(core.ROOT, key, core.ScalarType.Str, value))
    made.publish()


def says(heads: Heads = (), *, last_sync: Heads | None = None, need: Heads = ()) -> SyncMessage:
    return decode_sync_message(encode_sync_message(heads, need=need, have=last_sync, read_only=None))


def opened(made: Document, message: SyncMessage, *, writable: bool = True) -> Subscription:
    subscription = Subscription(made, origin=object(), writable=writable)
    subscription.receive(message)
    return subscription


def sent(subscription: Subscription, max_bytes: int = PLENTY) -> SyncMessage | None:
    payload = subscription.next_payload(max_bytes)
    return None if payload is None else decode_sync_message(payload.data)


def hashes(message: SyncMessage | None) -> list[bytes]:
    """Of the changes in a message."""
    assert message is not None
    return [change.hash for change in check_changes(b"".join(message.changes))]


def fork(made: Document) -> core.Document:
    """A peer's replica with all of it."""
    return core.Document.load(made.replica.save())


def edit(made: Document, replica: core.Document, key: str, origin: object) -> bytes:
    """A change of a peer; its hash."""
    before = replica.get_heads()
    with replica.transaction() as tx:
        tx.put(core.ROOT, key, core.ScalarType.Int, 1)
    [change] = replica.get_changes(before)
    logged = LoggedChange(change.hash, tuple(sorted(change.deps)), change.bytes, change.max_op, origin)
    made.apply([(logged, change.actor_id, change.seq, 1)])
    made.publish()
    return change.hash


def test_a_fresh_peer_gets_all_of_it_and_then_nothing_before_it_acknowledged() -> None:
    made = document()
    subscription = opened(made, says())

    first = sent(subscription)
    assert first is not None
    assert first.heads == made.published_heads()
    assert first.last_sync == (made.published_heads(),)
    assert hashes(first) == [made.log[index].hash for index in range(3)]
    commit(made)
    assert sent(subscription) is None
    assert not subscription.covers(1)

    subscription.receive(says(first.heads))
    assert subscription.covers(3)
    assert hashes(sent(subscription)) == [made.log[3].hash]
    assert subscription.covers(4)


def test_a_long_history_comes_in_prefixes_with_their_own_heads() -> None:
    made = document(0)
    for _ in range(4):
        commit(made, size=1000)
    subscription = opened(made, says())

    first = sent(subscription, 2_500)
    assert first is not None
    assert first.heads == made.log.heads(len(hashes(first)))
    subscription.receive(says(first.heads))
    second = sent(subscription, 2_500)
    assert hashes(first) + hashes(second) == [made.log[index].hash for index in range(4)]


def test_a_peer_with_nothing_gets_a_document_chunk_and_the_changes_after_it() -> None:
    made = document(3)
    made.set_snapshot(2, made.replica.save())
    subscription = opened(made, says())

    message = sent(subscription)
    assert message is not None
    _, change = split_chunks(b"".join(message.changes))
    assert change == made.log[2].chunk
    assert message.heads == made.published_heads()


def test_a_document_chunk_larger_than_a_payload_comes_alone() -> None:
    made = document(3)
    chunk = made.replica.save()
    made.set_snapshot(2, chunk)
    subscription = opened(made, says())

    message = sent(subscription, 10)
    assert message is not None
    assert message.changes == (chunk,)
    assert message.heads == made.log.heads(2)
    assert subscription.sent == 2


def test_a_peer_that_comes_back_gets_what_came_since() -> None:
    made = document(3)
    was = made.published_heads()
    commit(made)
    subscription = opened(made, says(was))

    assert subscription.covers(3), "that it has, and nothing holds its events"
    assert hashes(sent(subscription)) == [made.log[3].hash]


def test_a_peer_that_comes_back_with_a_branch_gets_the_rest_and_not_what_is_behind_its_heads() -> None:
    made, other = document(2), object()
    early = fork(made)
    own = edit(made, fork(made), "mine", other)
    commit(made)
    early_head = edit(made, early, "early", other)
    subscription = opened(made, says((own,)))

    assert hashes(sent(subscription)) == [made.log[3].hash, early_head]
    assert subscription.covers(5)


def test_with_unknown_heads_the_last_sync_tells_what_the_peer_has() -> None:
    made = document(2)
    was = made.published_heads()
    commit(made)
    subscription = opened(made, says((b"e" * 32,), last_sync=was))

    assert hashes(sent(subscription)) == [made.log[2].hash]


def test_what_the_last_sync_says_beyond_known_heads_is_not_believed() -> None:
    made, other = document(2), object()
    own = edit(made, fork(made), "mine", other)
    late = fork(made)
    commit(made)
    newest = made.published_heads()
    late_own = edit(made, late, "late", other)
    subscription = opened(made, says((late_own,), last_sync=newest))

    assert own != late_own
    assert hashes(sent(subscription)) == [made.log[3].hash], (
        "its storage kept the sync state, and lost the document's end"
    )


def test_a_replica_without_heads_has_nothing_whatever_its_storage_remembers() -> None:
    made = document(2)
    subscription = opened(made, says(last_sync=made.published_heads()))

    assert len(hashes(sent(subscription))) == 2
    assert not subscription.covers(1)


def test_what_is_not_published_is_not_said_to_a_peer_that_made_it() -> None:
    made = document(2)
    replica = fork(made)
    before = replica.get_heads()
    with replica.transaction() as tx:
        tx.put(core.ROOT, "mine", core.ScalarType.Int, 1)
    [change] = replica.get_changes(before)
    logged = LoggedChange(change.hash, tuple(change.deps), change.bytes, change.max_op, object())
    made.apply([(logged, change.actor_id, change.seq, 1)])
    subscription = opened(made, says((change.hash,)))

    message = sent(subscription)
    assert message is not None
    assert message.heads == made.published_heads() != made.heads()


def test_the_peers_own_changes_are_not_sent_back() -> None:
    made = document(2)
    subscription = opened(made, says(made.published_heads()))
    sent(subscription)
    own = edit(made, fork(made), "mine", subscription.origin)

    message = sent(subscription)
    assert message is not None
    assert message.heads == (own,)
    assert message.changes == ()


def test_a_peer_that_threw_its_replica_away_gets_its_own_changes_back() -> None:
    made = document(2)
    subscription = opened(made, says(made.published_heads()))
    own = edit(made, fork(made), "mine", subscription.origin)
    sent(subscription)

    subscription.receive(says())
    assert not subscription.covers(1)
    assert own in hashes(sent(subscription))


def test_what_a_peer_needs_is_sent_again_in_bounded_messages() -> None:
    made = document(0)
    for _ in range(4):
        commit(made, size=1000)
    subscription = opened(made, says(made.published_heads()))
    sent(subscription)
    needed = tuple(made.log[index].hash for index in range(4))

    subscription.receive(says(made.published_heads(), need=needed))

    got = [hashes(sent(subscription, 2_000)) for _ in range(2)]
    assert got == [list(needed[:2]), list(needed[2:])]
    assert sent(subscription) is None


def test_what_it_was_thought_to_have_is_sent_when_it_needs_it() -> None:
    made = document(3)
    subscription = opened(made, says((b"e" * 32,), last_sync=made.published_heads()))
    sent(subscription)

    subscription.receive(says((b"e" * 32,), need=(made.log[1].hash,)))
    assert hashes(sent(subscription)) == [made.log[1].hash]


def test_missing_changes_are_asked_for_once_and_together() -> None:
    made = document()
    subscription = opened(made, says(made.published_heads()))
    sent(subscription)
    subscription.need({b"a" * 32})
    subscription.need({b"b" * 32})

    message = sent(subscription)
    assert message is not None
    assert message.need == (b"a" * 32, b"b" * 32)
    assert sent(subscription) is None


def test_unknown_heads_are_answered_once_and_never_where_the_peer_may_not_write() -> None:
    made = document()
    for writable, answers in ((True, 1), (False, 0)):
        subscription = opened(made, says(made.published_heads()), writable=writable)
        sent(subscription)
        got = 0
        for _ in range(5):
            subscription.receive(says((b"e" * 32,)))
            got += sent(subscription) is not None
        assert got == answers


def test_every_message_to_a_peer_that_may_not_write_says_so() -> None:
    made = document()
    subscription = opened(made, says(), writable=False)
    first = sent(subscription)
    assert first is not None
    assert first.read_only
    subscription.receive(says(first.heads))
    commit(made)
    second = sent(subscription)
    assert second is not None
    assert second.read_only


def test_a_peer_that_is_refused_is_told_at_once() -> None:
    made = document()
    subscription = opened(made, says(made.published_heads()))
    first = sent(subscription)
    assert first is not None
    assert not first.read_only
    subscription.make_read_only()
    message = sent(subscription)
    assert message is not None
    assert message.read_only
    assert message.changes == ()
