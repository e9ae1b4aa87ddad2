"""The Python client's widgets: the real ipywidgets, a real daemon, and our client at both ends."""

import base64
import json
import re
import textwrap
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from sync.client import (
    BlobRef,
    BlockingNotebook,
    Event,
    Execution,
    Notebook,
    RequestFailed,
    SyncTimeout,
    Widget,
    WidgetClosed,
    open_notebook,
)
from tests.fakes.served_daemon import ServedDaemon
from tests.fakes.tcp_proxy import wire_to
from tests.fakes.widget_story import notebook_file, open_story

IMPORTS = "import ipywidgets as w\nfrom IPython.display import clear_output, display\n"


async def run(nb: Notebook, source: str) -> str:
    """Executes a new cell to its end; what it printed."""
    result = await (await nb.add_cell(source).execute()).result()
    text = "".join(output.text for output in result.outputs)
    assert result.status == "done", text
    return text


@asynccontextmanager
async def story(daemon: ServedDaemon, source: str) -> AsyncIterator[Notebook]:
    """A new notebook in which a cell has run; its kernel ends with the block."""
    path = f"{uuid4()}.ipynb"
    async with open_notebook(daemon.url, token=daemon.token, path=path, create=True) as nb:
        await run(nb, IMPORTS + source)
        yield nb
        await nb.shutdown()


def joined(daemon: ServedDaemon, nb: Notebook, url: str | None = None) -> Any:
    """Another client of the same notebook."""
    return open_notebook(url or daemon.url, token=daemon.token, notebook=nb.url)


def one(nb: Notebook, model: str) -> Widget:
    [widget] = nb.get_widgets().by_model[f"{model}Model"]
    return widget


# --- Reading


async def test_a_late_client_reads_trees_with_their_bytes(daemon: ServedDaemon) -> None:
    source = """
inputs = [w.IntText(n, description=f'number {n}') for n in range(40)]
image = w.Image(value=bytes(range(256)) * 8, format='png')
tab = w.Tab([w.VBox(inputs), w.HBox([image, w.Text('a')])], titles=['many', 'few'])
link = w.jslink((inputs[0], 'value'), (inputs[1], 'value'))
"""
    async with story(daemon, source) as nb, joined(daemon, nb) as late:
        # Not awaited: what is at hand. The list of 40 children is a blob.
        at_hand = late.get_widgets()
        assert isinstance(at_hand.by_model["ImageModel"][0].value, BlobRef)
        assert isinstance(at_hand.by_model["VBoxModel"][0].get("children"), BlobRef)
        widgets = await late.get_widgets()

        assert list(widgets.by_id) == list((await nb.get_widgets()).by_id)
        roots = {widget.model_name for widget in widgets.roots}
        assert roots == {"TabModel", "LinkModel"}
        [tab] = widgets.by_model["TabModel"]
        many, few = tab.children
        assert (tab.get("titles"), [child.value for child in many.children]) == (["many", "few"], list(range(40)))
        image, text = few.children
        assert (image.value, image.get("format"), text.value) == (bytes(range(256)) * 8, "png", "a")
        assert image.layout is not None
        assert None not in image.layout.state.values()
        assert image.layout.model_name == "LayoutModel"
        # A Tab, its boxes, what is in them, and each one's layout and style.
        below = [widget.model_name for widget in tab.walk()]
        assert below.count("IntTextModel") == 40
        assert len(below) == len({widget.id for widget in tab.walk()}) == len(widgets.by_id) - 1
        assert all(widget.id in widgets.by_id for widget in tab.walk())


async def test_a_capture_reads_as_a_cells_outputs(daemon: ServedDaemon) -> None:
    shown = """
print('x' * 3000)
display({'image/png': image, 'text/plain': 'pic'}, raw=True, metadata={'width': 3})
1 / 0
"""
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(3000)).decode()
    indented = shown.replace("\n", "\n    ")
    async with story(daemon, f"image = {png!r}\nout = w.Output()\nwith out:{indented}") as nb:
        cell = nb.add_cell(shown)
        assert (await (await cell.execute()).result()).status == "error"
        async with joined(daemon, nb) as late:
            widgets = await late.get_widgets()
            [out] = widgets.by_model["OutputModel"]
            assert not {"outputs", "msg_id"} & out.state.keys()
            captured, in_cell = await out.load_outputs(), await late.cell(cell.id).load_outputs()

            def plain(outputs: Iterable[Any]) -> list[Any]:
                return [(one.output_type, one.data, one.metadata, one.name, one.ename, one.evalue) for one in outputs]

            assert plain(captured) == plain(in_cell)
            assert captured[0].text == "x" * 3000 + "\n"
            assert captured[1].data["image/png"] == base64.b64decode(png)
            assert "ZeroDivisionError" in captured[2].text
            assert out.outputs == captured  # awaited, so they are at hand


