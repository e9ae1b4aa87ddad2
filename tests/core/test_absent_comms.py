"""More comms than there is room for: what nobody can see makes room, and comes back when it is used."""

from typing import Any

import pytest

import daemon.core.absent_comms
import daemon.core.comms
from daemon.core.absent_comms import SWEEP_SECONDS
from daemon.core.outputs import OutputReducer
from kernel_bridge.core import messages as k
from sync.core.mutations import Target
from sync.core.outputs import DisplayOutput
from tests.fakes.widget_kernel import Notebook, WidgetKernel

ROOM = 20


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """An idle kernel, and room for few comms."""
    monkeypatch.setattr(daemon.core.comms, "MAX_COMMS", ROOM)
    return Notebook()


def view(comm_id: str) -> dict[str, Any]:
    return {
        "text/plain": comm_id,
        "application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": comm_id},
    }


def show(kernel: WidgetKernel, comm_id: str, display_id: str | None = None) -> None:
    transient = None if display_id is None else k.Transient(display_id=display_id)
    kernel.say(k.DisplayData(data=view(comm_id), transient=transient))


def open_bar(kernel: WidgetKernel, name: str) -> None:
    """A progress bar, as tqdm has it: a box with a layout, and a child with one."""
    for model, comm_id in (("Layout", "box-layout"), ("Layout", "layout")):
        kernel.open(f"{name}-{comm_id}", f"{model}Model", {})
    kernel.open(f"{name}-child", "FloatProgressModel", {"layout": f"IPY_MODEL_{name}-layout", "value": 1.0})
    children = {"children": [f"IPY_MODEL_{name}-child"], "layout": f"IPY_MODEL_{name}-box-layout"}
    kernel.open(f"{name}-box", "HBoxModel", children)


def log(notebook: Notebook) -> str:
    return "".join(str(shown) for shown in notebook.document.shown("kernel_log"))


