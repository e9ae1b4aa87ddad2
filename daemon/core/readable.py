"""What of a kernel's JSON may go to peers as it is, inside an event or an answer.

A kernel may nest and repeat as it likes; a peer that checks what it decodes, as ours does, would end its connection for it.
"""

from collections.abc import Sequence
from typing import Any, Final

from daemon.core.comm_changes import value_size
from sync.core.cbor import encode_data
from sync.core.limits import MAX_BIG_INTEGER_BYTES, MAX_DEPTH, MAX_ITEMS, MAX_JSONRPC_BYTES

# The event or answer around it has maps of its own, and some dozen items.
_DEPTH: Final = MAX_DEPTH - 4
_ITEMS: Final = MAX_ITEMS - 1_000
_BEYOND: Final = 1 << (8 * MAX_BIG_INTEGER_BYTES)

# What `value_size` says is at least a quarter of what is encoded (a character has up to 4 bytes), and at most 5 times as
# much (a small integer counts 5): only in between is it worth to encode the value for its size.
_SURELY_FITS: Final = MAX_JSONRPC_BYTES // 4
_SURELY_BEYOND: Final = 5 * MAX_JSONRPC_BYTES
# The event around it: ids, heads, names.
ENVELOPE_BYTES: Final = 4096


def event_size(content: Any, buffers: Sequence[bytes]) -> int:
    """About the bytes of an event with this content; never below `MAX_JSONRPC_BYTES` where it has more than that.

    Args:
        content: what `is_readable` takes.
        buffers: those that go with it.
    """
    size, rest = value_size(content), ENVELOPE_BYTES + sum(map(len, buffers))
    if size + rest > _SURELY_FITS and size <= _SURELY_BEYOND:
        size = len(encode_data(content))
    return size + rest


def is_readable(value: object) -> bool:
    """Whether every peer can take this: not too deep, not too many parts, no endless integer.

    Args:
        value: what a JSON parser gives.
    """
    level, items, depth = [value], 0, 0
    while level:
        items += len(level)
        depth += 1
        if items > _ITEMS or depth > _DEPTH + 1:
            return False
        deeper: list[object] = []
        for item in level:
            if isinstance(item, dict):
                items += len(item)
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
            elif type(item) is int and not -_BEYOND < item < _BEYOND:
                return False
        level = deeper
    return True