async def test_a_client_that_joins_while_widgets_are_made_has_all_of_them(daemon: ServedDaemon) -> None:
    # Each answer lets the kernel make forty more, while somebody joins.
    source = """
made = []
for n in range(240):
    if n % 40 == 0:
        input('go on?')
    made.append(w.Image(value=n.to_bytes(2, 'big') * 1000, width=n))
"""
    asked: set[str] = set()

    def is_asked() -> Any:
        request_id = nb.kernel.get("input_request", {}).get("request_id")
        return request_id not in asked and request_id

    def images_of(seen: Notebook) -> list[Widget]:
        return seen.get_widgets().by_model.get("ImageModel", [])

    async with story(daemon, "") as nb, wire_to(daemon.url) as wire:
        execution = await nb.add_cell(source).execute()
        asked.add(await nb.wait_for(is_asked))
        for turn in range(3):
            await nb.input_reply("")
            async with joined(daemon, nb, wire.url) as late:
                # It hears nothing of the next forty before it asks.
                wire.hold()
                asked.add(await nb.wait_for(is_asked))
                await nb.input_reply("")
                # The prompt comes on another socket than the widgets, and may be here before them.
                await nb.wait_for(lambda count=80 * (turn + 1): len(images_of(nb)) == count)
                known = set(nb.get_widgets().by_id)
                assert not known <= late.get_widgets().by_id.keys()
                wire.flow()
                await late.confirm_sync()
                widgets = late.get_widgets()

                assert known <= widgets.by_id.keys()
                await widgets
                images = widgets.by_model["ImageModel"]
                assert [image.value for image in images] == [n.to_bytes(2, "big") * 1000 for n in range(len(images))]
                assert [image.get("width") for image in images] == [str(n) for n in range(len(images))]
                assert all(image.layout for image in images)
            if execution.status != "done":
                asked.add(await nb.wait_for(is_asked))
        assert (await execution.result()).status == "done"
        async with joined(daemon, nb) as late:
            await late.confirm_sync()
            assert len(late.get_widgets().by_model["ImageModel"]) == 240


async def test_what_a_thousand_progress_bars_leave_does_not_keep_new_widgets_out(daemon: ServedDaemon) -> None:
    """A bar within a loop of bars: closed when it is done, it leaves ten comms open in the kernel."""
    source = """
from tqdm.notebook import tqdm
slider = w.IntSlider(7)
box = w.HBox([slider])
display(box)
box.close()
for _ in tqdm(range(1000)):
    for _ in tqdm(range(2), leave=False):
        pass
"""
    async with story(daemon, source) as nb, joined(daemon, nb) as late:
        assert int(await run(nb, "print(len(w.widgets.widget._instances))")) > 10_000
        await run(nb, "slider.value = 8\ntext = w.Text('new')\ndisplay(text)")
        await late.confirm_sync()
        assert one(late, "Text").value == "new"
        assert nb.runtime["kernel_log"] == []
        [outer] = (bar for bar in late.get_widgets().by_model["FloatProgressModel"] if bar.get("max") == 1000)
        assert outer.value == 1000
        # What was taken for gone is not.
        assert "IntSliderModel" not in late.get_widgets().by_model
        await run(nb, "display(w.VBox([slider, text]))")
        await late.wait_for(lambda: (found := late.get_widgets().by_model.get("IntSliderModel")) and found[0].layout)
        [again] = [box for box in late.get_widgets().by_model["VBoxModel"] if len(box.children) == 2]
        assert [(child.value, child.layout is not None) for child in again.children] == [(8, True), ("new", True)]


# --- Setting, clicking, waiting


