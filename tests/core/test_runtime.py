"""The pure state behind a runtime document: kernel messages in, mutations and events out."""

from itertools import count
from typing import Any

import pytest

from daemon.core.effects import NextInput, SendExecute, SendInput, SendQuestion
from daemon.core.executions import ASK_AFTER_INTERRUPT_SECONDS, ASK_SECONDS, LOST_SECONDS
from daemon.core.pending import MAX_NOTICES
from daemon.core.prompt import MAX_PROMPT_CHARS
from daemon.core.runtime import Runtime
from daemon.core.transitions import QUEUE_SECONDS, SHORT_QUEUE
from kernel_bridge.core import messages as k
from sync.core.batch import Batch, PendingEvent
from sync.core.limits import MAX_SOURCE_BYTES
from sync.core.mutations import (
    KERNEL_LOG,
    AppendOutput,
    ClearOutputs,
    SetCell,
    SetExecution,
    SetKernel,
    SetQueue,
    Target,
)
from sync.core.outputs import StreamOutput
from sync.core.urgency import Urgency

SESSION = "ours"


class Machine:
    """A runtime with a clock to turn and a kernel to speak for."""

    def __init__(self, *cells: str) -> None:
        ids = count()
        self.now = 0.0
        self.urgencies: list[Urgency] = []
        self.runtime = Runtime(
            new_id=lambda: f"id{next(ids)}",
            monotonic=lambda: self.now,
            timestamp=lambda: f"t{self.now}",
            wake=self.urgencies.append,
        )
        for cell in cells:
            self.runtime.add_cell(cell)
        self.runtime.drain()

    def ready(self) -> "Machine":
        self.runtime.kernel_starting("python3", "python")
        self.runtime.kernel_ready("python", SESSION)
        self.runtime.drain()
        return self

    def submit(self, *names: str, run_id: str | None = None) -> None:
        self.runtime.submit(
            [(f"x-{n}", n, f"code {n}") for n in names], run_id=run_id, stop_on_error=run_id is not None
        )

    def say(
        self, content: k.Content, parent: str, parent_type: str = "execute_request", session: str = SESSION
    ) -> None:
        header = k.Header(msg_id=parent, msg_type=parent_type, session=session)
        channel: k.Channel = "shell" if isinstance(content, k.ExecuteReply) else "iopub"
        message = k.KernelMessage(channel=channel, header=k.Header(), parent=header, metadata={}, content=content)
        self.runtime.receive([message])

    def begin(self, name: str) -> None:
        self.say(k.Status(execution_state="busy"), f"x-{name}")
        self.say(k.ExecuteInput(code="", execution_count=1), f"x-{name}")

    def finish(self, name: str, status: str = "ok") -> None:
        self.say(k.ExecuteReply(status=status, execution_count=1), f"x-{name}")
        self.say(k.Status(execution_state="idle"), f"x-{name}")

    def drain(self) -> Batch:
        return self.runtime.drain()


def events(batch: Batch) -> list[tuple[str, Any]]:
    found = [notice for notice in batch.notices if isinstance(notice, PendingEvent)]
    return [(n.method, n.params.get("execution_id") or n.params.get("queued")) for n in found]


def of_type(batch: Batch, kind: type) -> list[Any]:
    return [mutation for mutation in batch.mutations if isinstance(mutation, kind)]


def appended(batch: Batch) -> list[Target]:
    return [mutation.target for mutation in of_type(batch, AppendOutput)]


def test_what_is_accepted_is_sent_when_the_kernel_is_ready() -> None:
    machine = Machine("a", "b")
    machine.submit("a", "b")
    assert machine.runtime.take_effects() == []

    machine.ready()
    [effect] = machine.runtime.take_effects()
    assert isinstance(effect, SendExecute)
    assert effect.execution.code == "code a"


def test_the_start_clears_and_runs_in_one_batch() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.drain()
    machine.begin("a")

    batch = machine.drain()
    assert [m.target for m in of_type(batch, ClearOutputs)] == [Target("cell", "a")]
    assert of_type(batch, SetExecution)[0].status == "running"
    assert of_type(batch, SetCell)[0].execution_id == "x-a"
    assert of_type(batch, SetKernel)[0].status == "busy"
    assert of_type(batch, SetQueue) == [SetQueue("x-a", ())]
    assert events(batch) == [("execution_started", "x-a"), ("queue_changed", [])]


