"""A stream's text cut into segments: what of it the document has, and what to write next.

Closed segments hold complete lines and are never written again; the last, open one holds the lines that may still
change (mostly what follows the last newline) and is the only one replaced. So nothing is written twice, whatever the
length. Only an edit that reaches into a closed segment, which is rare, gives the output a new list.
"""

from typing import Final, NamedTuple

from daemon.core.terminal import Terminal

_OPEN_LIMIT: Final = 1024  # bytes: a longer value would be a new blob each time that it is replaced
_MAX_REWRITES: Final = 16  # of a whole output; a stream that edits its long lines that often has them kept open


class SegmentEdit(NamedTuple):
    """The segments from index `first` on are now `segments`; `first` is 0 for a new list."""

    first: int
    segments: tuple[str, ...]


def utf8_size(text: str) -> int:
    """Bytes of `text` in UTF-8; lone surrogates, which kernels can send, count as three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class SegmentedText:
    """One stream output.

    Args:
        line_limit: characters at the end of a line, and of all lines that the cursor can reach, that may be edited.
        kept: characters of the text held in memory, so that edits and `join` can rewrite it. Of a longer text only the
            open segment is held, and what is closed then stays as it is.
    """

    def __init__(self, *, line_limit: int, kept: int) -> None:
        self.terminal = Terminal(line_limit)
        self.count = 0  # segments in the document
        self._kept = kept
        self._closed_length = 0  # characters in closed segments
        self._open: str | None = None  # the open segment as the document has it
        self._rewrites = 0

    def take(self, *, join_above: int | None = None, release: bool = False) -> SegmentEdit | None:
        """What to write so that the document has the text as it now is; None if it has.

        Args:
            join_above: the output has ended: with more segments than this they become one, and what is open one more.
            release: from now on only the open segment is held in memory. The unfinished line is in it, whatever its
                length, so that text that comes late can still overwrite it.

        Returns:
            The edit, to be written: the next one builds on it. No segment is empty, except an open one whose line was
            erased (elements are never deleted).
        """
        terminal = self.terminal
        start = self._closed_length
        first = self.count - (self._open is not None)
        edited = terminal.edited_from < start
        self._rewrites += edited
        edit = None
        if not edited:
            text = terminal.text_from(start)
            segments, is_open = self._cut(text, terminal.window_start - start, keep_open=release)
            if text != (self._open or ""):
                edit = SegmentEdit(first, segments)
        if edited or (terminal.kept_from == 0 and self._is_worth_rewriting(edit, join_above, release)):
            start = first = 0
            segments, is_open = self._cut(terminal.text_from(0), terminal.window_start, keep_open=release)
            edit = SegmentEdit(first, segments)
        if edit is not None:
            self.count = first + len(segments)
            self._open = segments[-1] if is_open else None
            self._closed_length = start + sum(map(len, segments)) - (len(segments[-1]) if is_open else 0)
        terminal.mark_seen()
        if release or terminal.window_start > self._kept or terminal.kept_from > 0:
            terminal.forget_before(self._closed_length)
        return edit

    def _is_worth_rewriting(self, edit: SegmentEdit | None, join_above: int | None, release: bool) -> bool:
        count = self.count if edit is None else edit.first + len(edit.segments)
        part_of_line_closed = release and self.terminal.window_start < self._closed_length
        return part_of_line_closed or (join_above is not None and count > join_above)

    def _cut(self, text: str, complete: int, *, keep_open: bool) -> tuple[tuple[str, ...], bool]:
        """`text` as a closed and an open segment, the latter from `complete` on; whether the last one is open."""
        closed, rest = text[: max(complete, 0)], text[max(complete, 0) :]
        keep_open = keep_open or self.terminal.overwrites or self._rewrites >= _MAX_REWRITES
        if rest and not keep_open and utf8_size(rest) > _OPEN_LIMIT:
            closed, rest = text, ""
        if not text and self.count:
            return ("",), True  # an erased line: the segment that it had stays
        return tuple(filter(None, (closed, rest))), bool(rest)
