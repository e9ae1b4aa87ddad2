"""The execution queue: every accepted execution ends exactly once and starts at most once, whatever happens."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.core.executions import (
    ASK_SECONDS,
    KEPT_EXECUTIONS,
    KEPT_SECONDS,
    LATE_SECONDS,
    LOST_SECONDS,
    MAX_LAG_SECONDS,
    Ended,
    ExecutionQueue,
    Started,
    Transition,
)


def submit(queue: ExecutionQueue, *names: str, **options: object) -> None:
    for name in names:
        queue.submit(name, f"cell-{name}", f"code {name}", **options)  # type: ignore[arg-type]


def statuses(transitions: list[Transition]) -> list[tuple[str, str]]:
    return [(t.execution.execution_id, t.execution.status) for t in transitions if isinstance(t, Ended)]


def ask(queue: ExecutionQueue, now: float, question: str) -> None:
    """Asks what is due now, and nothing before."""
    assert queue.to_ask(now - 0.01) is None
    execution = queue.to_ask(now)
    assert execution is not None
    execution.question = question


def run(queue: ExecutionQueue, name: str, status: str = "ok") -> list[Transition]:
    taken = queue.take_next()
    assert taken is not None
    assert taken.execution_id == name
    return [*queue.on_input(name, 1), *queue.on_reply(name, status, 1, 0.0), *queue.on_idle(name, 0.0)]


def test_one_is_in_flight_and_the_order_is_that_of_acceptance() -> None:
    queue = ExecutionQueue()
    submit(queue, "a", "b")

    assert queue.take_next() is not None
    assert queue.take_next() is None
    assert queue.waiting == ("a", "b")
    queue.on_input("a", 7)
    assert queue.running is not None
    assert queue.running.execution_count == 7
    assert queue.waiting == ("b",)


def test_it_ends_after_reply_and_idle_in_either_order() -> None:
    for first_idle in (False, True):
        queue = ExecutionQueue()
        submit(queue, "a")
        queue.take_next()
        queue.on_input("a", 1)
        steps = [lambda q: q.on_reply("a", "ok", 1, 0.0), lambda q: q.on_idle("a", 0.0)]
        if first_idle:
            steps.reverse()

        assert statuses(steps[0](queue)) == []
        assert statuses(steps[1](queue)) == [("a", "done")]


def test_a_lost_idle_is_waited_for_and_marked() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()
    queue.on_input("a", 1)
    queue.on_reply("a", "ok", 1, 10.0)

    assert queue.deadline == 10.0 + ASK_SECONDS
    ask(queue, 10.0 + ASK_SECONDS, "q")
    assert queue.on_answer("q", 13.0) == []  # idle may be on its way, behind outputs
    [ended] = queue.on_answer_idle("q", 13.5)
    assert ended.execution.idle_missing
    assert ended.execution.status == "done"


def test_a_kernel_that_answers_nothing_after_its_reply_is_waited_for_no_longer() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()
    queue.on_reply("a", "ok", 1, 0.0)
    ask(queue, ASK_SECONDS, "q")

    assert queue.deadline == ASK_SECONDS + LOST_SECONDS
    assert statuses(queue.expire(ASK_SECONDS + LOST_SECONDS)) == [("a", "done")]


def test_an_idle_behind_outputs_that_still_come_is_not_lost() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()
    queue.on_iopub("a", 1.0)
    assert queue.deadline is None
    queue.on_reply("a", "ok", 1, 10.0)
    now = 10.0
    while now < 10.0 + MAX_LAG_SECONDS - 1:
        now += 1.0
        queue.on_iopub("a", now)
        if queue.to_ask(now) is not None:
            name = f"q{now}"
            assert queue.in_flight is not None
            queue.in_flight.question = name
            assert queue.on_answer(name, now) == []  # by shell, which does not lag
        assert queue.expire(now) == []
    assert statuses(queue.on_idle("a", now)) == [("a", "done")]


def test_a_thread_that_never_stops_is_no_backlog() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()
    queue.on_reply("a", "ok", 1, 10.0)
    ask(queue, 12.0, "q")
    queue.on_iopub("a", 10.0 + MAX_LAG_SECONDS - 1)
    assert statuses(queue.expire(10.0 + MAX_LAG_SECONDS)) == [("a", "done")]


def test_who_looks_too_late_looks_again_once() -> None:
    for message, status in (("reply", "done"), ("idle", "error")):
        queue = ExecutionQueue()
        submit(queue, "a")
        queue.take_next()
        if message == "reply":
            queue.on_reply("a", "ok", 1, 0.0)
        else:
            queue.on_idle("a", 0.0)
        ask(queue, ASK_SECONDS, "q")
        # The process was stopped meanwhile: what comes next is what came while nobody could look.
        late = ASK_SECONDS + LOST_SECONDS + 2 * LATE_SECONDS
        assert queue.expire(late) == []
        assert queue.deadline == late + LATE_SECONDS
        assert statuses(queue.expire(late + 3 * LATE_SECONDS)) == [("a", status)]


def test_a_lost_reply_is_an_error_in_the_end_and_marked() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()
    queue.on_idle("a", 0.0)
    ask(queue, ASK_SECONDS, "q")

    transitions = queue.on_answer("q", 2.5)
    assert statuses(transitions) == [("a", "error")]
    assert transitions[-1].execution.reply_missing


def test_where_both_are_lost_the_question_must_be_answered_by_both_channels() -> None:
    for interrupted, status in ((False, "error"), (True, "interrupted")):
        for idle_first in (False, True):
            queue = ExecutionQueue()
            submit(queue, "a")
            queue.take_next()
            if interrupted:
                queue.interrupt(0.0)
            queue.reconnected(0.0)
            ask(queue, 0.0, "q")
            assert queue.on_answer("another", 1.0) == queue.on_answer_idle("another", 1.0) == []
            assert queue.deadline is None  # until it answers, it may still run
            answers = [queue.on_answer, queue.on_answer_idle]
            if idle_first:
                answers.reverse()
            assert answers[0]("q", 1.0) == []
            assert statuses(answers[1]("q", 1.0)) == [("a", status)]


def test_a_question_whose_idle_is_lost_is_asked_again_and_in_the_end_done_without() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()
    queue.reconnected(0.0)
    now = 0.0
    while not (ended := queue.expire(now)):
        ask(queue, now, f"q{now}")
        assert queue.on_answer(f"q{now}", now) == []
        now += ASK_SECONDS
    assert statuses(ended) == [("a", "error")]
    assert now == LOST_SECONDS


def test_one_that_an_interrupt_made_the_kernel_drop_ends_soon() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()
    queue.on_input("a", 1)
    queue.interrupt(0.0)
    assert queue.on_idle("a", 1.0) == []
    ask(queue, 1.0, "q")
    assert statuses(queue.on_answer("q", 1.1)) == [("a", "interrupted")]


def test_a_kernel_without_execute_input_starts_at_its_reply_and_then_at_busy() -> None:
    queue = ExecutionQueue()
    submit(queue, "a", "b")
    queue.take_next()
    assert queue.on_busy("a") == []
    assert isinstance(queue.on_reply("a", "ok", 1, 0.0)[0], Started)
    queue.on_idle("a", 0.0)

    queue.take_next()
    assert isinstance(queue.on_busy("b")[0], Started)


def test_an_error_stops_only_the_rest_of_its_own_run() -> None:
    queue = ExecutionQueue()
    submit(queue, "a", "b", run_id="r", stop_on_error=True)
    submit(queue, "other")
    submit(queue, "c", run_id="r", stop_on_error=True)

    assert statuses(run(queue, "a", "error")) == [("a", "error"), ("b", "cancelled"), ("c", "cancelled")]
    assert queue.waiting == ("other",)


def test_an_interrupt_meets_the_running_one_and_the_rest_of_its_run() -> None:
    queue = ExecutionQueue()
    submit(queue, "a", "b", run_id="r")
    submit(queue, "other")
    queue.take_next()
    queue.on_input("a", 1)

    execution, transitions = queue.interrupt(0.0)
    assert execution is not None
    assert statuses(transitions) == [("b", "cancelled")]
    assert statuses([*queue.on_reply("a", "error", 1, 0.0), *queue.on_idle("a", 0.0)]) == [("a", "interrupted")]
    assert queue.waiting == ("other",)


def test_aborted_before_it_began_is_cancelled() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()

    assert statuses([*queue.on_reply("a", "aborted", None, 0.0), *queue.on_idle("a", 0.0)]) == [("a", "cancelled")]


def test_what_could_not_be_sent_is_cancelled_and_the_next_one_is_due() -> None:
    queue = ExecutionQueue()
    submit(queue, "a", "b")
    queue.take_next()

    assert statuses(queue.not_sent("a", 0.0)) == [("a", "cancelled")]
    assert queue.not_sent("b", 0.0) == []
    assert [t for t in run(queue, "b") if isinstance(t, Started)] != []


def test_losing_the_kernel_ends_everything() -> None:
    expected = {"died": "error", "restart": "interrupted", "shutdown": "interrupted", "launch_failed": "interrupted"}
    for loss, status in expected.items():
        queue = ExecutionQueue()
        submit(queue, "a", "b")
        queue.take_next()
        queue.on_input("a", 1)

        assert statuses(queue.kernel_gone(loss, 0.0)) == [("a", status), ("b", "cancelled")]  # type: ignore[arg-type]
        assert queue.take_next() is None


def test_what_the_kernel_died_of_before_it_could_say_so_is_an_error() -> None:
    queue = ExecutionQueue()
    submit(queue, "a", "b")
    queue.take_next()

    started, *ended = queue.kernel_gone("died", 0.0)
    assert isinstance(started, Started)
    assert statuses(ended) == [("a", "error"), ("b", "cancelled")]


def test_behind_what_a_kernel_died_of_nothing_had_begun() -> None:
    queue = ExecutionQueue()
    submit(queue, "a")
    queue.take_next()

    [ended] = queue.kernel_gone("died", 0.0, was_idle=False)
    assert statuses([ended]) == [("a", "cancelled")]


def test_what_it_had_not_begun_when_it_was_restarted_or_had_aborted_is_cancelled() -> None:
    for loss, aborted in (("restart", False), ("shutdown", False), ("died", True)):
        queue = ExecutionQueue()
        submit(queue, "a")
        queue.take_next()
        if aborted:
            queue.on_reply("a", "aborted", None, 0.0)

        assert statuses(queue.kernel_gone(loss, 0.0)) == [("a", "cancelled")]  # type: ignore[arg-type]


def test_an_interrupt_while_a_kernel_starts_cancels_what_would_run_first_and_its_run() -> None:
    queue = ExecutionQueue()
    queue.submit("a", "c", "", run_id="r")
    submit(queue, "b")
    queue.submit("c", "c", "", run_id="r")

    execution, ended = queue.interrupt(0.0)
    assert execution is queue.find("a")
    assert statuses(ended) == [("a", "cancelled"), ("c", "cancelled")]
    assert queue.take_next() is queue.find("b")


def test_late_messages_of_an_ended_execution_change_nothing() -> None:
    queue = ExecutionQueue()
    submit(queue, "a", "b")
    run(queue, "a")
    queue.take_next()

    assert queue.on_reply("a", "error", 1, 0.0) == []
    assert queue.on_idle("a", 0.0) == []
    assert queue.on_input("a", 9) == []


def test_the_newest_and_the_young_are_kept() -> None:
    queue = ExecutionQueue()
    for number in range(KEPT_EXECUTIONS + 5):
        submit(queue, str(number))
        run(queue, str(number))

    assert queue.forget(KEPT_SECONDS - 1) == []
    assert queue.forget(KEPT_SECONDS) == ["0", "1", "2", "3", "4"]
    assert queue.find("0") is None
    assert queue.find("5") is not None


MESSAGES = ("input", "busy", "activity", "ok", "error", "aborted", "idle", "cancel", "not taken", "iopub")
ANSWERS = ("answer", "answer idle")


class AnyHistory(RuleBasedStateMachine):
    """Random histories, with messages for any execution at any moment."""

    @initialize()
    def begin(self) -> None:
        self.queue = ExecutionQueue()
        self.now = 0.0
        self.accepted: list[str] = []
        self.started: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def note(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            counter = self.started if isinstance(transition, Started) else self.ended
            counter[transition.execution.execution_id] += 1
            if isinstance(transition, Started):
                assert self.ended[transition.execution.execution_id] == 0
            else:
                assert transition.execution.status in ("done", "error", "interrupted", "cancelled")
                begun = self.started[transition.execution.execution_id] == 1
                assert begun == (transition.execution.status != "cancelled")

    @rule(run_id=st.sampled_from([None, "r"]), stop=st.booleans())
    def accept(self, run_id: str | None, stop: bool) -> None:
        name = str(len(self.accepted))
        self.accepted.append(name)
        self.queue.submit(name, f"cell{len(self.accepted) % 3}", "", run_id=run_id, stop_on_error=stop)

    @rule()
    def send(self) -> None:
        self.queue.take_next()

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), what=st.sampled_from(MESSAGES + ANSWERS))
    def message(self, data: st.DataObject, what: str) -> None:
        current = self.queue.in_flight
        names = [current.execution_id] * 3 if current is not None else []
        name = data.draw(st.sampled_from([*names, *self.accepted[-4:]]))
        queue = self.queue
        match what:
            case "input":
                self.note(queue.on_input(name, 1))
            case "busy":
                self.note(queue.on_busy(name))
            case "activity":
                self.note(queue.on_activity(name))
            case "idle":
                self.note(queue.on_idle(name, self.now))
            case "cancel":
                self.note(queue.cancel(name, self.now))
            case "not taken":
                queue.not_taken(name)
            case "iopub":
                queue.on_iopub(name, self.now)
            case "answer":
                self.note(queue.on_answer(f"behind {name}", self.now))
            case "answer idle":
                self.note(queue.on_answer_idle(f"behind {name}", self.now))
            case _:
                self.note(queue.on_reply(name, what, None, self.now))

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ask()
        self.note(self.queue.expire(self.now))
        self.queue.forget(self.now)

    @rule()
    def reconnect(self) -> None:
        self.queue.reconnected(self.now)
        self.ask()

    def ask(self) -> None:
        execution = self.queue.to_ask(self.now)
        if execution is not None:
            execution.question = f"behind {execution.execution_id}"

    @rule()
    def interrupt(self) -> None:
        self.note(self.queue.interrupt(self.now)[1])

    @rule(cell=st.integers(0, 2))
    def delete_cell(self, cell: int) -> None:
        self.note(self.queue.cancel_cell(f"cell{cell}", self.now))

    @rule(loss=st.sampled_from(["died", "restart", "shutdown", "launch_failed"]))
    def lose_kernel(self, loss: str) -> None:
        self.note(self.queue.kernel_gone(loss, self.now))  # type: ignore[arg-type]
        assert all(self.ended[name] == 1 for name in self.accepted)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert all(count == 1 for count in self.started.values() if count)
        assert all(count == 1 for count in self.ended.values() if count)
        current = self.queue.in_flight
        alive = {execution.execution_id for execution in self.queue.queued} | (
            {current.execution_id} if current is not None else set()
        )
        assert alive == {name for name in self.accepted if not self.ended[name]}


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=200, stateful_step_count=60)