async def test_what_is_set_reaches_the_kernel_and_comes_back_corrected(daemon: ServedDaemon) -> None:
    source = """
s = w.IntSlider(value=3, max=100)
label = w.Label()
b = w.Button()
s.observe(lambda change: setattr(label, 'value', f'{change.new} now'), 'value')
b.on_click(lambda _: setattr(label, 'value', f'clicked at {s.value}'))
box, up = w.HBox([s]), w.FileUpload()
"""
    async with story(daemon, source) as nb, joined(daemon, nb) as other:
        slider, label, seen = one(nb, "IntSlider"), one(nb, "Label"), one(other, "IntSlider")
        await slider.set(42)
        assert slider.value == 42
        assert await seen.changed() == 42
        assert await label.changed() == "42 now"

        # A click finds what was set before it.
        await slider.set(value=7, description="seven")
        await one(nb, "Button").click()
        await nb.wait_for(lambda: label.value == "clicked at 7")
        assert await run(nb, "print(s.value, s.description)") == "7 seven\n"

        await slider.set(1000)
        await nb.wait_for(lambda: slider.value == 100)
        await other.wait_for(lambda: seen.value == 100)
        await slider.set(max=200)
        await slider.set(value=150)
        assert await run(nb, "print(s.value, s.max)") == "150 200\n"

        # What no message can be costs no connection.
        for value in ({1: 2}, {"a": {None: 3}}):
            with pytest.raises(RequestFailed) as failed:
                await slider.set(value)
            assert failed.value.reason == "invalid_params"
        assert slider.value == 150

        # What a widget can't be does not stay.
        await slider.set("no number")
        await nb.wait_for(lambda: slider.value == 150)

        await one(nb, "HBox").set(children=[label, slider])
        assert one(nb, "HBox").children == [label, slider]
        assert await run(nb, "print([type(c).__name__ for c in box.children])") == "['Label', 'IntSlider']\n"

        file = {"name": "a.txt", "type": "text/plain", "size": 2000, "last_modified": 0, "content": b"hi" * 1000}
        await one(nb, "FileUpload").set([file])
        assert await run(nb, "print(bytes(up.value[0].content) == b'hi' * 1000)") == "True\n"
        [got] = await one(other, "FileUpload").load("value")
        assert got["content"] == b"hi" * 1000


async def test_whoever_waits_for_a_change_hears_of_the_end(daemon: ServedDaemon) -> None:
    async with story(daemon, "a, b = w.Text(), w.Text()\nlast = w.Text()\n") as nb:
        first, second, third = nb.get_widgets().by_model["TextModel"]
        heard: dict[str, object] = {}

        async def wait(widget: Widget) -> None:
            try:
                heard[widget.id] = await widget.changed()
            except WidgetClosed as error:
                heard[widget.id] = type(error)

        async with trio.open_nursery() as until_restart:
            until_restart.start_soon(wait, third)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, first)
                nursery.start_soon(wait, second)
                await run(nb, "a.close()\nb.value = 'hello'")
            assert heard == {first.id: WidgetClosed, second.id: "hello"}
            await nb.restart()
        assert heard[third.id] is WidgetClosed
        assert not any(widget.exists for widget in (first, second, third))
        for use in (partial(third.set, "x"), third.click, partial(third.send, {})):
            with pytest.raises(WidgetClosed):
                await use()


async def test_messages_go_both_ways(daemon: ServedDaemon) -> None:
    source = """
b = w.Button()
b.on_msg(lambda _, content, buffers: b.send({'got': content}, [bytes(buffer) * 2 for buffer in buffers]))
"""
    async with story(daemon, source) as nb:
        button = one(nb, "Button")
        messages = button.messages()
        await button.send({"hello": [1]}, [b"ab", b""])
        message = await anext(messages)
        assert message.method == "comm_custom"
        assert (message.params["content"], message.params["buffers"]) == ({"got": {"hello": [1]}}, [b"abab", b""])
        await run(nb, "b.send('bye')\nb.close()")
        assert [message.params["content"] async for message in messages] == ["bye"]


# --- Dragging


