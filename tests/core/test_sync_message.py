import contextlib

import pytest
from automerge.core import ROOT, Document, Message, ScalarType, SyncState
from hypothesis import given
from hypothesis import strategies as st

from sync.core.changes import check_changes
from sync.core.leb128 import encode_uleb
from sync.core.limits import MAX_HAVE, MAX_HEADS, MAX_SYNC_ENTRIES
from sync.core.sync_message import (
    SyncMessage,
    SyncMessageInvalid,
    decode_sync_message,
    encode_sync_message,
    wrap_changes,
)
from tests.core.js_changes import JS_CHANGES

# Messages of JavaScript's library (@automerge/automerge 3.5.0), from A.generateSyncMessage.
EMPTY = "42000001000000020284"
# A document of one change, before the peer said anything: `have` with a Bloom filter.
FIRST = "4201fff54342caa117e4bf190fb989d877587ecd8dd8b22847d11569a1807faf2c4b00010005010a07869600020284"
FIRST_HEADS = (bytes.fromhex("fff54342caa117e4bf190fb989d877587ecd8dd8b22847d11569a1807faf2c4b"),)
ACKNOWLEDGEMENT = (
    "4301fff54342caa117e4bf190fb989d877587ecd8dd8b22847d11569a1807faf2c4b000101"
    "fff54342caa117e4bf190fb989d877587ecd8dd8b22847d11569a1807faf2c4b0000020284"
)
# Two changes ({t: "ab"}, then {n: 1}) for a peer whose messages have no list of capabilities.
TWO_CHANGES = (
    "4201519ebfdf2dca67874222047e54588012c27535064abe395b6bf902bfdc45fd9400010006020a0726416e0250856f4a83284a00d10146"
    "0002aabb010180e2cfaa0600000a0104020411041305150534024204560457027002000102000001020100027f0000017e00027f01740002"
    "01027f0402017f000216616203004f856f4a83519ebfdf014501284a00d15d13f70be1cf4098530a33207ed1cca09d56dc7812a0ebd0fca1"
    "bd1702aabb020481e2cfaa060000061503340142025602570170027f016e017f017f14017f00020284"
)

hashes = st.binary(min_size=32, max_size=32)
hash_lists = st.lists(hashes, max_size=4)


def document(keys: int = 3) -> Document:
    made = Document(b"\x01" * 16)
    for index in range(keys):
        with made.transaction() as transaction:
            transaction.put(ROOT, f"key{index}", ScalarType.Int, index)
    return made


def heads_of(made: Document) -> list[bytes]:
    return [bytes(head) for head in made.get_heads()]


def test_the_message_of_an_empty_stock_document_is_read() -> None:
    assert decode_sync_message(bytes.fromhex(EMPTY)) == SyncMessage(
        heads=(),
        need=(),
        last_sync=((),),
        changes=(),
        read_only=False,
        reset=False,
        supports_reset=True,
        supports_v2=True,
    )


def test_bloom_filters_are_skipped() -> None:
    message = decode_sync_message(bytes.fromhex(FIRST))
    assert message.heads == FIRST_HEADS
    assert message.last_sync == ((),)


def test_an_acknowledgement_of_a_stock_client_is_read() -> None:
    message = decode_sync_message(bytes.fromhex(ACKNOWLEDGEMENT))
    assert message.heads == FIRST_HEADS
    assert message.last_sync == (FIRST_HEADS,)
    assert message.changes == ()


def test_changes_of_version_1_come_one_by_one() -> None:
    message = decode_sync_message(bytes.fromhex(TWO_CHANGES))
    changes = [change for blob in message.changes for change in check_changes(blob)]
    assert [change.op_count for change in changes] == [3, 1]
    assert (changes[-1].hash,) == message.heads
    assert changes[1].deps == (changes[0].hash,)


@given(hash_lists, hash_lists, st.none() | hash_lists, st.lists(st.binary(max_size=300), max_size=3), st.booleans())
def test_messages_round_trip(
    heads: list[bytes], need: list[bytes], have: list[bytes] | None, changes: list[bytes], read_only: bool
) -> None:
    message = decode_sync_message(
        encode_sync_message(sorted(heads), need=need, have=have, changes=changes, read_only=read_only)
    )
    assert message.heads == tuple(sorted(heads))
    assert message.need == tuple(need)
    assert message.last_sync == (() if have is None else (tuple(have),))
    assert b"".join(message.changes) == b"".join(changes)
    assert message.read_only == read_only
    assert message.supports_v2
    assert message.supports_reset
    assert not message.reset


def test_the_list_of_capabilities_says_whether_the_peer_may_write() -> None:
    assert encode_sync_message((), have=None, read_only=False).hex() == "4300000000020284"
    assert encode_sync_message((), have=(), read_only=True).hex() == "430000010000" + "00020286"
    assert encode_sync_message((), have=(), read_only=None).hex() == "43000001000000"