def fill(notebook: Notebook) -> set[str]:
    """Bars that were shown and closed, until there is no room; what is left of them."""
    kernel = notebook.begin("a")
    names = [f"bar{n}" for n in range(ROOM // 3)]
    for name in names:
        open_bar(kernel, name)
        show(kernel, f"{name}-box")
        kernel.close(f"{name}-box")
    notebook.end()
    left = {f"{name}-{part}" for name in names for part in ("child", "layout", "box-layout")}
    kernel = notebook.begin("a")
    for n in range(ROOM - len(left)):
        kernel.open(f"more{n}", "TextModel", {})
    notebook.end()
    assert len(notebook.settle().comms()) == ROOM
    return left


def test_what_closed_widgets_left_makes_room_for_new_ones(notebook: Notebook) -> None:
    left = fill(notebook)
    kernel = notebook.begin("b")
    open_bar(kernel, "new")
    show(kernel, "new-box")
    notebook.end()

    comms = notebook.settle().comms()
    assert comms.keys() == {"more0", "more1", "new-box-layout", "new-layout", "new-child", "new-box"}
    assert not comms.keys() & left
    assert log(notebook) == ""


def test_so_do_widgets_whose_cell_ran_again(notebook: Notebook) -> None:
    for n in range(ROOM):
        kernel = notebook.begin("a")
        open_bar(kernel, f"bar{n}")
        show(kernel, f"bar{n}-box")
        notebook.end()
        notebook.now += SWEEP_SECONDS
        comms = notebook.settle().comms()
        assert {f"bar{n}-{part}" for part in ("box", "child", "layout", "box-layout")} <= comms.keys()
    assert log(notebook) == ""


def test_one_that_is_used_again_comes_back_as_the_kernel_has_it(notebook: Notebook) -> None:
    fill(notebook)
    kernel = notebook.begin("b")
    kernel.open("box", "HBoxModel", {"children": []})
    kernel.set("bar1-child", value=7.0)  # it lives, though nobody sees it
    notebook.end()
    assert "bar1-child" not in notebook.settle().comms()

    kernel = notebook.begin("b")
    kernel.set("box", children=["IPY_MODEL_bar1-child"])
    show(kernel, "bar2-child")
    notebook.end()
    comms = notebook.settle().comms()
    for name in ("bar1", "bar2"):
        child, layout = comms[f"{name}-child"], comms[f"{name}-layout"]
        assert (child["model_name"], child["model_module"]) == ("FloatProgressModel", "@jupyter-widgets/controls")
        assert layout["order"] < child["order"] < comms["box"]["order"]
    assert comms["bar1-child"]["state"]["value"] == 7.0
    notebook.set_by_peer("bar1-child", value=8.0)
    assert notebook.settle().state("bar1-child")["value"] == kernel.models["bar1-child"].state["value"] == 8.0
    # What is printed for it belongs where the widget was made.
    notebook.click("bar1-child")
    kernel.read()
    kernel.print("from its handler")
    kernel.said.rotate(1)
    assert "from its handler" in notebook.settle().shown("cell", "a")


def test_one_that_came_back_goes_again(notebook: Notebook) -> None:
    fill(notebook)
    for _ in range(2):
        notebook.now += SWEEP_SECONDS
        kernel = notebook.begin("b")
        kernel.open("box", "HBoxModel", {"children": ["IPY_MODEL_bar1-child"]})
        notebook.end()
        assert {"bar1-child", "bar1-layout"} <= notebook.settle().comms().keys()
        notebook.now += SWEEP_SECONDS
        kernel = notebook.begin("b")
        kernel.close("box")
        for n in range(ROOM):
            kernel.open(f"other{n}", "TextModel", {})
        notebook.end()
        assert not {"bar1-child", "bar1-layout"} & notebook.settle().comms().keys()
        kernel = notebook.begin("b")
        for n in range(ROOM):
            kernel.close(f"other{n}")
        notebook.end()
        notebook.runtime.widgets.comms._closed.clear()  # the names of this test may come again


def test_one_that_was_closed_meanwhile_does_not_come_back(notebook: Notebook) -> None:
    fill(notebook)
    kernel = notebook.begin("b")
    kernel.open("new", "TextModel", {})
    kernel.close("bar1-child")
    show(kernel, "bar1-child")
    notebook.end()
    assert notebook.hear() == []
    assert "bar1-child" not in notebook.settle().comms()
    assert not notebook.runtime.widgets.open_by_peer("bar1-child", "x", {}, [])


def test_what_is_in_use_stays(notebook: Notebook) -> None:
    kernel = notebook.begin("a")
    kernel.open("shown-layout", "LayoutModel", {})
    kernel.open("shown", "TextModel", {"layout": "IPY_MODEL_shown-layout"})
    show(kernel, "shown")
    kernel.open("new-child", "TextModel", {})
    kernel.open("new", "VBoxModel", {"children": ["IPY_MODEL_new-child"]})  # not shown yet
    kernel.open("linked", "TextModel", {})
    kernel.open("link", "LinkModel", {"source": ["IPY_MODEL_linked", "value"], "target": ["IPY_MODEL_shown", "value"]})
    kernel.open_output("out")
    kernel.enter("out")
    kernel.open("captured", "TextModel", {})
    show(kernel, "captured")
    kernel.leave("out")
    kernel.close("out")  # and with it what it showed
    kernel.open_output("out2")
    kernel.enter("out2")
    kernel.open("captured2", "TextModel", {})
    show(kernel, "captured2")
    kernel.leave("out2")
    # All of these were in a box that is closed.
    kernel.open("dragged", "TextModel", {"value": 0})
    kernel.open_output("out3")
    kernel.open("linked2", "TextModel", {})
    kernel.open(
        "link2", "LinkModel", {"source": ["IPY_MODEL_linked2", "value"], "target": ["IPY_MODEL_shown", "value"]}
    )
    kernel.say(k.CommOpen(comm_id="custom", target_name="mine", data={}))
    children = ["IPY_MODEL_dragged", "IPY_MODEL_out3", "IPY_MODEL_linked2", "IPY_MODEL_custom"]
    kernel.open("box", "VBoxModel", {"children": children})
    kernel.close("box")
    notebook.hear()
    used = notebook.settle().comms().keys()
    notebook.set_by_peer("dragged", value=1)
    for n in range(ROOM):
        kernel.open(f"more{n}", "TextModel", {})
    notebook.end()

    assert used - notebook.settle().comms().keys() == {"captured", "linked2"}
    assert log(notebook).count(f"more than {ROOM} comms") == 1


def test_a_flood_is_looked_through_once_a_second(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    unused = daemon.core.absent_comms.unused_comms
    monkeypatch.setattr(daemon.core.absent_comms, "unused_comms", lambda *args: looked.append(1) or unused(*args))  # type: ignore[func-returns-value]
    kernel = notebook.begin("a")
    for n in range(10 * ROOM):
        kernel.open(f"c{n}", "TextModel", {})
    notebook.hear()
    assert len(looked) == 1
    notebook.now += SWEEP_SECONDS
    kernel.open("later", "TextModel", {})
    notebook.end()
    assert len(looked) == 2


def test_a_new_connection_asks_for_no_more_than_is_used(notebook: Notebook) -> None:
    fill(notebook)
    kernel = notebook.begin("b")
    kernel.open("new", "TextModel", {})
    notebook.end()
    before = notebook.settle().comms().keys()
    notebook.reconnect()
    notebook.kernel.read()
    asked = [message.content["comm_id"] for message in notebook.hear()]
    assert set(asked) == before
    assert notebook.settle().comms().keys() == before


# Which widgets are shown.


A, CAPTURE = Target("cell", "a"), Target("comm", "out")


@pytest.mark.parametrize("target", [A, CAPTURE], ids=["cell", "capture"])
def test_a_widget_is_shown_as_long_as_an_output_shows_it(target: Target) -> None:
    numbers = iter(range(100))
    seen: dict[str, None] = {}
    reducer = OutputReducer(lambda: f"id{next(numbers)}")
    reducer.on_view = lambda comm_id: seen.update({comm_id: None})

    def shown() -> set[str]:
        reducer.drain()
        return {comm_id for comm_id in "xyz" if reducer.shows(comm_id)}

    reducer.display(target, view("x"), {}, display_id="d")
    reducer.display(target, view("x"), {}, display_id=None)
    assert (shown(), list(seen)) == ({"x"}, ["x"])
    reducer.update_display("d", view("y"), {})
    assert list(seen) == ["x", "y"]  # at once
    assert shown() == {"x", "y"}
    reducer.clear(target, wait=True)
    assert shown() == {"x", "y"}
    reducer.stream(target, "stdout", "next")
    assert shown() == set()
    reducer.display(target, view("x"), {}, display_id=None)
    reducer.reset(target, [DisplayOutput("o", "display_data", view("z"), {})])
    assert shown() == {"z"}
    reducer.forget(target)
    assert shown() == set()
    reducer.display(target, {"application/vnd.jupyter.widget-view+json": "no view"}, {}, display_id=None)
    assert shown() == set()
