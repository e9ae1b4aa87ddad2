"""What of a kernel's JSON may go to peers as it is: what they can decode, and all of that."""

import pytest

from daemon.core.readable import is_readable
from sync.core.cbor import ProtocolError, decode_data, encode_data
from sync.core.limits import MAX_ITEMS


def nested(depth: int) -> object:
    value: object = "leaf"
    for _ in range(depth):
        value = [value]
    return value


def message(value: object) -> bytes:
    """As the deepest of our messages has it."""
    params = {"comm_id": "c", "content": value, "buffers": [], "heads": ["h"] * 100, "seq": 1}
    return encode_data({"jsonrpc": "2.0", "method": "comm_custom", "params": params})


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, 2.5, "x", None, True]},
        nested(60),
        ["x"] * (MAX_ITEMS - 2_000),
        {str(n): n for n in range(MAX_ITEMS // 2 - 1_000)},
        2**500,
        -(2**500),
    ],
)
def test_what_is_readable_is_read(value: object) -> None:
    assert is_readable(value)
    decode_data(message(value))


@pytest.mark.parametrize(
    "value",
    [nested(64), nested(900), ["x"] * MAX_ITEMS, {str(n): n for n in range(MAX_ITEMS // 2)}, 2**520, [-(2**520)]],
)
def test_what_peers_refuse_is_not(value: object) -> None:
    assert not is_readable(value)
    with pytest.raises(ProtocolError):
        decode_data(message(value))
