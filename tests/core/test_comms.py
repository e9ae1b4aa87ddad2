"""Who writes a widget's state, what of it reaches the kernel, and what of the kernel's word the document has."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import daemon.core.comms
from daemon.core.comm import SendComm
from daemon.core.comm_answers import ASK_SECONDS
from daemon.core.comm_buffers import is_place, join_buffers, split_buffers
from daemon.core.comm_changes import CommChanges, value_size
from daemon.core.effects import SendExecute, SendQuestion
from daemon.core.forwarding import QUIET_SECONDS
from daemon.core.readable import ENVELOPE_BYTES
from daemon.core.reattachment import ASK_AGAIN_SECONDS
from kernel_bridge.core import messages as k
from sync.core.limits import MIB
from sync.core.mutations import CloseComm, OpenComm, SetCommState
from tests.fakes.widget_kernel import SESSION, Notebook


def values(sent: list[SendComm]) -> list[dict[str, Any]]:
    return [message.content["data"].get("state", message.content["data"]) for message in sent]


def questions(notebook: Notebook) -> list[str]:
    """The widgets whose state the kernel is asked for, and has not been told yet."""
    sent = [message.content for message in notebook.kernel.inbox if isinstance(message, SendComm)]
    return [content["comm_id"] for content in sent if content.get("data") == {"method": "request_state"}]


# The echo rule.


def test_what_a_peer_sets_is_committed_at_once_and_forwarded(slider: Notebook) -> None:
    [message] = slider.set_by_peer("s", value=7)

    assert slider.commit().state("s")["value"] == 7
    assert message.msg_type == "comm_msg"
    data = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    assert message.content == {"comm_id": "s", "data": data}
    assert slider.settle().state("s")["value"] == 7
    assert slider.kernel.models["s"].state["value"] == 7


def test_what_the_kernel_said_before_it_knew_is_dropped(slider: Notebook) -> None:
    kernel = slider.begin("b")
    for value in (1, 2, 3):
        kernel.set("s", value=value)
    slider.set_by_peer("s", value=50)
    slider.hear()
    assert slider.commit().state("s")["value"] == 50

    slider.end()
    assert slider.settle().state("s")["value"] == kernel.models["s"].state["value"] == 50


def test_other_traits_are_shown_at_once(slider: Notebook) -> None:
    kernel = slider.begin("b")
    slider.set_by_peer("s", value=50)
    kernel.set("s", max=60)
    slider.hear()

    assert slider.commit().state("s")["max"] == 60


def test_the_kernels_correction_stays(slider: Notebook) -> None:
    slider.set_by_peer("s", value=1000)
    assert slider.commit().state("s")["value"] == 1000

    assert slider.settle().state("s")["value"] == slider.kernel.models["s"].state["value"] == 100


def test_a_correction_waits_for_a_pause(slider: Notebook) -> None:
    for value in range(120, 140):
        slider.set_by_peer("s", value=value)
        slider.kernel.read()
        slider.hear()
        assert slider.commit().state("s")["value"] == value
        slider.now += QUIET_SECONDS / 2
        slider.runtime.expire()
    assert slider.runtime.deadline is not None
    slider.kernel.set("s", value=99)
    slider.hear()
    assert slider.commit().state("s")["value"] == 139

    slider.now = slider.runtime.deadline
    slider.runtime.expire()
    assert slider.commit().state("s")["value"] == 99
    assert slider.runtime.deadline is None


def test_after_a_pause_the_kernels_word_is_shown_at_once(slider: Notebook) -> None:
    slider.set_by_peer("s", value=1)
    slider.settle()
    kernel = slider.begin("b")
    kernel.set("s", value=2)
    slider.hear()

    assert slider.commit().state("s")["value"] == 2


def test_the_correction_of_an_older_value_does_not_show(slider: Notebook) -> None:
    slider.set_by_peer("s", value=1000)
    slider.set_by_peer("s", value=20)
    slider.kernel.read()
    slider.hear()
    assert slider.commit().state("s")["value"] == 20

    assert slider.settle().state("s")["value"] == 20


def test_a_busy_kernel_gets_one_message_and_one_waits(slider: Notebook) -> None:
    kernel = slider.begin("b")
    sent = [message for n in range(500) for message in slider.set_by_peer("s", value=n % 90, **{f"t{n % 3}": n})]
    assert values(sent) == [{"value": 0, "t0": 0}]
    assert slider.commit().state("s")["value"] == 499 % 90

    slider.end()
    kernel.read()
    [second] = slider.hear()
    assert second.content["data"]["state"] == {"value": 499 % 90, "t0": 498, "t1": 499, "t2": 497}
    assert slider.settle().state("s")["value"] == 499 % 90
    assert kernel.update_messages == 2


@pytest.mark.parametrize("follows", ["an execution", "a click"])
def test_what_waits_goes_before_what_its_peer_asks_for_next(slider: Notebook, follows: str) -> None:
    slider.widget("button")
    for value in (1, 2, 3):
        slider.set_by_peer("s", value=value)
    if follows == "a click":
        slider.runtime.widgets.custom_by_peer("button", {"event": "click"}, [])
        slider.runtime.take_widgets()
        slider.collect()
    else:
        slider.submit("b")
    *updates, last = slider.kernel.inbox

    assert values([update for update in updates if isinstance(update, SendComm)]) == [{"value": 1}, {"value": 3}]
    assert isinstance(last, SendExecute) == (follows == "an execution")
    assert slider.settle().state("s")["value"] == 3


def test_each_comm_has_its_own_turn(slider: Notebook) -> None:
    slider.widget("r")
    slider.begin("b")
    sent = [slider.set_by_peer(comm_id, value=n) for n in range(3) for comm_id in "sr"]

    assert [bool(messages) for messages in sent] == [True, True, False, False, False, False]


def test_a_trait_without_an_echo_closes_at_idle() -> None:
    notebook = Notebook(echo=False)  # as FileUpload.value, whatever the others do
    notebook.widget("s")
    kernel = notebook.begin("b")
    kernel.set("s", value=3)
    notebook.set_by_peer("s", value=50)
    notebook.end()
    notebook.settle()
    kernel = notebook.begin("b")
    kernel.set("s", value=4)
    notebook.end()

    assert notebook.settle().state("s")["value"] == 4


def test_without_an_echo_nobody_knows_what_came_last_so_the_kernel_is_asked() -> None:
    notebook = Notebook(echo=False)
    notebook.widget("s")
    notebook.set_by_peer("s", value=5)
    kernel = notebook.kernel
    kernel.read()
    idle = kernel.said.pop()
    # A thread, or a task of an earlier cell, sets it behind the peer's value and under a parent of its own.
    kernel.parent = k.Header(msg_id="earlier", msg_type="execute_request", session=SESSION)
    kernel.set("s", value=7)
    kernel.said.append(idle)
    notebook.hear()
    notebook.pause()

    assert questions(notebook) == ["s"]
    assert notebook.settle().state("s")["value"] == 7


def test_a_value_that_the_kernel_refuses_without_a_word_does_not_stay() -> None:
    notebook = Notebook(echo=False)  # as anywidget's descriptor
    notebook.widget("s")
    notebook.set_by_peer("s", value=7, other="new")
    notebook.settle()
    notebook.set_by_peer("s", value="bad")
    assert notebook.commit().state("s")["value"] == "bad"

    assert notebook.settle().state("s")["value"] == 7
    assert notebook.document.state("s")["other"] == "new"
    assert notebook.runtime.widgets.forwarding.open_messages == set()


def test_a_value_that_is_cast_to_what_the_kernel_has_does_not_stay(slider: Notebook) -> None:
    """It is echoed as it came, and changes nothing, of which nothing is said."""
    slider.set_by_peer("s", value=3)
    slider.settle()
    slider.set_by_peer("s", value=3.7)
    assert slider.commit().state("s")["value"] == 3.7

    assert slider.settle().state("s")["value"] == 3


@pytest.mark.parametrize(
    ("kernels", "peers", "asked"),
    [
        (3, 5, 0),
        (3, 5.0, 0),
        (0.5, 2, 0),
        (0.5, 2.5, 0),
        (3, "5", 1),
        (True, 1, 1),
        ("a", None, 0),
        (None, "50%", 0),
        (None, {"year": 2026}, 0),
        ([1], [2], 0),
        ([1, 2], [1.5, 2.5], 1),
        ([1], [2.0], 0),
        ([0.5], [1], 0),
        ([], ["new"], 0),
        ([1], "x", 1),
        ({"a": 1}, {"a": 1.5}, 1),
        ({"a": 1}, {"b": 2}, 0),
        ([{}], [{"a": 1}], 0),
        ([b"raw"], [b"new"], 0),
    ],
)
def test_only_a_value_that_may_be_cast_costs_a_question(kernels: Any, peers: Any, asked: int) -> None:
    notebook = Notebook()
    notebook.widget("s", trait=kernels)
    notebook.set_by_peer("s", trait=peers)

    assert notebook.settle().state("s")["trait"] == peers
    assert notebook.kernel.questions == asked


def test_a_question_waits_until_the_kernel_has_done_what_it_echoed(slider: Notebook) -> None:
    """It may raise yet, and would be asked again."""
    slider.set_by_peer("s", value="bad")
    message = slider.kernel.inbox.popleft()
    assert isinstance(message, SendComm)
    slider.kernel.parent = k.Header(msg_id=message.msg_id, msg_type="comm_msg", session=SESSION)
    slider.kernel.say(k.Status(execution_state="busy"))
    slider.kernel.send_state("s", {"value": "bad"}, "echo_update")
    slider.hear()
    slider.pause()
    assert questions(slider) == []
    slider.kernel.error("TraitError")
    slider.kernel.say(k.Status(execution_state="idle"))
    slider.hear()
    slider.pause()

    assert questions(slider) == ["s"]
    assert slider.settle().state("s")["value"] == 0
    assert slider.kernel.questions == 1


def test_a_value_that_waits_when_the_connection_is_new_is_asked_about_all_the_same(slider: Notebook) -> None:
    slider.set_by_peer("s", value=3)
    slider.settle()
    slider.set_by_peer("s", value=4)
    slider.set_by_peer("s", value=3.7)  # behind it
    slider.reconnect()
    while slider.pass_deadline():
        slider.settle()

    assert slider.settle().state("s")["value"] == slider.kernel.models["s"].state["value"] == 3


def test_within_a_cell_that_awaits_a_value_is_asked_about_before_its_end() -> None:
    """Such a cell's comm messages have no busy and idle, so the echo is the last word."""
    notebook = Notebook()
    notebook.widget("s", other="x")
    kernel = notebook.begin("b")
    notebook.set_by_peer("s", value="bad")
    message, cell = kernel.inbox.popleft(), kernel.parent
    assert isinstance(message, SendComm)
    kernel.parent = k.Header(msg_id=message.msg_id, msg_type="comm_msg", session=SESSION)
    kernel.send_state("s", {"value": "bad"}, "echo_update")
    kernel.error("TraitError")
    kernel.parent = cell
    notebook.hear()
    notebook.pause()
    while kernel.read_within_cell():
        notebook.hear()
    assert notebook.commit().state("s")["value"] == 0

    notebook.set_by_peer("s", value=0.7)
    while kernel.read_within_cell() or notebook.pause():
        notebook.hear()
    assert notebook.commit().state("s")["value"] == 0
    assert kernel.running