def test_a_start_is_committed_at_once_and_may_share_its_commit_with_the_end() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.drain()
    machine.urgencies.clear()
    machine.begin("a")
    assert max(machine.urgencies) is Urgency.URGENT

    machine.say(k.Stream(name="stdout", text="hello\n"), "x-a")
    machine.finish("a")
    batch = machine.drain()
    assert [m.status for m in of_type(batch, SetExecution)] == ["running", "done"]
    assert [m.target for m in of_type(batch, ClearOutputs)] == appended(batch) == [Target("cell", "a")]
    assert events(batch) == [("execution_started", "x-a"), ("execution_done", "x-a"), ("queue_changed", [])]


def test_busy_alone_says_nothing() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.drain()
    machine.say(k.Status(execution_state="busy"), "x-a")

    assert machine.drain() == Batch()


def test_the_end_comes_with_everything_that_was_printed_before() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.drain()
    machine.urgencies.clear()
    machine.say(k.Stream(name="stdout", text="hello\n"), "x-a")
    machine.finish("a")

    batch = machine.drain()
    assert appended(batch) == [Target("cell", "a")]
    assert of_type(batch, SetExecution)[0].status == "done"
    assert of_type(batch, SetKernel)[0].status == "idle"
    assert events(batch)[0] == ("execution_done", "x-a")
    assert Urgency.URGENT in machine.urgencies


def test_completion_does_not_change_the_kernels_status() -> None:
    machine = Machine("a").ready()
    for state in ("busy", "idle"):
        machine.say(k.Status(execution_state=state), "c1", "complete_request")

    assert machine.drain() == Batch()
    assert machine.runtime.kernel_status == "idle"


def test_a_late_print_goes_to_its_own_cell() -> None:
    machine = Machine("a", "b").ready()
    for name in "ab":
        machine.submit(name)
        machine.begin(name)
        machine.finish(name)
    machine.drain()
    machine.say(k.Stream(text="late"), "x-a")

    assert appended(machine.drain()) == [Target("cell", "a")]


def test_a_print_under_a_completion_goes_to_the_latest_execution() -> None:
    machine = Machine("a", "b").ready()
    for name in "ab":
        machine.submit(name)
        machine.begin(name)
        machine.finish(name)
    machine.drain()
    machine.say(k.Stream(text="from a thread"), "c1", "complete_request")

    assert appended(machine.drain()) == [Target("cell", "b")]


def test_what_belongs_to_nobody_is_logged() -> None:
    machine = Machine("a").ready()
    machine.say(k.Stream(text="who?"), "x-foreign", session="another client")

    assert appended(machine.drain()) == [KERNEL_LOG]


def test_the_pager_is_an_output_of_its_cell() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.drain()
    page = {"source": "page", "data": {"text/plain": "Docstring"}}
    machine.say(k.ExecuteReply(status="ok", execution_count=1, payload=[page]), "x-a")

    [mutation] = of_type(machine.drain(), AppendOutput)
    assert mutation.output.data == {"text/plain": "Docstring"}


@pytest.mark.parametrize("callback", [False, True])
def test_a_kernel_that_dies_in_a_callback_clears_no_cell_that_waits_behind_it(callback: bool) -> None:
    machine = Machine("a").ready()
    if callback:
        machine.say(k.Status(execution_state="busy"), "x-comm", "comm_msg")
    machine.submit("a")
    machine.drain()
    machine.runtime.kernel_gone("died", message="it died")

    assert bool(of_type(machine.drain(), ClearOutputs)) is not callback


