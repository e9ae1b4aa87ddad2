"""One list of outputs (a cell's, a widget's, the kernel log) as the reducer holds it between two commits.

Of what the document already has, a cell's list keeps sizes and ids only, so that nothing is in memory twice. A captured
list is kept whole: the kernel is sent back what its Output widget captured.
"""

import marshal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from daemon.core.segments import SegmentedText, utf8_size
from sync.core.mutations import (
    KERNEL_LOG,
    AppendOutput,
    ClearOutputs,
    EditStream,
    Mutation,
    ReplaceOutput,
    Target,
    TrimOutputs,
)
from sync.core.outputs import DisplayOutput, Output, StreamName, StreamOutput

_KIB: Final = 1024
_MIB: Final = 1024 * 1024
_ALL: Final = 1 << 62  # characters, of a text whose length has its own bound


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """How much of a kernel's output is shown; text in characters, the rest in bytes.

    What is beyond is dropped and counted, and one line says so where it would have been.
    """

    stream: int = 128 * _MIB  # of one stream output: what a browser can just show, and an editor can just open
    display: int = 128 * _MIB  # of one mime bundle or error; it goes through memory whole, several times
    target: int = 512 * _MIB  # of one list: a file of that size is the most that nbformat loads on a common machine
    outputs: int = 10_000  # in one list: each is some 20 operations of the document, and an element of every page
    captures: int = 256 * _MIB  # of all captured lists together: they are held in memory, to be sent back
    waiting: int = 64 * _MIB  # undrained in all: seconds of what a kernel can send while the disk does not keep up
    kept: int = 8 * _MIB  # of one live stream, held so that an edit of, or the end of, its text can write it anew
    line: int = (
        64 * _KIB
    )  # characters at a line's end that can be overwritten: bars have a hundred, and cells cost 80 B
    log_outputs: int = 100  # in the kernel log: the latest ones tell what goes on
    log_stream: int = _MIB  # of one stream output there: then the next one begins, so that old text can go
    segments: int = 64  # in the text of an ended output: a page fetches and joins that many without a thought


def truncation(size: int) -> dict[str, Any]:
    """The metadata of an output that is not whole; `size` is what the kernel sent, in bytes."""
    return {"notebookd": {"truncated": True, "size": size}}


def value_size(values: Mapping[str, Any]) -> int:
    """About the bytes of a mime bundle, or other JSON map, in memory and on the wire; fast for big ones too."""
    size = 0
    for key, value in values.items():
        # Version 2 has no references. JSON (a decoder's limit is 1 000 levels, marshal's 2 000) and walking are slower.
        size += len(key) + (len(value) if isinstance(value, str) else len(marshal.dumps(value, 2)))
    return size


class StreamEntry:
    """A stream output."""

    __slots__ = ("dropped", "dropped_in_document", "gap", "marks", "name", "output_id", "received", "text", "waiting")

    def __init__(self, output_id: str, name: StreamName, limits: OutputLimits, *, captured: bool) -> None:
        self.output_id = output_id
        self.name: StreamName = name
        self.text = SegmentedText(line_limit=limits.line, kept=_ALL if captured else limits.kept)
        self.received = 0  # bytes that the kernel sent
        self.gap = 0  # bytes dropped since the last that was taken, as nobody drained
        self.marks = False  # whether a gap is marked in the text
        self.dropped = 0  # bytes dropped at the end, beyond the limit; then nothing more is taken
        self.dropped_in_document = 0
        self.waiting = 0

    @property
    def size(self) -> int:
        """Characters shown."""
        return self.text.terminal.length

    @property
    def metadata(self) -> dict[str, Any] | None:
        """What the manifest says if some of the text was dropped."""
        return truncation(self.received) if self.dropped or self.marks else None

    def write(self, text: str, room: int, *, overloaded: bool) -> None:
        """Takes at most `room` characters of the next text, and nothing if `overloaded`."""
        size = utf8_size(text)
        self.received += size
        if self.dropped:
            self.dropped += size
        elif overloaded:
            self.gap += size
        else:
            if self.gap:
                self.mark_gap()
            if len(text) > room:
                self.dropped = utf8_size(text[max(room, 0) :])
                text = text[: max(room, 0)]
            self.text.terminal.write(text)

    def mark_gap(self) -> None:
        """Says in the text that some is missing here."""
        terminal = self.text.terminal
        line_break = "" if terminal.window_start == terminal.length else "\n"
        terminal.write(
            f"{line_break}[notebookd: {self.gap} bytes dropped, they came faster than they could be stored]\n"
        )
        self.gap = 0
        self.marks = True

    def finish(self) -> None:
        """No more text is expected, though it may come."""
        if not self.dropped:
            self.text.terminal.finish()

    def take(self, limits: OutputLimits, *, ended: bool, release: bool) -> tuple[int, tuple[str, ...]] | None:
        """What to write of `text`, as `EditStream` has it; see there for `release`."""
        if self.gap:
            self.mark_gap()
        edit = self.text.take(join_above=limits.segments if ended else None, release=release)
        outdated = self.dropped != self.dropped_in_document and (ended or not self.dropped_in_document)
        if not self.dropped or (edit is None and not outdated):
            return edit
        # The last line has a segment of its own behind those of the text, to be written again when the count is final.
        self.dropped_in_document = self.dropped
        first, segments = edit or (self.text.count, ())
        return first, (*segments, self._last_line())

    def plain(self) -> StreamOutput:
        """The output as it now is, in one segment; of a captured list, whose text is all in memory."""
        text = self.text.terminal.text_from(0) + (self._last_line() if self.dropped else "")
        return StreamOutput(self.output_id, self.name, (text,) if text else (), self.metadata)

    def _last_line(self) -> str:
        terminal = self.text.terminal
        line_break = "" if terminal.window_start == terminal.length else "\n"
        return f"{line_break}[notebookd: output truncated, {self.dropped} bytes dropped]\n"