def test_a_kernel_that_says_what_it_made_of_a_value_is_not_asked(slider: Notebook) -> None:
    slider.set_by_peer("s", value=1000)

    assert slider.settle().state("s")["value"] == 100
    assert slider.kernel.questions == 0


@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no echo"])
def test_a_drag_costs_one_question_at_most_and_that_when_it_rests(echo: bool) -> None:
    notebook = Notebook(echo=echo)
    notebook.widget("s")
    for value in [*range(200), "bad"]:
        notebook.set_by_peer("s", value=value % 90 if isinstance(value, int) else value)
        notebook.kernel.read()
        notebook.hear()
        notebook.now += QUIET_SECONDS / 6  # 60 Hz
        notebook.runtime.expire()
        notebook.collect()
        assert questions(notebook) == []

    assert notebook.settle().state("s")["value"] == 199 % 90
    assert notebook.kernel.questions == 1


def test_one_question_at_a_time_and_its_answer_does_not_cover_what_came_after() -> None:
    notebook = Notebook(echo=False)
    notebook.widget("s")
    notebook.set_by_peer("s", value=1)
    notebook.kernel.read()
    notebook.hear()
    notebook.pause()
    for value in (2, "bad"):
        notebook.set_by_peer("s", value=value)
        notebook.pause()
        assert questions(notebook) == ["s"]
        assert notebook.commit().state("s")["value"] == value
    notebook.kernel.read()
    notebook.hear()
    assert notebook.commit().state("s")["value"] == "bad"

    assert notebook.settle().state("s")["value"] == 2
    assert notebook.kernel.questions == 2


