"""Widgets read from a runtime document: what they are, and what they refer to."""

from typing import Any

from sync.core.mutations import CloseComm, OpenComm
from sync.core.widget_tree import find_roots, read_widget, read_widgets, references_of, references_within
from tests.fakes.runtime_document import RuntimeDocument

CONTROLS = "@jupyter-widgets/controls"


def opened(comm_id: str, order: int, name: str = "HBox", target: str = "jupyter.widget", **state: Any) -> OpenComm:
    return OpenComm(comm_id, target, CONTROLS, f"{name}Model", order, state)


def refer(*comm_ids: str) -> list[str]:
    return [f"IPY_MODEL_{comm_id}" for comm_id in comm_ids]


def tree(document: RuntimeDocument) -> dict[str, list[str]]:
    """What each widget refers to, all blobs at hand."""
    return {
        comm_id: [other for value in entry["state"].values() for other in references_of(value, document.blobs)]
        for comm_id, entry in read_widgets(document.replica).items()
    }


def test_widgets_are_read_in_the_order_in_which_they_were_opened() -> None:
    document = RuntimeDocument()
    document.commit([opened("z", 1), opened("a", 3, "Output"), opened("m", 2), opened("c", 4, target="my.target")])
    document.commit([CloseComm("m")])

    assert list(read_widgets(document.replica)) == ["z", "a"]
    entry = read_widget(document.replica, "a")
    assert entry is not None
    assert (entry["model_name"], entry["model_module"], entry["order"]) == ("OutputModel", CONTROLS, 3)
    assert "outputs" not in entry
    assert [read_widget(document.replica, comm_id) for comm_id in ("m", "c", "never")] == [None] * 3
    assert read_widgets(RuntimeDocument().replica) == {}


def test_references_are_found_alone_in_lists_in_maps_and_in_blobs() -> None:
    document = RuntimeDocument()
    many = refer(*(f"{number:032x}" for number in range(100)))
    document.commit(
        [
            opened("box", 1, children=refer("a", "b"), layout="IPY_MODEL_l", box_style="", flag=True, size=None),
            opened("map", 2, source=[*refer("a"), "value"], deep={"x": [{"y": refer("b")}], "raw": b"IPY_MODEL_q"}),
            opened("big", 3, children=many, text="see IPY_MODEL_x", esm="IPY_MODEL_ " + "x" * 2000),
        ]
    )

    assert tree(document)["box"] == ["a", "b", "l"]
    assert tree(document)["map"] == ["b", "a"]
    big = read_widgets(document.replica)["big"]["state"]["children"]
    assert "blob" in big
    assert refer(*references_of(big, document.blobs)) == many
    assert references_of(big, {}) == []


def test_children_are_in_their_order() -> None:
    document = RuntimeDocument()
    document.commit([opened("box", 1, children=refer("c", "a", "b"), map={"y": refer("q"), "x": refer("p", "o")})])
    state = read_widgets(document.replica)["box"]["state"]
    assert references_of(state["children"], {}) == ["c", "a", "b"]
    assert list(references_within({"y": refer("q"), "x": refer("p", "o")})) == ["q", "p", "o"]


def test_what_can_not_be_read_refers_to_nothing() -> None:
    broken: list[Any] = [
        {"json": '["IPY_MODEL_a'},
        {"blob": "0" * 64, "media_type": "application/json"},
        {"blob": "no hash"},
        {"json": 3},
        {},
        3,
        True,
        None,
        "IPY_MODEL_",
    ]
    assert [references_of(value, {"0" * 64: b'{"IPY_MODEL_a": '}) for value in broken] == [[]] * len(broken)


def test_a_root_is_what_no_other_refers_to() -> None:
    assert find_roots({"box": ["a", "gone"], "a": ["l"], "l": [], "self": ["self"], "link": ["a"]}) == [
        "box",
        "self",
        "link",
    ]
    assert find_roots({"a": ["b"], "b": ["a"], "alone": []}) == ["alone"]
    assert find_roots({}) == []
