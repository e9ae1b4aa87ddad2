import subprocess
import sys
from datetime import UTC, datetime

import pytest

from sync.core.binding import OPAQUE, ROOT, BindingPanic, ObjType, Poisoned, Replica, ScalarType

# A change by a stock JavaScript client: {counter: new Counter(3), far: new Date(8.64e15), near: a date, ok: "text"}.
FROM_JAVASCRIPT = bytes.fromhex(
    "856f4a83e8edf95f017b0010abababababababababababababababab01010000000a01040204110413071517340242065608"
    "5713700200040400000404040005030000047e000502017c07636f756e74657203666172046e656172026f6b000404040301"
    "7f0404017c18890169000416038080f0968cc1ac0fae9ea6e5b733746578740800"
)


def replica_with(**values: str) -> Replica:
    replica = Replica()
    with replica.transaction() as transaction:
        for key, value in values.items():
            transaction.put(ROOT, key, ScalarType.Str, value)
    return replica


def overwrite_and_fail(replica: Replica) -> None:
    with replica.transaction() as transaction:
        transaction.put(ROOT, "a", ScalarType.Str, "2")
        raise KeyError("mine")


def poison(replica: Replica) -> None:
    with replica.transaction() as transaction:
        transaction.put(ROOT, "a", ScalarType.Int, 1)
        transaction.put(ROOT, "b", ScalarType.Counter, 1)  # the binding panics on it


def test_a_transaction_is_one_change() -> None:
    replica = Replica(b"\x01" * 16)
    with replica.transaction() as transaction:
        transaction.put(ROOT, "a", ScalarType.Int, 1)
        transaction.put(ROOT, "b", ScalarType.Int, 2)

    (change,) = replica.changes_since(())

    assert change.actor_id == replica.actor == b"\x01" * 16
    assert replica.heads() == (change.hash,)


def test_an_exception_takes_the_writes_back_and_passes() -> None:
    replica = replica_with(a="1")
    heads = replica.heads()

    with pytest.raises(KeyError, match="mine"):
        overwrite_and_fail(replica)

    assert replica.get(ROOT, "a") == ("1", b"")
    assert replica.heads() == heads
    with replica.transaction() as transaction:
        transaction.put(ROOT, "a", ScalarType.Str, "3")
    assert replica.get(ROOT, "a") == ("3", b"")


def test_a_transaction_reads_what_it_wrote() -> None:
    with Replica().transaction() as transaction:
        text = transaction.put_object(ROOT, "t", ObjType.Text)
        transaction.insert(text, 0, ScalarType.Str, "x")

        assert transaction.get(ROOT, "t") == (ObjType.Text, text)
        assert transaction.text(text) == "x"
        assert transaction.keys(ROOT) == ["t"]
        assert transaction.length(text) == 1


def test_changes_reach_another_replica() -> None:
    source = replica_with(a="1", b="2")
    target = Replica()

    target.apply([change.bytes for change in source.changes_since(())])

    assert target.heads() == source.heads()
    assert target.keys(ROOT) == ["a", "b"]


def test_a_saved_document_loads_with_another_actor() -> None:
    source = replica_with(a="1")

    loaded = Replica.load(source.save())

    assert loaded.heads() == source.heads()
    assert loaded.actor != source.actor


def test_a_cut_document_does_not_load() -> None:
    with pytest.raises(Exception, match="not enough data"):
        Replica.load(replica_with(a="1").save()[:-1])


def test_heads_give_the_document_as_it_was() -> None:
    replica = replica_with(a="1")
    before = replica.heads()
    with replica.transaction() as transaction:
        transaction.put(ROOT, "a", ScalarType.Str, "2")
        transaction.put(ROOT, "b", ScalarType.Str, "2")

    assert replica.get(ROOT, "a", before) == ("1", b"")
    assert replica.keys(ROOT, before) == ["a"]
    assert replica.length(ROOT, before) == 1
    assert replica.get(ROOT, "a", (b"\0" * 32,)) is None


def test_binary_values_read_back_as_bytes() -> None:
    replica = Replica()
    with replica.transaction() as transaction:
        transaction.put(ROOT, "a", ScalarType.Bytes, b"\x00\xff")

    assert replica.get(ROOT, "a") == (b"\x00\xff", b"")


def test_a_date_of_a_javascript_peer_is_utc() -> None:
    replica = Replica()
    replica.apply([FROM_JAVASCRIPT])

    assert replica.get(ROOT, "near") == (datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC), b"")


@pytest.mark.parametrize("key", ["counter", "far"])
def test_what_the_binding_cannot_read_is_opaque_and_can_be_overwritten(key: str) -> None:
    replica = Replica()
    replica.apply([FROM_JAVASCRIPT])

    assert replica.get(ROOT, key) == (OPAQUE, b"")
    with replica.transaction() as transaction:
        assert transaction.get(ROOT, key) == (OPAQUE, b"")
        transaction.put(ROOT, key, ScalarType.Null, None)
    assert replica.get(ROOT, key) == (None, b"")


@pytest.mark.parametrize("key", ["missing", "", "\ud800", -1, 2**63])
def test_there_is_nothing_at_keys_that_cannot_be(key: str | int) -> None:
    assert replica_with(a="1").get(ROOT, key) is None


def test_a_panic_in_a_write_loses_the_replica() -> None:
    replica = replica_with(a="1")

    with pytest.raises(BindingPanic):
        poison(replica)

    for call in (
        replica.heads,
        replica.save,
        lambda: replica.get(ROOT, "a"),
        lambda: replica.keys(ROOT),
        lambda: replica.changes_since(()),
        lambda: replica.apply([b""]),
        lambda: replica.actor,
    ):
        with pytest.raises(Poisoned):
            call()
    with pytest.raises(Poisoned), replica.transaction():
        pass


def test_a_process_survives_the_replicas_that_it_lost() -> None:
    program = "\n".join(
        (
            "import gc, pytest",
            "from tests.core.test_binding import BindingPanic, poison, replica_with",
            "for _ in range(20):",
            "    replica = replica_with(a='1' * 1000)",
            "    with pytest.raises(BindingPanic):",
            "        poison(replica)",
            "    del replica",
            "    gc.collect()",
        )
    )

    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)

    assert ended.returncode == 0