@pytest.mark.parametrize("answer", ["an error", "nothing"])
def test_a_question_without_an_answer_is_not_asked_again(answer: str) -> None:
    notebook = Notebook(echo=False)
    notebook.widget("s")
    notebook.set_by_peer("s", value="bad")
    kernel = notebook.kernel
    kernel.read()
    notebook.hear()
    notebook.pause()
    assert questions(notebook) == ["s"]
    if answer == "an error":
        question = kernel.inbox.popleft()
        assert isinstance(question, SendComm)
        kernel.parent = k.Header(msg_id=question.msg_id, msg_type="comm_msg", session=SESSION)
        kernel.error("RuntimeError")
        kernel.say(k.Status(execution_state="idle"))
        notebook.hear()
    else:
        kernel.inbox.clear()
        while notebook.pass_deadline():
            kernel.read()
            notebook.hear()

    assert questions(notebook) == []
    assert notebook.runtime.widgets.forwarding.open_messages == set()


def test_messages_within_a_cell_that_awaits_are_answered_by_their_echo() -> None:
    notebook = Notebook()
    notebook.widget("s")
    kernel = notebook.begin("b")
    for value in range(5):
        notebook.set_by_peer("s", value=value)
        assert kernel.read_within_cell()
        notebook.hear()
    kernel.set("s", value=77)
    notebook.hear()
    notebook.pause()

    assert kernel.update_messages == 5
    assert notebook.commit().state("s")["value"] == 77
    assert len(notebook.runtime.widgets.forwarding.open_messages) <= 1


def test_a_later_answer_ends_an_earlier_message_too() -> None:
    notebook = Notebook(echo=False)
    notebook.widget("s")
    notebook.widget("r")
    notebook.set_by_peer("s", value=1)
    notebook.set_by_peer("r", value=2)
    notebook.kernel.read()
    notebook.kernel.said.clear()  # the idle of the first is lost

    notebook.settle()
    assert notebook.runtime.widgets.forwarding.open_messages == set()


def test_a_lost_answer_is_given_up_when_the_kernel_is_known_to_be_past_it() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.set_by_peer("s", value=1000, other=1)
    notebook.set_by_peer("s", value=1001)
    notebook.kernel.read()
    notebook.kernel.said.clear()
    assert notebook.runtime.deadline == ASK_SECONDS
    assert notebook.pass_deadline()
    assert [type(message) for message in notebook.kernel.inbox] == [SendQuestion]
    notebook.kernel.read()

    assert values(notebook.hear()) == [{"value": 1001}]
    assert notebook.settle().state("s")["value"] == 100
    assert notebook.kernel.questions == 1
    assert notebook.runtime.deadline is None


def test_the_type_is_that_of_the_kernels_latest_value() -> None:
    slider = Notebook()
    slider.widget("s")
    slider.begin("b").set("s", trait="text")
    slider.end()
    slider.begin("b").set("s", trait=1)
    slider.end()
    slider.set_by_peer("s", trait=2)
    slider.settle()
    assert slider.kernel.questions == 0


def test_a_kernel_that_works_is_not_given_up() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.begin("b")
    notebook.set_by_peer("s", value=1)
    assert notebook.runtime.deadline is None

    notebook.end()
    assert notebook.runtime.deadline == ASK_SECONDS
    notebook.kernel.read()
    notebook.hear(1)  # its busy, from a handler that takes its time
    notebook.pass_deadline()
    assert [type(message) for message in notebook.kernel.inbox] == [SendQuestion]
    assert len(notebook.runtime.widgets.forwarding.open_messages) == 1


def test_completions_do_not_put_the_end_off() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.set_by_peer("s", value=1)
    notebook.now = 1.0
    header = k.Header(msg_id="c", msg_type="complete_request", session=SESSION)
    for state in ("busy", "idle"):
        content = k.Status(execution_state=state)
        message = k.KernelMessage(channel="iopub", header=k.Header(), parent=header, metadata={}, content=content)
        notebook.runtime.receive([message])

    assert notebook.runtime.deadline == ASK_SECONDS


def test_after_an_error_in_the_kernel_its_state_is_asked_for() -> None:
    notebook = Notebook()
    notebook.widget("s")
    [message] = notebook.set_by_peer("s", value="no number")
    kernel = notebook.kernel
    kernel.inbox.clear()
    kernel.parent = k.Header(msg_id=message.msg_id, msg_type="comm_msg", session=SESSION)
    kernel.say(k.Status(execution_state="busy"))
    kernel.send_state("s", {"value": "no number"}, "echo_update")
    kernel.error("TraitError")
    kernel.say(k.Status(execution_state="idle"))
    notebook.hear()
    notebook.pause()

    assert questions(notebook) == ["s"]
    assert notebook.settle().state("s")["value"] == 0


