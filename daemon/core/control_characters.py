"""Text of others, for a terminal or a log: it must not be obeyed, and a line must stay one line."""

import re
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# CSI, strings up to their end (or the line's), other escapes; and single characters but for the tab.
_SEQUENCE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]"
)


def escaped(text: str) -> str:
    r"""Its control characters, line ends among them, as Python writes them: `\x1b`."""
    return _CONTROL.sub(lambda character: character[0].encode("unicode_escape").decode(), text)


def tamed(line: str, *, colour: bool) -> str:
    """A line of output without what a terminal would obey; tabs stay, and colours where they are wanted."""
    return _SEQUENCE.sub(lambda found: found[0] if colour and _is_colour(found[0]) else "", line)


def _is_colour(sequence: str) -> bool:
    return sequence.startswith("\x1b[") and sequence.endswith("m")