def test_what_the_kernel_wants_to_stand_in_a_cell_is_bounded_and_said() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.drain()
    wanted: list[NextInput] = []
    machine.runtime.on_next_input = lambda one: wanted.append(one) or len(wanted) < 3  # type: ignore[func-returns-value]
    texts: list[object] = ["x = 1", 7, None, "é" * (MAX_SOURCE_BYTES // 2 + 1), "y", "too many"]
    payload = [{"source": "set_next_input", "text": text, "replace": text == "y"} for text in texts]
    machine.say(k.ExecuteReply(status="ok", execution_count=1, payload=payload), "x-a")

    assert [(one.cell_id, one.text, one.replace) for one in wanted[:2]] == [("a", "x = 1", False), ("a", "y", True)]
    [log] = of_type(machine.drain(), AppendOutput)
    assert log.target == KERNEL_LOG
    said = "".join(log.output.segments) if isinstance(log.output, StreamOutput) else ""
    assert "more than 1048576 bytes" in said
    assert "too many cells" in said


def test_input_is_asked_for_in_the_document_and_answered_once() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.drain()
    machine.runtime.take_effects()
    machine.say(k.InputRequest(prompt="name? "), "x-a")
    [mutation] = of_type(machine.drain(), SetKernel)
    request_id = mutation.input_request["request_id"]

    assert mutation.input_request["prompt"] == "name? "
    assert not machine.runtime.input_reply("another", "x")
    assert machine.runtime.input_reply(request_id, "Ada")
    assert not machine.runtime.input_reply(request_id, "Bob")
    [effect] = machine.runtime.take_effects()
    assert isinstance(effect, SendInput)
    assert of_type(machine.drain(), SetKernel)[0].input_request is None


def test_a_shutdown_takes_the_error_of_the_kernel_before_with_it() -> None:
    machine = Machine("a").ready()
    machine.runtime.kernel_gone("died", message="it died")
    machine.drain()
    machine.runtime.kernel_gone("shutdown")

    [kernel] = of_type(machine.drain(), SetKernel)
    assert (kernel.status, kernel.error) == ("not_started", None)


def test_a_dead_kernel_ends_all_and_says_so() -> None:
    machine = Machine("a", "b").ready()
    machine.submit("a", "b")
    machine.begin("a")
    machine.drain()
    machine.runtime.kernel_gone("died", message="it died", traceback="stderr")

    batch = machine.drain()
    assert [(m.execution_id, m.status) for m in of_type(batch, SetExecution)] == [
        ("x-a", "error"),
        ("x-b", "cancelled"),
    ]
    [kernel] = of_type(batch, SetKernel)
    assert kernel.status == "dead"
    assert kernel.error == {"message": "it died", "traceback": "stderr"}
    assert [method for method, _ in events(batch)] == [
        "execution_done",
        "execution_done",
        "kernel_error",
        "queue_changed",
    ]


def test_a_long_queue_is_told_so_often_only_and_at_last() -> None:
    """It is told whole: told with each execution of a run of 800, it was 17 MB for each peer."""
    names = [f"c{number}" for number in range(SHORT_QUEUE + 3)]
    machine = Machine(*names).ready()
    deadlines: list[float | None] = []
    machine.runtime.on_deadline = lambda: deadlines.append(machine.runtime.deadline)

    def told() -> list[list[str]]:
        return [queued for method, queued in events(machine.drain()) if method == "queue_changed"]

    machine.submit(*names)
    assert [len(queued) for queued in told()] == [SHORT_QUEUE + 3]
    machine.begin(names[0])
    batch = machine.drain()
    assert "queue_changed" not in [method for method, _ in events(batch)]
    assert of_type(batch, SetQueue) == [SetQueue("x-c0", tuple(f"x-{name}" for name in names[1:]))], (
        "the document has it"
    )
    [due] = deadlines
    assert due == pytest.approx(QUEUE_SECONDS * (SHORT_QUEUE + 2))
    machine.finish(names[0])
    machine.begin(names[1])
    assert told() == []
    assert len(deadlines) == 1

    machine.now = due or 0.0
    machine.runtime.expire()
    assert [len(queued) for queued in told()] == [SHORT_QUEUE + 1]
    assert machine.runtime.deadline is None
    machine.finish(names[1])
    machine.begin(names[2])
    assert [len(queued) for queued in told()] == [SHORT_QUEUE], "of a short one with each"


def test_a_deleted_cell_takes_its_queued_executions_with_it() -> None:
    machine = Machine("a", "b").ready()
    machine.submit("a", "b")
    machine.begin("a")
    machine.drain()
    machine.runtime.cell_gone("b")

    assert [(m.execution_id, m.status) for m in of_type(machine.drain(), SetExecution)] == [("x-b", "cancelled")]


def test_a_running_cell_is_not_cleared() -> None:
    machine = Machine("a", "b").ready()
    machine.submit("a")
    machine.begin("a")

    assert machine.runtime.clear_outputs(["a", "b"]) == ["b"]


def test_a_lost_idle_is_said_with_the_end() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.say(k.ExecuteReply(status="ok", execution_count=1), "x-a")
    machine.drain()
    machine.now = ASK_SECONDS
    machine.runtime.expire()
    machine.now = ASK_SECONDS + LOST_SECONDS
    machine.runtime.expire()

    [params] = done(machine.drain())
    assert params["idle_missing"] is True


def asked(machine: Machine) -> list[str]:
    """The questions that are to be sent."""
    return [effect.msg_id for effect in machine.runtime.take_effects() if isinstance(effect, SendQuestion)]


def done(batch: Batch) -> list[dict[str, Any]]:
    found = [n for n in batch.notices if isinstance(n, PendingEvent) and n.method == "execution_done"]
    return [dict(notice.params) for notice in found]


def test_a_new_connection_asks_whether_what_runs_is_over() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.runtime.take_effects()
    machine.runtime.reconnected()
    [first] = asked(machine)
    machine.runtime.reconnected()  # iopub, then shell
    [second] = asked(machine)
    assert first != second

    machine.say(k.ExecuteReply(status="ok"), first)  # of the connection before: what it says is not of this one
    machine.say(k.Status(execution_state="idle"), first)
    assert machine.runtime.deadline is None
    machine.say(k.ExecuteReply(status="ok"), second)
    assert done(machine.drain()) == []
    machine.say(k.Status(execution_state="idle"), second)
    [params] = done(machine.drain())
    assert (params["status"], params["reply_missing"], "idle_missing" in params) == ("error", True, False)


def test_a_new_connection_while_nothing_runs_asks_nothing() -> None:
    machine = Machine("a").ready()
    machine.runtime.reconnected()
    assert asked(machine) == []


def test_what_goes_on_after_a_new_connection_ends_as_it_would_have() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.runtime.reconnected()
    [question] = asked(machine)
    machine.finish("a")
    machine.say(k.ExecuteReply(status="ok"), question)
    [params] = done(machine.drain())
    assert (params["status"], "reply_missing" in params) == ("done", False)
    assert machine.runtime.deadline is None


def test_an_interrupt_that_changes_nothing_asks_whether_what_it_met_is_over() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    assert machine.runtime.interrupt() == "x-a"
    assert asked(machine) == []
    machine.now = ASK_AFTER_INTERRUPT_SECONDS
    machine.runtime.expire()
    [question] = asked(machine)
    assert machine.runtime.interrupt() == "x-a"  # which the kernel may drop the question for
    machine.now = 2 * ASK_AFTER_INTERRUPT_SECONDS
    machine.runtime.expire()
    [question] = asked(machine)
    assert machine.runtime.deadline is None
    machine.now = 100.0
    machine.say(k.ExecuteReply(status="ok"), question)
    machine.say(k.Status(execution_state="idle"), question)
    assert [params["status"] for params in done(machine.drain())] == ["interrupted"]


def test_what_the_kernel_has_no_room_for_is_sent_when_it_speaks_again() -> None:
    machine = Machine("a", "b").ready()
    machine.submit("a", "b")
    [sent] = machine.runtime.take_effects()
    assert isinstance(sent, SendExecute)
    machine.runtime.not_taken(sent)
    assert machine.runtime.take_effects() == []
    assert done(machine.drain()) == []
    machine.say(k.Status(execution_state="idle"), "other", "comm_msg")
    assert machine.runtime.take_effects() == [sent]
    machine.begin("a")
    machine.finish("a")
    assert [params["status"] for params in done(machine.drain())] == ["done"]


def test_a_prompt_is_no_longer_than_a_person_reads() -> None:
    machine = Machine("a").ready()
    machine.submit("a")
    machine.begin("a")
    machine.drain()
    machine.say(k.InputRequest(prompt="?" * 1_000_000), "x-a")
    [kernel] = of_type(machine.drain(), SetKernel)
    assert kernel.input_request["prompt"] == "?" * MAX_PROMPT_CHARS + "…"


def test_a_thousand_ends_are_told_in_order_and_not_all_at_once() -> None:
    machine = Machine("a")
    for number in range(1_000):
        machine.runtime.submit([(f"x{number}", "a", "")], run_id=None, stop_on_error=False)
    machine.drain()
    machine.runtime.kernel_gone("restart")
    batches = [machine.drain()]
    assert len(of_type(batches[0], SetExecution)) == 1_000  # the state is there at once
    while batches[-1].more:
        assert machine.urgencies[-1] is Urgency.LAZY
        batches.append(machine.drain())
    assert [params["execution_id"] for batch in batches for params in done(batch)] == [f"x{n}" for n in range(1_000)]
    assert max(len(batch.notices) for batch in batches) == MAX_NOTICES
    assert machine.drain() == Batch()


def test_a_thread_prints_where_the_latest_that_began_prints() -> None:
    machine = Machine("a", "b").ready()
    machine.submit("a")
    machine.begin("a")
    machine.finish("a")
    machine.submit("b")  # sent, and not begun
    machine.drain()
    machine.say(k.Stream(text="of a thread of a"), "completion", "complete_request")
    assert appended(machine.drain()) == [Target("cell", "a")]


def test_whoever_waits_for_the_kernel_to_be_at_something_hears_of_all_that_it_begins() -> None:
    machine = Machine("a", "b").ready()
    heard: list[bool] = []
    machine.runtime.on_transition = lambda: heard.append(machine.runtime.between)
    machine.submit("a")
    assert machine.runtime.between
    machine.say(k.Status(execution_state="busy"), "slider", "comm_msg")
    assert heard == [False], "a handler runs, which an interrupt would meet"
    machine.say(k.Status(execution_state="idle"), "slider", "comm_msg")
    machine.begin("a")
    assert heard == [False, True, False]
