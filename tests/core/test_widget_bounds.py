"""What many or big widgets cost, and that it is bounded. The figures are printed with `pytest -s`.

The limits in seconds are ten times what a busy machine takes: they catch a quadratic, not a slow day.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import daemon.core.comms
from daemon.core.comm_buffers import join_buffers
from kernel_bridge.core import messages as k
from sync.core.limits import MAX_DEPTH
from sync.core.mutations import AppendOutput, OpenComm
from tests.fakes.widget_kernel import Notebook


@contextmanager
def taking(limit: float, what: str) -> Iterator[None]:
    """Says how long the block took, in the time of this process."""
    begin = time.process_time()
    yield
    seconds = time.process_time() - begin
    print(f"{what}: {seconds * 1000:.1f} ms")
    assert seconds < limit


def nested(breadth: int, depth: int) -> Any:
    return {f"k{n}": nested(breadth, depth - 1) for n in range(breadth)} if depth else ["x" * 5, 1.5, None]


def test_a_comm_open_with_much_nested_state_is_a_matter_of_milliseconds() -> None:
    notebook = Notebook()
    state = {"_model_name": "X", "tree": nested(7, 4), "more": ["y" * 10] * 1200, "deep": nested(1, MAX_DEPTH - 3)}
    size = len(json.dumps(state))
    assert 80_000 < size < 100_000
    notebook.kernel.say(k.CommOpen(comm_id="c", target_name="jupyter.widget", data={"state": state}))
    with taking(0.5, f"comm_open with {size // 1000} KB of nested state, received and committed"):
        notebook.hear()
        notebook.commit()

    assert notebook.document.state("c")["tree"] == state["tree"]


def test_200_sliders_open_fast() -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    layout: dict[str, Any] = {f"trait_{n}": None for n in range(45)}
    for n in range(200):
        kernel.open(f"layout{n}", "LayoutModel", layout)
        kernel.open(f"style{n}", "SliderStyleModel", {"handle_color": None, "description_width": ""})
        kernel.open(f"slider{n}", "IntSliderModel", {f"trait_{i}": i for i in range(25)})
    with taking(4, "600 comms received and committed"):
        notebook.end()
        notebook.commit()

    comms = notebook.document.comms()
    assert len(comms) == 600
    assert len(comms["layout0"]["state"]) == 2


def test_100_000_comms_are_refused_fast_and_said_once() -> None:
    notebook = Notebook()
    messages = [
        k.KernelMessage(
            channel="iopub",
            header=k.Header(),
            parent=k.Header(),
            metadata={},
            content=k.CommOpen(comm_id=f"c{n}", target_name="jupyter.widget", data={"state": {"n": n}}),
        )
        for n in range(100_000)
    ]
    with taking(10, "100 000 comm_open received"):
        notebook.runtime.receive(messages)
    batch = notebook.runtime.drain()

    assert len(notebook.runtime.widgets.comms.comms) == daemon.core.comms.MAX_COMMS
    assert sum(isinstance(mutation, OpenComm) for mutation in batch.mutations) == daemon.core.comms.MAX_COMMS
    assert sum(isinstance(mutation, AppendOutput) for mutation in batch.mutations) == 1  # in the kernel log


def test_comms_that_open_and_close_leave_nothing_behind() -> None:
    notebook = Notebook()
    for n in range(20_000):
        for content in (
            k.CommOpen(comm_id=f"c{n}", target_name="jupyter.widget", data={"state": {"_model_name": "OutputModel"}}),
            k.CommMsg(comm_id=f"c{n}", data={"method": "update", "state": {"msg_id": "m"}}),
            k.CommClose(comm_id=f"c{n}"),
        ):
            notebook.kernel.say(content)
    with taking(10, "20 000 Output widgets opened and closed"):
        notebook.hear()

    assert [mutation for mutation in notebook.runtime.drain().mutations if hasattr(mutation, "comm_id")] == []
    assert notebook.runtime.widgets.target("m") is None
    assert len(notebook.runtime.widgets.comms._closed) == 20_000


def test_10_000_updates_of_a_progress_bar_are_one_value() -> None:
    notebook = Notebook()
    notebook.widget("s")
    for n in range(1, 10_001):
        notebook.kernel.set("s", value=n, text=f"{n} of 10 000")
    with taking(5, "10 000 updates received and committed"):
        notebook.hear()
        batch = notebook.runtime.drain()

    assert [mutation.state for mutation in batch.mutations] == [{"value": 10_000, "text": "10000 of 10 000"}]  # type: ignore[union-attr] # a SetCommState


def test_1_000_moves_of_a_peer_while_the_kernel_is_busy_are_cheap() -> None:
    notebook = Notebook()
    notebook.widget("s")
    notebook.begin("b")
    with taking(2, "1 000 update_comm on one slider, the kernel busy"):
        sent = [message for n in range(1000) for message in notebook.set_by_peer("s", value=n)]

    assert len(sent) == 1


def test_many_buffers_in_one_list_are_joined_in_linear_time() -> None:
    count = 100_000
    with taking(5, f"{count} buffers joined into one list"):
        state = join_buffers({"l": [None] * count}, [["l", n] for n in range(count)], [b"x"] * count)

    assert state["l"] == [b"x"] * count


def test_idle_costs_nothing_where_nothing_was_captured() -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    for n in range(1000):
        kernel.open_output(f"out{n}")
    notebook.end()
    notebook.settle()
    status = k.Status(execution_state="idle")
    header = k.Header(msg_id="x", msg_type="comm_msg")
    idle = k.KernelMessage(channel="iopub", header=k.Header(), parent=header, metadata={}, content=status)
    with taking(1, "10 000 idles with 1 000 Output widgets"):
        notebook.runtime.receive([idle] * 10_000)
