"""What a kernel shows -> what the document's lists of outputs are to hold.

The reducer's state is also the bounded buffer between the kernel's reader and the doc-writer: between two drains text of
a stream joins, a clear drops what it would have cleared, updates of one display leave the last. So an animation or a
progress bar costs what is to be seen when the writer looks, not what was sent.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daemon.core.comm import view_in
from daemon.core.displays import Displays, NewData
from daemon.core.output_list import (
    Entry,
    OutputLimits,
    OutputList,
    StreamEntry,
    WholeEntry,
    truncation,
    value_size,
)
from daemon.core.segments import utf8_size
from sync.core.mutations import Mutation, Target
from sync.core.outputs import DisplayOutput, DisplayType, ErrorOutput, Output, StreamName, StreamOutput


class OutputReducer:
    """All lists of outputs of one notebook.

    Attributes:
        on_view: called with the comm id of a widget that a new output shows, or a new state of one.

    Args:
        new_id: Makes an output id that never was (a UUID4).
        limits: See there.
    """

    def __init__(self, new_id: Callable[[], str], limits: OutputLimits | None = None) -> None:
        self._new_id = new_id
        self._limits = limits or OutputLimits()
        self._lists: dict[Target, OutputList] = {}
        self._dirty: dict[Target, OutputList] = {}
        self._displays = Displays()
        self._waiting = 0
        self._captured = 0
        self._views: Counter[str] = Counter()  # how many outputs show each widget
        self.on_view: Callable[[str], None] = lambda comm_id: None

    def shows(self, comm_id: str) -> bool:
        """Whether an output shows this widget."""
        return comm_id in self._views

    @property
    def has_pending(self) -> bool:
        """Whether `drain` may have something."""
        return bool(self._dirty) or self._displays.has_updates

    @property
    def pending_bytes(self) -> int:
        """About how much of what kernels sent waits for `drain` (text in characters)."""
        return self._waiting + self._displays.waiting

    def stream(self, target: Target, name: str, text: str) -> None:
        """Text of stdout or stderr; it joins the target's last output if that is a stream of this name."""
        if not text:
            return
        outputs = self._next_output(target)
        stream_name: StreamName = "stderr" if name == "stderr" else "stdout"
        entry = outputs.last_stream
        if entry is None or entry.name != stream_name or (outputs.is_log and entry.size >= self._limits.log_stream):
            entry = StreamEntry(self._new_id(), stream_name, self._limits, captured=outputs.captured)
            if not self._append(outputs, entry, utf8_size(text)):
                return
            outputs.last_stream = entry
        self._write(outputs, entry, text)

    def display(
        self,
        target: Target,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        *,
        display_id: str | None,
        execution_count: int | None = None,
        result: bool = False,
    ) -> None:
        """A mime bundle: display_data, or, with `result`, execute_result."""
        outputs = self._next_output(target)
        kind: DisplayType = "execute_result" if result else "display_data"
        display_id = display_id or None
        output = DisplayOutput(self._new_id(), kind, data, metadata, display_id, execution_count)
        size = value_size(data) + value_size(metadata)
        if size > self._limits.display or self.pending_bytes >= self._limits.waiting:
            output, size = _left_out(output, size)
        entry = WholeEntry(output, size, display_id)
        if self._append(outputs, entry, size) and display_id is not None:
            self._displays.show(display_id, outputs, entry)

    def left_out(self, target: Target, size: int) -> None:
        """An output of so many bytes that it was not even read: a line in its place."""
        output = DisplayOutput(self._new_id(), "display_data", {}, {})
        output, shown = _left_out(output, size)
        self._append(self._next_output(target), WholeEntry(output, shown), shown)

    def error(self, target: Target, ename: str, evalue: str, traceback: Sequence[str]) -> None:
        """An exception."""
        outputs = self._next_output(target)
        size = len(ename) + len(evalue) + sum(map(len, traceback))
        if size > self._limits.display or self.pending_bytes >= self._limits.waiting:
            ename, evalue = ename[:1000], evalue[:1000]  # as much as a person reads of them
            traceback = (f"[notebookd: a traceback of {size} bytes was left out]",)
            size = 0
        self._append(outputs, WholeEntry(ErrorOutput(self._new_id(), ename, evalue, tuple(traceback)), size), size)

    def clear(self, target: Target, *, wait: bool) -> None:
        """clear_output: at once, or with `wait` when the target's next output comes, whenever that is."""
        outputs = self._list(target)
        outputs.wait = wait
        if not wait:
            self._clear(outputs)

    def update_display(self, display_id: str, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> int:
        """update_display_data: new data for all outputs with that id, wherever they are; returns how many there are."""
        places = self._displays.update(NewData(display_id, data, metadata, value_size(data) + value_size(metadata)))
        view = view_in(data) if places else None
        if view is not None:
            self.on_view(view)
        return places

    def end(self, target: Target) -> None:
        """The execution that wrote here is over. Outputs that come late still come out right."""
        outputs = self._lists.get(target)
        if outputs is None:
            return
        outputs.ended = True
        if outputs.last_stream is not None:
            outputs.last_stream.finish()
            self._touch(outputs, outputs.last_stream, 0)
        if outputs.full is not None:
            outputs.full.output = outputs.full_line(outputs.full.output_id)
            self._touch(outputs, outputs.full, 0)

    def reset(self, target: Target, outputs: Sequence[Output] = ()) -> None:
        """A new list: empty for a new execution, or with outputs that were imported or that the kernel put there.

        They have display ids of no living kernel, so none is registered; of a captured list the last stream goes on.
        """
        self._discard(target)
        fresh = self._list(target)
        fresh.cleared = True
        self._dirty[target] = fresh
        for index, output in enumerate(outputs):
            if fresh.captured and isinstance(output, StreamOutput) and index == len(outputs) - 1:
                entry = StreamEntry(output.output_id, output.name, self._limits, captured=True)
                if self._append(fresh, entry, 0):
                    fresh.last_stream = entry
                    self._write(fresh, entry, "".join(output.segments))
            elif fresh.captured:
                size = _output_size(output)
                self._append(fresh, WholeEntry(output, size), size)
            else:
                # A file's outputs are all kept: what was dropped here would be gone from the file after a save.
                whole = fresh.entries[output.output_id] = fresh.appended[output.output_id] = WholeEntry(output, 0)
                self._note_view(whole)

    def forget(self, target: Target) -> None:
        """The list is gone from the document, and with it all that waited for it."""
        self._discard(target)

    def outputs(self, target: Target) -> list[Output]:
        """What a widget has captured, as it now is.

        Raises:
            ValueError: the target is no widget; of other lists the data is not kept.
        """
        if target.kind != "comm":
            raise ValueError(f"the outputs of {target} are not in memory")
        self._update_displays()
        outputs = self._lists.get(target)
        return [] if outputs is None else outputs.plain()

    def drain(self) -> list[Mutation]:
        """What the document is to be told so that it shows what is to be seen now."""
        self._update_displays()
        mutations: list[Mutation] = []
        for outputs in self._dirty.values():
            mutations += outputs.drain(self._limits)
        self._dirty.clear()
        self._waiting = 0
        return mutations

    def _update_displays(self) -> None:
        for update, (outputs, entry) in self._displays.take():
            assert isinstance(entry.output, DisplayOutput)  # kept, at least without its data
            output = DisplayOutput(
                entry.output_id,
                entry.output.output_type,
                update.data,
                update.metadata,
                update.display_id,
                entry.output.execution_count,
            )
            size = update.size
            if size > self._limits.display or size - entry.size > self._room(outputs):
                output, size = _left_out(output, size)
            entry.output = output
            self._forget_view(entry)
            self._note_view(entry)
            self._grow(outputs, size - entry.size)
            entry.size = size
            self._touch(outputs, entry, size - entry.waiting)

    def _list(self, target: Target) -> OutputList:
        outputs = self._lists.get(target)
        if outputs is None:
            outputs = self._lists[target] = OutputList(target)
        return outputs

    def _next_output(self, target: Target) -> OutputList:
        """The target's list, cleared if its next output was to do that."""
        outputs = self._lists.get(target) or self._list(target)
        if outputs.wait:
            outputs.wait = False
            self._clear(outputs)
        return outputs

    def _room(self, outputs: OutputList) -> int:
        if outputs.captured:
            return self._limits.captures - self._captured
        return self._limits.target - outputs.size

    def _append(self, outputs: OutputList, entry: Entry, size: int) -> bool:
        """Adds an output at the end; False if the list is full, and the output counted as dropped."""
        limits = self._limits
        if outputs.is_log:
            while outputs.entries and (len(outputs.entries) >= limits.log_outputs or size > self._room(outputs)):
                self._drop_oldest(outputs)
        elif outputs.full is not None:
            outputs.leave_out(size)
            return False
        # Of a stream's text, whatever there is room for is taken.
        elif len(outputs.entries) >= limits.outputs or self._room(outputs) < (entry.size or 1):
            outputs.leave_out(size)
            line = outputs.full = WholeEntry(outputs.full_line(self._new_id()), 0)
            self._add(outputs, line, 0)
            return False
        self._add(outputs, entry, entry.size)
        return True

    def _add(self, outputs: OutputList, entry: Entry, size: int) -> None:
        if outputs.last_stream is not None:
            outputs.last_stream.finish()
            self._touch(outputs, outputs.last_stream, 0)  # its last drain may join its segments, and frees its memory
            outputs.last_stream = None
        outputs.entries[entry.output_id] = outputs.appended[entry.output_id] = entry
        if isinstance(entry, WholeEntry):
            self._note_view(entry)
        self._grow(outputs, size)
        self._touch(outputs, entry, size)

    def _write(self, outputs: OutputList, entry: StreamEntry, text: str) -> None:
        limits = self._limits
        before = entry.size
        room = min((limits.kept if outputs.captured else limits.stream) - before, self._room(outputs))
        entry.write(text, room, overloaded=self.pending_bytes >= limits.waiting)
        grown = entry.size - before
        self._grow(outputs, grown)
        self._touch(outputs, entry, max(grown, -entry.waiting))

    def _grow(self, outputs: OutputList, size: int) -> None:
        outputs.size += size
        if outputs.captured:
            self._captured += size

    def _touch(self, outputs: OutputList, entry: Entry, waiting: int) -> None:
        """The document does not have the entry as it is; `waiting` more characters than before."""
        if entry.output_id not in outputs.appended:
            outputs.edited[entry.output_id] = entry
        entry.waiting += waiting
        self._waiting += waiting
        self._dirty[outputs.target] = outputs

    def _clear(self, outputs: OutputList) -> None:
        for entry in outputs.entries.values():
            self._unregister(entry)
        self._grow(outputs, -outputs.size)
        outputs.entries.clear()
        outputs.appended.clear()
        outputs.edited.clear()
        outputs.last_stream = outputs.full = None
        outputs.left_out = (0, 0)
        outputs.trimmed = False
        if not outputs.empty_in_document:
            outputs.cleared = True
        if outputs.has_pending:
            self._dirty[outputs.target] = outputs
        else:
            self._dirty.pop(outputs.target, None)

    def _drop_oldest(self, outputs: OutputList) -> None:
        output_id, entry = next(iter(outputs.entries.items()))
        del outputs.entries[output_id]
        if outputs.appended.pop(output_id, None) is None:
            outputs.trimmed = True
        outputs.edited.pop(output_id, None)
        if entry is outputs.last_stream:
            outputs.last_stream = None
        self._grow(outputs, -entry.size)
        self._unregister(entry)

    def _unregister(self, entry: Entry) -> None:
        """Forgets an entry that is no longer shown."""
        self._waiting -= entry.waiting
        entry.waiting = 0
        if isinstance(entry, WholeEntry):
            self._forget_view(entry)
        if isinstance(entry, WholeEntry) and entry.display_id is not None:
            self._displays.gone(entry.display_id, entry.output_id)

    def _note_view(self, entry: WholeEntry) -> None:
        entry.view = view_in(entry.output.data) if isinstance(entry.output, DisplayOutput) else None
        if entry.view is not None:
            self._views[entry.view] += 1
            self.on_view(entry.view)

    def _forget_view(self, entry: WholeEntry) -> None:
        if entry.view is not None:
            self._views[entry.view] -= 1
            if not self._views[entry.view]:
                del self._views[entry.view]
            entry.view = None

    def _discard(self, target: Target) -> None:
        outputs = self._lists.pop(target, None)
        if outputs is not None:
            self._clear(outputs)
        self._dirty.pop(target, None)


def _left_out(output: DisplayOutput, size: int) -> tuple[DisplayOutput, int]:
    """What is shown in place of data that is too big; its size."""
    line = f"[notebookd: an output of {size} bytes was left out]"
    output = DisplayOutput(
        output.output_id,
        output.output_type,
        {"text/plain": line},
        truncation(size),
        output.display_id,
        output.execution_count,
    )
    return output, len(line)


def _output_size(output: Output) -> int:
    match output:
        case StreamOutput():
            return sum(map(len, output.segments))
        case DisplayOutput():
            return value_size(output.data) + value_size(output.metadata)
        case ErrorOutput():
            return len(output.ename) + len(output.evalue) + sum(map(len, output.traceback))
