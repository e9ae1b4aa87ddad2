from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.frames import (
    DocUnavailable,
    Ephemeral,
    EphemeralFramePrefix,
    ErrorFrame,
    Frame,
    Ignored,
    Join,
    Peer,
    ProtocolError,
    Sync,
    SyncFramePrefix,
    decode_data,
    decode_frame,
    encode_data,
    encode_frame,
)
from sync.core.limits import MAX_FRAME_BYTES, MAX_ITEMS

SELF_DESCRIBED = 55799  # the tag that says "this is CBOR"
DOCUMENT = "2j9knpCseyhnK8izDmLpGP5WMdZQ"

# Written by cbor-x 1.6.9 with automerge-repo's settings: new Encoder({tagUint8Array: false, useRecords: false}).
STOCK_FRAMES = {
    "join": (
        (
            "b900046474797065646a6f696e6873656e646572496468636c69656e742d316c706565724d65746164617461b900026973746f726167"
            "654964f76b6973457068656d6572616cf57819737570706f7274656450726f746f636f6c56657273696f6e73816131"
        ),
        Join("client-1", ("1",), {"isEphemeral": True}),
    ),
    "sync": (
        (
            "b9000564747970656473796e636873656e646572496468636c69656e742d31687461726765744964666461656d6f6e6a646f63756d65"
            "6e744964781c326a396b6e7043736579686e4b38697a446d4c70475035574d645a516464617461454300000000"
        ),
        Sync("client-1", "daemon", DOCUMENT, b"\x43\0\0\0\0", False),
    ),
    "request": (
        "b900056474797065677265717565737468" + "73656e646572496468636c69656e742d31687461726765744964666461656d6f6e6a64"
        "6f63756d656e744964781c326a396b6e7043736579686e4b38697a446d4c70475035574d645a516464617461454300000000",
        Sync("client-1", "daemon", DOCUMENT, b"\x43\0\0\0\0", True),
    ),
    "ephemeral": (
        (
            "b90007647479706569657068656d6572616c6873656e646572496468636c69656e742d31687461726765744964666461656d6f6e6a64"
            "6f63756d656e744964781c326a396b6e7043736579686e4b38697a446d4c70475035574d645a5165636f756e74036973657373696f6e"
            "4964627331646461746147b9000162686901"
        ),
        Ephemeral("client-1", "daemon", DOCUMENT, "s1", 3, bytes.fromhex("b9000162686901")),
    ),
    "ephemeral with count 5e9": (
        (
            "b90007647479706569657068656d6572616c6873656e646572496468636c69656e742d31687461726765744964666461656d6f6e6a64"
            "6f63756d656e744964781c326a396b6e7043736579686e4b38697a446d4c70475035574d645a5165636f756e74fb41f2a05f20000000"
            "6973657373696f6e4964627331646461746147b9000162686901"
        ),
        Ephemeral("client-1", "daemon", DOCUMENT, "s1", 5_000_000_000, bytes.fromhex("b9000162686901")),
    ),
    "gossip": (
        (
            "b900046474797065781a72656d6f74652d737562736372697074696f6e2d6368616e67656873656e646572496468636c69656e742d31"
            "687461726765744964666461656d6f6e63616464816178"
        ),
        Ignored("remote-subscription-change"),
    ),
}

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
frames = st.one_of(
    st.builds(
        Join, ids, st.lists(st.just("1"), max_size=3).map(tuple), st.dictionaries(ids, st.booleans(), max_size=3)
    ),
    st.builds(Peer, ids, ids, st.just("1"), st.dictionaries(ids, st.text(), max_size=3)),
    st.builds(ErrorFrame, ids, ids, ids),
    st.builds(Sync, ids, ids, ids, st.binary(max_size=300), st.booleans()),
    st.builds(DocUnavailable, ids, ids, ids),
    st.builds(Ephemeral, ids, ids, ids, ids, st.integers(0, 2**53 - 1), st.binary(max_size=300)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("name", STOCK_FRAMES)
def test_frames_of_a_stock_client_are_read(name: str) -> None:
    encoded, frame = STOCK_FRAMES[name]
    assert decode_frame(bytes.fromhex(encoded)) == frame


@given(frames)
def test_frames_round_trip(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536, 1_000_000])
def test_prefixes_write_the_same_frames_as_a_cbor_encoder(size: int) -> None:
    payload = b"x" * size
    fields = {"type": "sync", "senderId": "d", "targetId": "c", "documentId": DOCUMENT, "data": payload}
    assert SyncFramePrefix("d", "c", DOCUMENT).frame(payload) == cbor2.dumps(fields)
    fields = {
        "type": "ephemeral",
        "senderId": "d",
        "targetId": "c",
        "documentId": DOCUMENT,
        "sessionId": "s",
        "count": size,
        "data": payload,
    }
    assert EphemeralFramePrefix("d", "c", DOCUMENT, "s").frame(size, payload) == cbor2.dumps(fields)


def test_a_large_count_goes_out_as_a_number_of_javascript() -> None:
    frame = EphemeralFramePrefix("d", "c", DOCUMENT, "s").frame(2**40, b"")
    assert cbor2.loads(frame)["count"] == 2.0**40
    assert isinstance(cbor2.loads(frame)["count"], float)


def test_versions_are_1_if_a_client_names_none() -> None:
    for versions in ({}, {"supportedProtocolVersions": cbor2.undefined}):
        assert decode_frame(cbor2.dumps({"type": "join", "senderId": "c", **versions})) == Join("c", ("1",), {})


def test_an_ignored_frame_is_not_written() -> None:
    with pytest.raises(ValueError, match="leave"):
        encode_frame(Ignored("leave"))


def sync(**changes: Any) -> dict[str, Any]:
    fields = {"type": "sync", "senderId": "c", "targetId": "d", "documentId": DOCUMENT, "data": b"\x43"}
    return {key: value for key, value in (fields | changes).items() if value is not None}


def ephemeral(**changes: Any) -> dict[str, Any]:
    return sync(**({"type": "ephemeral", "sessionId": "s", "count": 1} | changes))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        [],
        5,
        {"type": 5},
        {"type": ""},
        {"type": "x" * 65},
        sync(senderId=None),
        sync(senderId=""),
        sync(senderId="x" * 201),
        sync(targetId=b"d"),
        sync(documentId=7),
        sync(documentId="x" * 201),
        sync(data=None),
        sync(data="text"),
        sync(data=[1, 2]),
        sync(data=cbor2.undefined),
        ephemeral(sessionId=None),
        ephemeral(count=None),
        ephemeral(count=-1),
        ephemeral(count=1.5),
        ephemeral(count=True),
        ephemeral(count="1"),
        ephemeral(count=2**53),
        ephemeral(count=2**70),
        ephemeral(count=float("nan")),
        ephemeral(count=float("inf")),
        {"type": "join"},
        {"type": "join", "senderId": "c", "supportedProtocolVersions": "1"},
        {"type": "join", "senderId": "c", "supportedProtocolVersions": [1]},
        {"type": "join", "senderId": "c", "supportedProtocolVersions": ["1"] * 17},
        {"type": "join", "senderId": "c", "peerMetadata": []},
        {"type": "join", "senderId": "c", "peerMetadata": {"x": "y" * 70_000}},
        {"type": "peer", "senderId": "c", "targetId": "d"},
        {"type": "error", "senderId": "c", "targetId": "d", "message": 5},
        {"type": "doc-unavailable", "senderId": "c", "targetId": "d"},
    ],
)
def test_frames_with_missing_ill_typed_or_long_fields_are_refused(fields: object) -> None:
    with pytest.raises(ProtocolError):
        decode_frame(cbor2.dumps(fields))


