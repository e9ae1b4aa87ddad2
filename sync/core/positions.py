"""Keys of the order of cells: any number of new ones fits between two neighbours, with nobody to ask.

A position is a fraction between 0 and 1, written as base-62 digits in ASCII order without trailing zeros, so that
comparing strings compares fractions (docs/wire.md). Whoever makes one appends three random digits: two peers that
insert at the same place at the same time then get different keys.

How a new key is chosen keeps keys short for the ways in which people insert. Keys are looked at in blocks of three
digits; in the first block where both neighbours leave room, a new key goes close to one of them: the left one in the
1st, 3rd, ... block, the right one in the others. Whoever goes on inserting on one side then finds thousands of places
in one of any two blocks. (Always halving, as is usual, needs a digit more for every six insertions at one place.)
"""

import re
from collections.abc import Callable

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAX_LENGTH = 64  # the wire's limit: a position is in every replica and in every change that makes or moves a cell

RANDOM_DIGITS = 3
RANDOM_SPACE = 62 * 62 * 61  # how many endings there are: the last digit is not 0

_BLOCK = 3
_CLOSE = 1024  # "close" is this part of the gap: some room stays for whoever changes sides (60 turns, measured)
_VALUE = {digit: value for value, digit in enumerate(DIGITS)}
_WELL_FORMED = re.compile(r"[0-9A-Za-z]{1,64}")
_RANDOM = re.compile(r"[0-9A-Za-z]{2}[1-9A-Za-z]")


class PositionsExhausted(Exception):
    """No position of at most 64 digits lies between these two: the cells around have to be re-keyed."""


def random_digits(number: int) -> str:
    """The ending for a random number from 0 up to `RANDOM_SPACE`, exclusive."""
    rest, last = divmod(number, 61)
    return DIGITS[rest // 62 % 62] + DIGITS[rest % 62] + DIGITS[last + 1]


def between(left: str | None, right: str | None, random_digits: str) -> str:
    """A new position between two neighbours.

    Args:
        left: The position before; None for the beginning.
        right: The position after; None for the end.
        random_digits: Three random base-62 digits, the last one not 0.

    Raises:
        ValueError: An argument is not well formed, or `left` is not below `right` (re-key the right one first).
        PositionsExhausted: There is no room between them.
    """
    if not all(position is None or is_position(position) for position in (left, right)):
        raise ValueError("not a position")
    if not _RANDOM.fullmatch(random_digits):
        raise ValueError("the ending is three base-62 digits, the last one not 0")
    if left is not None and right is not None and left >= right:
        raise ValueError("the left position is not below the right one")
    for length in range(_BLOCK, MAX_LENGTH - RANDOM_DIGITS + 1, _BLOCK):
        low = _number(left or "", length)
        high = 62**length if right is None else _number(right, length)
        if high - low >= 2:
            if left is None and right is None:
                chosen = high // 2
            elif right is None:
                chosen = low + 1
            elif left is None:
                chosen = high - 1
            else:
                step = max(1, (high - low) // _CLOSE)
                chosen = low + step if length // _BLOCK % 2 else high - step
            return _digits(chosen, length) + random_digits
    raise PositionsExhausted


def spread(count: int, random_source: Callable[[], str]) -> list[str]:
    """Positions for `count` cells, in order and evenly spaced, with room before, after and between.

    Args:
        count: How many.
        random_source: Gives three random base-62 digits, the last one not 0, at each call.
    """
    length = _BLOCK
    while 62**length < 2 * (count + 1):
        length += _BLOCK
    step = 62**length // (count + 1)
    return [_digits(step * index, length) + random_source() for index in range(1, count + 1)]


def is_position(position: object) -> bool:
    """Whether this sorts by its digits; all else sorts behind (docs/wire.md)."""
    return isinstance(position, str) and _WELL_FORMED.fullmatch(position) is not None


def sort_key(position: object, cell_id: str) -> tuple[bool, str, str]:
    """What puts cells in order: position, then id; those with a missing, ill-typed or too long position come last."""
    if isinstance(position, str) and _WELL_FORMED.fullmatch(position):
        return (False, position, cell_id)
    return (True, "", cell_id)


def _number(position: str, length: int) -> int:
    """The first `length` digits, zeros appended where there are fewer, as one number."""
    number = 0
    for digit in position[:length].ljust(length, "0"):
        number = number * 62 + _VALUE[digit]
    return number


def _digits(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, value = divmod(number, 62)
        digits.append(DIGITS[value])
    return "".join(reversed(digits))
