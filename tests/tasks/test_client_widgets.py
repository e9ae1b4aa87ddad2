"""The client's widgets against a daemon that answers when each test says."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from sync.client import Cell, ConnectionLost, Notebook, RequestFailed, Widget, WidgetClosed, open_notebook
from sync.core.jsonrpc import RequestError, response
from sync.core.mutations import AddCell, AppendOutput, CloseComm, Mutation, OpenComm, SetCommState, Target
from sync.core.outputs import StreamOutput
from tests.fakes.scripted_daemon import ScriptedDaemon, scripted_daemon

UUID = "00000000-0000-4000-8000-00000000000"


@pytest.fixture
async def daemon() -> AsyncIterator[ScriptedDaemon]:
    async with scripted_daemon() as daemon:
        yield daemon


def opened(daemon: ScriptedDaemon, **options: Any) -> Any:
    return open_notebook(daemon.url, notebook=daemon.notebook.url, **options)


def comm(comm_id: str, order: int = 1, name: str = "IntSlider", **state: Any) -> OpenComm:
    return OpenComm(comm_id, "jupyter.widget", "@jupyter-widgets/controls", f"{name}Model", order, state)


def leave_open(daemon: ScriptedDaemon) -> None:
    """No update_comm is answered but by `answer`."""
    daemon.replies["update_comm"] = lambda _: None


async def answer(daemon: ScriptedDaemon, *numbers: int, method: str = "update_comm") -> None:
    """Answers those of the requests of a method, counted from 0, as of the newest state."""
    requests = [request for request in daemon.requests if request["method"] == method]
    [client] = daemon.sockets
    assert client.outbox is not None
    for number in numbers:
        result = response(requests[number]["id"], client.outbox.target, daemon.stamp())
        daemon.notify(result, [client], droppable=False)
    await daemon.flush()


async def change(daemon: ScriptedDaemon, nb: Notebook, *mutations: Mutation) -> None:
    """A commit that has arrived."""
    daemon.change(*mutations)
    await daemon.flush()
    await nb.confirm_sync()


def only(nb: Notebook) -> Widget:
    [widget] = nb.get_widgets().by_id.values()
    return widget


# --- Reading


async def test_widgets_are_found_by_id_by_model_and_as_trees(daemon: ScriptedDaemon) -> None:
    daemon.change(
        comm("l", 1, "Layout"),
        comm("b", 2, value=2, layout="IPY_MODEL_l"),
        comm("a", 3, value=1, layout="IPY_MODEL_l", style="IPY_MODEL_gone"),
        comm("box", 4, "HBox", children=["IPY_MODEL_b", "IPY_MODEL_gone", "IPY_MODEL_a"]),
        comm("x", 5, "HBox", children=["IPY_MODEL_y"]),
        comm("y", 6, "HBox", children=["IPY_MODEL_x", "IPY_MODEL_y"]),
        OpenComm("custom", "my.target", "", "", 7, {}),
    )
    async with opened(daemon) as nb:
        widgets = nb.get_widgets()
        assert list(widgets.by_id) == ["l", "b", "a", "box", "x", "y"]
        assert {name: [widget.id for widget in found] for name, found in widgets.by_model.items()} == {
            "LayoutModel": ["l"],
            "IntSliderModel": ["b", "a"],
            "HBoxModel": ["box", "x", "y"],
        }
        [box] = widgets.roots
        assert [child.value for child in box.children] == [2, 1]
        b, a = box.children
        assert b is widgets.by_id["b"]
        assert (b.layout, b.style, a.style) == (widgets.by_id["l"], None, None)
        assert [widget.id for widget in box.walk()] == ["box", "b", "l", "a"]
        assert [widget.id for widget in widgets.by_id["y"].walk()] == ["y", "x"]
        assert (a.state, a.get("value"), a.get("max", 7), a.outputs) == (
            {"layout": "IPY_MODEL_l", "style": "IPY_MODEL_gone", "value": 1},
            1,
            7,
            [],
        )

        # Live: what comes later shows, but not in what was made before.
        await change(daemon, nb, comm("c", 8), SetCommState("box", {"children": ["IPY_MODEL_c"]}), CloseComm("b"))
        assert [child.id for child in box.children] == ["c"]
        assert box.children[0] == nb.get_widgets().by_id["c"] != a
        assert "c" not in widgets.by_id
        assert not b.exists
        assert [widget.id for widget in b.walk()] == []
        with pytest.raises(WidgetClosed, match="IntSlider"):
            _ = b.state
        with pytest.raises(WidgetClosed):
            _ = b.value


async def test_a_capture_is_read_as_a_cell_is(daemon: ScriptedDaemon) -> None:
    stream = StreamOutput(f"{UUID}1", "stdout", ("hello",))
    daemon.change(comm("out", 1, "Output"), AppendOutput(Target("comm", "out"), stream), AddCell("c"))
    daemon.change(AppendOutput(Target("cell", "c"), stream))
    async with opened(daemon) as nb:
        assert [output.text for output in only(nb).outputs] == ["hello"]
        assert only(nb).outputs == await only(nb).load_outputs() == Cell(nb, "c").outputs


# --- Setting


async def test_a_trait_is_set_and_what_is_sent_is_plain(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", value=0, max=10))
    async with opened(daemon) as nb:
        slider = only(nb)
        await slider.set(5)
        await slider.set(max=20, value=(1, {"by": slider}, b"raw"))
        await slider.click()
        await slider.send({"a": 1}, [b"x"])

        assert [(request["method"], request["params"]) for request in daemon.requests[-4:]] == [
            ("update_comm", {"comm_id": "s", "state": {"value": 5}}),
            ("update_comm", {"comm_id": "s", "state": {"value": [1, {"by": "IPY_MODEL_s"}, b"raw"], "max": 20}}),
            ("comm_custom", {"comm_id": "s", "content": {"event": "click"}, "buffers": []}),
            ("comm_custom", {"comm_id": "s", "content": {"a": 1}, "buffers": [b"x"]}),
        ]
        with pytest.raises(TypeError):
            await slider.set(object())
        assert slider.value == 0  # this daemon commits nothing


async def test_an_own_value_is_shown_until_the_last_request_is_answered(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", value=0, max=10))
    leave_open(daemon)
    async with opened(daemon) as nb, trio.open_nursery() as nursery:
        slider, other = only(nb), only(nb)
        for number in (1, 2, 3):
            nursery.start_soon(slider.set, number)
            await daemon.wait_asked("update_comm", times=number)
        assert (slider.value, other.value, slider.state) == (3, 3, {"value": 3, "max": 10})

        await change(daemon, nb, SetCommState("s", {"value": 1, "max": 11}))
        assert (slider.value, slider.get("max")) == (3, 11)
        await answer(daemon, 0)
        await change(daemon, nb, SetCommState("s", {"value": 2}))
        await answer(daemon, 1)
        await nb.confirm_sync()
        assert slider.value == 3
        # Another peer, or the kernel, has set it when the last one is answered.
        daemon.change(SetCommState("s", {"value": 77}))
        await answer(daemon, 2)
        await nb.wait_for(lambda: slider.value == 77)


async def test_a_value_that_is_refused_goes_again(daemon: ScriptedDaemon) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise RequestError.no_kernel()

    daemon.change(comm("s", value=0))
    daemon.replies["update_comm"] = refuse
    async with opened(daemon) as nb:
        slider = only(nb)
        await change(daemon, nb, SetCommState("s", {"value": -1}))
        assert await slider.changed() == -1
        with pytest.raises(RequestFailed) as failed:
            await slider.set(5)
        assert await slider.changed() == -1  # it was 5 for a while
        assert (failed.value.reason, slider.value) == ("no_kernel", -1)


async def test_a_value_whose_answer_is_lost_goes_again(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", value=0))
    leave_open(daemon)
    async with opened(daemon) as nb, trio.open_nursery() as nursery:
        slider = only(nb)

        async def set_in_vain() -> None:
            with pytest.raises(ConnectionLost):
                await slider.set(5)

        nursery.start_soon(set_in_vain)
        await daemon.wait_asked("update_comm")
        assert slider.value == 5
        daemon.drop()
        await nb.wait_for(lambda: slider.value == 0)


# --- Changes


async def test_changes_are_waited_for_and_none_is_missed(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", value=0, max=10))
    async with opened(daemon) as nb:
        slider = only(nb)
        await change(daemon, nb, SetCommState("s", {"value": 1}))
        assert await slider.changed() == 1  # since the object was made
        for value in (2, 3):
            await change(daemon, nb, SetCommState("s", {"value": value}))
        assert await slider.changed("value") == 3  # the last of those between two calls
        for value in (4, 3):
            await change(daemon, nb, SetCommState("s", {"value": value}))
        assert await slider.changed() == 3  # there and back

        heard = []

        async def hear(trait: str) -> None:
            heard.append((trait, await slider.changed(trait)))

        async with trio.open_nursery() as longer:
            longer.start_soon(hear, "width")
            async with trio.open_nursery() as nursery:
                for trait in ("value", "value", "max"):
                    nursery.start_soon(hear, trait)
                await trio.testing.wait_all_tasks_blocked()
                assert not heard
                await change(daemon, nb, SetCommState("s", {"value": 5, "max": 20}))
            assert len(heard) == 3
            await change(daemon, nb, SetCommState("s", {"width": None}))
        assert sorted(heard, key=str) == [("max", 20), ("value", 5), ("value", 5), ("width", None)]
        await slider.set(6)  # this daemon commits nothing
        assert await slider.changed() == 5


async def test_what_is_set_here_is_no_change_but_what_becomes_of_it_is(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", value=[0]), comm("t", 2, value=0))

    def commit(params: dict[str, Any]) -> dict[str, Any]:
        daemon.change(SetCommState(params["comm_id"], params["state"]))
        return {}

    async def is_quiet(*widgets: Widget) -> None:
        await nb.confirm_sync()
        async with trio.open_nursery() as nursery:
            for widget in widgets:
                nursery.start_soon(hear, widget)
            await trio.testing.wait_all_tasks_blocked()
            assert not heard
            nursery.cancel_scope.cancel()

    async def hear(widget: Widget) -> None:
        heard.append(await widget.changed())

    heard: list[Any] = []
    daemon.replies["update_comm"] = commit
    async with opened(daemon) as nb:
        slider, same = (nb.get_widgets().by_id["s"] for _ in range(2))
        await slider.set([1, 2])
        # Nobody waited yet; then somebody did; and other objects of the same widget hear as little.
        await is_quiet(slider, same, nb.get_widgets().by_id["s"])
        await slider.set([3])
        await is_quiet(slider, same)
        # What others did before it is over.
        await change(daemon, nb, SetCommState("s", {"value": [4]}))
        await slider.set([5])
        await is_quiet(slider, same)
        # What the kernel makes of it is a change.
        await change(daemon, nb, SetCommState("s", {"value": [10]}))
        assert [await widget.changed() for widget in (slider, same)] == [[10], [10]]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, slider)
            await trio.testing.wait_all_tasks_blocked()
            await change(daemon, nb, SetCommState("t", {"value": 1}))
            await slider.set([6])
            await nb.confirm_sync()
            assert not heard
            await change(daemon, nb, SetCommState("s", {"value": [7]}))
        assert heard == [[7]]


async def test_a_closed_widget_says_so_to_whoever_uses_it(daemon: ScriptedDaemon) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise RequestError.not_found("comm")

    daemon.change(comm("s", value=0))
    daemon.replies |= {"update_comm": refuse, "comm_custom": refuse}
    async with opened(daemon) as nb:
        slider = only(nb)
        for use in (partial(slider.set, 1), slider.click, partial(slider.send, {})):
            with pytest.raises(WidgetClosed, match="'s'"):
                await use()


async def test_who_waits_hears_that_the_widget_is_closed_or_the_connection_lost(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", 1), comm("t", 2))
    async with opened(daemon, reconnect_seconds=0) as nb, trio.open_nursery() as longer:
        one, two = nb.get_widgets().by_id.values()
        ended = []

        async def wait(widget: Widget) -> None:
            with pytest.raises((WidgetClosed, ConnectionLost)) as error:
                await widget.changed()
            ended.append((widget.id, error.type))

        longer.start_soon(wait, two)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, one)
            await trio.testing.wait_all_tasks_blocked()
            await change(daemon, nb, CloseComm("s"))
        assert ended == [("s", WidgetClosed)]
        with pytest.raises(WidgetClosed):
            await one.changed("another")
        daemon.drop()
    assert ended == [("s", WidgetClosed), ("t", ConnectionLost)]


async def test_a_new_runtime_document_goes_on_with_the_same_widgets(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", value=0))
    async with opened(daemon) as nb:
        slider = only(nb)
        daemon.renew_runtime()
        daemon.change(comm("s", value=1))
        await daemon.flush()
        assert await slider.changed() == 1


# --- Custom messages


async def test_messages_are_heard_up_to_the_close(daemon: ScriptedDaemon) -> None:
    daemon.change(comm("s", 1), comm("t", 2))
    async with opened(daemon) as nb:
        widgets = nb.get_widgets()
        messages = widgets.by_id["s"].messages()
        for number, comm_id in enumerate("sts"):
            daemon.tell("comm_custom", comm_id=comm_id, content={"n": number}, buffers=[b"x"])
        daemon.tell("queue_changed", executing=None, queued=[])
        heard = []

        async def hear() -> None:
            heard.extend([(message.params["content"], message.params["buffers"]) async for message in messages])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await nb.confirm_sync()
            # The close is seen before what was said last, and the client asks whether that was all.
            asked = len(daemon.requests)
            daemon.replies["barrier"] = lambda _: None
            daemon.change(CloseComm("s"))
            await daemon.flush()
            while len(daemon.requests) == asked:
                await daemon.asked.wait()
            daemon.tell("comm_custom", comm_id="s", content={"n": 3}, buffers=[])
            await answer(daemon, -1, method="barrier")

        assert heard == [({"n": 0}, [b"x"]), ({"n": 2}, [b"x"]), ({"n": 3}, [])]
        with pytest.raises(WidgetClosed):
            widgets.by_id["s"].messages()