def test_a_number_that_json_does_not_have_is_null_at_both_ends(slider: Notebook) -> None:
    state = {"a": math.nan, "b": -math.inf, "c": [1.5, math.inf, {"d": math.nan, "raw": b"1"}], "value": math.inf}
    slider.set_by_peer("s", **state)
    taken = {"a": None, "b": None, "c": [1.5, None, {"d": None, "raw": b"1"}], "value": None}

    assert taken.items() <= slider.commit().state("s").items()
    assert taken.items() <= slider.settle().state("s").items()
    assert slider.kernel.models["s"].state == slider.document.state("s")


def test_so_it_is_in_what_a_peer_opens_a_comm_with() -> None:
    notebook = Notebook()
    notebook.runtime.widgets.open_by_peer("mine", "my.target", {"x": [math.nan]}, [])
    notebook.runtime.take_widgets()
    [opening] = notebook.collect()

    assert opening.content["data"] == notebook.commit().state("mine") == {"x": [None]}


def test_what_another_client_of_the_kernel_set_is_shown(slider: Notebook) -> None:
    slider.kernel.parent = k.Header(msg_id="theirs", msg_type="comm_msg", session="theirs")
    slider.kernel.send_state("s", {"value": 9}, "echo_update")

    assert slider.settle().state("s")["value"] == 9


STEPS = st.one_of(
    st.tuples(st.just("peer"), st.integers(0, 130) | st.sampled_from([0.5, 7.0, 7.5, 99.5, 100.5, "bad"])),
    st.tuples(st.just("kernel"), st.integers(0, 130)),
    st.sampled_from([("read", 0), ("hear", 1), ("hear", 3), ("begin", 0), ("finish", 0), ("commit", 0), ("pause", 0)]),
)


@given(st.lists(STEPS, max_size=60), st.booleans())
def test_a_drag_never_jumps_back_and_all_end_equal(steps: list[tuple[str, Any]], echo: bool) -> None:
    """Whatever crosses, two peers and the kernel's own code included: what was set last is shown until it is answered."""
    notebook = Notebook(echo=echo)
    notebook.widget("s", maximum=100)
    kernel = notebook.kernel
    last: float | str | None = None
    for step, number in steps:
        match step:
            case "peer":
                notebook.set_by_peer("s", value=number)
                last = number
            case "kernel" if kernel.running:
                kernel.set("s", value=min(number, 100))
            case "read":
                kernel.read()
            case "hear":
                notebook.hear(number)
            case "begin" if kernel.running is None:
                notebook.submit("b")
                while kernel.inbox and kernel.running is None:
                    kernel.read()
            case "finish":
                kernel.finish()
            case "pause":
                notebook.pause()
        if last is not None and "value" in notebook.runtime.widgets.comms.comms["s"].held:
            assert notebook.commit().state("s")["value"] == last
        asked = len(questions(notebook))
        assert asked <= 1
        assert sum(isinstance(message, SendComm) for message in kernel.inbox) <= 1 + asked
    while kernel.running or kernel.inbox or kernel.said:
        kernel.finish()
        notebook.settle()

    assert notebook.settle().state("s")["value"] == kernel.models["s"].state["value"]


# Open and close.


def test_a_child_has_a_lower_order_than_its_parent() -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    for comm_id in ("layout", "style", "slider", "box"):
        kernel.open(comm_id, "X", {})
    notebook.end()

    comms = notebook.settle().comms()
    assert sorted(comms, key=lambda comm_id: comms[comm_id]["order"]) == ["layout", "style", "slider", "box"]
    assert comms["box"]["target_name"] == "jupyter.widget"
    assert comms["box"]["model_module"] == "@jupyter-widgets/controls"


def test_a_closed_comm_never_comes_back() -> None:
    notebook = Notebook()
    notebook.widget("s")
    kernel = notebook.begin("b")
    for _ in range(3):  # as a widget's `open()` after its `close()` does
        kernel.close("s")
        kernel.open("s", "IntSliderModel", {"value": 1})
    kernel.set("s", value=5)
    notebook.end()

    assert notebook.settle().comms() == {}
    assert log_lines(notebook).count("was closed and is opened again under its old id") == 1
    assert not notebook.runtime.widgets.open_by_peer("s", "x", {}, [])
    with pytest.raises(KeyError):
        notebook.set_by_peer("s", value=1)


def test_no_comm_survives_its_kernel_and_the_next_one_may_use_its_id() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.set_by_peer("s", value=5)
    notebook.restart()
    assert notebook.commit().comms() == {}

    notebook.widget("s", value=3)
    assert notebook.document.state("s")["value"] == 3


@pytest.mark.parametrize("loss", ["died", "shutdown", "restart"])
def test_a_message_on_its_way_dies_with_the_kernel(loss: Any) -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.set_by_peer("s", value=5)
    notebook.runtime.kernel_gone(loss)

    assert notebook.runtime.take_effects() == []
    assert notebook.runtime.deadline is None


def test_a_peer_opens_and_closes_a_comm_of_its_own() -> None:
    notebook = Notebook()
    widgets = notebook.runtime.widgets
    assert widgets.open_by_peer("mine", "my.target", {"x": 1, "raw": b"\0"}, [b"frame"])
    notebook.runtime.take_widgets()
    [opening] = notebook.collect()
    assert (opening.msg_type, opening.buffers, opening.metadata) == ("comm_open", (b"frame",), None)
    assert opening.content == {"comm_id": "mine", "target_name": "my.target", "data": {"x": 1, "raw": b"\0"}}
    assert notebook.commit().comms()["mine"]["state"] == {"x": 1, "raw": b"\0", "buffers": [b"frame"]}
    assert not widgets.open_by_peer("mine", "my.target", {}, [])

    assert widgets.close_by_peer("mine", {"bye": 1})
    notebook.runtime.take_widgets()
    [closing] = notebook.collect()
    assert (closing.msg_type, closing.content) == ("comm_close", {"comm_id": "mine", "data": {"bye": 1}})
    assert notebook.commit().comms() == {}
    assert not widgets.close_by_peer("mine", {})


