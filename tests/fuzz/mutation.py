"""Damage, drawn from a seeded generator: to bytes, and to values of JSON and CBOR."""

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

# Lengths, counts and numbers at which parsers change their mind.
EDGES = (
    *(0, 1, 23, 24, 63, 64, 65, 127, 128, 255, 256, 1023, 1024, 65_535, 65_536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64),
)
MAX_REPEATED = 20_000  # characters of a text that is still repeated
_TEXTS = (
    *("", "a", "0", "null", "__proto__", "constructor", "../../etc/passwd", "a\x00b", "\ufeff", "\u2028", "é" * 40),
    *("😀", "\x1b[2J\x1b[31m", "\r\n", "%s%n", "{{7*7}}", "x" * 300, "y" * 2000, "\ufffd", "🏳️‍🌈", "-1", "NaN"),
)


def damage(rng: Random, data: bytes, words: Sequence[bytes] = ()) -> bytes:
    """One to six small damages; `words` are what the format is made of."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        _damage_once(rng, out, words)
    return bytes(out)


def _damage_once(rng: Random, out: bytearray, words: Sequence[bytes]) -> None:
    at = rng.randrange(len(out) + 1)
    size = rng.choice((1, 1, 1, 2, 4, 8, 33))
    match rng.randrange(9):
        case 0 if at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(out):
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        case 2:
            del out[at : at + size]
        case 3:
            out[at:at] = rng.randbytes(size)
        case 4:
            out[at:at] = out[at : at + size * rng.choice((1, 1, 40))]
        case 5:
            start = rng.randrange(len(out) + 1)
            out[at : at + size] = out[start : start + size]
        case 6:
            del out[at:]
        case 7 if words:
            out[at : at + rng.choice((0, size))] = rng.choice(words)
        case _:
            out[at:at] = rng.choice(EDGES).to_bytes(9, rng.choice(("big", "little")))[: rng.choice((1, 2, 4, 8, 9))]


def odd_text(rng: Random) -> str:
    """A string that somebody may not expect; without lone surrogates, which UTF-8 does not have."""
    return rng.choice(_TEXTS)


def odd_number(rng: Random) -> int | float:
    """An integer at an edge, or a float that is no ordinary number."""
    if rng.random() < 0.7:
        return rng.choice(EDGES) * rng.choice((1, -1)) + rng.choice((0, 0, 1, -1))
    return rng.choice((math.nan, math.inf, -math.inf, -0.0, 0.5, 1e308, 5e-324, float(2**53), float(2**63)))


def odd_value(rng: Random, depth: int = 3) -> Any:
    """A JSON value of any shape; `depth` containers at most, but sometimes hundreds."""
    match rng.randrange(10):
        case 0 | 1:
            return odd_text(rng)
        case 2 | 3:
            return odd_number(rng)
        case 4:
            return rng.choice((None, True, False))
        case 5 if depth:
            return [odd_value(rng, depth - 1) for _ in range(rng.randrange(5))]
        case 6 if depth:
            return {odd_text(rng): odd_value(rng, depth - 1) for _ in range(rng.randrange(5))}
        case 7:
            return nested(rng.choice((10, 63, 64, 65, 100, 300)), rng.choice(("list", "map")))
        case _:
            return rng.choice(([], {}, "", 0, None))


def nested(depth: int, kind: str) -> Any:
    """Containers inside one another."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"k": value}
    return value


def damage_value(rng: Random, value: Any, replace: Any = None) -> Any:
    """The value with one part of it replaced, removed, doubled or renamed; what was given is left alone.

    Args:
        rng: where chance comes from.
        value: of JSON.
        replace: makes a replacement from the generator; JSON values by default.
    """
    replace = replace or odd_value
    if isinstance(value, Mapping) and value and rng.random() < 0.85:
        out = dict(value)
        key = rng.choice(list(out))
        match rng.randrange(8):
            case 0:
                del out[key]
            case 1:
                out[rng.choice((odd_text(rng), str(key) + "x", str(key).upper()))] = out.pop(key)
            case 2:
                out[odd_text(rng)] = replace(rng)
            case _:
                out[key] = damage_value(rng, out[key], replace)
        return out
    if isinstance(value, list | tuple) and value and rng.random() < 0.8:
        items = list(value)
        at = rng.randrange(len(items))
        match rng.randrange(6):
            case 0:
                del items[at]
            case 1:
                items.insert(at, replace(rng))
            case 2:
                items[at:at] = items * rng.choice((1, 1, 30))
            case _:
                items[at] = damage_value(rng, items[at], replace)
        return items
    if isinstance(value, str) and rng.random() < 0.5:
        # What was repeated may be again: half a million of times is no stranger than five hundred, but fills the memory.
        often = 500 if len(value) <= MAX_REPEATED else 1
        return rng.choice((value * 2, value[:-1], value + odd_text(rng), value.upper(), value * often))
    if isinstance(value, bytes) and rng.random() < 0.7:
        return damage(rng, value)
    return replace(rng)


def choose(rng: Random, *weighted: tuple[int, T]) -> T:
    """One of several things, by weight."""
    return rng.choices([thing for _, thing in weighted], [weight for weight, _ in weighted])[0]
