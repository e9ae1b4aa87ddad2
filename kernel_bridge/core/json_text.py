"""JSON as kernels write it, which is not always JSON."""

import json
import math
from typing import Any


def loads_leniently(data: bytes) -> Any:
    """Reads what a strict reader refused; ten times slower, so for a second try only.

    Invalid UTF-8 and lone surrogates become U+FFFD; NaN, Infinity and numbers beyond a double become None, since no
    reader after us could take them.

    Raises:
        ValueError: it is no JSON even so, or nested too deeply.
    """
    try:
        value = json.loads(
            data.decode("utf-8", "replace"),
            parse_constant=lambda _: None,
            parse_float=_finite,
        )
        return _without_surrogates(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
