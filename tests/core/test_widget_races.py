"""What the daemon captures and what the kernel does to its own lists, crossing on the way: both ends are equal at rest.

The kernel's side is tests/fakes/widget_kernel.py, which knows ipywidgets' messages and nothing of the daemon.
"""

import re
from collections import Counter, deque
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.comm import SendComm
from kernel_bridge.core import messages as k
from tests.fakes.widget_kernel import Notebook, display, stream

Step = tuple[Any, ...]

OUTS = st.sampled_from(["out", "inner"])
TEXTS = st.sampled_from("pq")
IDS = st.sampled_from("de")
# A third of what happens moves messages, so that there is always something on its way.
MOVES = st.tuples(
    st.sampled_from(
        ["cell", "finish", "read", "await", "await", "await", "hear 1", "hear 3", "hear 9", "hear 9", "commit"]
    )
)
CAPTURES = st.tuples(st.sampled_from(["enter", "leave", "leave"]), OUTS)
SHOWN = st.one_of(
    st.tuples(st.sampled_from(["print", "display"]), TEXTS),
    st.tuples(st.just("show"), IDS, TEXTS),
    st.tuples(st.just("update"), IDS, TEXTS),
    st.tuples(st.just("clear"), st.booleans()),
)
OWN_LISTS = st.one_of(
    st.tuples(st.sampled_from(["append_stdout", "append_display", "append_display", "replace"]), OUTS, TEXTS),
    st.tuples(st.just("empty"), OUTS),
)


def blocks(shown: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    """`with out: ...`, of one to three statements; what is in between may move messages, and so may what follows."""
    body = st.lists(shown | MOVES, min_size=1, max_size=3)
    after = st.sampled_from([[], [("hear 9",)], [("hear 9",), ("await",)]])
    return st.tuples(OUTS, body, after).map(lambda of: [("enter", of[0]), *of[1], ("leave", of[0]), *of[2]])


def histories(shown: st.SearchStrategy[Step], own_lists: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    """Some ten blocks and what is around them."""
    single = st.one_of(MOVES, MOVES, MOVES, CAPTURES, own_lists).map(lambda step: [step])
    parts = st.lists(st.one_of(blocks(shown), single, single), min_size=8, max_size=30)
    return parts.map(lambda parts: list(chain(*parts)))


EXAMPLES = 150


class Race:
    """A notebook with two Output widgets. What code does happens in a cell, which begins if none runs."""

    def __init__(self, met: Counter[str], *, echo: bool) -> None:
        self.notebook, self.met = Notebook(echo=echo), met
        self.notebook.output_widget("out", "inner")

    def act(self, step: str, *arguments: Any) -> None:
        kernel, notebook = self.notebook.kernel, self.notebook
        match step, arguments:
            case "cell", ():
                kernel.finish()
                self.begin()
            case "finish", ():
                kernel.finish()
            case "read", ():
                kernel.read()
            case "await", ():
                self.met["lists read within a cell"] += kernel.read_within_cell()
            case _ if step.startswith("hear"):
                notebook.hear(int(step[-1]))
            case "commit", ():
                notebook.commit()
            case _:
                if kernel.running is None:
                    self.begin()
                self._code(step, arguments)
        waiting = Counter(
            message.content["comm_id"]
            for message in kernel.inbox
            if isinstance(message, SendComm) and "outputs" in message.content.get("data", {}).get("state", {})
        )
        assert max(waiting.values(), default=0) <= 2  # an unanswered one, and one before an execution

    def begin(self) -> None:
        """A cell runs; the daemon has heard the end of the one before."""
        self.notebook.hear()
        self.notebook.begin("b")

    def _code(self, step: str, arguments: tuple[Any, ...]) -> None:
        kernel = self.notebook.kernel
        match step, arguments:
            case "enter", (out,):
                kernel.enter(out)
            case "leave", (out,):
                kernel.leave(out)
            case "empty", (out,):
                kernel.set(out, outputs=[])
            case "clear", (wait,):
                kernel.clear(wait=wait)
            case "print", (text,):
                kernel.print(text)
            case "display", (text,):
                kernel.display(text)
            case "show", (display_id, text):
                kernel.display(text, display_id)
            case "update", (display_id, text):
                kernel.update_display(display_id, text)
            case "append_stdout", (out, text):
                self._own_list(out, [*kernel.outputs(out), stream(text)])
            case "append_display", (out, text):
                self._own_list(out, [*kernel.outputs(out), display(text)])
            case "replace", (out, text):
                self._own_list(out, [display(text)])
            case _:
                raise AssertionError(step)

    def _own_list(self, out: str, outputs: Sequence[Any]) -> None:
        kernel = self.notebook.kernel
        self.met["lists of the kernel's own"] += 1
        differs = self.notebook.commit().outputs("comm", out) != kernel.outputs(out)
        self.met["of these, while the document has another list"] += differs
        kernel.set(out, outputs=list(outputs))

    def rest(self) -> None:
        """All is read and heard; both ends are equal."""
        kernel = self.notebook.kernel
        while kernel.running or kernel.inbox or kernel.said or self.notebook.pass_deadline():
            kernel.finish()
            self.notebook.settle()
        self.notebook.commit()
        self.met["lists sent back"] += kernel.update_messages
        for comm_id in ("out", "inner"):
            self.met["outputs at rest"] += len(kernel.outputs(comm_id))
            assert self.notebook.document.outputs("comm", comm_id) == kernel.outputs(comm_id)


@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no echo"])
def test_at_rest_both_ends_have_the_same_outputs(echo: bool) -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES)
    @given(histories(SHOWN, OWN_LISTS))
    def holds(steps: list[Step]) -> None:
        race = Race(met, echo=echo)
        for step in steps:
            race.act(*step)
        race.rest()

    holds()
    print(f"\n{EXAMPLES} histories: {dict(met)}")
    assert len(met) == 5
    assert min(met.values()) > EXAMPLES / 20


APPENDED = st.tuples(st.sampled_from(["append_stdout", "append_display"]), OUTS)
ADDED = st.tuples(st.sampled_from(["print", "display"]))


@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no echo"])
def test_where_nothing_is_cleared_nothing_is_lost_and_nothing_doubled(echo: bool) -> None:
    """Every text is its own, so that each can be looked for at both ends."""
    met: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES)
    @given(histories(ADDED, APPENDED))
    def holds(steps: list[Step]) -> None:
        race = Race(met, echo=echo)
        kernel = race.notebook.kernel
        expected: dict[str, list[str]] = {"out": [], "inner": []}
        captors: list[str] = []
        for number, (step, *arguments) in enumerate(steps):
            text = f"<{number}>"
            match step:
                case "cell" | "finish":
                    captors.clear()
                case "enter" if arguments[0] not in captors:
                    captors.append(arguments[0])
                case "leave" if kernel.models[arguments[0]].entered == 1:
                    captors.remove(arguments[0])
                case "append_stdout" | "append_display":
                    arguments.append(text)
                    expected[arguments[0]].append(text)
                case "print" | "display":
                    arguments.append(text)
                    if captors:
                        expected[captors[-1]].append(text)
            race.act(step, *arguments)
        race.rest()
        for comm_id in ("out", "inner"):
            outputs = str(race.notebook.document.outputs("comm", comm_id))
            assert sorted(re.findall("<[0-9]+>", outputs)) == sorted(expected[comm_id])

    holds()
    print(f"\n{EXAMPLES} histories: {dict(met)}")
    assert len(met) == 5
    assert min(met.values()) > EXAMPLES / 20