@pytest.mark.parametrize("item", [b"\x82", b"\xbf", b"\x5f", b"\xa1\x61a"])
def test_truncated_frames_are_refused(item: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_frame(item)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "not valid CBOR"),
        (b"\xa0\xa0", "behind"),
        (b"\xa2\x61a\x01\x61a\x02", "not valid CBOR"),  # a key twice
        (b"\xa1\x01\x02", "not valid CBOR"),  # keys that can be made to collide
        (b"\x81" * 65 + b"\x00", "not valid CBOR"),
        (b"\xc1" * 100_000 + b"\x00", "not valid CBOR"),
        (b"\x61\xff", "not valid CBOR"),  # not UTF-8
        (b"\x9b" + b"\xff" * 8, "not valid CBOR"),
        (b"\x5b" + b"\xff" * 8, "not valid CBOR"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "not valid CBOR"),  # a list that contains itself
        (b"\xd9\x01\x00\x82\x63aaa\xd8\x19\x00", "not valid CBOR"),  # a reference to a string
        (b"\xc2\x58\x41" + b"\xff" * 65, "not valid CBOR"),  # an integer of 520 bits
        (b"\xff", "not valid CBOR"),
    ],
)
def test_hostile_data_is_refused(encoded: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason) as caught:
        decode_data(encoded)
    assert len(caught.value.reason) <= 200


def test_64_levels_are_allowed() -> None:
    assert decode_data(b"\x81" * 64 + b"\x00") is not None


def test_too_many_items_are_refused_before_they_are_built() -> None:
    head = b"\x9a" + (MAX_ITEMS + 1).to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="items"):
        decode_data(head + b"\xa0" * (MAX_ITEMS + 1))
    with pytest.raises(ProtocolError, match="items"):
        decode_data(head + b"\xfb\x40\x00\x00\x00\x00\x00\x00\x00" * (MAX_ITEMS + 1))