def test_a_widget_that_a_peer_opens_names_the_protocol() -> None:
    notebook = Notebook()
    state = {"_model_name": "IntSliderModel", "_model_module": "m", "value": 3}
    data = {"state": state, "buffer_paths": [["data"]]}
    assert notebook.runtime.widgets.open_by_peer("w", "jupyter.widget", data, [b"12"])
    notebook.runtime.take_widgets()
    [opening] = notebook.collect()

    assert opening.metadata == {"version": "2.1.0"}
    assert notebook.commit().state("w")["data"] == b"12"


@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no echo"])
def test_a_widget_that_a_peer_opens_has_its_models_defaults(echo: bool) -> None:
    notebook = Notebook(echo=echo)
    state = {"_model_name": "IntSliderModel", "_model_module": "m", "value": 120}
    notebook.runtime.widgets.open_by_peer("w", "jupyter.widget", {"state": state}, [])
    notebook.runtime.take_widgets()
    notebook.collect()
    assert notebook.commit().state("w") == state
    notebook.set_by_peer("w", other=1)

    shown = notebook.settle().state("w")
    assert shown == notebook.kernel.models["w"].state
    assert shown == {**state, "value": 100, "max": 100, "layout": "IPY_MODEL_w-layout", "style": None, "other": 1}
    assert notebook.document.comms().keys() == {"w", "w-layout"}
    assert notebook.kernel.questions == 1


def test_what_was_opened_and_closed_leaves_nothing_behind() -> None:
    widgets = Notebook().runtime.widgets
    for number in range(3):
        widgets.open_by_peer(f"w{number}", "jupyter.widget", {"state": {"_model_name": "IntSliderModel"}}, [])
        widgets.close_by_peer(f"w{number}", {})

    assert widgets.forwarding.open_messages == set()


def test_an_unknown_target_is_closed_by_the_kernel() -> None:
    notebook = Notebook()
    notebook.runtime.widgets.open_by_peer("mine", "nobody", {}, [])
    notebook.runtime.take_widgets()
    notebook.kernel.say(k.CommClose(comm_id="mine"))

    assert notebook.settle().comms() == {}


def test_custom_messages_go_both_ways_and_are_never_joined() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.runtime.widgets.custom_by_peer("s", {"event": "click"}, [b"frame"])
    notebook.runtime.take_widgets()
    [message] = notebook.collect()
    assert message.content["data"] == {"method": "custom", "content": {"event": "click"}}
    assert message.buffers == (b"frame",)

    for n in range(3):
        notebook.kernel.say(
            k.CommMsg(comm_id="s", data={"method": "custom", "content": {"n": n}}), buffers=[bytes([n])]
        )
    notebook.settle()
    told = [event.params for event in notebook.events if event.method == "comm_custom"]
    assert told == [{"comm_id": "s", "content": {"n": n}, "buffers": [bytes([n])]} for n in range(3)]


def test_bytes_that_open_a_comm_of_another_target_are_kept_for_late_peers() -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    kernel.say(k.CommOpen(comm_id="plot", target_name="mine", data={"n": 1}), buffers=[b"one", b"two"])
    notebook.end()
    notebook.runtime.widgets.open_by_peer("upload", "mine", {"buffers": "its own"}, [b"x"])

    assert notebook.settle().state("plot") == {"n": 1, "buffers": [b"one", b"two"]}
    assert notebook.document.state("upload") == {"buffers": "its own"}


def test_on_a_target_of_its_own_a_comm_says_what_it_likes() -> None:
    notebook = Notebook()
    notebook.kernel.say(k.CommOpen(comm_id="c", target_name="my.target", data={"method": "update"}))
    notebook.kernel.say(k.CommMsg(comm_id="c", data={"method": "update", "state": {"x": 1}}))
    notebook.settle()
    notebook.runtime.widgets.custom_by_peer("c", {"a": 1}, [])
    notebook.runtime.take_widgets()

    assert notebook.collect()[0].content["data"] == {"a": 1}
    assert [event.params["content"] for event in notebook.events if event.method == "comm_custom"] == [
        {"method": "update", "state": {"x": 1}}
    ]


def after_a_lost_connection() -> Notebook:
    """A connection that took with it: an update of `s` either way, the end of `gone`, the opening of `new` and `out`."""
    notebook = Notebook()
    notebook.widget("s")
    notebook.widget("gone")
    notebook.set_by_peer("s", value=5)
    kernel = notebook.kernel
    kernel.set("s", value=8)
    kernel.close("gone")
    kernel.open("new", "IntSliderModel", {"value": 1})
    kernel.open_output("out")
    notebook.reconnect()
    return notebook


def test_after_a_new_connection_comms_are_as_the_kernel_says() -> None:
    notebook = after_a_lost_connection()
    [asked] = [message for message in notebook.kernel.inbox if isinstance(message, SendComm)]
    assert (asked.msg_type, asked.content) == ("comm_info_request", {})

    document = notebook.settle()
    assert set(document.comms()) == {"s", "new", "out"}
    assert (document.state("s")["value"], document.state("new")["value"]) == (8, 1)
    assert document.outputs("comm", "out") == []
    assert notebook.runtime.deadline is None
    notebook.set_by_peer("s", value=9)
    assert notebook.settle().state("s")["value"] == notebook.kernel.models["s"].state["value"] == 9


