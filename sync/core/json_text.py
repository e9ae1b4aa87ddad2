"""JSON values of kernels and files as JSON text that every reader can load.

What comes from outside may hold what JSON or UTF-8 cannot: NaN, lone surrogates, buffers, any depth. All of it becomes
text, by these rules:

- a lone surrogate is U+FFFD (Automerge and UTF-8 have none; JavaScript's clients store the same);
- NaN is `null`, as `JSON.stringify` writes it; an infinity is `1e999`, which is valid JSON and which Python and
  JavaScript read as infinity;
- nesting deeper than `MAX_DEPTH` is refused here; the caller keeps it as flat text.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Any

import msgspec

from sync.core.limits import MAX_DEPTH

# Python refuses to read an integer with more digits (sys.int_info); such a number is beyond every float as well.
_MAX_INT_BITS = 14_000

_LEAVES = frozenset({str, int, float, bool, type(None)})
_INFINITE = "1e999"

_fast = msgspec.json.Encoder()


class TooDeep(ValueError):
    """Nested deeper than `MAX_DEPTH`."""


def repaired(text: str) -> str:
    """`text` with surrogate pairs joined and each lone surrogate replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def utf8(text: str) -> tuple[str, bytes]:
    """`text` without lone surrogates, and its UTF-8."""
    try:
        return text, text.encode()
    except UnicodeEncodeError:
        text = repaired(text)
        return text, text.encode()


def clean(text: str) -> str:
    """`text` without lone surrogates."""
    return text if text.isascii() else utf8(text)[0]


def encode_json(value: object) -> bytes:
    """The JSON text of `value`, in UTF-8, by the rules above.

    Args:
        value: What a JSON parser gives; tuples count as lists. Buffers are base64 text here: take them out before.

    Raises:
        TooDeep: It nests deeper than `MAX_DEPTH`.
    """
    if depth_and_buffers(value)[0] > MAX_DEPTH:
        raise TooDeep(f"nested deeper than {MAX_DEPTH}")
    try:
        data = _fast.encode(value)
    except (TypeError, ValueError):  # an odd key; a lone surrogate (UnicodeEncodeError) or an endless integer
        return _careful(value).encode()
    # msgspec writes null for what is not finite, so only a text with a null can hide an infinity.
    if b"null" in data and not all(isfinite(leaf) for leaf in _floats(value)):
        return _careful(value).encode()
    return data


def flat_text(value: object) -> str:
    """Some text for a value that is too deep for `encode_json`: its JSON where that can be written."""
    try:
        return _fast.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return "[nested too deeply]"


def depth_and_buffers(value: object) -> tuple[int, bool]:
    """How deep `value` nests (a leaf is 0; at most `MAX_DEPTH` + 1), and whether bytes were seen in it."""
    level = [] if type(value) in _LEAVES else [value]
    depth, buffers = 0, False
    while level:
        containers = [item for item in level if isinstance(item, (dict, list, tuple))]
        buffers = buffers or len(containers) < len(level)
        depth += bool(containers)
        if depth > MAX_DEPTH:
            break
        level = [item for container in containers for item in _items(container) if type(item) not in _LEAVES]
    return depth, buffers


def finite(value: Any) -> Any:
    """A copy with NaN and the infinities as null, as `JSON.stringify` writes them; `value` nests at most `MAX_DEPTH` deep."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


# To encode an item of a list or a map takes as long as this many characters of text (measured: 0.2 us).
_ITEM = 64


def rough_size(value: object, enough: int) -> int:
    """The work to encode `value`, in characters of text; counted no further than `enough`."""
    size, level = 0, [value]
    while level and size < enough:
        below: list[Any] = []
        for item in level:
            if isinstance(item, (str, bytes, bytearray)):
                size += len(item)
            elif isinstance(item, memoryview):
                size += item.nbytes
            elif isinstance(item, (dict, list, tuple)):
                size += _ITEM * len(item)
                if size >= enough:
                    break
                below.extend(_items(item))
        level = below
    return size


def _items(container: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _floats(value: object) -> Iterable[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in _items(value):
            yield from _floats(item)


def _careful(value: object) -> str:
    """`value` as JSON text, written by hand; at most `MAX_DEPTH` deep."""
    if isinstance(value, str):
        return _fast.encode(clean(value)).decode()
    if isinstance(value, dict):
        return "{" + ",".join(f"{_careful(_key(key))}:{_careful(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_careful, value)) + "]"
    if isinstance(value, float) and not isfinite(value):
        return "null" if value != value else _INFINITE if value > 0 else "-" + _INFINITE
    if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
        return _INFINITE if value > 0 else "-" + _INFINITE
    return _fast.encode(value).decode()


def _key(key: object) -> str:
    """A map's key as Python's own json module writes it."""
    if isinstance(key, str):
        return key
    return _careful(key)
