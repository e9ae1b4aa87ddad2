"""What real ipywidgets and the daemon said to each other (tests/record_widget_traces.py), without a kernel.

The state machine is given what the kernel sent and what the peers asked for, in that order. It must send what it sent
then, message for message, and the document must show what a person saw, whether it is committed after each message or
once at the end.
"""

from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest

from daemon.core.comm import SendComm
from daemon.core.effects import SendQuestion
from daemon.core.runtime import Runtime
from kernel_bridge.core.messages import Header, KernelMessage, Status
from kernel_bridge.core.trace import TraceEntry
from tests.fakes.runtime_document import RuntimeDocument
from tests.fakes.trace_player import TracePlayer, trace_of
from tests.fakes.widget_scenarios import SCENARIOS


class Replay(TracePlayer):
    """A runtime at the daemon's end of a trace, and its document."""

    def __init__(self, *, commit_always: bool) -> None:
        ids = count()
        self.document = RuntimeDocument()
        self.commits = 0
        self.events: list[tuple[str, Any]] = []
        self.series: dict[str, list[Any]] = {}  # what an IntSlider's value was after each commit that changed it
        self.states: list[dict[str, list[Any]]] = []  # what was captured, by comm id, after each commit
        self._commit_always = commit_always
        self._now = 0.0
        super().__init__(
            Runtime(
                new_id=lambda: f"now-{next(ids)}",
                monotonic=lambda: self._now,
                timestamp=lambda: "",
                wake=lambda urgency: None,
            )
        )

    def play(self, entries: Iterable[TraceEntry]) -> None:
        for entry in entries:
            self._pass_time(entry.at)
            self.step(entry)
            self._after()
        self._pass_time(self._now + 10)
        self.commit()
        self.assert_all_sent()

    def _pass_time(self, at: float) -> None:
        while self.runtime.deadline is not None and self.runtime.deadline <= at:
            self._now = self.runtime.deadline
            self.runtime.expire()
            self._after()
        self._now = at

    def _after(self) -> None:
        for effect in self.runtime.take_effects():
            if isinstance(effect, SendComm):
                self.sent(effect)
            elif isinstance(effect, SendQuestion):
                self._answer(effect.msg_id)
        if self._commit_always:
            self.commit()

    def _answer(self, question: str) -> None:
        """As any kernel does; whether it was asked when the trace was recorded depends on how fast it was."""
        parent = Header(msg_id=question, msg_type="execute_request", session=self.session)
        for state in ("busy", "idle"):
            content = Status(execution_state=state)
            message = KernelMessage(channel="iopub", header=Header(), parent=parent, metadata={}, content=content)
            self.runtime.receive([message])

    def commit(self) -> None:
        batch = self.runtime.drain()
        self.events += [(notice.method, notice.params) for notice in batch.notices]  # type: ignore[union-attr] # no requests here
        if batch.mutations:
            self.commits += 1
            assert self.document.commit(batch.mutations) == 0
            plain = self.document.plain["comms"]
            self.states.append({i: self.document.shown("comm", i) for i in plain if "outputs" in plain[i]})
            for comm in self.runtime.widgets.comms.comms.values():
                if comm.model_name == "IntSliderModel":
                    value = self.document.state(comm.comm_id)["value"]
                    seen = self.series.setdefault(comm.comm_id, [value])
                    if seen[-1] != value:
                        seen.append(value)

    # What a person sees.

    def by_model(self, name: str) -> list[dict[str, Any]]:
        found = [comm for comm in self.document.comms().values() if comm["model_name"] == name]
        return sorted(found, key=lambda comm: comm["order"])

    def one(self, name: str) -> dict[str, Any]:
        [comm] = self.by_model(name)
        return comm

    def child(self, reference: str) -> dict[str, Any]:
        return self.document.comms()[reference.removeprefix("IPY_MODEL_")]

    def cell(self, number: int) -> list[Any]:
        return self.document.shown("cell", f"c{number}")

    def captured(self, index: int = 0) -> list[Any]:
        comms = sorted(self.document.plain["comms"].items(), key=lambda item: item[1]["order"])
        return self.document.shown("comm", [i for i, comm in comms if comm["model_name"] == "OutputModel"][index])


def played(scenario: str, *, commit_always: bool = True) -> Replay:
    replay = Replay(commit_always=commit_always)
    replay.play(trace_of(scenario))
    return replay


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_end_is_the_same_whenever_it_is_committed(scenario: str) -> None:
    often, once = played(scenario), played(scenario, commit_always=False)

    assert once.commits == 1 < often.commits
    for replay in (often, once):
        plain = replay.document.plain
        assert {execution["status"] for execution in plain["executions"].values()} <= {"done"}
        assert plain["kernel_log"] == []
    assert once.document.comms() == often.document.comms()
    cells = often.document.plain["cells"]
    assert {key: once.document.outputs("cell", key) for key in cells} == {
        key: often.document.outputs("cell", key) for key in cells
    }
    assert [event for event in once.events if event[0] == "comm_custom"] == [
        event for event in often.events if event[0] == "comm_custom"
    ]


