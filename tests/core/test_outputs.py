"""What a kernel shows, against the lists of outputs that a document has after each drain."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.output_list import OutputLimits
from daemon.core.outputs import OutputReducer
from daemon.core.terminal import Terminal
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
from sync.core.outputs import DisplayOutput, ErrorOutput, Output, StreamOutput

CELL = Target("cell", "a")
OTHER = Target("cell", "b")
COMM = Target("comm", "c")


def text(value: str) -> dict[str, str]:
    return {"text/plain": value}


class Document:
    """The lists as the document would have them; refuses what the document could not do."""

    def __init__(self) -> None:
        self.lists: dict[Target, list[Output]] = {}

    def apply(self, mutations: list[Mutation]) -> None:
        for mutation in mutations:
            match mutation:
                case ClearOutputs(target):
                    self.lists[target] = []
                case AppendOutput(target, output):
                    assert all(shown.output_id != output.output_id for shown in self.lists.get(target, ()))
                    assert not isinstance(output, StreamOutput) or all(output.segments)
                    self.lists.setdefault(target, []).append(output)
                case EditStream():
                    self._edit(mutation)
                case ReplaceOutput(target, output):
                    self.lists[target][self._index(target, output.output_id)] = output
                case TrimOutputs(target, keep):
                    assert 0 < keep < len(self.lists[target])
                    self.lists[target] = self.lists[target][-keep:]
                case _:
                    raise AssertionError(mutation)

    def _edit(self, edit: EditStream) -> None:
        index = self._index(edit.target, edit.output_id)
        stream = self.lists[edit.target][index]
        assert isinstance(stream, StreamOutput)
        assert edit.segments
        assert edit.first in {0, len(stream.segments) - 1, len(stream.segments)}
        # Only a line that was erased leaves an empty segment.
        assert all(edit.segments) or edit.segments == ("",)
        segments = (*stream.segments[: edit.first], *edit.segments)
        metadata = stream.metadata if edit.metadata is None else edit.metadata
        self.lists[edit.target][index] = StreamOutput(stream.output_id, stream.name, segments, metadata)

    def _index(self, target: Target, output_id: str) -> int:
        return [output.output_id for output in self.lists[target]].index(output_id)

    def shown(self, target: Target = CELL) -> list[Any]:
        return [visible(output) for output in self.lists.get(target, ())]


def visible(output: Output) -> Any:
    """What a person sees of an output."""
    match output:
        case StreamOutput():
            return (output.name, "".join(output.segments))
        case DisplayOutput():
            return (output.output_type, output.data, output.metadata, output.display_id, output.execution_count)
        case ErrorOutput():
            return ("error", output.ename, output.evalue, output.traceback)


class Fixture:
    """A reducer and the document that its drains make."""

    def __init__(self, **limits: int) -> None:
        ids = count()
        self.reducer = OutputReducer(lambda: f"id-{next(ids)}", OutputLimits(**limits))
        self.document = Document()

    def drain(self) -> list[Mutation]:
        mutations = self.reducer.drain()
        self.document.apply(mutations)
        assert not self.reducer.has_pending
        assert self.reducer.pending_bytes == 0
        return mutations

    def shown(self, target: Target = CELL) -> list[Any]:
        self.drain()
        return self.document.shown(target)

    def print(self, value: str, name: str = "stdout", target: Target = CELL) -> None:
        self.reducer.stream(target, name, value)

    def display(self, value: str, display_id: str | None = None, target: Target = CELL) -> None:
        self.reducer.display(target, text(value), {}, display_id=display_id)


@pytest.fixture
def kernel() -> Fixture:
    return Fixture()


def shown_display(value: str, display_id: str | None = None) -> Any:
    return ("display_data", text(value), {}, display_id, None)


def test_text_of_one_stream_is_one_output_over_drains(kernel: Fixture) -> None:
    for number in range(10):
        kernel.print(f"{number}\n")
        kernel.drain()
    assert kernel.shown() == [("stdout", "".join(f"{number}\n" for number in range(10)))]


def test_prints_between_two_drains_are_one_append(kernel: Fixture) -> None:
    for number in range(1000):
        kernel.print(f"{number}\n")
    (mutation,) = kernel.drain()
    assert isinstance(mutation, AppendOutput)
    assert isinstance(mutation.output, StreamOutput)
    assert len(mutation.output.segments) == 1


def test_another_stream_or_display_begins_a_new_output(kernel: Fixture) -> None:
    kernel.print("a")
    kernel.print("b", "stderr")
    kernel.print("c")
    kernel.display("d")
    kernel.print("e")
    kernel.reducer.error(CELL, "E", "v", ["line"])
    assert kernel.shown() == [
        ("stdout", "a"),
        ("stderr", "b"),
        ("stdout", "c"),
        shown_display("d"),
        ("stdout", "e"),
        ("error", "E", "v", ("line",)),
    ]


def test_streams_of_two_targets_do_not_mix(kernel: Fixture) -> None:
    for _ in range(3):
        kernel.print("a")
        kernel.print("b", target=OTHER)
    assert (kernel.shown(), kernel.shown(OTHER)) == ([("stdout", "aaa")], [("stdout", "bbb")])


def test_an_unknown_stream_name_is_stdout(kernel: Fixture) -> None:
    kernel.print("a", "stdlog")
    assert kernel.shown() == [("stdout", "a")]


def test_empty_text_is_no_output(kernel: Fixture) -> None:
    kernel.reducer.clear(CELL, wait=True)
    kernel.print("")
    assert not kernel.reducer.has_pending


def test_a_result_keeps_its_count_when_its_display_is_updated(kernel: Fixture) -> None:
    kernel.reducer.display(CELL, text("1"), {}, display_id="d", execution_count=7, result=True)
    kernel.drain()
    assert kernel.reducer.update_display("d", text("2"), {"m": 1}) == 1
    assert kernel.shown() == [("execute_result", text("2"), {"m": 1}, "d", 7)]


def test_clear_empties_at_once_and_drops_what_waits(kernel: Fixture) -> None:
    kernel.print("a")
    kernel.drain()
    kernel.display("b" * 1000)
    kernel.reducer.clear(CELL, wait=False)
    assert kernel.reducer.pending_bytes == 0
    assert kernel.drain() == [ClearOutputs(CELL)]


def test_clearing_what_is_empty_writes_nothing(kernel: Fixture) -> None:
    kernel.reducer.clear(CELL, wait=False)
    assert kernel.drain() == [ClearOutputs(CELL)]  # nothing is known of the document before
    kernel.display("a")
    kernel.reducer.clear(CELL, wait=False)
    assert not kernel.reducer.has_pending


def test_clear_with_wait_shows_the_old_until_the_next_output(kernel: Fixture) -> None:
    kernel.print("a")
    kernel.reducer.clear(CELL, wait=True)
    assert kernel.shown() == [("stdout", "a")]
    kernel.print("b")
    mutations = kernel.drain()
    assert [type(mutation) for mutation in mutations] == [ClearOutputs, AppendOutput]
    assert kernel.shown() == [("stdout", "b")]


def test_clear_with_wait_and_no_next_output_clears_nothing(kernel: Fixture) -> None:
    kernel.print("a")
    kernel.reducer.clear(CELL, wait=True)
    kernel.reducer.end(CELL)
    assert kernel.shown() == [("stdout", "a")]
    kernel.print("late")
    assert kernel.shown() == [("stdout", "late")]


def test_clear_without_wait_after_one_with_wait_happens_once(kernel: Fixture) -> None:
    kernel.print("a")
    kernel.reducer.clear(CELL, wait=True)
    kernel.reducer.clear(CELL, wait=False)
    kernel.print("b")
    kernel.print("c", "stderr")
    assert kernel.shown() == [("stdout", "b"), ("stderr", "c")]


def test_an_update_is_no_next_output(kernel: Fixture) -> None:
    kernel.display("a", "d")
    kernel.reducer.clear(CELL, wait=True)
    kernel.reducer.update_display("d", text("b"), {})
    assert kernel.shown() == [shown_display("b", "d")]


def test_an_animation_costs_what_is_seen_at_the_drain(kernel: Fixture) -> None:
    kernel.display("first")
    kernel.drain()
    for number in range(1000):
        kernel.reducer.clear(CELL, wait=True)
        kernel.display(str(number) * 1000)
        assert kernel.reducer.pending_bytes < 5000
    mutations = kernel.drain()
    assert [type(mutation) for mutation in mutations] == [ClearOutputs, AppendOutput]
    assert kernel.document.shown() == [shown_display("999" * 1000)]


def test_a_progress_bar_waits_as_one_line(kernel: Fixture) -> None:
    for percent in range(1000):
        kernel.print(f"\r{percent:100}")
    assert kernel.reducer.pending_bytes <= 200
    assert kernel.shown() == [("stdout", f"{999:100}")]


def test_an_update_reaches_cells_and_captures_and_each_output_twice_shown(kernel: Fixture) -> None:
    kernel.display("v1", "d")
    kernel.display("v1", "d")
    kernel.drain()
    kernel.display("v1", "d", COMM)
    kernel.display("other", "e", OTHER)
    assert kernel.reducer.update_display("d", text("v2"), {}) == 3
    assert kernel.shown() == [shown_display("v2", "d")] * 2
    assert kernel.document.shown(COMM) == [shown_display("v2", "d")]
    assert kernel.document.shown(OTHER) == [shown_display("other", "e")]


def test_updates_between_two_drains_leave_the_last(kernel: Fixture) -> None:
    kernel.display("0", "d")
    kernel.drain()
    for number in range(1000):
        kernel.reducer.update_display("d", text(str(number)), {})
    (mutation,) = kernel.drain()
    assert isinstance(mutation, ReplaceOutput)
    assert kernel.document.shown() == [shown_display("999", "d")]


def test_an_update_is_for_what_is_shown_then_and_not_for_what_comes_after_it(kernel: Fixture) -> None:
    kernel.display("1", "d")
    assert kernel.reducer.update_display("d", text("2"), {}) == 1
    kernel.display("3", "d")
    kernel.display("3", "d", OTHER)
    assert kernel.shown() == [shown_display("2", "d"), shown_display("3", "d")]
    assert kernel.reducer.update_display("d", text("4"), {}) == 3
    kernel.display("5", "d")
    assert kernel.reducer.update_display("d", text("6"), {}) == 4
    kernel.display("7", "d")
    assert kernel.shown() == [shown_display(value, "d") for value in ("6", "6", "6", "7")]
    assert kernel.document.shown(OTHER) == [shown_display("6", "d")]


def test_an_update_that_waits_goes_with_the_last_place_and_is_none_of_a_later_one(kernel: Fixture) -> None:
    kernel.display("1", "d")
    kernel.reducer.update_display("d", text("2" * 1000), {})
    assert kernel.reducer.pending_bytes > 1000
    kernel.reducer.clear(CELL, wait=False)
    assert kernel.reducer.pending_bytes == 0
    kernel.display("3", "d")
    kernel.reducer.update_display("d", text("4"), {})
    kernel.display("5", "d", OTHER)
    kernel.reducer.clear(CELL, wait=False)  # of the two places the one that the update is for
    assert kernel.shown() == []
    assert kernel.document.shown(OTHER) == [shown_display("5", "d")]


def test_an_update_of_what_is_gone_or_never_was_finds_nothing(kernel: Fixture) -> None:
    kernel.display("a", "d")
    kernel.reducer.clear(CELL, wait=False)
    kernel.drain()
    assert kernel.reducer.update_display("d", text("b"), {}) == 0
    assert kernel.reducer.update_display("", text("b"), {}) == 0
    assert not kernel.reducer.has_pending


@pytest.mark.parametrize("gone", ["reset", "forget"])
def test_a_list_that_is_gone_leaves_nothing_behind(kernel: Fixture, gone: str) -> None:
    kernel.display("a", "d")
    kernel.print("b")
    kernel.drain()
    kernel.display("c", "d")
    kernel.reducer.clear(CELL, wait=True)
    getattr(kernel.reducer, gone)(CELL)
    assert kernel.reducer.pending_bytes == 0
    assert kernel.reducer.update_display("d", text("x"), {}) == 0
    assert kernel.reducer.drain() == ([ClearOutputs(CELL)] if gone == "reset" else [])
    kernel.print("x")
    kernel.print("y", "stderr")
    assert len(kernel.reducer.drain()) == 2


def test_imported_outputs_are_appended_as_they_are_and_not_registered(kernel: Fixture) -> None:
    imported: list[Output] = [
        StreamOutput("1", "stdout", ("a\rb",)),
        DisplayOutput("2", "display_data", text("x"), {}, "d"),
        ErrorOutput("3", "E", "v", ()),
        StreamOutput("4", "stdout", ("last\n",)),
    ]
    kernel.print("old")
    kernel.reducer.reset(CELL, imported)
    assert kernel.drain() == [ClearOutputs(CELL), *(AppendOutput(CELL, output) for output in imported)]
    assert kernel.reducer.update_display("d", text("y"), {}) == 0
    kernel.print("new\n")
    assert kernel.shown()[-2:] == [("stdout", "last\n"), ("stdout", "new\n")]


def test_captured_text_joins_a_stream_that_the_kernel_put_there(kernel: Fixture) -> None:
    kernel.reducer.reset(COMM, [StreamOutput("1", "stdout", ("a\n", "b"))])
    kernel.print("c", target=COMM)
    assert kernel.reducer.outputs(COMM) == [StreamOutput("1", "stdout", ("a\nbc",))]
    assert kernel.shown(COMM) == [("stdout", "a\nbc")]


def test_what_the_kernel_put_into_a_capture_counts_as_captured() -> None:
    kernel = Fixture(captures=70)
    put: list[Output] = [
        DisplayOutput("1", "display_data", text("x"), {}),
        ErrorOutput("2", "E", "v", ("t",)),
        StreamOutput("3", "stdout", ("abc",)),
        DisplayOutput("4", "display_data", text("y"), {}),
        DisplayOutput("5", "display_data", text("z" * 90), {}),
    ]
    kernel.reducer.reset(COMM, put)
    assert kernel.reducer.outputs(COMM)[:4] == put[:4]
    assert visible(kernel.reducer.outputs(COMM)[4])[1].startswith("[notebookd: no room")


def test_outputs_of_a_cell_are_not_in_memory(kernel: Fixture) -> None:
    with pytest.raises(ValueError, match="not in memory"):
        kernel.reducer.outputs(CELL)
    assert kernel.reducer.outputs(COMM) == []


def test_many_segments_are_joined_once_when_the_output_ends() -> None:
    kernel = Fixture(segments=4)
    for number in range(10):
        kernel.print(f"{number}\n")
        kernel.drain()
    kernel.reducer.end(CELL)
    (mutation,) = kernel.drain()
    assert mutation == EditStream(CELL, "id-0", 0, ("0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n",))
    kernel.print("late\n")
    assert kernel.drain() == [EditStream(CELL, "id-0", 1, ("late\n",))]


def test_an_output_followed_by_another_has_ended() -> None:
    kernel = Fixture(segments=4)
    for number in range(10):
        kernel.print(f"{number}\n")
        kernel.drain()
    kernel.display("next")
    assert [type(mutation) for mutation in kernel.drain()] == [EditStream, AppendOutput]


def test_a_late_carriage_return_overwrites_the_last_line_of_an_ended_output() -> None:
    kernel = Fixture(segments=4)
    for number in range(10):
        kernel.print(f"{number}\n")
        kernel.drain()
    kernel.print("50%")
    kernel.reducer.end(CELL)
    kernel.drain()
    kernel.print("\r60%")
    (mutation,) = kernel.drain()
    assert mutation == EditStream(CELL, "id-0", 1, ("60%",))


def test_a_late_carriage_return_overwrites_a_long_line_of_an_ended_output(kernel: Fixture) -> None:
    kernel.print("line\n" + "w" * 2000)
    kernel.drain()
    kernel.reducer.end(CELL)
    kernel.drain()
    kernel.print("\rX")
    # Only this segment is still in memory.
    assert kernel.drain() == [EditStream(CELL, "id-0", 1, ("X" + "w" * 1999,))]


def test_captured_text_is_all_there_though_it_grew_beyond_what_is_kept() -> None:
    kernel = Fixture(kept=20)
    kernel.print("\x1b[50Gx\n", target=COMM)
    kernel.drain()
    assert list(map(visible, kernel.reducer.outputs(COMM))) == [("stdout", " " * 49 + "x\n")]


def test_the_end_of_an_escape_sequence_that_never_comes_is_shown(kernel: Fixture) -> None:
    kernel.print("a\x1b[3")
    assert kernel.shown() == [("stdout", "a")]
    kernel.reducer.end(CELL)
    assert kernel.shown() == [("stdout", "a\x1b[3")]


def truncated(kernel: Fixture, target: Target = CELL) -> list[dict[str, Any]]:
    """The `notebookd` metadata of the outputs that have one."""
    found = [getattr(output, "metadata", None) for output in kernel.document.lists[target]]
    return [metadata["notebookd"] for metadata in found if metadata]


def test_too_much_text_is_cut_counted_and_said_in_the_last_line() -> None:
    kernel = Fixture(stream=10)
    kernel.print("12345678")
    kernel.drain()
    kernel.print("90éé")
    assert kernel.shown() == [("stdout", "1234567890\n[notebookd: output truncated, 4 bytes dropped]\n")]
    assert truncated(kernel) == [{"truncated": True, "size": 14}]
    for _ in range(3):
        kernel.print("more\n")
        assert kernel.drain() == []
    kernel.reducer.end(CELL)
    assert kernel.shown() == [("stdout", "1234567890\n[notebookd: output truncated, 19 bytes dropped]\n")]
    assert truncated(kernel) == [{"truncated": True, "size": 29}]


def test_a_truncated_output_is_joined_with_its_last_line() -> None:
    kernel = Fixture(stream=20, segments=4)
    for number in range(10):
        kernel.print(f"{number}\n")
        kernel.drain()
    kernel.print("beyond\n")
    kernel.drain()
    kernel.reducer.end(CELL)
    kernel.drain()
    (output,) = kernel.document.lists[CELL]
    assert isinstance(output, StreamOutput)
    assert output.segments == (
        "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n",
        "[notebookd: output truncated, 7 bytes dropped]\n",
    )


def test_a_bar_is_not_cut_however_often_it_is_redrawn() -> None:
    kernel = Fixture(stream=100)
    for percent in range(1000):
        kernel.print(f"\r{percent:10}")
        kernel.drain()
    assert kernel.shown() == [("stdout", f"{999:10}")]


def test_a_list_takes_so_many_outputs_and_then_says_so() -> None:
    kernel = Fixture(outputs=3)
    for number in range(5):
        kernel.display(str(number))
    kernel.print("lost")
    line = "[notebookd: no room for more output here, {} dropped]\n"
    assert kernel.shown()[:3] == [shown_display(str(number)) for number in range(3)]
    kernel.reducer.end(CELL)
    assert kernel.shown()[3:] == [("stderr", line.format("3 messages of 26 bytes"))]
    kernel.reducer.clear(CELL, wait=False)
    kernel.display("room")
    assert kernel.shown() == [shown_display("room")]


def test_a_list_has_so_much_room_for_displays_and_text_together() -> None:
    kernel = Fixture(target=100)
    kernel.display("x" * 80)
    kernel.print("y" * 80)
    kernel.print("z", "stderr")
    shown = kernel.shown()
    assert shown[1][1].startswith("y" * 10 + "\n[notebookd: output truncated, 70 bytes")
    assert shown[2][1].startswith("[notebookd: no room")
    assert len(shown) == 3


def test_a_display_that_is_too_big_leaves_a_line() -> None:
    kernel = Fixture(display=100)
    kernel.display("x" * 200, "d")
    kernel.drain()
    assert kernel.document.shown()[0][1] == text("[notebookd: an output of 210 bytes was left out]")
    assert truncated(kernel) == [{"truncated": True, "size": 210}]
    kernel.reducer.update_display("d", text("small"), {})
    assert kernel.shown() == [shown_display("small", "d")]
    kernel.reducer.update_display("d", text("x" * 300), {})
    assert kernel.shown()[0][1] == text("[notebookd: an output of 310 bytes was left out]")
    kernel.reducer.error(CELL, "E" * 5000, "v", ["x" * 1000])
    (_, ename, _, traceback) = kernel.shown()[1]
    assert (len(ename), traceback) == (1000, ("[notebookd: a traceback of 6001 bytes was left out]",))


def test_nested_json_counts_with_its_size() -> None:
    kernel = Fixture(display=1000)
    kernel.reducer.display(CELL, {"application/json": {"rows": [[1.5] * 50] * 50}}, {}, display_id=None)
    assert "left out" in kernel.shown()[0][1]["text/plain"]


def test_text_that_nobody_drains_is_dropped_where_a_line_says_so() -> None:
    kernel = Fixture(waiting=100)
    kernel.print("a" * 99)
    kernel.print("b" * 50)
    for _ in range(10):
        kernel.print("c" * 50)
    assert kernel.reducer.pending_bytes == 149
    line = "[notebookd: 500 bytes dropped, they came faster than they could be stored]\n"
    assert kernel.shown() == [("stdout", "a" * 99 + "b" * 50 + f"\n{line}")]
    assert truncated(kernel) == [{"truncated": True, "size": 649}]
    kernel.print("d\n")
    assert kernel.shown()[0][1].endswith(f"{line}d\n")


def test_displays_that_nobody_drains_leave_a_line_each() -> None:
    kernel = Fixture(waiting=100)
    for _ in range(3):
        kernel.display("x" * 90)
    assert [value[1]["text/plain"][:11] for value in kernel.shown()] == ["xxxxxxxxxxx"] + ["[notebookd:"] * 2


def test_text_flows_again_when_another_list_was_cleared() -> None:
    kernel = Fixture(waiting=100)
    kernel.display("x" * 200, target=OTHER)
    kernel.print("lost")
    kernel.reducer.clear(OTHER, wait=False)
    kernel.print("found\n")
    (_, shown), *_ = kernel.shown()
    assert shown == "[notebookd: 4 bytes dropped, they came faster than they could be stored]\nfound\n"


def test_all_captures_together_have_so_much_room() -> None:
    kernel = Fixture(captures=100, kept=60)
    kernel.print("a" * 80, target=COMM)
    other = Target("comm", "other")
    kernel.print("b" * 80, target=other)
    line = "\n[notebookd: output truncated, {} bytes dropped]\n"
    assert list(map(visible, kernel.reducer.outputs(COMM))) == [("stdout", "a" * 60 + line.format(20))]
    assert list(map(visible, kernel.reducer.outputs(other))) == [("stdout", "b" * 40 + line.format(40))]
    kernel.reducer.forget(COMM)
    kernel.print("c" * 40, target=Target("comm", "third"))
    kernel.drain()
    assert kernel.document.shown(Target("comm", "third")) == [("stdout", "c" * 40)]


def test_the_kernel_log_keeps_the_latest_outputs() -> None:
    kernel = Fixture(log_outputs=3)
    for number in range(5):
        kernel.display(str(number), "d", KERNEL_LOG)
        kernel.drain()
    assert kernel.document.shown(KERNEL_LOG) == [shown_display(str(number), "d") for number in (2, 3, 4)]
    for number in range(10):
        kernel.display(str(number), None, KERNEL_LOG)
    mutations = kernel.drain()
    assert [type(mutation) for mutation in mutations] == [ClearOutputs, *[AppendOutput] * 3]
    assert kernel.reducer.update_display("d", text("gone"), {}) == 0


def test_text_in_the_kernel_log_goes_on_in_a_new_output_so_that_the_old_can_go() -> None:
    kernel = Fixture(log_outputs=2, log_stream=10)
    for number in range(5):
        kernel.print(f"{number}" * 10, target=KERNEL_LOG)
    assert kernel.shown(KERNEL_LOG) == [("stdout", "3" * 10), ("stdout", "4" * 10)]


# The same, against a model, over random schedules.


@dataclass
class Shown:
    """An output of the model."""

    kind: str
    value: Any
    display_id: str | None = None
    pieces: list[str] = field(default_factory=list)

    def visible(self) -> Any:
        if self.kind in {"stdout", "stderr"}:
            terminal = Terminal(64 * 1024)
            terminal.write("".join(self.pieces))
            return (self.kind, terminal.text_from(0))
        if self.kind == "error":
            return self.value
        return (self.kind, text(self.value), {}, self.display_id, None)


class Model:
    """What is to be seen, list by list, without any thought of cost."""

    def __init__(self, log_outputs: int) -> None:
        self.lists: dict[Target, list[Shown]] = {CELL: [], COMM: [], KERNEL_LOG: []}
        self.wait: set[Target] = set()
        self.log_outputs = log_outputs

    def add(self, target: Target, shown: Shown) -> Shown:
        if target in self.wait:
            self.clear(target, wait=False)
        outputs = self.lists[target]
        if not (shown.pieces and outputs and outputs[-1].kind == shown.kind):
            outputs.append(shown)
            if target == KERNEL_LOG:
                del outputs[: -self.log_outputs]
        else:
            outputs[-1].pieces += shown.pieces
        return shown

    def clear(self, target: Target, *, wait: bool) -> None:
        self.wait.discard(target)
        if wait:
            self.wait.add(target)
        else:
            self.lists[target].clear()

    def update(self, display_id: str, value: str) -> int:
        found = [shown for outputs in self.lists.values() for shown in outputs if shown.display_id == display_id]
        for shown in found:
            shown.value = value
        return len(found)


TARGETS = st.sampled_from([CELL, COMM, KERNEL_LOG])
PIECES = st.sampled_from(["a", "line\n", "\r", "\rbar", "\x1b[K", "\b", "x\ny", "\n", "\x1b[31mc\x1b[0m", "w" * 1500])
DISPLAY_IDS = st.sampled_from(["d", "e"])
STEPS = st.one_of(
    st.tuples(st.just("stream"), TARGETS, st.sampled_from(["stdout", "stdout", "stderr"]), PIECES),
    st.tuples(st.just("display"), TARGETS, st.sampled_from([None, "d", "e"]), st.text("xyz", max_size=3)),
    st.tuples(st.just("error"), TARGETS),
    st.tuples(st.just("clear"), TARGETS, st.booleans()),
    st.tuples(st.just("update"), DISPLAY_IDS, st.text("uvw", max_size=3)),
    st.tuples(st.just("end"), TARGETS),
    st.tuples(st.just("reset"), TARGETS),
    st.tuples(st.just("drain")),
    st.tuples(st.just("drain")),
)


def play(kernel: Fixture, model: Model, step: tuple[Any, ...]) -> None:
    reducer = kernel.reducer
    match step:
        case ("stream", target, name, piece):
            reducer.stream(target, name, piece)
            model.add(target, Shown(name, None, pieces=[piece]))
        case ("display", target, display_id, value):
            reducer.display(target, text(value), {}, display_id=display_id)
            model.add(target, Shown("display_data", value, display_id))
        case ("error", target):
            reducer.error(target, "E", "v", ["t"])
            model.add(target, Shown("error", ("error", "E", "v", ("t",))))
        case ("clear", target, wait):
            reducer.clear(target, wait=wait)
            model.clear(target, wait=wait)
        case ("update", display_id, value):
            assert reducer.update_display(display_id, text(value), {}) == model.update(display_id, value)
        case ("end", target):
            reducer.end(target)
        case ("reset", target):
            reducer.reset(target)
            model.clear(target, wait=False)


def seen(model: Model) -> Iterator[tuple[Target, list[Any]]]:
    for target, outputs in model.lists.items():
        yield target, [shown.visible() for shown in outputs]


@given(st.lists(STEPS, max_size=60), st.sampled_from([2, 64]))
def test_every_drain_shows_what_the_model_shows(steps: list[tuple[Any, ...]], segments: int) -> None:
    kernel, model = Fixture(log_outputs=3, segments=segments), Model(3)
    for step in [*steps, ("drain",)]:
        play(kernel, model, step)
        if step == ("drain",):
            kernel.drain()
            for target, outputs in seen(model):
                assert kernel.document.shown(target) == outputs
        assert [visible(output) for output in kernel.reducer.outputs(COMM)] == dict(seen(model))[COMM]


@given(st.lists(STEPS, max_size=60))
def test_whatever_the_limits_drains_fit_the_document_and_memory_stays_bounded(steps: list[tuple[Any, ...]]) -> None:
    kernel = Fixture(
        stream=20, display=15, target=60, outputs=4, captures=50, waiting=40, kept=30, line=8, log_stream=9
    )
    model = Model(100)
    for step in [*steps, ("drain",)]:
        if step[0] != "update":
            play(kernel, model, step)
        else:
            kernel.reducer.update_display(step[1], text(step[2]), {})
        if step == ("drain",):
            kernel.drain()
        assert kernel.reducer.pending_bytes >= 0
    assert len(kernel.document.shown(CELL)) <= 5
    for target in model.lists:
        kernel.reducer.clear(target, wait=False)
    kernel.drain()
    assert not any(kernel.document.lists.values())