def test_flags_of_the_list_are_read() -> None:
    assert decode_sync_message(bytes.fromhex("4200000000020285")).reset
    assert not decode_sync_message(bytes.fromhex("42000000000102")).supports_reset
    assert not decode_sync_message(bytes.fromhex("4200000000")).supports_v2
    assert decode_sync_message(bytes.fromhex("4200000000" + "0186" + "ffff")).read_only  # and something of the future


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x42",
        b"\x41\x00\x00\x00\x00",
        b"\x43\x01" + bytes(31),
        b"\x43\x00\x00\x01\x00",
        b"\x43\x00\x00\x01\x00\x05abcd",
        b"\x43\x00\x00\x00\x01\x05abcd",
        b"\x43\x00\x00\x00\x00\x05",
        b"\x43" + b"\xff" * 9 + b"\x01",
        b"\x43" + b"\x80" * 1000,
        b"\x43" + encode_uleb(MAX_HEADS + 1) + bytes(32 * (MAX_HEADS + 1)) + bytes(3),
        b"\x43\x00" + encode_uleb(MAX_HEADS + 1) + bytes(32 * (MAX_HEADS + 1)) + bytes(2),
        b"\x43\x00\x00" + encode_uleb(MAX_HAVE + 1) + bytes(2 * (MAX_HAVE + 1)) + b"\x00",
        b"\x42\x00\x00\x00" + encode_uleb(MAX_SYNC_ENTRIES + 1) + bytes(MAX_SYNC_ENTRIES + 1),
        b"\x42\x00\x00\x00" + encode_uleb(2**63),
    ],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(SyncMessageInvalid):
        decode_sync_message(data)


@pytest.mark.parametrize("golden", [EMPTY, FIRST, ACKNOWLEDGEMENT, TWO_CHANGES])
def test_every_truncation_is_refused_or_lacks_only_the_list(golden: str) -> None:
    data = bytes.fromhex(golden)
    for end in range(len(data) - 3):
        with pytest.raises(SyncMessageInvalid):
            decode_sync_message(data[:end])
    assert not decode_sync_message(data[:-3]).supports_reset


@given(st.binary(max_size=100))
def test_any_bytes_give_a_message_or_are_refused(data: bytes) -> None:
    for kind in (b"\x42", b"\x43", b""):
        with contextlib.suppress(SyncMessageInvalid):
            decode_sync_message(kind + data)


@given(hash_lists, hash_lists, st.none() | hash_lists, st.sampled_from([True, False, None]))
def test_automerge_reads_our_messages(
    heads: list[bytes], need: list[bytes], have: list[bytes] | None, read_only: bool | None
) -> None:
    changes = [bytes(change.bytes) for change in document().get_changes([])]
    data = encode_sync_message(sorted(heads), need=need, have=have, changes=changes, read_only=read_only)
    again = decode_sync_message(bytes(Message.decode(data).encode()))
    assert again.heads == tuple(sorted(heads))
    assert again.need == tuple(need)
    assert len(again.last_sync) == (0 if have is None else 1)


def test_our_messages_are_those_that_the_javascript_library_was_seen_to_take() -> None:
    # With each of the three ends, A.receiveSyncMessage (3.5.0) took the change, and A.decodeSyncMessage gave the lists
    # ["supports-sync-reset"], ["read-only", "supports-sync-reset"] and undefined.
    head, change = bytes.fromhex(JS_CHANGES[0].hash), bytes.fromhex(JS_CHANGES[0].hex)
    taken = f"4301{head.hex()}01{'ab' * 32}0101{head.hex()}0001{encode_uleb(len(change)).hex()}{change.hex()}"
    for read_only, end in ((False, "020284"), (True, "020286"), (None, "")):
        ours = encode_sync_message([head], need=[b"\xab" * 32], have=[head], changes=[change], read_only=read_only)
        assert ours.hex() == taken + end


@pytest.mark.parametrize("joined", [True, False])
def test_wrapped_changes_apply_through_a_fresh_sync_state(joined: bool) -> None:
    source = document()
    chunks = [bytes(change.bytes) for change in source.get_changes([])]
    target = Document(b"\x02" * 16)
    target.receive_sync_message(SyncState(), Message.decode(wrap_changes([b"".join(chunks)] if joined else chunks)))
    assert heads_of(target) == heads_of(source)


def test_a_wrapped_document_chunk_applies() -> None:
    source = document()
    target = Document(b"\x02" * 16)
    target.receive_sync_message(SyncState(), Message.decode(wrap_changes([source.save()])))
    assert heads_of(target) == heads_of(source)


def test_wrapping_nothing_changes_nothing() -> None:
    target = document()
    before = heads_of(target)
    target.receive_sync_message(SyncState(), Message.decode(wrap_changes([])))
    assert heads_of(target) == before