def test_a_comm_that_nobody_heard_open_is_not_taken_from_a_part_of_its_state() -> None:
    notebook = after_a_lost_connection()
    notebook.kernel.read()  # which comms it has
    # From a thread, before the kernel reads that it is to say the whole of it.
    notebook.kernel.set("new", value=2)
    notebook.kernel.set("out", layout="IPY_MODEL_m")
    notebook.hear()
    comms = notebook.settle().comms()

    assert (comms["new"]["model_name"], comms["out"]["model_name"]) == ("IntSliderModel", "OutputModel")
    assert notebook.document.state("new")["value"] == 2
    assert notebook.document.outputs("comm", "out") == []


def test_a_kernel_is_asked_again_until_what_it_publishes_is_heard() -> None:
    notebook = after_a_lost_connection()
    for _ in range(2):
        while notebook.kernel.read():
            pass
        [reply] = [message for message in notebook.kernel.said if message.channel == "shell"]
        notebook.kernel.said = deque([reply])  # the subscription does not hold yet
        assert notebook.hear() == []
        assert notebook.runtime.deadline == notebook.now + ASK_AGAIN_SECONDS
        notebook.now += ASK_AGAIN_SECONDS
        notebook.runtime.expire()
        assert "comm_info_request" in [asked.msg_type for asked in notebook.collect()]
    assert "gone" in notebook.commit().comms()

    assert set(notebook.settle().comms()) == {"s", "new", "out"}


def test_an_answer_to_what_was_asked_before_the_connection_broke_again_is_not_taken() -> None:
    notebook = after_a_lost_connection()
    notebook.kernel.read()
    before = notebook.kernel.said.copy()
    notebook.kernel.open("newest", "IntSliderModel", {"value": 2})
    notebook.reconnect()
    notebook.kernel.said = before
    assert notebook.hear() == []

    assert set(notebook.settle().comms()) == {"s", "new", "out", "newest"}


def test_a_comm_message_whose_end_was_lost_does_not_leave_the_kernel_busy() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.set_by_peer("s", value=5)
    notebook.kernel.read()
    notebook.hear(1)
    assert notebook.commit().plain["kernel"]["status"] == "busy"
    notebook.reconnect()

    assert notebook.commit().plain["kernel"]["status"] == "idle"


def test_nobody_is_asked_without_a_kernel() -> None:
    notebook = after_a_lost_connection()
    notebook.kernel.read()
    notebook.hear(1)
    notebook.runtime.kernel_gone("died")
    notebook.runtime.reconnected()

    assert notebook.runtime.take_effects() == []
    assert notebook.runtime.deadline is None


# What of a state is shown.


@pytest.mark.parametrize("model_name", ["LayoutModel", "SliderStyleModel"])
def test_a_null_of_a_layout_is_shown_once_it_was_something(model_name: str) -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    kernel.open("l", model_name, {"width": None, "height": "1px", "flex": None})
    notebook.end()
    assert set(notebook.settle().state("l")) == {"_model_module", "_model_name", "height"}

    kernel = notebook.begin("a")
    kernel.set("l", width="5px", height=None, flex=None)
    notebook.end()
    assert notebook.settle().state("l")["width"] == "5px"
    notebook.set_by_peer("l", width=None, flex=None)

    state = notebook.settle().state("l")
    assert (state["width"], state["height"]) == (None, None)
    assert "flex" not in state


def test_a_null_of_another_model_is_a_value() -> None:
    notebook = Notebook()
    notebook.widget("s", tooltip=None)

    assert notebook.document.state("s")["tooltip"] is None


def test_binary_values_are_bytes_on_open_and_on_update() -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    kernel.open("i", "ImageModel", {"value": b"\x89PNG", "data": {"cols": [b"1", {"values": b"2"}]}})
    notebook.end()
    assert notebook.settle().state("i")["value"] == b"\x89PNG"
    assert notebook.document.state("i")["data"] == {"cols": [b"1", {"values": b"2"}]}

    kernel = notebook.begin("a")
    kernel.set("i", value=b"\x00new")
    notebook.end()
    assert notebook.settle().state("i")["value"] == b"\x00new"


def test_a_peer_sends_files_as_fileupload_has_them() -> None:
    notebook = Notebook()
    notebook.widget("up", "FileUploadModel")
    widgets = notebook.runtime.widgets
    state = {"value": [{"name": "a", "content": None}, {"name": "b"}]}
    paths: list[list[str | int]] = [["value", 0, "content"], ["value", 1, "content"]]
    assert all(is_place(state, path) for path in paths)
    widgets.update_by_peer("up", join_buffers(state, paths, [b"A", b"B"]))
    notebook.runtime.take_widgets()
    [message] = notebook.collect()

    expected = [{"name": "a", "content": b"A"}, {"name": "b", "content": b"B"}]
    assert message.buffers == (b"A", b"B")
    assert message.content["data"]["buffer_paths"] == [["value", 0, "content"], ["value", 1, "content"]]
    assert message.content["data"]["state"] == {"value": [{"name": "a"}, {"name": "b"}]}
    assert notebook.settle().state("up")["value"] == notebook.kernel.models["up"].state["value"] == expected


@pytest.mark.parametrize(
    "path",
    [
        [],
        "a",
        ["a", "b", "c"],
        ["list", 3],
        ["list", -1],
        ["list", "0"],
        ["list", 1.0],
        ["list", True],
        [0],
        [None],
        [["a"]],
        ["a", 0],
        ["map", 0],
        ["map", None, "x"],
        ["list", 0, 0],
        {"a": 1},
        None,
        ["missing", "x"],
    ],
)
def test_a_path_that_leads_nowhere_is_left_out(path: object) -> None:
    state = {"a": 1, "list": [1, 2, 3], "map": {"x": 1}}

    assert join_buffers(state, [path], [b"B"]) == state
    if isinstance(path, list):
        assert not is_place(state, path)


@pytest.mark.parametrize("paths", [None, "a", {"a": 1}, 5, [], ["a"], [5, None]])
def test_paths_that_are_none_are_left_out(paths: object) -> None:
    assert join_buffers({"a": 1}, paths, [b"B", b"C"]) == {"a": 1}


