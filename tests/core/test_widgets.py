"""Output widgets: what they capture, what the document shows of it, and that the kernel's own list stays true."""

import json
from typing import Any

import pytest

import daemon.core.output_widgets
from daemon.core.comm import SendComm
from kernel_bridge.core import messages as k
from tests.fakes.runtime_document import short
from tests.fakes.widget_kernel import SESSION, Notebook, WidgetKernel, display, stream


def lists(sent: list[SendComm]) -> list[Any]:
    """What the daemon sent of outputs, short."""
    states = [message.content["data"].get("state", {}) for message in sent]
    return [[short(output) for output in state["outputs"]] for state in states if "outputs" in state]


@pytest.fixture
def notebook() -> Notebook:
    """Output widgets `out` and `inner`, made in cell a, and a kernel that is idle."""
    notebook = Notebook()
    notebook.output_widget("out", "inner")
    return notebook


# What is captured.


def test_a_block_captures_what_is_shown_in_it(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.print("before")
    kernel.enter("out")
    kernel.print("one\n")
    kernel.print("two\n")
    kernel.print("bad\n", "stderr")
    kernel.display("shown")
    kernel.leave("out")
    kernel.print("after")
    notebook.end()

    document = notebook.settle()
    assert document.shown("comm", "out") == ["one\ntwo\n", ("stderr", "bad\n"), ("shown",)]
    assert document.shown("cell", "b") == ["beforeafter"]
    assert not {"outputs", "msg_id"} & document.state("out").keys()
    assert [short(output) for output in kernel.outputs("out")] == document.shown("comm", "out")


def test_the_inner_of_two_blocks_captures_and_gives_back(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.print("1")
    kernel.enter("inner")
    kernel.print("2")
    kernel.leave("inner")
    kernel.print("3")
    kernel.leave("out")
    notebook.end()

    document = notebook.settle()
    assert (document.shown("comm", "out"), document.shown("comm", "inner")) == (["13"], ["2"])


def test_the_same_widget_entered_twice_captures_to_the_outer_end(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.enter("inner")
    kernel.enter("out")
    kernel.print("1")  # the widget says nothing new when it is entered again: the inner one stays on top
    kernel.leave("out")
    kernel.leave("inner")
    kernel.print("2")
    kernel.leave("out")
    kernel.print("3")
    notebook.end()

    document = notebook.settle()
    assert (document.shown("comm", "out"), document.shown("comm", "inner")) == (["2"], ["1"])
    assert document.shown("cell", "b") == ["3"]


def test_another_msg_id_moves_the_capture(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.set("out", msg_id="another request")
    kernel.print("to the cell")
    kernel.parent = k.Header(msg_id="another request", msg_type="execute_request", session="theirs")
    kernel.print("captured")
    notebook.hear()

    document = notebook.commit()
    assert document.shown("cell", "b") == ["to the cell"]
    assert document.shown("comm", "out") == ["captured"]


def test_a_widget_that_is_closed_within_its_block_captures_no_more(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.print("lost with it")
    kernel.close("out")
    kernel.print("seen")
    notebook.end()

    document = notebook.settle()
    assert document.shown("cell", "b") == ["seen"]
    assert set(document.comms()) == {"inner"}


def test_a_kernel_that_ends_within_a_block_leaves_nothing_of_it(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.print("captured")
    kernel.clear(wait=True)
    notebook.hear()
    notebook.restart()
    assert notebook.commit().comms() == {}

    notebook.output_widget("out")
    kernel = notebook.begin("b")
    kernel.print("seen")
    notebook.end()
    document = notebook.settle()
    assert document.shown("cell", "b") == ["seen"]
    assert document.shown("comm", "out") == []


def test_an_error_within_a_block_is_captured_and_the_cell_goes_on(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.error("ZeroDivisionError")
    kernel.leave("out")
    kernel.print("on")
    notebook.end()

    document = notebook.settle()
    assert document.shown("comm", "out") == [("error", "ZeroDivisionError")]
    assert document.shown("cell", "b") == ["on"]
    assert document.plain["executions"]["run2"]["status"] == "done"
    assert kernel.outputs("out")[0]["output_type"] == "error"


def test_an_expressions_value_within_a_block_keeps_its_count(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.say(k.ExecuteResult(data={"text/plain": "2"}, execution_count=7))
    kernel.leave("out")
    notebook.end()
    notebook.settle()

    assert kernel.outputs("out")[0]["execution_count"] == 7


def click(notebook: Notebook, comm_id: str) -> WidgetKernel:
    """A peer's click is being worked on: whatever the kernel says now has it as its parent."""
    notebook.runtime.widgets.custom_by_peer(comm_id, {"event": "click"}, [])
    notebook.runtime.take_widgets()
    [message] = notebook.collect()
    notebook.kernel.inbox.clear()
    notebook.kernel.parent = k.Header(msg_id=message.msg_id, msg_type="comm_msg", session=SESSION)
    notebook.kernel.say(k.Status(execution_state="busy"))
    return notebook.kernel


def test_a_callback_captures_under_the_message_that_called_it(notebook: Notebook) -> None:
    notebook.widget("button", "ButtonModel")
    kernel = click(notebook, "button")
    kernel.print("in the cell of its button")
    kernel.enter("out")
    kernel.print("captured")
    kernel.leave("out")
    kernel.say(k.Status(execution_state="idle"))

    document = notebook.settle()
    assert document.shown("comm", "out") == ["captured"]
    assert document.shown("cell", "a") == ["in the cell of its button"]
    assert kernel.outputs("out") == [stream("captured")]


def test_a_thread_captures_by_what_its_widget_says_not_by_who_brings_it(notebook: Notebook) -> None:
    kernel = notebook.begin("a")
    notebook.end()
    cell = kernel.parent
    kernel.parent = k.Header(msg_id="the thread's", msg_type="comm_msg", session=SESSION)
    kernel.set("out", msg_id=cell.msg_id)
    kernel.parent = cell
    kernel.print("of the thread")
    kernel.set("out", msg_id="")
    kernel.print("late, of the cell")

    document = notebook.settle()
    assert document.shown("comm", "out") == ["of the thread"]
    assert document.shown("cell", "a") == ["late, of the cell"]


def test_a_late_print_under_a_list_that_was_sent_back_is_of_the_latest_execution(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.print("x")
    kernel.leave("out")
    [sent_back] = notebook.end()
    notebook.settle()
    kernel.parent = k.Header(msg_id=sent_back.msg_id, msg_type="comm_msg", session=SESSION)
    kernel.print("from a thread")

    assert notebook.settle().shown("cell", "b") == ["from a thread"]


# Clears.


def test_a_clear_with_wait_and_its_output_are_one_commit(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.print("old")
    kernel.clear(wait=True)
    notebook.hear()
    assert notebook.commit().shown("comm", "out") == ["old"]

    kernel.print("new")
    notebook.hear()
    assert notebook.commit().shown("comm", "out") == ["new"]


def test_a_clear_with_wait_is_remembered_across_blocks(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.print("old")
    kernel.leave("out")
    kernel.enter("out")
    kernel.clear(wait=True)
    kernel.leave("out")
    notebook.end()
    assert notebook.settle().shown("comm", "out") == ["old"]
    assert kernel.outputs("out") == [stream("old")]

    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("new")
    kernel.leave("out")
    notebook.end()
    assert notebook.settle().shown("comm", "out") == [("new",)]
    assert kernel.outputs("out") == [display("new")]


def test_a_plain_clear_ends_the_waiting_one(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.clear(wait=True)
    kernel.clear()
    kernel.print("1")
    kernel.print("2")
    notebook.hear()

    assert notebook.commit().shown("comm", "out") == ["12"]


def test_clearing_a_widget_leaves_its_cell_alone(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.print("cell")
    kernel.enter("out")
    kernel.print("out")
    kernel.clear()
    kernel.leave("out")
    notebook.end()

    document = notebook.settle()
    assert (document.shown("cell", "b"), document.shown("comm", "out")) == (["cell"], [])
    assert kernel.outputs("out") == []


def test_the_same_holds_for_a_cell(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.print("old")
    kernel.clear(wait=True)
    notebook.hear()
    assert notebook.commit().shown("cell", "b") == ["old"]
    kernel.print("new")
    notebook.hear()

    assert notebook.commit().shown("cell", "b") == ["new"]


# Displays that change.


@pytest.mark.parametrize("committed", [True, False], ids=["later commit", "same commit"])
def test_a_display_changes_wherever_it_is(notebook: Notebook, committed: bool) -> None:
    kernel = notebook.begin("a")
    kernel.display("v1", "d")
    notebook.end()
    kernel = notebook.begin("b")
    kernel.display("v1", "d")
    kernel.enter("out")
    kernel.display("v1", "d")
    kernel.leave("out")
    if committed:
        notebook.hear()
        notebook.commit()
    kernel.update_display("d", "v2")
    notebook.end()

    document = notebook.settle()
    assert [document.shown("cell", "a"), document.shown("cell", "b"), document.shown("comm", "out")] == [[("v2",)]] * 3
    assert kernel.outputs("out") == [display("v2")]


def test_after_its_block_a_captured_display_still_changes_and_the_kernel_hears_of_it(notebook: Notebook) -> None:
    kernel = notebook.begin("a")
    kernel.enter("out")
    kernel.display("v1", "d")
    kernel.leave("out")
    notebook.end()
    notebook.settle()
    kernel = notebook.begin("b")
    kernel.update_display("d", "v2")
    assert lists(notebook.end()) == [[("v2",)]]

    assert notebook.settle().shown("comm", "out") == [("v2",)]
    assert kernel.outputs("out") == [display("v2")]


def test_a_display_that_was_cleared_does_not_come_back(notebook: Notebook) -> None:
    kernel = notebook.begin("a")
    kernel.enter("out")
    kernel.display("v1", "d")
    kernel.clear()
    kernel.update_display("d", "v2")
    kernel.leave("out")
    notebook.end()

    assert notebook.settle().shown("comm", "out") == []


# The kernel's own list.


def test_what_the_kernel_appends_is_appended(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("captured")
    kernel.leave("out")
    notebook.end()
    notebook.settle()
    kernel = notebook.begin("b")
    kernel.append("out", stream("one"))
    kernel.append("out", display("two"))
    notebook.hear()

    assert notebook.commit().shown("comm", "out") == [("captured",), "one", ("two",)]
    assert lists(notebook.end()) == []


def test_what_it_appends_without_knowing_of_captures_comes_behind_them(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("captured")
    kernel.leave("out")
    kernel.append("out", display("appended"))
    assert kernel.outputs("out") == [display("appended")]
    notebook.end()

    assert notebook.settle().shown("comm", "out") == [("captured",), ("appended",)]
    assert kernel.outputs("out") == [display("captured"), display("appended")]


def test_what_it_appends_while_a_list_is_on_its_way_is_not_lost(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("captured")
    kernel.leave("out")
    assert lists(notebook.hear()) == [[("captured",)]]
    kernel.append("out", display("appended"))
    notebook.end()

    assert notebook.settle().shown("comm", "out") == [("captured",), ("appended",)]
    assert kernel.outputs("out") == [display("captured"), display("appended")]


def test_what_it_appends_looks_like_the_list_on_its_way_and_is_not_taken_for_it(notebook: Notebook) -> None:
    notebook.set_by_peer("inner", layout="IPY_MODEL_m")
    notebook.settle()  # it echoes, that is known now
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("same")
    kernel.leave("out")
    kernel.append("out", display("same"))
    notebook.end()

    assert notebook.settle().outputs("comm", "out") == kernel.outputs("out") == [display("same")] * 2


def test_a_list_that_a_silent_kernel_took_within_a_cell_is_known_by_what_follows() -> None:
    notebook = Notebook(echo=False)
    notebook.output_widget("out")
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("captured")
    kernel.leave("out")
    notebook.hear()
    assert kernel.read_within_cell()
    kernel.append("out", display("appended"))
    notebook.end()

    expected = [display("captured"), display("appended")]
    assert notebook.settle().outputs("comm", "out") == kernel.outputs("out") == expected


@pytest.mark.parametrize("new", [[], [display("z")]], ids=["cleared", "replaced"])
@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not taken"])
def test_a_list_that_crosses_another_in_a_silent_kernel_leaves_both_ends_equal(taken: bool, new: list[Any]) -> None:
    """It takes lists within a cell without a word. A new list there looks like one more output; an empty one is a clear."""
    notebook = Notebook(echo=False)
    notebook.output_widget("out")
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("captured")
    kernel.leave("out")
    notebook.hear()
    if taken:
        assert kernel.read_within_cell()
    kernel.set("out", outputs=new)
    notebook.end()
    notebook.settle()
    while notebook.pass_deadline():
        notebook.settle()

    assert notebook.commit().outputs("comm", "out") == kernel.outputs("out")
    if taken and not new:
        assert kernel.outputs("out") == []


def test_the_same_output_again_after_a_silent_kernel_lost_it_is_sent_again() -> None:
    notebook = Notebook(echo=False)
    notebook.output_widget("out")
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("same")
    kernel.leave("out")
    notebook.hear()
    assert kernel.read_within_cell()
    kernel.set("out", outputs=[])
    kernel.enter("out")
    kernel.display("same")
    kernel.leave("out")
    notebook.end()
    notebook.settle()
    while notebook.pass_deadline():
        notebook.settle()

    assert notebook.commit().outputs("comm", "out") == kernel.outputs("out") == [display("same")]


@pytest.mark.parametrize("new", [[], [display("z")]], ids=["cleared", "replaced"])
def test_another_list_replaces(notebook: Notebook, new: list[Any]) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("captured")
    kernel.leave("out")
    notebook.end()
    notebook.settle()
    kernel = notebook.begin("b")
    kernel.set("out", outputs=new)
    notebook.end()

    assert notebook.settle().outputs("comm", "out") == kernel.outputs("out") == new


def test_the_whole_state_once_more_changes_nothing(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.print("captured")
    kernel.send_state("out", kernel.models["out"].state)  # its `outputs` are still ()
    kernel.print(", and more")
    kernel.leave("out")
    notebook.end()

    assert notebook.settle().shown("comm", "out") == ["captured, and more"]
    assert kernel.outputs("out") == [stream("captured, and more")]


def test_a_widget_opened_with_outputs_shows_them() -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    kernel.open("out", "OutputModel", {"outputs": [stream("there"), display("already")], "msg_id": ""})
    notebook.end()

    assert notebook.settle().shown("comm", "out") == ["there", ("already",)]


def test_texts_that_join_or_act_are_sent_back_as_they_look(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.append("out", stream("50 %"))
    kernel.append("out", stream("\r100 %"))
    assert lists(notebook.end()) == [["100 %"]]

    assert notebook.settle().shown("comm", "out") == ["100 %"]
    assert kernel.outputs("out") == [stream("100 %")]


def test_bytes_in_a_list_are_base64_as_in_displays(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    image = {"output_type": "display_data", "data": {"image/png": b"\x89PNG"}, "metadata": {}}
    kernel.set("out", outputs=[image])
    notebook.hear()
    assert notebook.commit().outputs("comm", "out")[0]["data"] == {"image/png": "iVBORw=="}
    kernel.append("out", display("more"))
    notebook.end()

    assert notebook.settle().outputs("comm", "out") == kernel.outputs("out")


def test_an_output_that_nobody_knows_is_left_out_on_both_sides(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.set("out", outputs=[{"output_type": "hologram"}, stream("x")])
    notebook.end()

    assert notebook.settle().shown("comm", "out") == ["x"]
    assert kernel.outputs("out") == [stream("x")]


@pytest.mark.parametrize("blocks", [200, 2000])
def test_however_many_outputs_the_kernel_gets_a_list_a_round_trip(notebook: Notebook, blocks: int) -> None:
    kernel = notebook.begin("b")
    for n in range(blocks):
        kernel.enter("out")
        kernel.display(f"output {n}")
        kernel.leave("out")
    notebook.end()
    document = notebook.settle()

    assert len(kernel.outputs("out")) == len(document.outputs("comm", "out")) == blocks
    assert kernel.update_messages == 2
    whole = len(json.dumps(kernel.outputs("out")))
    assert kernel.update_bytes < 1.01 * whole + 1000
    print(f"{blocks} captured outputs in one cell: {kernel.update_messages} messages, {kernel.update_bytes} bytes back")


def test_a_cell_reads_what_peers_see_when_it_is_sent(notebook: Notebook) -> None:
    """A list is unanswered when the first cell ends; the next cell, already queued, still finds the newest one."""
    notebook.submit("b")
    notebook.submit("b")
    kernel = notebook.kernel
    while kernel.running is None:
        kernel.read()
    kernel.enter("out")
    kernel.display("1")
    kernel.leave("out")
    kernel.enter("out")
    kernel.display("2")
    kernel.leave("out")
    kernel.finish()
    notebook.hear()
    while kernel.running is None:
        assert kernel.read()

    assert kernel.outputs("out") == [display("1"), display("2")]
    assert kernel.update_messages == 2


def test_a_list_that_is_too_long_is_not_sent_and_that_is_said(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.core.output_widgets, "MAX_SEND_BACK", 1000)
    kernel = notebook.begin("b")
    kernel.enter("out")
    for _ in range(50):
        kernel.print("x" * 100)
        kernel.leave("out")
        kernel.enter("out")
    notebook.end()

    document = notebook.settle()
    assert document.shown("comm", "out") == ["x" * 5000]
    assert len(kernel.outputs("out")[0]["text"]) <= 1000
    [(_, line)] = document.shown("kernel_log")
    assert line.count("too long") == 1


def test_a_lost_answer_to_a_list_does_not_stop_the_next(notebook: Notebook) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("1")
    kernel.leave("out")
    notebook.end()
    kernel.read()
    kernel.said.clear()
    notebook.now = 100.0
    notebook.runtime.expire()
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("2")
    kernel.leave("out")
    notebook.end()
    notebook.settle()

    assert kernel.outputs("out") == [display("1"), display("2")]


@pytest.mark.parametrize("read", [True, False], ids=["read", "not read"])
def test_after_a_new_connection_no_capture_is_lost(notebook: Notebook, read: bool) -> None:
    kernel = notebook.begin("b")
    kernel.enter("out")
    kernel.display("1")
    kernel.leave("out")
    notebook.end()
    if read:
        kernel.read()
    notebook.reconnect()

    assert notebook.settle().outputs("comm", "out") == kernel.outputs("out") == [display("1")]


def test_a_list_that_goes_before_an_execution_while_the_kernel_is_asked_how_it_is_is_answered(
    notebook: Notebook,
) -> None:
    def capture(text: str) -> None:
        notebook.kernel.enter("out")
        notebook.kernel.display(text)
        notebook.kernel.leave("out")

    kernel = notebook.begin("b")
    capture("1")
    notebook.hear()  # the list goes to the kernel, and is lost on its way
    notebook.reconnect()
    notebook.submit("a")
    notebook.submit("b")
    notebook.end()
    while kernel.running is None:  # what comms it has, then the first of the two cells
        kernel.read()
        notebook.hear()
    capture("2")
    waiting = [message.content["data"] for message in kernel.inbox if isinstance(message, SendComm)]
    assert waiting == [{"method": "request_state"}] * 2  # of both widgets
    sent = notebook.end()
    assert lists(sent) == [[("1",), ("2",)]]
    while kernel.running is None:
        kernel.read()
        notebook.hear()
    notebook.end()

    assert notebook.settle().outputs("comm", "out") == kernel.outputs("out") == [display("1"), display("2")]