class BrokenRace(Race):
    """The connection to the kernel breaks now and then: comm messages and outputs that were under way are lost."""

    def act(self, step: str, *arguments: Any) -> None:
        kernel, notebook = self.notebook.kernel, self.notebook
        match step:
            case "queue":
                notebook.submit("a")
            case "break":
                inbox = [message for message in kernel.inbox if not isinstance(message, SendComm)]
                said = [message for message in kernel.said if not isinstance(message.content, _LOST)]
                self.met["messages lost"] += len(kernel.inbox) + len(kernel.said) - len(inbox) - len(said)
                kernel.inbox, kernel.said = deque(inbox), deque(said)
                notebook.runtime.reconnected()
                notebook.collect()
            case _:
                super().act(step, *arguments)

    def begin(self) -> None:
        """The next cell runs, one that was queued before if there is one."""
        notebook = self.notebook
        notebook.hear()
        notebook.submit("b")
        while notebook.kernel.running is None:
            assert notebook.kernel.read()
            notebook.hear()


_LOST = k.Stream | k.DisplayData | k.UpdateDisplayData | k.ClearOutput | k.CommMsg


@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no echo"])
def test_at_rest_both_ends_are_equal_whatever_was_lost_on_the_way(echo: bool) -> None:
    met: Counter[str] = Counter()
    breaks = st.sampled_from(["break", "queue", "queue"]).map(lambda step: [(step,)])
    others = st.one_of(MOVES, MOVES, CAPTURES, OWN_LISTS).map(lambda step: [step])
    parts = st.lists(st.one_of(blocks(SHOWN), blocks(SHOWN), others, breaks), min_size=8, max_size=30)

    @settings(max_examples=EXAMPLES)
    @given(parts.map(lambda parts: list(chain(*parts))))
    def holds(steps: list[Step]) -> None:
        race = BrokenRace(met, echo=echo)
        for step in steps:
            race.act(*step)
        race.rest()

    holds()
    print(f"\n{EXAMPLES} histories: {dict(met)}")
    assert len(met) == 6
    assert min(met.values()) > EXAMPLES / 20