async def drag(slider: Widget, values: Iterable[int], shown: list[int]) -> None:
    """A hand that does not wait: the next value is set before the last is answered, so that one is always under way."""

    async def set_one(value: int, answered: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await slider.set(value)
        answered.set()

    before: trio.Event | None = None
    async with trio.open_nursery() as nursery:
        for value in values:
            answered = trio.Event()
            await nursery.start(set_one, value, answered)
            shown.append(slider.value)
            if before is not None:
                await before.wait()
            before = answered


async def test_a_drag_beyond_the_end_never_jumps_back(daemon: ServedDaemon) -> None:
    source = "s, seen = w.IntSlider(max=100), []\ns.observe(lambda change: seen.append(change.new), 'value')\ns"
    async with story(daemon, source) as nb, joined(daemon, nb) as other:
        slider, watched = one(nb, "IntSlider"), one(other, "IntSlider")
        shown: list[int] = []  # at the hand, whenever it looks, and whenever anything changed
        others: list[int] = []
        async with trio.open_nursery() as nursery:

            async def look(at: Notebook, widget: Widget, into: list[int]) -> None:
                await at.wait_for(lambda: into.append(widget.value) or (into[-1] == 100 and 200 in shown))  # type: ignore[func-returns-value]

            nursery.start_soon(look, nb, slider, shown)
            nursery.start_soon(look, other, watched, others)
            await trio.testing.wait_all_tasks_blocked()
            moved: list[int] = []
            await drag(slider, range(1, 201), moved)
            assert moved == list(range(1, 201)), "the hand sees its own value at once"

        # The kernel's 100 comes once, at the end.
        corrected = shown.index(100, shown.index(200))
        assert shown[:corrected] == sorted(shown[:corrected])
        assert set(shown[corrected:]) == {100}
        seen = [value for value in others if value != 100]
        assert seen == sorted(seen)
        assert (slider.value, watched.value) == (100, 100)
        assert await run(nb, "print(s.value, seen[-1], max(seen))") == "100 100 100\n"


async def test_two_clients_that_drag_one_slider_end_equal(daemon: ServedDaemon) -> None:
    async with story(daemon, "s = w.IntSlider(max=1000)\ns") as nb, joined(daemon, nb) as other:
        mine, theirs = one(nb, "IntSlider"), one(other, "IntSlider")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drag, mine, range(200), [])
            nursery.start_soon(drag, theirs, range(700, 500, -1), [])
        end = int(await run(nb, "print(s.value)"))
        assert end in (199, 501)
        await nb.wait_for(lambda: mine.value == end)
        await other.wait_for(lambda: theirs.value == end)
        for client, widget in ((nb, mine), (other, theirs)):
            await client.confirm_sync()
            assert widget.value == end


# --- Events that were dropped (P8)


async def test_a_client_that_missed_events_has_the_document(daemon: ServedDaemon) -> None:
    # More than what the daemon holds for one peer and all sockets on the way together.
    flood = """
old.close()
for n in range(2000):
    s.send({'n': n, 'fill': 'x' * 20_000})
    s.value = n
    if n % 500 == 0:
        made.append(w.Image(value=bytes([n // 500]) * 3000))
        with out:
            clear_output(wait=True)
            print('at', n)
"""
    async with (
        story(daemon, "s, out, old, made = w.IntSlider(max=10_000), w.Output(), w.Text(), []\ns") as nb,
        wire_to(daemon.url) as wire,
        joined(daemon, nb, wire.url) as sleeper,
        trio.open_nursery() as nursery,
    ):
        heard: list[Event] = []

        async def hear() -> None:
            async for event in sleeper.events():
                heard.append(event)  # noqa: PERF401  # looked at meanwhile

        nursery.start_soon(hear)
        slider, text = one(sleeper, "IntSlider"), one(sleeper, "Text")
        executions: list[Execution] = [await sleeper.add_cell(flood).execute()]
        before = await dropped(daemon)
        wire.hold()
        await nb.wait_for(lambda: one(nb, "IntSlider").value == 1999 and nb.queue["executing"] is None)
        await nb.confirm_sync()
        assert await dropped(daemon) > before
        assert slider.value < 1999
        wire.flow()

        # The document says how the execution ended, also if nobody told.
        result = await executions[0].result()
        await sleeper.confirm_sync()
        assert result.status == "done"
        assert sleeper.runtime == nb.runtime
        assert slider.value == 1999
        assert not text.exists
        assert [output.text for output in one(sleeper, "Output").outputs] == ["at 1500\n"]
        images = (await sleeper.get_widgets()).by_model["ImageModel"]
        assert [image.value for image in images] == [bytes([n]) * 3000 for n in range(4)]

        # And the next events come without a gap.
        events, later = sleeper.events(), []
        await run(sleeper, "s.value = 5")
        assert slider.value == 5
        async for event in events:
            later.append(event)
            if event.method == "execution_done":
                break
        assert gaps(later) == 0
        assert gaps([*heard, *later]) > 0
        nursery.cancel_scope.cancel()


def gaps(events: Sequence[Event]) -> int:
    """How many events are missing between the first and the last of these."""
    numbers = {event.seq for event in events}
    return max(numbers) - min(numbers) + 1 - len(numbers)


