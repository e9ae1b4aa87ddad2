import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.core.leb128 import Malformed, encode_uleb, read_sleb, read_uleb


def encode_sleb(value: int) -> bytes:
    encoded = bytearray()
    while True:
        group = value & 0x7F
        value >>= 7
        if (value == 0 and group < 0x40) or (value == -1 and group >= 0x40):
            encoded.append(group)
            return bytes(encoded)
        encoded.append(group | 0x80)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_unsigned_integers_round_trip(value: int, behind: bytes) -> None:
    encoded = encode_uleb(value)
    assert read_uleb(b"x" + encoded + behind, 1, 1 + len(encoded)) == (value, 1 + len(encoded))


@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=3))
def test_signed_integers_round_trip(value: int, behind: bytes) -> None:
    encoded = encode_sleb(value)
    assert read_sleb(b"x" + encoded + behind, 1, 1 + len(encoded)) == (value, 1 + len(encoded))


@pytest.mark.parametrize("read", [read_uleb, read_sleb])
@pytest.mark.parametrize("encoded", [b"", b"\x80", b"\xff\xff", b"\x80\x00", b"\x80" * 9 + b"\x00", b"\x80" * 1000])
def test_cut_long_and_padded_numbers_are_malformed(read: object, encoded: bytes) -> None:
    assert callable(read)
    with pytest.raises(Malformed):
        read(encoded, 0, len(encoded))


@pytest.mark.parametrize("value", [2**64, 2**69])
def test_unsigned_numbers_beyond_64_bits_are_malformed(value: int) -> None:
    with pytest.raises(Malformed):
        read_uleb(encode_uleb(value), 0, 20)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**68])
def test_signed_numbers_beyond_64_bits_are_malformed(value: int) -> None:
    encoded = encode_sleb(value)
    with pytest.raises(Malformed):
        read_sleb(encoded, 0, len(encoded))


def test_padded_negative_numbers_are_malformed() -> None:
    with pytest.raises(Malformed):
        read_sleb(b"\xff\x7f", 0, 2)


def test_nothing_is_read_behind_the_end() -> None:
    for read in (read_uleb, read_sleb):
        with pytest.raises(Malformed):
            read(b"\x80\x01", 0, 1)
