r"""A stream's text as a terminal shows it.

Carriage return, backspace, erasing (`ESC[K`, `ESC[J`) and cursor moves (`ESC[A` to `ESC[G`) act on the last lines, as
progress bars, nested ones too, expect. Everything else is kept as it came, colours and unknown escape sequences
included: they take no column. Lines never wrap, nothing is trimmed, `\r\n` is a newline.

A line is kept verbatim until something on it is overwritten. How the text was cut into messages never changes the
result: a sequence that is not complete yet waits for its end.

The text is `chunks` (lines that the cursor has left) and a window of rows that it can reach. That is the last line
alone, until the stream moves the cursor up; from then on as many lines as it has reached.
"""

import re
from typing import Final

from daemon.core.sgr import INHERITED, PLAIN, Style, restyled, sgr_between
from daemon.core.terminal_row import TOKEN, Row, end_of, is_sgr, leaves_colour_on

_MAX_ROWS: Final = 64  # a screen's height: nothing draws above the top row, and the window is written at every commit
_MAX_TOKENS: Final = 20_000  # of one piece: about 20 ms, the longest that one message may hold up the others
_MAX_STEP: Final = 512  # columns of one move: wider than terminals are, and no few bytes make megabytes of blanks
_MAX_ZERO_WIDTH: Final = 4096  # characters of sequences with no visible one between them: two of the longest links
_NEVER: Final = 1 << 62  # an offset past every text

# The start of a token of more than one character.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[\]PX^_][^\x00-\x1f\x7f]{0,2048}\x1b?|[ -/]{1,4})?\Z")
_FRAMES = re.compile(r"\r[^\n\x08\x1b]*")
# What can do more than add to the end of the last line.
_ACTIVE = re.compile(r"\r(?!\n)|\x08|\x1b(?!\[[0-9;:]*m)")
_MOVES = re.compile(r"\x08+|\x1b(?!\[[0-9;:]*m)(?:\[[0-?]{0,64}[ -/]{0,4}[@-~])?")


