"""The checker of histories finds each violation in a made-up bad one, and nothing in a good one."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.history import Asked, History, Ran, Replica, Told, violations

SOURCE = "ran()  # a1"
END = Replica(("n",), ("r",), {"a": SOURCE, "b": ""}, {"x": "done", "y": "cancelled"})


def told(seq: int, method: str, execution_id: str, *, early: bool = False, **params: str) -> Told:
    return Told(method, {"epoch": "e", "seq": seq, "execution_id": execution_id, **params}, early)


class Story:
    """A good history: one execution ran, one was cancelled; `broken` lost its connection between them."""

    def __init__(self) -> None:
        self.events = [
            told(1, "queue_changed", ""),
            told(2, "execution_started", "x"),
            told(3, "execution_done", "x", status="done"),
            told(4, "execution_done", "y", status="cancelled"),
        ]
        self.witness = History("witness", [list(self.events)], end=END)
        self.broken = History("broken", [self.events[:2], self.events[3:]], end=END)
        self.broken.asked = [Asked("x", "a", SOURCE, "accepted"), Asked("y", "a", SOURCE, "accepted")]
        self.broken.acknowledged = [("a", "# a1")]
        self.ran = Ran([("x", SOURCE)])
        self.commits = [
            {"x": "queued"},
            {"x": "running", "y": "queued"},
            {"x": "done", "y": "queued"},
            {"x": "done", "y": "cancelled"},
        ]

    def violations(self) -> list[str]:
        return violations([self.witness, self.broken], self.ran, self.commits, witness="witness")


def test_a_good_history_has_no_violations() -> None:
    assert Story().violations() == []


def test_a_peer_that_is_behind_hears_the_last_state_of_the_queue_only() -> None:
    story = Story()
    story.events[0:0] = [told(0, "queue_changed", "")]
    story.witness.connections = [[*story.events[:1], *story.events[2:]]]
    story.broken.connections = [story.events]
    assert story.violations() == []


def _early(story: Story) -> None:
    story.broken.connections[0][1] = told(2, "execution_started", "x", early=True)


def _other_event(story: Story) -> None:
    story.broken.connections[0][1] = told(2, "execution_started", "y")


def _out_of_order(story: Story) -> None:
    story.broken.connections[0].reverse()


def _gap(story: Story) -> None:
    story.broken.connections = [[story.events[0], story.events[3]]]


def _unheard(story: Story) -> None:
    del story.witness.connections[0][1:]


def _no_witness(story: Story) -> None:
    story.witness.connections = [story.events[:2], story.events[2:]]


def _other_source(story: Story) -> None:
    story.ran.runs = [("x", "ran()  # older")]


def _unasked(story: Story) -> None:
    story.ran.runs.append(("z", SOURCE))


def _refused_and_ran(story: Story) -> None:
    story.broken.asked[0] = Asked("x", "a", SOURCE, "refused")


def _ran_twice(story: Story) -> None:
    story.ran.runs *= 2


def _started_twice(story: Story) -> None:
    story.witness.connections[0].insert(4, told(5, "execution_started", "x"))


def _done_twice(story: Story) -> None:
    story.witness.connections[0].append(told(5, "execution_done", "x", status="done"))


def _done_before_start(story: Story) -> None:
    events = story.witness.connections[0]
    events[1], events[2] = told(2, "execution_done", "x", status="done"), told(3, "execution_started", "x")
    story.broken.connections[0] = story.events[:1]


def _done_without_start(story: Story) -> None:
    story.witness.connections[0][1] = told(2, "queue_changed", "")
    story.broken.connections[0] = story.events[:1]


def _cancelled_and_started(story: Story) -> None:
    story.witness.connections[0][0] = told(1, "execution_started", "y")
    story.broken.connections[0] = [story.events[1]]


def _no_final_status(story: Story) -> None:
    story.witness.connections[0][2] = told(3, "execution_done", "x", status="running")


def _no_end(story: Story) -> None:
    story.broken.asked.append(Asked("w", "a", SOURCE, "accepted"))


def _ran_without_end(story: Story) -> None:
    story.broken.asked.append(Asked("w", "a", SOURCE, "lost"))
    story.ran.runs.append(("w", SOURCE))


def _document_says_other(story: Story) -> None:
    end = replace(END, statuses={"x": "error", "y": "cancelled"})
    story.witness.end = story.broken.end = end


def _backwards(story: Story) -> None:
    story.commits.append({"x": "running", "y": "cancelled"})


def _two_at_once(story: Story) -> None:
    story.commits.insert(2, {"x": "running", "y": "running"})


def _other_ends(story: Story) -> None:
    story.commits.append({"x": "error", "y": "cancelled"})


def _unknown_status(story: Story) -> None:
    story.commits.append({"x": "finished"})


def _other_heads(story: Story) -> None:
    story.broken.end = replace(END, notebook_heads=("m",))


def _other_content(story: Story) -> None:
    story.broken.end = replace(END, sources={"a": SOURCE})


def _edit_lost(story: Story) -> None:
    story.witness.end = story.broken.end = replace(END, sources={"a": "", "b": ""})


def _edit_doubled(story: Story) -> None:
    story.witness.end = story.broken.end = replace(END, sources={"a": SOURCE + SOURCE, "b": ""})


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_early, "P1: broken heard execution_started 2"),
        (_other_event, "broken heard another event 2"),
        (_out_of_order, "broken heard event 1 after 2"),
        (_gap, "broken missed event 3 (execution_done)"),
        (_unheard, "witness never heard event 2"),
        (_no_witness, "witness is no witness"),
        (_other_source, "P2: x ran 'ran()  # older'"),
        (_unasked, "P2: z ran, and nobody had asked"),
        (_refused_and_ran, "P3: x was refused, and ran"),
        (_ran_twice, "P3: x ran 2 times"),
        (_started_twice, "P3: x is started 2 times"),
        (_done_twice, "P3: x is done 2 times"),
        (_done_before_start, "P3: x is done before it started"),
        (_done_without_start, "P3: x is done, and never started"),
        (_cancelled_and_started, "P3: y is cancelled, and started"),
        (_no_final_status, "P3: x is done as running"),
        (_no_end, "P3: w has no end"),
        (_ran_without_end, "P3: w has no end"),
        (_document_says_other, "P3: x is done as done, and error in the document"),
        (_backwards, "P3: x goes from done to running"),
        (_two_at_once, "P3: x, y run at once"),
        (_other_ends, "P3: x goes from done to error"),
        (_unknown_status, "P3: x goes from done to finished"),
        (_other_heads, "different notebook_heads"),
        (_other_content, "different sources"),
        (_edit_lost, "where it is 0 times"),
        (_edit_doubled, "where it is 2 times"),
    ],
)
def test_each_violation_is_found(spoil: Callable[[Story], None], found: str) -> None:
    story = Story()
    spoil(story)
    said = story.violations()

    assert any(found in violation for violation in said), said
