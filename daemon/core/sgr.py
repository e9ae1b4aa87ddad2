"""Colours on a line that is overwritten: which style each character was written in.

Only such lines need this; all other text keeps its escape sequences as they came. Source of the codes: ECMA-48 8.3.117
(SGR), and xterm's 256 and 24-bit colours.
"""

from functools import lru_cache
from typing import TypeAlias

# One string of SGR codes per attribute that can be set independently, behind "0" if a reset came first. Without it the
# attributes are on top of whatever the text before the line left.
Style: TypeAlias = tuple[str, ...]

_INTENSITY, _ITALIC, _UNDERLINE, _BLINK, _REVERSE, _HIDDEN, _STRIKE, _FOREGROUND, _BACKGROUND = range(1, 10)
INHERITED: Style = ("",) * 10
PLAIN: Style = ("0", *("",) * 9)
_SETS = {
    **dict.fromkeys((1, 2), _INTENSITY),
    3: _ITALIC,
    **dict.fromkeys((4, 21), _UNDERLINE),
    **dict.fromkeys((5, 6), _BLINK),
    7: _REVERSE,
    8: _HIDDEN,
    9: _STRIKE,
    **dict.fromkeys((*range(30, 39), *range(90, 98)), _FOREGROUND),
    **dict.fromkeys((*range(40, 49), *range(100, 108)), _BACKGROUND),
}
_UNSETS = {
    22: _INTENSITY,
    23: _ITALIC,
    24: _UNDERLINE,
    25: _BLINK,
    27: _REVERSE,
    28: _HIDDEN,
    29: _STRIKE,
    39: _FOREGROUND,
    49: _BACKGROUND,
}
_COLOUR_CODES = frozenset({"38", "48", "58"})
_COLOUR_LENGTHS = {"5": 3, "2": 5}  # 38;5;N and 38;2;R;G;B


@lru_cache(maxsize=1024)  # a progress bar sends the same few again with every frame; keys are at most 600 characters
def restyled(style: Style, params: str) -> Style:
    """The style after `ESC [ params m`. Codes that are not known change nothing."""
    slots = list(style)
    codes = params.split(";")
    at = 0
    while at < len(codes):
        code, width = codes[at], 1
        if code in _COLOUR_CODES and at + 1 < len(codes):
            width = _COLOUR_LENGTHS.get(codes[at + 1], 1)
        number = code.partition(":")[0] or "0"
        if not number.isdecimal():
            pass
        elif int(number) == 0:
            slots = list(PLAIN)
        elif (slot := _SETS.get(int(number))) is not None:
            slots[slot] = ";".join(codes[at : at + width])
        elif (slot := _UNSETS.get(int(number))) is not None:
            slots[slot] = ""
        at += width
    return tuple(slots)


def sgr_between(before: Style, after: Style) -> str:
    """The escape sequence, or "", that takes a terminal from one style to another.

    From a colour back to INHERITED is a reset: what was inherited is hardly ever more than plain.
    """
    if before == after:
        return ""
    changes = list(zip(before[1:], after[1:], strict=True))
    if after[0] > before[0] or any(was and not now for was, now in changes):
        codes = ["0", *filter(None, after[1:])]
    else:
        codes = [now for was, now in changes if now != was]
    return f"\x1b[{';'.join(codes)}m" if codes else ""
