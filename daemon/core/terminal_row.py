"""A line of a terminal: verbatim, or split into cells once something on it is overwritten.

One code point is one cell; the width of CJK and combining characters is ignored, and a tab is one cell. Escape sequences
take none: colours are kept as a style of each cell, others stand before the character that followed them.
"""

import re
from typing import Final

from daemon.core.sgr import INHERITED, PLAIN, Style, restyled, sgr_between

_MAX_ZERO_WIDTH: Final = 8192  # characters of unknown sequences on an overwritten row: four of the longest links

# What a stream is made of. The parts are bounded, so that an unfinished sequence is never waited for for long: the longest
# in use are hyperlinks (OSC 8), and 2 048 is the longest URL that browsers agree on.
TOKEN = re.compile(
    r"(?P<text>[^\r\n\x08\x1b]+)"
    r"|(?P<newline>\n)"
    r"|(?P<back>\x08+)"
    r"|(?P<csi>\x1b\[(?P<params>[0-?]{0,64})(?P<middle>[ -/]{0,4})(?P<final>[@-~]))"
    r"|(?P<other>\x1b(?:[\]PX^_][^\x00-\x1f\x7f]{0,2048}(?:\x07|\x1b\\)|[ -/]{1,4}[0-~]|[0-OQ-WYZ\\`-~]))"
    r"|(?P<lone>\x1b)"
)


class Row:
    """A line of the window: `text` verbatim, or, once overwritten, `cells` (a character and what stands before it)."""

    __slots__ = ("cells", "styles", "text", "zero_width")

    def __init__(self, text: str) -> None:
        self.text = text
        self.cells: list[str] | None = None
        self.styles: list[Style] | None = None  # of each cell; None: all inherited
        self.zero_width = 0  # characters of sequences among the cells

    def __len__(self) -> int:
        return len(self.text) if self.cells is None else len(self.cells)

    @property
    def ends_plain(self) -> bool:
        """Whether the row, as rendered, leaves no colour on, whatever came before it."""
        return bool(self.styles and self.styles[-1] != INHERITED)

    def split(self) -> list[str]:
        """Turns the row into cells."""
        if self.cells is None:
            text, self.text = self.text, ""
            self.cells = []
            style = INHERITED
            waiting = ""
            for token in TOKEN.finditer(text):
                if token.lastgroup == "text":
                    self.put(len(self.cells), token[0], style, waiting)
                    waiting = ""
                elif is_sgr(token):
                    style = restyled(style, token["params"])
                else:
                    waiting += token[0]
            self.suffix(waiting)
        return self.cells

    def put(self, column: int, run: str, style: Style, before: str = "") -> None:
        """Overwrites from `column` on; `before` are zero-width sequences that go first."""
        cells = self.split()
        if column > len(cells):
            self.put(len(cells), " " * (column - len(cells)), INHERITED)
        if style != INHERITED and self.styles is None:
            self.styles = [INHERITED] * len(cells)
        stop = column + len(run)
        if self.zero_width:
            self.zero_width -= sum(map(len, cells[column:stop])) - len(cells[column:stop])
        cells[column:stop] = run
        if self.styles is not None:
            self.styles[column:stop] = [style] * len(run)
        if before and self.zero_width + len(before) <= _MAX_ZERO_WIDTH:
            self.zero_width += len(before)
            cells[column] = before + cells[column]

    def suffix(self, sequences: str) -> None:
        """Puts zero-width sequences after the last cell."""
        cells = self.split()
        if sequences and cells and self.zero_width + len(sequences) <= _MAX_ZERO_WIDTH:
            self.zero_width += len(sequences)
            cells[-1] += sequences

    def cut(self, column: int) -> None:
        """Erases from `column` to the end."""
        cells = self.split()
        if self.zero_width:
            self.zero_width -= sum(map(len, cells[column:])) - len(cells[column:])
        del cells[column:]
        if self.styles is not None:
            del self.styles[column:]

    def take_head(self, count: int, *, inherits: bool) -> str:
        """Removes the first `count` characters (or cells) and returns their text."""
        if self.cells is None:
            head, self.text = self.text[:count], self.text[count:]
            return head
        left = Row("")
        left.cells, self.cells = self.cells[:count], self.cells[count:]
        if self.styles is not None:
            left.styles, self.styles = self.styles[:count], self.styles[count:]
        self.zero_width = sum(map(len, self.cells)) - len(self.cells)
        return left.render(inherits=inherits)

    def render(self, *, inherits: bool, coloured: bool = True) -> str:
        """The row as text. A row of cells closes its own colours; a verbatim one may leave them on.

        Args:
            inherits: the text before may have left a colour on, so that a reset is worth its bytes.
            coloured: False leaves the colours of an overwritten row out.
        """
        if self.cells is None:
            return self.text
        if self.styles is None or not coloured:
            return "".join(self.cells)
        parts: list[str] = []
        current = INHERITED if inherits else PLAIN
        last = None
        for cell, style in zip(self.cells, self.styles, strict=True):
            if style is not last:
                last = style
                style = style if inherits else (*PLAIN[:1], *style[1:])
                parts.append(sgr_between(current, style))
                current = style
            parts.append(cell)
        parts.append(sgr_between(current, INHERITED))
        return "".join(parts)


def is_sgr(token: re.Match[str]) -> bool:
    """Whether this sets colours; `ESC [ > ... m` and the like are other, private, functions."""
    return token["final"] == "m" and not token["middle"] and not token["params"].startswith(("<", "=", ">", "?"))


def end_of(text: str) -> tuple[int, Style]:
    """The column and the style at the end of a verbatim line."""
    if "\x1b" not in text:
        return len(text), INHERITED
    width, style = 0, INHERITED
    for token in TOKEN.finditer(text):
        if token.lastgroup == "text":
            width += len(token[0])
        elif is_sgr(token):
            style = restyled(style, token["params"])
    return width, style


def leaves_colour_on(text: str, before: bool) -> bool:
    """Whether the last colour sequence in `text` is none that resets; `before`: what holds if there is none."""
    at = len(text)
    while (at := text.rfind("\x1b[", 0, at)) >= 0:
        token = TOKEN.match(text, at)
        if token is not None and is_sgr(token):
            return token["params"] not in {"", "0"}
    return before