class WholeEntry:
    """An output that comes whole. `output` is None once the document has it, or without its data if it may be updated.

    `view` is the comm id of the widget that it shows.
    """

    __slots__ = ("display_id", "output", "output_id", "size", "view", "waiting")

    def __init__(self, output: Output, size: int, display_id: str | None = None) -> None:
        self.output_id = output.output_id
        self.output: Output | None = output
        self.size = size
        self.display_id = display_id
        self.view: str | None = None
        self.waiting = 0

    def forget_data(self) -> None:
        """The document has the output now."""
        if self.display_id is not None and isinstance(self.output, DisplayOutput):
            self.output = replace(self.output, data={}, metadata={})
        else:
            self.output = None


Entry: TypeAlias = StreamEntry | WholeEntry


class OutputList:
    """The outputs of one target, and what of them the document does not have yet."""

    __slots__ = (
        "appended",
        "captured",
        "cleared",
        "edited",
        "empty_in_document",
        "ended",
        "entries",
        "full",
        "is_log",
        "last_stream",
        "left_out",
        "size",
        "target",
        "trimmed",
        "wait",
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self.captured = target.kind == "comm"
        self.is_log = target == KERNEL_LOG
        self.entries: dict[str, Entry] = {}  # all, by output id, in order
        self.appended: dict[str, Entry] = {}  # those that the document does not have
        self.edited: dict[str, Entry] = {}  # those of which it has an older state
        self.last_stream: StreamEntry | None = None  # the last output, if it is a stream
        self.size = 0
        self.wait = False  # the next output clears the list first
        self.ended = False  # the execution that wrote here is over
        self.cleared = False  # the document is to get a new list
        self.trimmed = False  # the document's list has outputs at its start that `entries` has not
        self.empty_in_document = False  # known to be, as of the last drain
        self.full: WholeEntry | None = None  # the line that says that all later outputs are dropped
        self.left_out = (0, 0)  # how many, and their bytes

    @property
    def has_pending(self) -> bool:
        """Whether `drain` may have something."""
        return bool(self.cleared or self.trimmed or self.appended or self.edited)

    def leave_out(self, size: int) -> None:
        """Counts an output that is dropped."""
        count, total = self.left_out
        self.left_out = count + 1, total + size

    def full_line(self, output_id: str) -> StreamOutput:
        """The last visible output of a full list."""
        count, size = self.left_out
        line = f"[notebookd: no room for more output here, {count} messages of {size} bytes dropped]\n"
        return StreamOutput(output_id, "stderr", (line,), truncation(self.size + size))

    def drain(self, limits: OutputLimits) -> list[Mutation]:
        """What brings the document's list up to date; after it, it is."""
        mutations: list[Mutation] = []
        survivors = len(self.entries) - len(self.appended)
        if self.cleared or (self.trimmed and not survivors):
            mutations.append(ClearOutputs(self.target))
        for entry in self.edited.values():
            edit = self._edit(entry, limits)
            if edit is not None:
                mutations.append(edit)
        mutations += [AppendOutput(self.target, self._new(entry, limits)) for entry in self.appended.values()]
        if self.trimmed and survivors:
            mutations.append(TrimOutputs(self.target, len(self.entries)))
        written = [*self.edited.values(), *self.appended.values()]
        self.appended.clear()
        self.edited.clear()
        self.cleared = self.trimmed = False
        self.empty_in_document = not self.entries
        for entry in written:
            entry.waiting = 0
            if not self.captured:
                self._forget_data(entry)
        return mutations

    def plain(self) -> list[Output]:
        """The outputs as they now are; of a captured list only."""
        outputs = [entry.plain() if isinstance(entry, StreamEntry) else entry.output for entry in self.entries.values()]
        return [output for output in outputs if output is not None]

    def _take(self, entry: StreamEntry, limits: OutputLimits) -> tuple[int, tuple[str, ...]] | None:
        is_last = entry is self.last_stream
        return entry.take(limits, ended=self.ended or not is_last, release=self.ended and is_last and not self.captured)

    def _edit(self, entry: Entry, limits: OutputLimits) -> Mutation | None:
        if isinstance(entry, WholeEntry):
            assert entry.output is not None  # it was just set, or only forgotten in part
            return ReplaceOutput(self.target, entry.output)
        taken = self._take(entry, limits)
        return None if taken is None else EditStream(self.target, entry.output_id, *taken, entry.metadata)

    def _new(self, entry: Entry, limits: OutputLimits) -> Output:
        if isinstance(entry, WholeEntry):
            assert entry.output is not None
            return entry.output
        taken = self._take(entry, limits)
        return StreamOutput(entry.output_id, entry.name, taken[1] if taken else (), entry.metadata)

    def _forget_data(self, entry: Entry) -> None:
        if isinstance(entry, WholeEntry):
            if entry is not self.full:
                entry.forget_data()
        elif entry is not self.last_stream:
            # Nothing is written to it any more: its size is all that still matters.
            done = WholeEntry(StreamOutput(entry.output_id, entry.name, ()), entry.size)
            done.forget_data()
            self.entries[entry.output_id] = done
