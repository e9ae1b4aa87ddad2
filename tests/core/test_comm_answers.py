"""What an answer of the kernel tells of messages to comms, and when it is asked for one."""

from collections import deque

import pytest

from daemon.core.comm import SendComm
from daemon.core.comm_answers import ASK_SECONDS
from daemon.core.effects import SendExecute, SendQuestion
from kernel_bridge.core import messages as k
from tests.fakes.widget_kernel import SESSION, Notebook, stream


def test_a_callback_whose_end_is_lost_holds_up_nobody(slider: Notebook) -> None:
    slider.set_by_peer("s", value=1)
    slider.kernel.read()
    slider.kernel.said.pop()  # idle
    slider.hear()
    slider.set_by_peer("s", value=2)
    slider.submit("b")
    assert slider.runtime.kernel_status == "busy"
    slider.now += ASK_SECONDS
    slider.runtime.expire()
    slider.collect()
    slider.settle()
    assert slider.kernel.models["s"].state["value"] == 2, "it went as soon as the kernel was known to be past the first"
    assert slider.kernel.running
    slider.end()
    assert slider.settle().state("s")["value"] == 2
    while slider.pass_deadline():
        slider.settle()

    assert slider.runtime.kernel_status == "idle"
    assert slider.kernel.models["s"].state["value"] == slider.document.state("s")["value"] == 2
    assert slider.runtime.widgets.forwarding.open_messages == set()


def test_an_execution_waits_behind_a_callback_where_it_can_be_cancelled(slider: Notebook) -> None:
    slider.kernel.stays_in_callbacks = True
    slider.click("s")
    slider.kernel.read()
    slider.hear()
    first, second = slider.submit("a"), slider.submit("b")
    assert slider.runtime.cancel(first)
    assert slider.runtime.interrupt() is None, "it meets the callback"
    slider.kernel.finish()
    while slider.kernel.running is None:
        slider.hear()
        slider.kernel.read()
    assert slider.kernel.running == second


def test_an_interrupt_of_a_callback_leaves_what_waits_behind_it(slider: Notebook) -> None:
    slider.kernel.stays_in_callbacks = True
    slider.click("s")
    slider.runtime.submit([("one", "a", ""), ("two", "b", "")], run_id="run", stop_on_error=True)
    slider.collect()  # the kernel was given the first before anybody knew that it is busy
    slider.kernel.read()
    slider.hear()
    assert slider.runtime.interrupt() is None
    assert slider.runtime.queue.waiting == ("one", "two")


def test_an_execution_has_its_turn_between_the_callbacks_of_a_drag() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.set_by_peer("s", value=1)
    notebook.kernel.read()
    notebook.hear(1)  # busy
    notebook.set_by_peer("s", value=2)
    notebook.submit("b")
    notebook.runtime.receive(list(notebook.kernel.said))  # echo and idle: the next update and the execution are sent
    notebook.collect()
    assert [type(message) for message in notebook.kernel.inbox] == [SendComm, SendExecute]


@pytest.mark.parametrize("why", ["not read", "interrupted", "not heard"])
def test_a_question_that_is_lost_is_put_again(why: str) -> None:
    notebook = Notebook(echo=False)
    notebook.widget("s")
    notebook.set_by_peer("s", value=1)
    notebook.kernel.read()
    notebook.kernel.said.pop()  # idle
    notebook.hear()
    notebook.set_by_peer("s", value=2)
    notebook.now += ASK_SECONDS
    notebook.runtime.expire()
    if why == "not read":
        [question] = notebook.runtime.take_effects()
        assert isinstance(question, SendQuestion)
        notebook.runtime.not_taken(question)
    else:
        notebook.collect()
        if why == "not heard":
            notebook.kernel.read()
            notebook.kernel.said = deque(message for message in notebook.kernel.said if message.channel == "shell")
            notebook.hear()
        else:
            notebook.kernel.inbox.clear()
            notebook.runtime.interrupt()
    assert notebook.runtime.kernel_status == "busy"
    assert notebook.pass_deadline()

    assert notebook.settle().state("s")["value"] == notebook.kernel.models["s"].state["value"] == 2
    assert notebook.runtime.kernel_status == "idle"


@pytest.mark.parametrize("kernel", ["names no session", "says no busy", "says nothing by iopub", "dropped it"])
def test_an_execution_does_not_wait_for_ever_whatever_the_kernel_makes_of_a_question(kernel: str) -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.set_by_peer("s", value=1)
    notebook.kernel.read()
    notebook.kernel.said.pop()  # idle
    notebook.hear()
    notebook.submit("b")
    for asked in range(3):
        while not notebook.kernel.inbox:
            assert notebook.pass_deadline()
        question = notebook.kernel.inbox.popleft()
        assert isinstance(question, SendQuestion)
        if kernel == "dropped it" and not asked:
            continue
        session = "" if kernel == "names no session" else SESSION
        notebook.kernel.parent = k.Header(msg_id=question.msg_id, msg_type="execute_request", session=session)
        notebook.kernel.say(k.ExecuteReply(status="ok"), channel="shell")
        if kernel in ("names no session", "dropped it"):
            notebook.kernel.say(k.Status(execution_state="busy"))
        if kernel != "says nothing by iopub":
            notebook.kernel.say(k.Status(execution_state="idle"))
        notebook.hear()
        if notebook.kernel.inbox:
            break
    assert [type(message) for message in notebook.kernel.inbox] == [SendExecute]