class Terminal:
    """The text of one stream, with a cursor.

    Offsets are in characters of the whole text as shown. A line keeps at least its last half of `line_limit` characters
    editable, at most all of it; so does the window as a whole.
    """

    def __init__(self, line_limit: int) -> None:
        self._line_limit = line_limit
        self._chunks: list[str] = []
        self._chunks_start = 0  # offset of the first chunk: what was before is no longer in memory
        self._base = 0  # offset of the window
        self._rows = [Row("")]
        self._row = 0
        self._column: int | None = None  # None: at the end of a verbatim row, which then also carries the colours
        self._blocked_at = -1  # the base at which there was no line to take back into the window
        self._reach = 0  # how many rows above the last one the cursor has been
        self._parts: list[str] = []  # belong to the end of the window; only while appending
        self._appending = True  # one verbatim row with the cursor at its end: plain text needs no look at all
        self._style: Style = INHERITED  # at the cursor, while that has a column
        self._colour_on = False  # where the window starts
        self._recoloured = False  # by a sequence that is in no verbatim row
        self._zero_width = ""  # escape sequences that go before the next character written
        self._unfinished = ""  # the start of a sequence whose end has not come yet
        self._edited_from = _NEVER
        self.length = 0  # characters shown, near enough for a limit (escape sequences of overwritten rows not counted)

    def write(self, text: str) -> None:
        """Takes the next piece of the stream, cut anywhere."""
        if self._appending and "\r" not in text and "\x1b" not in text and "\b" not in text and not self._unfinished:
            self._parts.append(text)
            self.length += len(text)
            return
        self._interpret(self._unfinished + text, ended=False)

    def finish(self) -> None:
        """Shows the start of an escape sequence whose end will not come."""
        if self._unfinished:
            self._interpret(self._unfinished, ended=True)

    @property
    def window_start(self) -> int:
        """Where the lines begin that may still change."""
        self._settle()
        return self._base

    @property
    def kept_from(self) -> int:
        """The offset before which the text is no longer in memory."""
        return self._chunks_start

    @property
    def edited_from(self) -> int:
        """No character before this offset has changed since `mark_seen`."""
        return self._edited_from

    @property
    def overwrites(self) -> bool:
        """Whether the window is being overwritten, so that it will be again."""
        return len(self._rows) > 1 or self._rows[0].cells is not None

    def mark_seen(self) -> None:
        """Starts `edited_from` anew."""
        self._edited_from = _NEVER

    def text_from(self, offset: int) -> str:
        """The text from `offset` on, which is not below `kept_from`."""
        self._settle()
        window = self._window()
        missing = self._base - offset
        if missing <= 0:
            return window[-missing:]
        parts = [window]
        for chunk in reversed(self._chunks):
            parts.append(chunk[-missing:])
            missing -= len(chunk)
            if missing <= 0:
                break
        return "".join(reversed(parts))

    def forget_before(self, offset: int) -> None:
        """Drops the text before `offset` from memory; the cursor can no longer go there."""
        rest = self.text_from(offset)
        if offset <= self._base:
            self._base, self._chunks, kept = offset, [], rest[: self._base - offset]
            self._keep(kept)
        else:
            rows = [Row(text) for text in rest.split("\n")]
            lost = len(self._rows) - len(rows)
            if self._column is not None and self._row <= lost:
                self._column = max(0, self._column - len(self._rows[lost]) + len(rows[0])) if self._row == lost else 0
            self._row = max(0, self._row - lost)
            self._rows, self._base, self._chunks = rows, offset, []
            self._measure()
        self._chunks_start = offset

    def _interpret(self, text: str, *, ended: bool) -> None:
        self._unfinished = ""
        at = tokens = 0
        while at < len(text):
            if self._appending:
                active = _ACTIVE.search(text, at)
                plain = text[at : active.start() if active else len(text)]
                self._parts.append(plain.replace("\r\n", "\n"))
                if active is None:
                    break
                at = active.start()
            if tokens > _MAX_TOKENS:
                self._put_stripped(text[at:])
                break
            if text[at] == "\r":
                frames = _FRAMES.match(text, at)
                assert frames is not None  # a carriage return at least
                at = frames.end()
                tokens += self._return(frames[0].split("\r")[1:])
                continue
            token = TOKEN.match(text, at)
            assert token is not None  # the groups cover every character
            if token.lastgroup == "lone" and not ended and _UNFINISHED.match(text, at):
                self._unfinished = text[at:]
                break
            at = token.end()
            tokens += 1
            match token.lastgroup:
                case "text":
                    self._put(token[0])
                case "newline":
                    self._newline()
                case "back":
                    self._move_to(self._here() - len(token[0]))
                case "csi":
                    self._control(token)
                case _:
                    self._put_zero_width(token[0])
        self._measure()

    def _put_stripped(self, text: str) -> None:
        """Takes text with far too many control characters without its moves; a carriage return becomes a newline."""
        plain = _MOVES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
        self._row = len(self._rows) - 1
        self._reach = 0
        self._newline()
        self._parts.append(plain)

    def _return(self, frames: list[str]) -> int:
        """Writes each of `frames` from the line's start; returns the cost in tokens.

        A bar that drew itself 10 000 times between two looks is put into the row once: of each frame only what no
        later one covers.
        """
        drawn = 0
        for frame in frames:
            self._move_to(0)
            if self._column is not None:
                break
            self._put(frame)
            drawn += 1
        else:
            return len(frames)
        shown = ""
        for frame in reversed(frames[drawn:]):
            shown += frame[len(shown) :]
        if not self._zero_width and len(shown) < self._line_limit // 2:
            self._put(shown)
            self._column = len(frames[-1])
            return drawn + len(frames) // 16  # measured: 16 frames cost as much as one token
        for frame in frames[drawn:]:
            self._column = 0
            self._put(frame)
        return len(frames)

    def _control(self, token: re.Match[str]) -> None:
        params, final = token["params"], token["final"]
        if is_sgr(token):
            if self._column is None:
                self._append(token[0])
            else:
                self._style = restyled(self._style, params)
                self._recoloured = True
            return
        if token["middle"] or final not in "ABCDEFGJK" or (params and not params.isdecimal()):
            self._put_zero_width(token[0])
            return
        number = min(int(params or "0"), _MAX_STEP)
        steps = max(number, 1)
        match final, number:
            case "A" | "F", _:
                self._move_vertically(-steps)
            case "B" | "E", _:
                self._move_vertically(steps)
            case "C", _:
                # Past the end by one step at most, however many moves come.
                here, end = self._here(), len(self._rows[self._row])
                self._move_to(min(here + steps, max(here, end + _MAX_STEP)))
            case "D", _:
                self._move_to(self._here() - steps)
            case "G", _:
                self._move_to(steps - 1)
            case "K", 0 | 2:
                self._erase(whole_line=number == 2)
            case "J", 0:
                self._erase(whole_line=False)
                if self._row + 1 < len(self._rows):
                    self._overwrite()
                    del self._rows[self._row + 1 :]
            case _:
                self._put_zero_width(token[0])
        if final in "EF":
            self._column = 0

    def _erase(self, *, whole_line: bool) -> None:
        """Erases from the cursor on, or the whole line."""
        if whole_line:
            self._settle()
            if self._rows[self._row].text:
                self._leave_end()
        if self._column is not None:
            self._overwrite().cut(0 if whole_line else self._column)

    def _here(self) -> int:
        """The cursor's column."""
        self._settle()
        return end_of(self._rows[self._row].text)[0] if self._column is None else self._column

    def _move_to(self, column: int) -> None:
        self._settle()
        if self._column is None and column <= 0 and not self._rows[self._row].text:
            return  # a bar's first frame starts with a carriage return on an empty line
        self._leave_end()
        self._column = max(0, column)

    def _leave_end(self) -> None:
        """Gives the cursor a column of its own; from here on the current style is ours to carry."""
        self._settle()
        if self._column is None:
            self._column, self._style = end_of(self._rows[self._row].text)
            self._appending = self._recoloured = False

    def _overwrite(self) -> Row:
        """The cursor's row, to be changed."""
        self._edited_from = min(self._edited_from, self._base)
        return self._rows[self._row]

    def _append(self, text: str) -> None:
        """Adds to the verbatim row at whose end the cursor is."""
        if self._appending:
            self._parts.append(text)
            return
        row = self._rows[self._row] if self._row == len(self._rows) - 1 else self._overwrite()
        row.text += text

    def _put(self, run: str) -> None:
        if self._column is None:
            self._append(run)
        else:
            # Slices, so that a long line never is a list of as many cells.
            for start in range(0, len(run), self._line_limit):
                piece = run[start : start + self._line_limit]
                self._overwrite().put(self._column, piece, self._style, self._zero_width)
                self._zero_width = ""
                self._column += len(piece)
                self._shorten_row()
            return
        if not self._appending:
            self._shorten_row()

    def _put_zero_width(self, sequence: str) -> None:
        if self._column is None:
            self._append(sequence)
        elif len(self._zero_width) + len(sequence) <= _MAX_ZERO_WIDTH:
            self._zero_width += sequence

    def _newline(self) -> None:
        left = self._rows[self._row]
        if self._zero_width:
            self._overwrite().suffix(self._zero_width)
            self._zero_width = ""
        # A row of cells closes its colours; a verbatim one leaves on what it has.
        carried = left.cells is not None or self._recoloured
        plain = left.cells is not None and (left.ends_plain or not (self._colour_on or self._row))
        colours = sgr_between(PLAIN if plain else INHERITED, self._style) if carried else ""
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append(Row(colours))
            self._column = None
        elif self._rows[self._row].cells is None and not self._rows[self._row].text:
            self._overwrite().text = colours
            self._column = None
        else:
            self._column = 0
        while self._row > 0 and (len(self._rows) > self._reach + 1 or self._window_size() > self._line_limit):
            self._release_row()
        self._appending = self._column is None and self._reach == 0

    def _move_vertically(self, steps: int) -> None:
        self._leave_end()
        while self._row + steps < 0 and self._base != self._blocked_at and self._take_back_row():
            pass
        if self._row + steps < 0:
            self._blocked_at = self._base
        self._row = min(max(0, self._row + steps), len(self._rows) - 1)
        self._reach = max(self._reach, len(self._rows) - 1 - self._row)

    def _window(self) -> str:
        lines: list[str] = []
        colour = self._colour_on
        for row in self._rows:
            lines.append(row.render(inherits=colour))
            colour = leaves_colour_on(lines[-1], colour)
        if sum(map(len, lines)) > 4 * self._line_limit:
            # The window is written at every commit: lines of many times more colours than text do without.
            lines = [row.render(inherits=False, coloured=False) for row in self._rows]
        return "\n".join(lines)

    def _window_size(self) -> int:
        return sum(map(len, self._rows))

    def _release_row(self) -> None:
        """The window's first line is text like any other from now on."""
        self._keep(self._rows.pop(0).render(inherits=self._colour_on) + "\n")
        self._row -= 1

    def _keep(self, text: str) -> None:
        """Adds to the text above the window, in pieces of a size that taking a line back may copy."""
        self._chunks += [text[at : at + self._line_limit] for at in range(0, len(text), self._line_limit)]
        self._base += len(text)
        self._colour_on = leaves_colour_on(text, self._colour_on)

    def _take_back_row(self) -> bool:
        """Brings the line above the window back into it, if it is in memory, whole, and not too long."""
        if len(self._rows) == _MAX_ROWS or not self._chunks or not self._chunks[-1].endswith("\n"):
            return False
        longest = self._line_limit + 1
        text = self._chunks.pop()
        while (cut := text.rfind("\n", 0, -1)) < 0 and self._chunks and len(text) <= longest:
            text = self._chunks.pop() + text
        line = text[cut + 1 : -1]
        # A line that starts in text no longer in memory can be overwritten from there on.
        fits = len(line) + self._window_size() <= self._line_limit and not (cut < 0 and self._chunks)
        rest = text[: cut + 1] if fits else text
        if rest:
            self._chunks.append(rest)
        if fits:
            self._base -= len(line) + 1
            self._rows.insert(0, Row(line))
            self._row += 1
        return fits

    def _shorten_row(self) -> None:
        """Of a line that is too long only the end stays in the window.

        Cut at multiples of half the limit, so that the place depends on the text alone and not on when we look.
        """
        half = self._line_limit // 2
        surplus = (len(self._rows[self._row]) // half - 1) * half
        if surplus >= half:
            while self._row > 0:
                self._release_row()
            self._keep(self._rows[0].take_head(surplus, inherits=self._colour_on))
            if self._column is not None:
                self._column = max(0, self._column - surplus)

    def _settle(self) -> None:
        """Takes `parts` into the window, and out of it what is complete."""
        if not self._parts:
            return
        row = self._rows[0]
        text = row.text + "".join(self._parts)
        self._parts.clear()
        complete = text.rfind("\n") + 1
        if complete:
            self._keep(text[:complete])
            text = text[complete:]
        row.text = text
        self._shorten_row()

    def _measure(self) -> None:
        self.length = self._base + self._window_size() + len(self._rows) - 1 + sum(map(len, self._parts))