@pytest.mark.parametrize(
    ("paths", "buffers"),
    [([["a"]], []), ([], [b"B"]), ([["a"], ["a", "b"]], [b"1", b"2"]), ([["a"], ["a"]], [b"0", b"1"])],
)
def test_paths_and_buffers_need_not_fit(paths: list[Any], buffers: list[bytes]) -> None:
    assert join_buffers({"a": {}}, paths, buffers)["a"] in ({}, b"1")


def test_what_is_joined_is_not_changed() -> None:
    state: dict[str, Any] = {"a": {"b": [None, {"c": 1}]}, "shared": {}}
    state["again"] = state["shared"]
    joined = join_buffers(state, [["a", "b", 0], ["a", "b", 1, "d"], ["shared", "x"]], [b"0", b"1", b"2"])

    assert joined["a"] == {"b": [b"0", {"c": 1, "d": b"1"}]}
    assert state["a"] == {"b": [None, {"c": 1}]}
    assert (joined["shared"], joined["again"]) == ({"x": b"2"}, {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=2), children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=5))
def test_a_state_survives_its_split(state: dict[str, Any]) -> None:
    plain, paths, buffers = split_buffers(state)

    assert not _has_bytes(plain)
    assert join_buffers(plain, paths, buffers) == state


@given(st.dictionaries(st.sampled_from("ab"), JSON), st.lists(st.lists(JSON, max_size=4) | JSON), st.lists(st.binary()))
def test_no_path_breaks_it(state: dict[str, Any], paths: list[Any], buffers: list[bytes]) -> None:
    join_buffers(state, paths, buffers)


def _has_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_bytes, value.values()))
    return any(map(_has_bytes, value)) if isinstance(value, list) else isinstance(value, bytes)


# What waits for a commit.


def opened(comm_id: str, **state: Any) -> OpenComm:
    return OpenComm(comm_id, "t", "m", "n", 1, state)


def test_of_a_trait_the_last_value_counts() -> None:
    changes = CommChanges()
    changes.open(opened("a", x=0, y=0))
    for n in range(1000):
        changes.set("a", {"x": n})
        changes.set("b", {"z": n})

    assert changes.pending
    assert changes.drain() == [opened("a", x=999, y=0), SetCommState("b", {"z": 999})]
    assert not changes.pending
    assert changes.drain() == []


def test_of_a_comm_that_is_closed_again_nothing_is_said() -> None:
    changes = CommChanges()
    changes.open(opened("a", x=0))
    changes.set("a", {"x": 1})
    changes.close("a")
    changes.set("b", {"x": 1})
    changes.close("b")

    assert changes.drain() == [CloseComm("b")]


def test_a_comm_in_the_place_of_a_closed_one_comes_behind_it() -> None:
    changes = CommChanges()
    changes.close("a")
    changes.open(opened("a", x=0))

    assert changes.drain() == [CloseComm("a"), opened("a", x=0)]


def test_what_waits_has_a_bound_and_only_what_waits_counts() -> None:
    changes = CommChanges(limit=3000)
    sizes = {"x": 2000}
    for _ in range(5):
        assert changes.set("a", {"x": "big"}, sizes) == []
    assert changes.set("b", {"x": "big", "y": 1}, sizes) == ["x"]
    changes.close("a")
    assert changes.set("c", {"x": "big"}, sizes) == []
    assert changes.drain() == [CloseComm("a"), SetCommState("b", {"y": 1}), SetCommState("c", {"x": "big"})]
    assert changes.set("d", {"x": "big"}, sizes) == []


def test_sizes_are_those_of_big_values_only() -> None:
    assert [value_size(value) for value in (1, None, 1.5, True, "x" * 128, b"x" * 128, [1, 2])] == [0] * 7
    assert value_size("x" * 1000) == value_size(b"x" * 1000) == 1000
    assert value_size([b"x" * 1000]) > 1000
    assert value_size({"a": list(range(1000))}) > 1000


# Bounds.


def log_lines(notebook: Notebook) -> str:
    return "".join(text for _, text in notebook.settle().shown("kernel_log"))


@pytest.mark.parametrize("flood", [50, 500])
def test_there_are_only_so_many_comms(monkeypatch: pytest.MonkeyPatch, flood: int) -> None:
    monkeypatch.setattr(daemon.core.comms, "MAX_COMMS", 10)
    notebook = Notebook()
    kernel = notebook.begin("a")
    for n in range(flood):
        kernel.open(f"c{n}", "X", {})
    kernel.close("c3")
    kernel.open("one more", "X", {})
    notebook.end()

    assert log_lines(notebook).count("more than 10 comms") == 1
    assert len(notebook.document.comms()) == 10
    assert "one more" in notebook.document.comms()


@pytest.mark.parametrize(("bound", "value"), [("MAX_KEYS", 5), ("MAX_TRAITS", 7)])
def test_there_are_only_so_many_traits(monkeypatch: pytest.MonkeyPatch, bound: str, value: int) -> None:
    monkeypatch.setattr(daemon.core.comms, bound, value)
    notebook = Notebook()
    notebook.widget("s")
    kernel = notebook.begin("a")
    for n in range(100):
        kernel.set("s", **{f"t{n}": n})
    kernel.set("s", value=9)
    notebook.end()

    assert log_lines(notebook).count("no room for") == 1
    assert len(notebook.document.state("s")) == value
    assert notebook.document.state("s")["value"] == 9
    kernel.close("s")
    notebook.widget("r")
    assert len(notebook.document.state("r")) == 3


def test_a_state_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon.core.comms, "MAX_STATE_BYTES", 10_000)
    notebook = Notebook()
    notebook.widget("s", text="x" * 9000)
    kernel = notebook.begin("a")
    kernel.set("s", more="y" * 5000, value=1)
    kernel.set("s", text="z" * 200)
    kernel.set("s", more="w" * 5000)
    notebook.end()

    assert "no room for 'more'" in log_lines(notebook)
    state = notebook.document.state("s")
    assert (state["value"], state["text"], state["more"]) == (1, "z" * 200, "w" * 5000)


