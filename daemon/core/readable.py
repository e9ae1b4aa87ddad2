"""What of a kernel's JSON may go to peers as it is, inside an event or an answer.

A kernel may nest and repeat as it likes; a peer that checks what it decodes, as ours does, would end its connection for it.
"""

from typing import Final

from sync.core.limits import MAX_BIG_INTEGER_BYTES, MAX_DEPTH, MAX_ITEMS

# The event or answer around it has maps of its own, and some dozen items.
_DEPTH: Final = MAX_DEPTH - 4
_ITEMS: Final = MAX_ITEMS - 1_000
_BEYOND: Final = 1 << (8 * MAX_BIG_INTEGER_BYTES)


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