async def dropped(daemon: ServedDaemon) -> float:
    """How many events slow peers missed, as the daemon counts them."""
    async with daemon.client() as client:
        lines = (await client.get("/metrics")).raise_for_status().text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith("notebookd_notices_dropped_total ")))


# --- Without a kernel


async def test_widgets_of_a_file_are_shown_and_can_not_be_set(daemon: ServedDaemon) -> None:
    view = {"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": "box"}}
    file = notebook_file(["print('no kernel was asked')"])
    file["cells"][0]["outputs"] = [{"output_type": "display_data", "data": view, "metadata": {}}]
    controls = {"model_module": "@jupyter-widgets/controls", "model_module_version": "2.0.0"}
    image = {
        "state": {"format": "png"},
        "buffers": [{"path": ["value"], "encoding": "base64", "data": base64.b64encode(b"\x89PNG").decode()}],
    }
    models = {
        "box": {**controls, "model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_s", "IPY_MODEL_i"]}},
        "s": {**controls, "model_name": "IntSliderModel", "state": {"value": 5}},
        "i": {**controls, "model_name": "ImageModel", **image},
    }
    state = {"version_major": 2, "version_minor": 0, "state": models}
    file["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    opened = await open_story(daemon, file=file)
    async with open_notebook(daemon.url, token=daemon.token, path=opened.path.name) as nb:
        widgets = await nb.get_widgets()
        [box] = widgets.roots
        slider, picture = box.children
        assert (box.id, slider.value, picture.value) == ("box", 5, b"\x89PNG")
        for request in (slider.set(6), slider.click()):
            with pytest.raises(RequestFailed) as failed:
                await request
            assert failed.value.reason == "no_kernel"
        assert slider.value == 5
        assert nb.kernel_status == "not_started"


# --- Without await


async def test_programs_that_do_not_await_have_the_same(daemon: ServedDaemon) -> None:
    source = f"""{IMPORTS}
children = [w.IntText(n) for n in range(30)]
s, out, b = w.IntSlider(max=100), w.Output(), w.Button()
b.on_click(lambda _: b.send('clicked', [b'x']))
box = w.VBox([*children, s, out, b, w.Image(value=b'i' * 3000)])
with out:
    print('x' * 3000)
box
"""

    def use(path: Path) -> None:
        with BlockingNotebook(daemon.url, token=daemon.token, path=path.name, create=True) as nb:
            result = nb.add_cell(source).execute().result(timeout=60)
            assert result.status == "done"
            nb.confirm_sync()
            widgets = nb.get_widgets()
            [box] = widgets.roots
            *numbers, slider, out, button, image = box.children
            assert [child.value for child in numbers] == list(range(30))
            assert slider == widgets.by_model["IntSliderModel"][0] == widgets.by_id[slider.id]
            assert {widget.id for widget in box.walk()} == set(widgets.by_id)
            assert (image.value, image.state["value"]) == (b"i" * 3000, b"i" * 3000)
            assert [output.text for output in out.outputs] == ["x" * 3000 + "\n"]
            assert slider.layout is not None
            assert slider.style is not None
            assert slider.style in slider.references

            slider.set(1000)
            assert slider.changed(timeout=60) == 100  # the kernel's, not the 1000
            slider.set(value=4, max=50)
            assert (slider.value, slider.get("max"), slider.get("nothing", 3)) == (4, 50, 3)
            box.set(children=[slider])
            assert box.children == [slider]
            messages = button.messages()
            button.click()
            assert next(messages).params["content"] == "clicked"
            with pytest.raises(SyncTimeout):
                numbers[0].changed(timeout=0.1)
            nb.shutdown()
            with pytest.raises(WidgetClosed):
                slider.changed("max", timeout=60)
            assert list(messages) == []
            assert not slider.exists

    await trio.to_thread.run_sync(use, daemon.root / f"{uuid4()}.ipynb")


# --- What the docs say


async def test_the_example_of_the_readme_runs(daemon: ServedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    (daemon.root / "analysis.ipynb").write_text(json.dumps(notebook_file([])))
    [example] = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    code = "async def example(token):\n" + textwrap.indent(example, "    ")
    scope: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8889", daemon.url), scope)
    await scope["example"](daemon.token)
    first, models, last = capsys.readouterr().out.splitlines()
    assert first == "done 45"
    assert models == "['HBoxModel', 'IntSliderModel', 'LayoutModel', 'SliderStyleModel', 'LayoutModel']"
    assert last.startswith("7 {")
