import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from sync.core import binding
from sync.core.binding import OPAQUE, ROOT, BindingPanic, Kind, ObjType, Poisoned, Replica, ScalarType, Transaction

# A change by a stock JavaScript client: {counter: new Counter(3), far: new Date(8.64e15), near: a date, ok: "text"}.
FROM_JAVASCRIPT = bytes.fromhex(
    "856f4a83e8edf95f017b0010abababababababababababababababab01010000000a01040204110413071517340242065608"
    "5713700200040400000404040005030000047e000502017c07636f756e74657203666172046e656172026f6b000404040301"
    "7f0404017c18890169000416038080f0968cc1ac0fae9ea6e5b733746578740800"
)

# A document with one cell, and a change to it that was altered, with a checksum that fits: the core panics on it.
DOCUMENT = bytes.fromhex(
    "856f4a8305cc6c0600e701010401010101019b7757546d82e53c53d20815d6f8ee603850577218416838f5d6ff2cec55ed49"
    "060102030213022302400256020c01040208110413061546210223083402420c560c570a8001027f007f017f0c7f007f007f"
    "070004080000047f0304050309000a020000097d000a01770563656c6c73086d657461646174610772756e74696d65067363"
    "68656d6101610963656c6c5f74797065086d6574616461746108706f736974696f6e06736f7572636500030c007b03017e7f"
    "0407010903020002017b000100010403010200791614004600160003167501636f6465566162630c0000"
)
PANICKING = bytes.fromhex(
    "856f4a831650f9a2019501019b7757546d82e53c53d20815d6f8ee603850577218416838f5d6ff2cec55ed4910310bcbf281"
    "5e44cf8412ee7c939396cb010d00000104010101010c0108020811041304151034034204560557037005710273027f010001"
    "7f0200017f0900017f0500017f0100037f0a000300017d017808706f736974696f6e016c00010303017f027c161416007805"
    "5702007e01007f017f08"
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

        assert transaction.get(ROOT, "t") == (Kind.TEXT, text)
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


def test_no_value_passes_for_an_object() -> None:
    replica = Replica()
    with replica.transaction() as transaction:
        for number, kind in enumerate((ObjType.Map, ObjType.List, ObjType.Text)):
            transaction.put(ROOT, f"number {number}", ScalarType.Int, number)
            obj = transaction.put_object(ROOT, f"object {number}", kind)
            assert kind == number  # the trap

            assert replica.kind(obj) == list(Kind)[number]
            assert replica.get(ROOT, f"object {number}") == (list(Kind)[number], obj)
            assert replica.get(ROOT, f"number {number}") not in [(each, b"") for each in Kind]


def test_a_panic_in_a_peers_change_loses_the_replica() -> None:
    replica = Replica.load(DOCUMENT)

    with pytest.raises(BindingPanic, match="index out of bounds"):
        replica.apply([PANICKING])

    with pytest.raises(Poisoned):
        replica.heads()
    assert Replica.load(DOCUMENT).keys(ROOT) == ["cells", "metadata", "runtime", "schema"]


class PanicException(BaseException):
    """What the extension calls its own."""


class Core:
    """Stands for the core: every call that is not said to be harmless panics, or fails as the binding does."""

    def __init__(self, *harmless: str, error: BaseException | None = None) -> None:
        self._harmless = harmless
        self._error = error or PanicException("not yet implemented")

    def __getattr__(self, name: str) -> Any:
        def call(*args: object) -> Any:
            del args
            if name in self._harmless:
                return self
            raise self._error

        return call


def test_reads_that_panic_find_nothing() -> None:
    transaction = Transaction(cast("Any", Core()))

    assert transaction.get(ROOT, "a") == (OPAQUE, b"")
    assert transaction.items(ROOT) is None
    assert transaction.keys(ROOT) == []
    assert transaction.length(ROOT) == 0
    assert transaction.text(ROOT) == ""


@pytest.mark.parametrize("read", ["items", "keys", "length", "text", "kind"])
def test_reads_that_fail_otherwise_are_bugs(read: str) -> None:
    transaction = Transaction(cast("Any", Core(error=KeyError("invalid object"))))

    with pytest.raises(KeyError):
        getattr(transaction, read)(b"")
    with pytest.raises(KeyError):
        transaction.get(b"", "a")


def test_a_panic_at_the_end_of_a_transaction_loses_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core("transaction", "__enter__", "put", "put_object", "insert", "insert_object", "delete")
    monkeypatch.setattr(binding.core, "Document", lambda actor: core)
    replica = Replica()

    with pytest.raises(BindingPanic), replica.transaction():
        pass
    with pytest.raises(Poisoned):
        replica.heads()


def test_a_failure_at_the_end_of_a_transaction_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core("transaction", "__enter__", error=KeyError("no commit"))
    monkeypatch.setattr(binding.core, "Document", lambda actor: core)

    with pytest.raises(KeyError, match="no commit"), Replica().transaction():
        pass


@pytest.mark.parametrize("error", [None, KeyError("disk")])
def test_saving_and_loading_tell_panics_from_failures(
    error: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core(error=error)
    monkeypatch.setattr(binding.core, "Document", lambda actor: core)
    expected = KeyError if error else BindingPanic
    with pytest.raises(expected):
        Replica().save()
    with pytest.raises(expected):
        Replica().apply([b""])

    monkeypatch.setattr(binding.core, "Document", core)
    with pytest.raises(expected):
        Replica.load(b"")


def test_a_date_at_the_end_of_time_is_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    core = cast("Any", Core())
    core.get = lambda *args: ((ScalarType.Timestamp, datetime.max), b"id")
    monkeypatch.setenv("TZ", "UTC+12")
    time.tzset()
    try:
        assert Transaction(core).get(ROOT, "a") == (OPAQUE, b"")
    finally:
        monkeypatch.undo()
        time.tzset()
