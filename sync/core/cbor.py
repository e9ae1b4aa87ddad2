"""CBOR as JavaScript peers (cbor-x) write and read it, bounded.

What differs from cbor2's defaults: tags never build objects of Python's library (a date, a regular expression, a shared
or cyclic reference), a typed array is its bytes, a memoryview is bytes and not an array of numbers, and integers beyond
32 bits go out as float64, because a 64-bit CBOR integer becomes a BigInt in JavaScript.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import cbor2

from sync.core.limits import MAX_BIG_INTEGER_BYTES, MAX_DEPTH, MAX_FRAME_BYTES, MAX_ITEMS


class ProtocolError(Exception):
    """What a peer sent breaks the protocol or one of its bounds.

    Attributes:
        reason: one sentence, fit for an `error` frame and a log line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_data(data: bytes, max_depth: int = MAX_DEPTH) -> object:
    """Decodes one CBOR item, as it is the data of an ephemeral message.

    Args:
        data: the item and nothing behind it.
        max_depth: of arrays and maps (and tags) inside one another.

    Returns:
        None, bool, int, float, str, bytes, list and dict (keys str or bytes) in the usual way; `cbor2.undefined` where
        JavaScript had undefined; `bytes` for a typed array (its memory, little-endian); `CBORTag` and `CBORSimpleValue`
        for all else: dates, sets, maps of tag 259, what nobody knows. Cyclic values and shared parts do not occur.

    Raises:
        ProtocolError: not well-formed, too deep, too long, too many items, keys twice or of another type.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"more than {MAX_FRAME_BYTES} bytes")
    if len(data) > _COUNTED_FROM:
        _limit_items(data)
    decoder = cbor2.CBORDecoder(
        BytesIO(data),
        tag_hook=None,
        semantic_decoders=_SEMANTIC_DECODERS,
        max_depth=max_depth,
        allow_duplicate_keys=False,
        # Other keys can be made to collide, which takes quadratic time.
        strict_hashable_types=True,
    )
    try:
        value: object = decoder.decode()
    except cbor2.CBORDecodeError as error:
        raise ProtocolError(f"not valid CBOR: {error}"[:_MAX_REASON]) from error
    try:
        decoder.read(1)
    except cbor2.CBORDecodeEOF:
        return value
    raise ProtocolError("bytes behind the CBOR item")


def encode_data(value: object) -> bytes:
    """Encodes JSON values and bytes (also bytearray and memoryview) so that JavaScript reads them as we mean them.

    An integer outside of 32 bits and within 2**53 becomes a float64; beyond, where a number of JavaScript can't be
    exact, it stays an integer (a BigInt there). Half of a surrogate pair, which UTF-8 can't carry, becomes U+FFFD.

    Raises:
        cbor2.CBOREncodeError: another type; a mistake of the caller.
    """
    try:
        return cbor2.dumps(value, encoders=_ENCODERS)
    except UnicodeEncodeError:
        return cbor2.dumps(_with_whole_characters(value), encoders=_ENCODERS)


def _encode_integer(encoder: Any, value: int) -> None:
    if _FIRST_LONG <= abs(value) < _FIRST_INEXACT and value != -_FIRST_LONG:
        encoder.encode_float(float(value))
    else:
        encoder.encode_int(value)


def _with_whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value if _is_utf8(value) else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_with_whole_characters(key): _with_whole_characters(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_whole_characters(item) for item in value]
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _limit_items(data: bytes) -> None:
    # Items follow one another in CBOR whatever their nesting, so their heads can be walked without a stack. Truncated
    # and malformed input is left to the decoder.
    position, end, items = 0, len(data), 0
    while position < end:
        items += 1
        if items > MAX_ITEMS:
            raise ProtocolError(f"more than {MAX_ITEMS} items")
        head = data[position]
        position += 1
        argument = head & 0x1F
        if argument >= _ONE_BYTE_FOLLOWS:
            if argument > _EIGHT_BYTES_FOLLOW:
                continue
            width = 1 << (argument - _ONE_BYTE_FOLLOWS)
            argument = int.from_bytes(data[position : position + width], "big")
            position += width
        if 0x40 <= head < 0x80:  # a byte or text string: its content holds no items
            position += argument


def _big_integer(content: object, _immutable: bool) -> int:
    if not isinstance(content, bytes) or len(content) > MAX_BIG_INTEGER_BYTES:
        raise ValueError(f"an integer of more than {MAX_BIG_INTEGER_BYTES} bytes")
    return int.from_bytes(content, "big")


def _negative_big_integer(content: object, immutable: bool) -> int:
    return -1 - _big_integer(content, immutable)


def _typed_array(content: object, _immutable: bool) -> bytes:
    if not isinstance(content, bytes):
        raise ValueError("a typed array is a byte string")
    return content


def _itself(content: object, _immutable: bool) -> object:
    return content


def _refuse(_content: object, _immutable: bool) -> object:
    raise ValueError("references to other parts are not taken")


def _tagged(tag: int) -> Any:
    return lambda content, _immutable: cbor2.CBORTag(tag, content)


_COUNTED_FROM = 64 * 1024  # bytes; less can't hold enough items to matter
_MAX_REASON = 200  # characters; cbor2 quotes what it met
_ONE_BYTE_FOLLOWS, _EIGHT_BYTES_FOLLOW = 24, 27

_FIRST_LONG, _FIRST_INEXACT = 2**32, 2**53
_ENCODERS: dict[type, Any] = {
    int: _encode_integer,
    memoryview: lambda encoder, value: encoder.encode_bytes(bytes(value)),
}

_SEMANTIC_DECODERS: dict[int, Any] = {
    # What cbor2 would build by itself: times, fractions, regular expressions, mails, addresses, sets, complex numbers.
    **{tag: _tagged(tag) for tag in (0, 1, 4, 5, 30, 35, 36, 37, 52, 54, 100, 258, 260, 261, 1004, 43000)},
    2: _big_integer,
    3: _negative_big_integer,
    # Shared values and string references: a value of 100 bytes could unfold to gigabytes, or contain itself.
    **dict.fromkeys((25, 28, 29, 256), _refuse),
    # Typed arrays, all but the big-endian ones (RFC 8746).
    **dict.fromkeys((64, 68, 69, 70, 71, 72, 77, 78, 79, 84, 85, 86), _typed_array),
    55799: _itself,  # "this is CBOR"
}
