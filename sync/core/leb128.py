"""Variable-length integers as Automerge writes them (LEB128), 64 bits at most."""


class Malformed(Exception):
    """The bytes end too early or hold a number that no encoder writes."""


def encode_uleb(value: int) -> bytes:
    """An unsigned integer, 7 bits a byte, the lowest first."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_uleb(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Reads an unsigned integer.

    Returns:
        The integer and the position behind it.

    Raises:
        Malformed: it does not end before `end`, has more than 64 bits or is not in its shortest form.
    """
    if position >= end:
        raise Malformed("a number is cut off")
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value = byte & 0x7F
    shift = 7
    while True:
        position += 1
        if position >= end:
            raise Malformed("a number is cut off")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift >= _MAX_BITS:
            raise Malformed("a number has more than 64 bits")
    if byte == 0 or value >= _ULEB_LIMIT:
        raise Malformed("a number is not in its shortest form or has more than 64 bits")
    return value, position + 1


def read_sleb(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Reads a signed integer; otherwise as `read_uleb`."""
    if position >= end:
        raise Malformed("a number is cut off")
    byte = data[position]
    if byte < 0x80:
        return (byte if byte < 0x40 else byte - 0x80), position + 1
    value = byte & 0x7F
    shift = 7
    while True:
        previous = byte
        position += 1
        if position >= end:
            raise Malformed("a number is cut off")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift >= _MAX_BITS:
            raise Malformed("a number has more than 64 bits")
    # The last byte must say more than the sign that the one before it already shows.
    if (byte == 0 and previous < 0xC0) or (byte == 0x7F and previous >= 0xC0):
        raise Malformed("a number is not in its shortest form")
    if byte >= 0x40:
        value -= 1 << shift
    if not -_SLEB_LIMIT <= value < _SLEB_LIMIT:
        raise Malformed("a number has more than 64 bits")
    return value, position + 1


_MAX_BITS = 70  # ten groups of 7 hold any number of 64 bits
_ULEB_LIMIT = 1 << 64
_SLEB_LIMIT = 1 << 63
