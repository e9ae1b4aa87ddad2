"""Whose a kernel's message is, what it says of its send queue, and other small decisions of the bridge."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_bridge.core import messages as m
from kernel_bridge.core.connection import PORTS, ConnectionInfo, ipc_connection, takes_ipc
from kernel_bridge.core.correspondence import Correspondence, Purpose
from kernel_bridge.core.send_queue import can_lift, lift_request, was_lifted
from kernel_bridge.core.tail import TailBuffer


def message(channel: m.Channel, msg_type: str, parent: str, content: m.Content | None = None) -> m.KernelMessage:
    return m.KernelMessage(
        channel=channel,
        header=m.Header(msg_id="k", msg_type=msg_type),
        parent=m.Header(msg_id=parent),
        metadata={},
        content=content or m.Unknown(),
    )


def test_the_statuses_of_the_bridges_own_requests_are_nobodys_but_output_that_names_them_is_the_sinks() -> None:
    ours = Correspondence()
    ours.note_own("own", Purpose.LIFT)

    assert ours.route(message("iopub", "status", "own")) == "nobody"
    assert ours.route(message("iopub", "shutdown_reply", "own")) == "nobody"
    assert ours.route(message("iopub", "stream", "own")) == "sink"
    assert ours.route(message("shell", "execute_reply", "own")) is Purpose.LIFT


def test_everything_else_on_iopub_is_the_sinks_but_the_welcome() -> None:
    ours = Correspondence()
    ours.expect("asked")

    assert ours.route(message("iopub", "status", "")) == "sink"
    assert ours.route(message("iopub", "status", "asked")) == "sink"
    assert ours.route(message("iopub", "stream", "of another session")) == "sink"
    assert ours.route(message("iopub", "iopub_welcome", "", m.IopubWelcome())) == "nobody"


def test_replies_go_to_who_waits_and_else_to_the_sink() -> None:
    ours = Correspondence()
    ours.expect("asked")

    assert ours.route(message("shell", "complete_reply", "asked")) == "awaited"
    assert ours.route(message("shell", "execute_reply", "executed")) == "sink"
    assert ours.route(message("stdin", "input_request", "asked")) == "sink"
    ours.forget("asked")
    assert ours.route(message("shell", "complete_reply", "asked")) == "sink"


def test_the_bridges_own_requests_are_remembered_within_bounds() -> None:
    ours = Correspondence()
    for number in range(1_001):
        ours.note_own(str(number), Purpose.INTERRUPT)

    assert ours.route(message("control", "interrupt_reply", "0")) == "sink"
    assert ours.route(message("control", "interrupt_reply", "1")) is Purpose.INTERRUPT


def test_only_ipykernel_itself_is_asked_to_lift_its_limit() -> None:
    assert can_lift(m.KernelInfoReply(implementation="ipython"))
    assert not can_lift(m.KernelInfoReply(implementation="bash_kernel"))


def test_the_lift_is_silent_and_one_expression() -> None:
    request = lift_request()

    assert (request["code"], request["silent"], request["store_history"], request["allow_stdin"]) == (
        "",
        True,
        False,
        False,
    )
    [expression] = request["user_expressions"].values()
    compile(expression, "lift", "eval")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"status": "ok", "data": {"text/plain": "0"}, "metadata": {}}, True),
        ({"status": "ok", "data": {"text/plain": "1000"}}, False),
        ({"status": "error", "ename": "Empty"}, False),
        ("0", False),
    ],
)
def test_the_lift_is_believed_only_when_the_limit_is_zero(result: object, expected: bool) -> None:
    [name] = lift_request()["user_expressions"]

    assert was_lifted(m.ExecuteReply(status="ok", user_expressions={name: result})) is expected


def test_no_reply_means_not_lifted() -> None:
    assert not was_lifted(m.ExecuteReply(status="aborted"))
    assert not was_lifted(m.Unknown())


@given(st.lists(st.binary(max_size=30)), st.integers(1, 20))
def test_the_tail_is_the_last_bytes(writes: list[bytes], size: int) -> None:
    tail = TailBuffer(size)
    for data in writes:
        tail.write(data)

    written = b"".join(writes)
    assert tail.text() == written[-size:].decode("utf-8", "replace")
    assert tail.written == len(written)


def test_a_connection_file_says_what_the_endpoints_are() -> None:
    info = ConnectionInfo("tcp", "127.0.0.1", dict(zip(PORTS, range(1001, 1006), strict=True)), "k", "name")

    assert info.endpoint("shell") == "tcp://127.0.0.1:1001"
    assert json.loads(info.to_json()) == {
        "transport": "tcp",
        "ip": "127.0.0.1",
        "shell_port": 1001,
        "iopub_port": 1002,
        "stdin_port": 1003,
        "control_port": 1004,
        "hb_port": 1005,
        "key": "k",
        "signature_scheme": "hmac-sha256",
        "kernel_name": "name",
    }


def test_sockets_in_the_file_system_need_a_short_path() -> None:
    near = ipc_connection("/run/k", "k", "name")

    assert near is not None
    assert near.endpoint("hb") == "ipc:///run/k-5"
    assert ipc_connection("/" + "x" * 101, "k", "name") is None


def test_only_ipykernel_is_known_to_take_such_sockets() -> None:
    assert takes_ipc(["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    assert not takes_ipc(["python", "-m", "bash_kernel", "-f", "{connection_file}"])