@pytest.mark.parametrize(
    "state", [{"": 1}, {"k" * 256: 1}, {"text": "x" * 20_000}, {f"t{n}": n for n in range(20)}, {"value": 1, "": 2}]
)
def test_what_a_peer_sets_is_taken_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]) -> None:
    monkeypatch.setattr(daemon.core.comms, "MAX_STATE_BYTES", 10_000)
    monkeypatch.setattr(daemon.core.comms, "MAX_KEYS", 10)
    notebook = Notebook()
    notebook.widget("s")
    before = notebook.document.state("s")
    assert not notebook.runtime.widgets.update_by_peer("s", state)
    notebook.runtime.take_widgets()

    assert notebook.collect() == []
    assert notebook.commit().state("s") == before
    assert notebook.runtime.widgets.update_by_peer("s", {"value": 2, "text": "y" * 9_000})
    assert notebook.settle().state("s")["value"] == 2


@pytest.mark.parametrize("name", ["", "k" * 256])
def test_a_trait_that_no_document_takes_is_left_out(name: str) -> None:
    notebook = Notebook()
    notebook.widget("s")
    kernel = notebook.begin("a")
    kernel.set("s", **{name: 1, "value": 2})
    notebook.end()

    assert notebook.settle().state("s")["value"] == 2


@pytest.mark.parametrize("comm_id", ["", "k" * 300, "\ud800"])
def test_an_id_that_no_document_takes_is_left_out(comm_id: str) -> None:
    notebook = Notebook()
    notebook.kernel.say(k.CommOpen(comm_id=comm_id, target_name="t", data={}))

    assert notebook.settle().comms() == {}


def test_closed_ids_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.core.absent_comms.MAX_REMEMBERED", 3)
    notebook = Notebook()
    for n in range(10):
        notebook.kernel.say(k.CommOpen(comm_id=f"c{n}", target_name="t", data={}))
        notebook.kernel.say(k.CommClose(comm_id=f"c{n}"))
        notebook.kernel.say(k.CommOpen(comm_id=f"c{n}", target_name="t", data={}))
    for n in range(10):
        notebook.kernel.say(k.CommOpen(comm_id=f"c{n}", target_name="t", data={}))

    assert not {"c7", "c8", "c9"} & notebook.settle().comms().keys()
    assert len(notebook.runtime.widgets.comms._in_trouble) <= 3


def test_custom_messages_that_nobody_could_take_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.core.transitions.MAX_CUSTOM_WAITING", 100_000)
    notebook = Notebook()
    notebook.widget("s")

    def flood() -> int:
        before = len(notebook.events)
        for _ in range(50):
            data = {"method": "custom", "content": "y" * 5_000}
            notebook.kernel.say(k.CommMsg(comm_id="s", data=data), buffers=[b"x" * 5_000])
        assert "custom messages come faster" in log_lines(notebook)
        return sum(event.method == "comm_custom" for event in notebook.events[before:])

    assert flood() == 7
    assert flood() == 7


@pytest.mark.parametrize(
    ("content", "buffers"),
    [
        ("x" * (8 * MIB), []),
        ("\u20ac" * (3 * MIB), []),  # 3 bytes each
        ({"a": ["x" * MIB] * 5, "b": "y" * MIB}, [bytes(2 * MIB)]),
        ({"b": 1}, [bytes(9 * MIB)]),
        ({"b": 2}, [bytes(5 * MIB), bytes(5 * MIB)]),
        ("x" * (100 * MIB), []),
    ],
    ids=["text", "long characters", "both", "a buffer", "two buffers", "endless"],
)
def test_a_custom_message_that_no_event_can_hold_is_said_in_the_log(content: Any, buffers: list[bytes]) -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.widget("r")

    def said(comm_id: str, content: Any, buffers: list[bytes]) -> int:
        before = len(notebook.events)
        data = {"method": "custom", "content": content}
        notebook.kernel.say(k.CommMsg(comm_id=comm_id, data=data), buffers=buffers)
        notebook.settle()
        return sum(event.method == "comm_custom" for event in notebook.events[before:])

    assert said("s", content, buffers) == 0
    assert "custom message of s has some" in log_lines(notebook)
    fits = [1] * 200_000 + ["x" * (7 * MIB)]
    assert said("r", fits, [bytes(MIB - 200_000 - ENVELOPE_BYTES - 100)]) == 1
    assert "custom message of r" not in log_lines(notebook)


@pytest.mark.parametrize(
    "content",
    [
        lambda: k.CommOpen(comm_id="x", target_name="jupyter.widget", data={"state": 5, "buffer_paths": 6}),
        lambda: k.CommOpen(comm_id="x", target_name="jupyter.widget", data={"state": {"_model_name": 5}}),
        lambda: k.CommMsg(comm_id="s", data={"method": "update"}),
        lambda: k.CommMsg(comm_id="s", data={"method": ["update"], "state": {}}),
        lambda: k.CommMsg(comm_id="s", data={"method": "echo_update", "state": []}),
        lambda: k.CommMsg(comm_id="nobody", data={"method": "update", "state": {"a": 1}}),
        lambda: k.CommClose(comm_id="nobody"),
        lambda: k.CommOpen(comm_id="o", target_name="jupyter.widget", data={"state": {"_model_name": "OutputModel"}}),
        lambda: k.CommMsg(comm_id="out", data={"method": "update", "state": {"outputs": 5, "msg_id": 6}}),
        lambda: k.CommMsg(comm_id="out", data={"method": "update", "state": {"outputs": [5, {}, None]}}),
    ],
)
def test_odd_messages_of_a_kernel_do_no_harm(content: Callable[[], k.Content]) -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.output_widget("out")
    notebook.kernel.say(content())

    assert notebook.settle().state("s")["value"] == 0