def test_a_thread_prints_in_its_cell_also_after_a_question() -> None:
    notebook = Notebook(echo=False)
    notebook.widget("s")
    notebook.submit("a")
    notebook.settle()
    notebook.end()
    notebook.set_by_peer("s", value=1)
    notebook.kernel.inbox.clear()
    notebook.pass_deadline()
    [question] = notebook.kernel.inbox
    assert isinstance(question, SendQuestion)
    notebook.kernel.parent = k.Header(msg_id=question.msg_id, msg_type="execute_request", session=SESSION)
    notebook.kernel.say(k.Status(execution_state="busy"))
    notebook.kernel.print("of a hook\n")
    notebook.kernel.say(k.Status(execution_state="idle"))
    notebook.kernel.print("of a thread\n")
    notebook.hear()

    assert notebook.commit().outputs("cell", "a") == [stream("of a thread\n")]


def test_what_a_kernel_says_between_two_lives_holds_up_nothing_in_the_next(slider: Notebook) -> None:
    slider.runtime.kernel_gone("shutdown")
    slider.kernel.said.clear()
    slider.kernel.parent = k.Header(msg_id="x", msg_type="comm_msg", session=SESSION)
    slider.kernel.say(k.Status(execution_state="busy"))
    slider.hear()
    slider.start_kernel()
    slider.submit("a")
    assert any(isinstance(message, SendExecute) for message in slider.kernel.inbox)


@pytest.mark.parametrize("idle", [False, True])
def test_an_interrupt_of_a_callback_may_meet_what_is_right_behind_it(slider: Notebook, idle: bool) -> None:
    slider.kernel.stays_in_callbacks = True
    slider.click("s")
    execution_id = slider.submit("b")  # before anybody knew that the kernel is busy
    slider.kernel.read()
    slider.hear()
    assert slider.runtime.interrupt() is None
    slider.kernel.finish()
    slider.kernel.inbox.popleft()  # the kernel drops it, having begun
    slider.kernel.parent = k.Header(msg_id=execution_id, msg_type="execute_request", session=SESSION)
    slider.kernel.say(k.Status(execution_state="busy"))
    slider.kernel.say(k.ExecuteInput(code="", execution_count=9))
    if idle:
        slider.kernel.say(k.Status(execution_state="idle"))
    slider.hear()
    while slider.pass_deadline():
        slider.settle()
    assert slider.runtime.queue.in_flight is None


def test_nothing_is_asked_behind_an_execution_and_what_is_open_after_it_is() -> None:
    notebook = Notebook(echo=False)
    notebook.widget("s")
    notebook.set_by_peer("s", value=1)
    notebook.kernel.inbox.clear()
    execution_id = notebook.submit("b")
    notebook.pass_deadline()
    assert notebook.runtime.deadline is None
    assert [type(message) for message in notebook.kernel.inbox] == [SendExecute]
    notebook.runtime.not_sent(execution_id)
    notebook.kernel.inbox.clear()

    assert notebook.pass_deadline()
    assert [type(message) for message in notebook.kernel.inbox] == [SendQuestion]


def test_a_restart_ends_a_callback_and_its_question(slider: Notebook) -> None:
    slider.kernel.stays_in_callbacks = True
    slider.click("s")
    slider.kernel.read()
    slider.hear()
    slider.restart()
    assert slider.runtime.deadline is None
    assert slider.runtime.kernel_status == "idle"
    slider.submit("b")
    assert slider.runtime.between


def test_who_drags_for_long_is_asked_nothing(slider: Notebook) -> None:
    for value in range(100):
        slider.set_by_peer("s", value=value)
        slider.now += 1.0
        slider.kernel.read()
        slider.hear()
        slider.runtime.expire()
        slider.collect()
        assert not any(isinstance(message, SendQuestion) for message in slider.kernel.inbox)


def test_a_long_callback_costs_a_question_less_and_less_often(slider: Notebook) -> None:
    slider.kernel.stays_in_callbacks = True
    slider.click("s")
    slider.kernel.read()
    slider.hear()
    while slider.now < 600:
        assert slider.pass_deadline()
    assert {type(message) for message in slider.kernel.inbox} == {SendQuestion}
    assert len(slider.kernel.inbox) < 10
    assert slider.runtime.kernel_status == "busy"
    slider.kernel.finish()
    slider.settle()

    assert slider.runtime.kernel_status == "idle"
    assert not slider.pass_deadline()