def test_output_widgets_capture_clear_and_change() -> None:
    replay = played("output")
    listed = [eval(replay.cell(number)[0]) for number in (3, 5, 8, 11, 13, 15)]
    assert listed == [
        [("stream", "one\ntwo\n"), ("display_data", "'v1'"), ("error", None)],
        [("stream", "one\ntwo\n"), ("display_data", "'v2'"), ("error", None)],
        [("stream", "fresh\n")],
        [("stream", "fresh\nappended"), ("display_data", "'shown'")] + [("display_data", str(n)) for n in range(3)],
        [("stream", "alone")],
        [],
    ]
    assert replay.cell(2) == ["outside\n"]
    assert replay.captured() == []
    assert len(replay.by_model("OutputModel")) == 1  # the inner one was closed


def test_captures_nest_move_and_end_wherever_they_were_begun() -> None:
    replay = played("captures")
    assert replay.cell(2) == ["cell\n"]
    lines = "".join(f"line {n}\n" for n in range(2000))
    assert [replay.captured(n) for n in range(3)] == [
        ["a1\na2\nin a\n"],
        ["b1\nb2\nobserved 10\n" + lines, ("stderr", "warned\n")],
        ["c1\nc2\n"],
    ]
    long = max(
        (comm for comm in replay.document.plain["comms"].values() if "outputs" in comm), key=lambda c: len(str(c))
    )
    assert len(long["outputs"][0]["text"]) > 3  # in segments, as a cell's
    assert replay.cell(3)[1:] == ["value 10\n"]
    assert replay.cell(4) == ["after the close\nend\n"]
    assert replay.cell(5) == ["not in a\n"]
    assert len(replay.by_model("OutputModel")) == 3
    assert replay.cell(7) == [f"{[len(lines) + len('b1 b2 observed 10 '), len('warned ')]}\n"]


def test_threads_and_awaiting_cells_are_captured_too() -> None:
    replay = played("threads")
    text = "captured in a thread\nappended in a threadturn 0\nturn 1\nturn 2\n"
    assert replay.captured() == [text]
    assert eval(replay.cell(5)[0]) == [("stream", text)]


def test_a_drag_is_followed_and_corrected_at_its_end() -> None:
    replay = played("drag")
    [series] = replay.series.values()
    dragged = [n % 150 for n in range(0, 400, 2)]
    assert series[: len(dragged)] == dragged
    # Each correction when the peer pauses, and nothing between.
    assert series[len(dragged) :] == [1000, 100, "no number", 100, 0, 1, 2, 3, 4]
    assert replay.cell(2) == ["100 True\n"]
    assert replay.cell(4) == ["4\n"]


def test_a_click_prints_in_its_cell_and_captures_in_its_widget() -> None:
    replay = played("button")
    assert replay.cell(1)[1:] == ["clicked\nclicked\n"]
    assert replay.captured() == ["captured\ncaptured\n"]
    [(_, told)] = [event for event in replay.events if event[0] == "comm_custom"]
    assert (told["content"], told["buffers"]) == ({"hello": 1}, [b"bytes"])
    assert replay.by_model("ButtonModel") == []


def test_interact_shows_one_state_at_a_time() -> None:
    replay = played("interact")
    text, image = replay.one("OutputModel")["outputs"]
    assert text["text"] == "n is 2\n"
    assert image["data"]["image/png"].startswith("iVBOR")
    box = replay.one("VBoxModel")
    children = [replay.child(reference)["model_name"] for reference in box["state"]["children"]]
    assert children == ["IntSliderModel", "OutputModel"]


def test_a_progress_bar_ends_where_it_ends() -> None:
    replay = played("tqdm")
    bar = replay.by_model("FloatProgressModel")[0]
    assert (bar["state"]["value"], bar["state"]["bar_style"]) == (200.0, "success")
    texts = [comm["state"]["value"] for comm in replay.by_model("HTMLModel")]
    assert any("200/200" in text for text in texts)
    assert len(replay.by_model("HBoxModel")) == 1  # the second was closed


def test_a_tree_of_boxes_can_be_followed_from_its_root() -> None:
    replay = played("boxes")
    tab = replay.one("TabModel")
    assert (tab["state"]["titles"], tab["state"]["selected_index"]) == (["one"], 0)
    [column] = [replay.child(reference) for reference in tab["state"]["children"]]
    sliders = [replay.child(reference) for reference in column["state"]["children"]]
    assert [slider["state"]["description"] for slider in sliders] == ["0", "1", "2"]
    assert all(slider["order"] < column["order"] < tab["order"] for slider in sliders)
    row = replay.one("HBoxModel")
    layout = replay.child(row["state"]["layout"])["state"]
    borders = {f"border_{side}": None for side in ("bottom", "left", "right", "top")}
    assert {name: value for name, value in layout.items() if name.startswith("border")} == borders
    assert None not in replay.child(sliders[0]["state"]["layout"])["state"].values()


def test_an_image_is_bytes() -> None:
    replay = played("image")
    assert replay.one("ImageModel")["state"]["value"] == b"from a peer"
    assert replay.cell(3) == ["b'from a peer'\n"]


def test_anywidget_has_its_code_and_its_bytes() -> None:
    replay = played("anywidget")
    state = replay.one("AnyModel")["state"]
    assert state["_esm"].startswith("export default")
    assert state["_css"] == ".x { color: red }"
    assert (state["n"], state["raw"]) == (1000, b"new")
    assert replay.cell(2) == ["4 1000\n"]
    [error] = replay.cell(1)[1:]
    assert error == ("error", "TraitError")
