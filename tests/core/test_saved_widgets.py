"""Widgets from a file into the document and back, without a kernel."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import daemon.core.saved_widgets
from daemon.core.saved_widgets import (
    WIDGET_VIEW,
    LoadedComm,
    parse_widget_state,
    references_in,
    render_widget_state,
    views_in,
)
from kernel_bridge.core import messages as k
from sync.core.outputs import DisplayOutput, StreamOutput
from tests.fakes.widget_kernel import Notebook, display, stream


def model(name: str, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    entry = {"model_name": f"{name}Model", "model_module": "@jupyter-widgets/controls", "model_module_version": "2.0.0"}
    return {**entry, "state": state, **more}


def file_state(**models: dict[str, Any]) -> dict[str, Any]:
    return {"version_major": 2, "version_minor": 0, "state": models}


def parse(**models: dict[str, Any]) -> list[LoadedComm]:
    numbers = iter(range(1000))
    return parse_widget_state(file_state(**models), lambda: f"o{next(numbers)}")


def view(model_id: str) -> DisplayOutput:
    data = {"text/plain": "a widget", WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": model_id}}
    return DisplayOutput(f"view-{model_id}", "display_data", data, {})


TREE = {
    "a_box": model("HBox", {"children": ["IPY_MODEL_slider", "IPY_MODEL_out"], "layout": "IPY_MODEL_layout"}),
    "layout": model("Layout", {"width": None, "height": "3px"}),
    "out": model(
        "Output", {"outputs": [stream("kept\n"), display("too")], "msg_id": "left over", "layout": "IPY_MODEL_layout"}
    ),
    "slider": model("IntSlider", {"value": 7, "layout": "IPY_MODEL_layout", "description": "x" * 2000}),
}


class Loaded:
    """A notebook of cells a and b that was loaded with widgets; no kernel was ever there."""

    def __init__(self, views: dict[str, list[str]], **models: dict[str, Any]) -> None:
        self.notebook = Notebook("empty")
        self.notebook.runtime.kernel_gone("shutdown")
        self.notebook.runtime.load_widgets(parse(**models))
        for cell, model_ids in views.items():
            self.notebook.runtime.add_cell(cell, [view(model_id) for model_id in model_ids])
        self.document = self.notebook.commit()

    def saved(self) -> Any:
        state = render_widget_state(self.document.plain["comms"], self.document.blobs.__getitem__)
        return json.loads(json.dumps(state))


def test_a_notebook_without_a_kernel_shows_its_widgets() -> None:
    comms = Loaded({"a": ["a_box"]}, **TREE).document.comms()

    assert max(comms, key=lambda comm_id: comms[comm_id]["order"]) == "a_box"
    box = comms["a_box"]
    assert (box["target_name"], box["model_name"]) == ("jupyter.widget", "HBoxModel")
    assert box["state"]["children"] == ["IPY_MODEL_slider", "IPY_MODEL_out"]
    assert comms["slider"]["state"]["value"] == 7
    assert comms["layout"]["state"] == {
        "_model_name": "LayoutModel",
        "_model_module": "@jupyter-widgets/controls",
        "_model_module_version": "2.0.0",
        "height": "3px",
    }
    assert comms["out"]["outputs"] == [stream("kept\n"), display("too")]
    assert not {"outputs", "msg_id"} & comms["out"]["state"].keys()


def test_what_was_loaded_is_saved_again() -> None:
    saved = Loaded({"a": ["a_box"]}, **TREE).saved()

    assert (saved["version_major"], saved["version_minor"]) == (2, 0)
    assert saved["state"].keys() == TREE.keys()
    for comm_id, entry in TREE.items():
        again = saved["state"][comm_id]
        assert {key: again[key] for key in entry if key != "state"} == {
            key: entry[key] for key in entry if key != "state"
        }
    assert saved["state"]["out"]["state"]["outputs"] == TREE["out"]["state"]["outputs"]
    assert saved["state"]["out"]["state"]["msg_id"] == ""
    assert saved["state"]["slider"]["state"]["description"] == "x" * 2000
    twice = Loaded({"a": ["a_box"]}, **saved["state"]).saved()
    assert twice == saved


@pytest.mark.parametrize(
    "described",
    [
        {"path": ["value"], "encoding": "base64", "data": "AAEC"},
        {"path": ["value"], "encoding": "hex", "data": "000102"},
        {"path": ["value"], "data": "AAEC"},
    ],
)
def test_binary_values_come_back_as_bytes(described: dict[str, Any]) -> None:
    loaded = Loaded({}, image=model("Image", {"format": "png"}, buffers=[described]))

    assert loaded.document.state("image")["value"] == b"\0\1\2"
    assert loaded.saved()["state"]["image"]["buffers"] == [{"path": ["value"], "encoding": "base64", "data": "AAEC"}]


def test_a_live_notebook_is_saved_as_it_is() -> None:
    notebook = Notebook()
    kernel = notebook.begin("a")
    kernel.open("i", "ImageModel", {"value": b"\x89PNG", "nested": {"l": [b"1", 2]}, "_model_module_version": "2.0.0"})
    kernel.open_output("out")
    kernel.say(k.CommOpen(comm_id="custom", target_name="my.target", data={"x": 1}))
    kernel.enter("out")
    kernel.print("captured")
    notebook.end()
    plain = notebook.settle().plain
    saved = render_widget_state(plain["comms"], notebook.document.blobs.__getitem__)

    assert saved is not None
    assert saved["state"].keys() == {"i", "out"}
    image = saved["state"]["i"]
    assert (image["model_name"], image["model_module_version"]) == ("ImageModel", "2.0.0")
    assert image["state"]["nested"] == {"l": [None, 2]}
    assert [buffer["path"] for buffer in image["buffers"]] == [["nested", "l", 0], ["value"]]
    assert saved["state"]["out"]["state"]["outputs"] == [stream("captured")]
    assert saved["state"]["out"]["model_module_version"] == "*"


def test_no_widgets_no_metadata() -> None:
    assert render_widget_state({}, {}.__getitem__) is None


def test_a_value_whose_blob_is_gone_is_left_out() -> None:
    loaded = Loaded({}, **TREE)
    loaded.document.blobs.clear()

    state = loaded.saved()["state"]["slider"]["state"]
    assert state["value"] == 7
    assert "description" not in state


@pytest.mark.parametrize(
    "models",
    [
        {"x": 5},
        {"x": {}},
        {"x": {"model_name": 5, "model_module": "m", "state": {}}},
        {"x": {"model_name": "n", "model_module": "m", "state": []}},
        {"": model("X", {})},
        {"k" * 300: model("X", {})},
    ],
)
def test_what_is_no_widget_is_left_out(models: dict[str, Any]) -> None:
    assert parse_widget_state({"state": {**models, "ok": model("X", {})}}, lambda: "o")[0].comm_id == "ok"


def test_of_too_many_those_that_outputs_show_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon.core.saved_widgets, "MAX_COMMS", 6)
    captured = [{"output_type": "display_data", "data": dict(view("inner").data), "metadata": {}}]
    models = {
        **{f"left{n}": model("Layout", {}) for n in range(10)},
        "box": model("HBox", {"children": ["IPY_MODEL_out", "IPY_MODEL_nobody"], "layout": "IPY_MODEL_layout"}),
        "out": model("Output", {"outputs": captured}),
        "inner": model("Text", {}),
        "layout": model("Layout", {}),
        "link": model("Link", {"source": ["IPY_MODEL_inner", "value"], "target": ["IPY_MODEL_box", "x"]}),
        **{f"later{n}": model("Layout", {}) for n in range(2)},
    }
    loaded = parse_widget_state({"state": models}, lambda: "o", {"box", "gone"})

    assert {comm.comm_id for comm in loaded} == {"box", "out", "inner", "layout", "link", "later1"}
    assert [comm.comm_id for comm in loaded].index("out") < [comm.comm_id for comm in loaded].index("box")


@pytest.mark.parametrize("raw", [{}, {"state": None}, {"state": [1]}])
def test_a_state_that_is_none_is_empty(raw: dict[str, Any]) -> None:
    assert parse_widget_state(raw, lambda: "o") == []


@pytest.mark.parametrize("buffers", [5, [5], [{}], [{"path": ["a"], "data": "%%%"}], [{"path": 5, "data": "AA=="}]])
def test_odd_buffers_are_left_out(buffers: object) -> None:
    [comm] = parse(x=model("X", {"v": 1}, buffers=buffers))

    assert comm.state["v"] == 1


def test_boxes_in_a_circle_and_deep_ones_are_read() -> None:
    deep = {f"m{n:05}": model("Box", {"children": [f"IPY_MODEL_m{n + 1:05}"]}) for n in range(5000)}
    order = [comm.comm_id for comm in parse(**deep)]
    assert order == sorted(deep, reverse=True)

    circle = {"a": model("X", {"r": "IPY_MODEL_b"}), "b": model("X", {"r": ["IPY_MODEL_a", "IPY_MODEL_nobody"]})}
    assert {comm.comm_id for comm in parse(**circle)} == {"a", "b"}


REFERENCES = st.lists(st.sampled_from("abcdef"), max_size=4)


@given(st.dictionaries(st.sampled_from("abcdef"), REFERENCES))
def test_children_come_first_where_there_is_no_circle(children: dict[str, list[str]]) -> None:
    acyclic = {parent: [child for child in found if child > parent] for parent, found in children.items()}
    order = [
        comm.comm_id
        for comm in parse(
            **{parent: model("X", {"c": [f"IPY_MODEL_{c}" for c in found]}) for parent, found in acyclic.items()}
        )
    ]

    assert sorted(order) == sorted(acyclic)
    for parent, found in acyclic.items():
        assert all(order.index(child) < order.index(parent) for child in found if child in acyclic)


# When they go.


def test_a_kernel_leaves_them_until_their_cells_run() -> None:
    loaded = Loaded({"a": ["a_box"], "b": ["slider"]}, **TREE)
    notebook = loaded.notebook
    notebook.start_kernel()
    kernel = notebook.begin("empty")
    kernel.open("new", "IntSliderModel", {})
    notebook.end()
    comms = notebook.settle().comms()
    assert comms.keys() == {*TREE, "new"}
    assert comms["new"]["order"] > comms["a_box"]["order"]

    notebook.begin("a")
    assert notebook.commit().comms().keys() == {"slider", "layout", "new"}  # cell b shows the slider
    notebook.end()
    notebook.begin("b")
    assert notebook.commit().comms().keys() == {"new"}


@pytest.mark.parametrize("how", ["clear", "remove"])
def test_they_go_with_their_cells_outputs(how: str) -> None:
    loaded = Loaded({"a": ["a_box"]}, **TREE)
    if how == "clear":
        loaded.notebook.runtime.clear_outputs(["a"])
    else:
        loaded.notebook.runtime.remove_cell("a")

    assert loaded.notebook.commit().comms() == {}


def test_an_output_that_shows_a_widget_keeps_it() -> None:
    outputs = [{"output_type": "display_data", "data": {WIDGET_VIEW: {"model_id": "inner"}}, "metadata": {}}]
    models = {"out": model("Output", {"outputs": outputs}), "inner": model("X", {}), "nobody": model("X", {})}
    loaded = Loaded({"a": ["out"], "b": ["other"]}, **models)
    loaded.notebook.runtime.clear_outputs(["b"])

    assert loaded.notebook.commit().comms().keys() == {"out", "inner"}


def test_a_link_stays_with_what_it_links() -> None:
    link = model("Link", {"source": ["IPY_MODEL_slider", "value"], "target": ["IPY_MODEL_other", "value"]})
    loaded = Loaded({"a": ["slider"], "b": ["other"], "c": []}, **TREE, other=model("X", {}), link=link)
    loaded.notebook.runtime.clear_outputs(["b"])

    assert loaded.notebook.commit().comms().keys() == {"slider", "layout"}


def test_the_kernels_comm_takes_the_place_of_the_files() -> None:
    loaded = Loaded({"a": ["a_box"]}, **TREE)
    notebook = loaded.notebook
    notebook.start_kernel()
    kernel = notebook.begin("empty")
    kernel.open("slider", "FloatSliderModel", {"value": 1.5})
    kernel.open_output("out")
    notebook.end()
    comms = notebook.settle().comms()
    assert comms["slider"]["model_name"] == "FloatSliderModel"
    assert comms["out"]["outputs"] == []

    notebook.begin("a")
    assert notebook.commit().comms().keys() == {"slider", "out"}


def test_a_kernel_that_ends_does_not_take_them() -> None:
    loaded = Loaded({"a": ["a_box"]}, **TREE)
    loaded.notebook.start_kernel()
    loaded.notebook.restart()

    assert loaded.notebook.commit().comms().keys() == TREE.keys()


def test_a_peer_can_not_open_one_under_their_id() -> None:
    loaded = Loaded({"a": ["a_box"]}, **TREE)
    loaded.notebook.start_kernel()

    assert not loaded.notebook.runtime.widgets.open_by_peer("slider", "x", {}, [])


def test_a_widget_of_a_file_can_not_take_a_live_ones_id() -> None:
    notebook = Notebook()
    notebook.widget("slider", value=1)
    notebook.runtime.load_widgets(parse(**TREE))

    assert notebook.commit().state("slider")["value"] == 1


# Who refers to whom.


def test_references_are_found_in_texts_lists_and_blobs() -> None:
    many = [f"IPY_MODEL_child{n}" for n in range(200)]
    loaded = Loaded({}, box=model("VBox", {"children": many, "layout": "IPY_MODEL_l", "text": "about IPY_MODEL_no"}))
    entry = loaded.document.plain["comms"]["box"]

    assert "blob" in entry["state"]["children"]
    found = references_in(entry, loaded.document.blobs)
    assert found == {"l", *(f"child{n}" for n in range(200))}
    assert references_in(entry, {}) == {"l"}


def test_views_are_found_among_outputs() -> None:
    notebook = Notebook("a")
    notebook.runtime.add_cell("v", [view("x"), StreamOutput("s", "stdout", ("text",)), view("y")])
    manifests = notebook.commit().plain["cells"]["v"]["outputs"]

    assert list(views_in(manifests)) == ["x", "y"]
    assert (
        list(views_in([{"data": {WIDGET_VIEW: {"json": "5"}}}, {"data": {WIDGET_VIEW: {"odd": 1}}}, {"data": 5}])) == []
    )