def test_a_large_byte_string_is_one_item() -> None:
    data = {"a": b"\xa0" * (MAX_ITEMS * 2), "b": ["x" * 70_000, 1, 1.5]}
    assert decode_data(cbor2.dumps(data)) == data


def test_a_long_indefinite_array_is_read() -> None:
    assert decode_data(b"\x9f" + b"\x01" * 100_000 + b"\xff") == [1] * 100_000


def test_frames_above_the_bound_are_refused() -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        decode_frame(bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(ProtocolError, match="bytes"):
        decode_data(bytes(MAX_FRAME_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_frame_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_frame(data)
    except ProtocolError as error:
        assert error.reason  # noqa: PT017 - either outcome is right


def assert_builds_no_object_of_the_library(tag: int, content: object) -> None:
    try:
        value = decode_data(cbor2.dumps(cbor2.CBORTag(tag, content)))
    except ProtocolError:
        return
    assert isinstance(value, cbor2.CBORTag | bytes | int)


@given(st.integers(0, 2**17), st.sampled_from([b"abcdef", "abc", 1, [1, 2], {"a": 1}, None]))
def test_tags_build_no_objects_of_the_library(tag: int, content: object) -> None:
    if tag != SELF_DESCRIBED:
        assert_builds_no_object_of_the_library(tag, content)


def test_known_tags_of_the_library_build_no_objects() -> None:
    for tag in (*range(300), 1004, 43000):
        for content in (b"0123456789abcdef", "2020-01-01T00:00:00Z", 1, [1, 2], {"a": 1}):
            assert_builds_no_object_of_the_library(tag, content)


def test_typed_arrays_of_javascript_are_bytes() -> None:
    # cbor-x 1.6.9: Float32Array [1], Int16Array [1], Float64Array [1], Uint8ClampedArray [1], Int8Array [1], BigInt64Array [1n]
    for encoded, memory in (
        ("d855440000803f", "0000803f"),
        ("d84d420100", "0100"),
        ("d85648000000000000f03f", "000000000000f03f"),
        ("d8444101", "01"),
        ("d8484101", "01"),
        ("d84f480100000000000000", "0100000000000000"),
    ):
        assert decode_data(bytes.fromhex(encoded)) == bytes.fromhex(memory)


def test_big_integers_within_bounds_are_integers() -> None:
    assert decode_data(bytes.fromhex("c249400000000000000000")) == 2**70
    assert decode_data(bytes.fromhex("c3493fffffffffffffffff")) == -(2**70)
    assert decode_data(bytes.fromhex("1b0000000000000005")) == 5


def test_other_values_of_javascript_stay_recognisable() -> None:
    # cbor-x: a Date, a Map, a Set, a regular expression, undefined
    assert isinstance(decode_data(bytes.fromhex("c11a3b9aca00")), cbor2.CBORTag)
    assert isinstance(decode_data(bytes.fromhex("d90103a1616101")), cbor2.CBORTag)
    assert isinstance(decode_data(bytes.fromhex("d901028101")), cbor2.CBORTag)
    assert isinstance(decode_data(bytes.fromhex("d81b836652656745787061616167")), cbor2.CBORTag)
    assert decode_data(bytes.fromhex("f7")) is cbor2.undefined
    assert decode_data(bytes.fromhex("d9d9f7a16161a0")) == {"a": {}}


@given(json_values)
def test_json_values_and_bytes_round_trip(value: object) -> None:
    assert decode_data(encode_data(value)) == value


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (2**32 - 1, "1affffffff"),
        (2**32, "fb41f0000000000000"),
        (-(2**32), "3affffffff"),
        (-(2**32) - 1, "fbc1f0000000100000"),
        (2**53 - 1, "fb433fffffffffffff"),
        (2**53, "1b0020000000000000"),
    ],
)
def test_integers_beyond_32_bits_are_numbers_in_javascript(number: int, encoded: str) -> None:
    assert encode_data(number).hex() == encoded
    assert encode_data({"a": [number]}).hex() == "a1616181" + encoded


def test_the_bytes_of_a_64_bit_head_in_a_string_change_nothing() -> None:
    value = {"text": "\x1b[31mred;", "n": 3, "flag": True, "data": b"\x1b\x3b"}
    assert encode_data(value) == cbor2.dumps(value)


def test_buffers_are_bytes() -> None:
    assert decode_data(encode_data([memoryview(b"ab"), bytearray(b"cd"), (1,)])) == [b"ab", b"cd", [1]]
    assert decode_data(encode_data([memoryview(b"ab"), 2**40])) == [b"ab", 2**40]


def test_half_of_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert decode_data(encode_data({"a\ud800": ["\udc00b", "😀", "\ud83d\ude00"]})) == {
        "a\ufffd": ["\ufffdb", "😀", "😀"]
    }


def test_other_types_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(cbor2.CBOREncodeError):
        encode_data(object())
