"""Widgets by document alone: the real ipywidgets, as stock peers see them."""

import base64
import json
from typing import Any

import nbformat
import pytest
import trio

from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.widget_kernel import display, stream
from tests.fakes.widget_story import Watcher, notebook_file, open_story, watching

IMPORTS = "import ipywidgets as w\nfrom IPython.display import clear_output, display"
SHOW = "print([o.get('text', o.get('data', {}).get('text/plain')) for o in out.outputs])"


# What others drew, for a peer that comes late. One kernel makes all of it.

GALLERY = {
    "interact": """
        import matplotlib.pyplot as plt
        def draw(n):
            fig, ax = plt.subplots(figsize=(1, 1), dpi=40)
            ax.plot([0, n])
            print('n is', n)
            plt.show()
        w.interact(draw, n=(0, 10));
    """,
    "tqdm": """
        from tqdm.notebook import tqdm
        for n in tqdm(range(50), desc='bar', mininterval=0):
            pass
    """,
    "boxes": """
        w.Tab([w.VBox([w.IntText(n) for n in range(3)]), w.HBox([w.Text('a'), w.Checkbox(True)])], titles=['one', 'two'])
    """,
    "image": """
        w.Image(value=bytes(range(256)) * 8, format='png', width=64)
    """,
    "anywidget": """
        import anywidget, traitlets
        class Counter(anywidget.AnyWidget):
            _esm = 'export default { render({ model, el }) { el.textContent = model.get("n") } }' + ' ' * 2000
            _css = '.counter { color: red }'
            n = traitlets.Int(3).tag(sync=True)
            raw = traitlets.Bytes(bytes(range(256))).tag(sync=True)
        c = Counter()
        c
    """,
}


@pytest.fixture(scope="module")
def gallery(daemon: ServedDaemon) -> Opened:
    """A notebook of which every cell has run; the peer that ran them is gone."""

    async def draw() -> Opened:
        cells = [IMPORTS, *(_dedented(source) for source in GALLERY.values()), "print(c.n)"]
        opened = await open_story(daemon, *cells)
        async with watching(daemon, opened) as first:
            await first.run(*(f"c{n}" for n in range(len(GALLERY) + 1)))
        return opened

    return trio.run(draw)


def _dedented(source: str) -> str:
    lines = source.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines).rstrip()


async def test_a_late_peer_sees_what_interact_drew_and_draws_anew(daemon: ServedDaemon, gallery: Opened) -> None:
    async with watching(daemon, gallery) as late:
        seen = await late.seen()
        [slider] = [comm for comm in seen.by_model("IntSlider") if comm["state"]["description"] == "n"]
        [box] = [comm for comm in seen.by_model("VBox") if comm["state"]["_dom_classes"] == ["widget-interact"]]
        assert seen.children(box)[0] == slider
        text, image = seen.children(box)[1]["outputs"]
        assert text == stream("n is 5\n")
        assert base64.b64decode(image["data"]["image/png"]).startswith(b"\x89PNG")

        comm_id = box["state"]["children"][0].removeprefix("IPY_MODEL_")
        out_id = box["state"]["children"][1].removeprefix("IPY_MODEL_")
        path = f"doc.comms['{out_id}'].outputs"
        await late.peer.watch(late.runtime, "outputs", f"{path}.map(o => String(o.output_type))")
        await late.set(comm_id, value=8)
        await late.peer.wait(late.runtime, f"{path}.length == 2 && String({path}[0].text[0]) == 'n is 8\\n'")
        assert [] not in await late.peer.watched("outputs")  # one picture goes as the next one comes


async def test_a_late_peer_sees_a_finished_progress_bar(daemon: ServedDaemon, gallery: Opened) -> None:
    async with watching(daemon, gallery) as late:
        seen = await late.seen()
        bar = seen.one("FloatProgress")["state"]
        assert (bar["value"], bar["max"], bar["bar_style"]) == (50, 50, "success")
        texts = [comm["state"]["value"] for comm in seen.by_model("HTML")]
        assert texts[0].startswith("bar")
        assert "50/50" in texts[1]


async def test_a_late_peer_follows_a_tree_of_boxes(daemon: ServedDaemon, gallery: Opened) -> None:
    async with watching(daemon, gallery) as late:
        seen = await late.seen()
        tab = seen.one("Tab")
        column, row = seen.children(tab)
        assert tab["state"]["titles"] == ["one", "two"]
        assert [child["state"]["value"] for child in seen.children(column)] == [0, 1, 2]
        assert [child["state"]["value"] for child in seen.children(row)] == ["a", True]
        for comm in (tab, column, row):
            layout = seen.at(comm["state"]["layout"])["state"]
            assert None not in layout.values()
            assert all(child["order"] < comm["order"] for child in seen.children(comm))


async def test_a_late_peer_sees_an_images_bytes(daemon: ServedDaemon, gallery: Opened) -> None:
    async with watching(daemon, gallery) as late:
        image = (await late.seen()).one("Image")["state"]
        assert (image["value"], image["format"], image["width"]) == (bytes(range(256)) * 8, "png", "64")
        raw = (await late.doc())["comms"][await late.id_of("Image")]["state"]
        assert (raw["value"]["size"], raw["value"]["media_type"]) == (2048, "application/octet-stream")


async def test_a_late_peer_sees_an_anywidget_and_sets_it(daemon: ServedDaemon, gallery: Opened) -> None:
    async with watching(daemon, gallery) as late:
        state = (await late.seen()).one("Any")["state"]
        assert state["_esm"].startswith("export default { render(")
        assert (state["_css"], state["n"], state["raw"]) == (".counter { color: red }", 3, bytes(range(256)))
        raw = (await late.doc())["comms"][await late.id_of("Any")]["state"]
        assert raw["_esm"]["media_type"] == "text/javascript"
        assert raw["raw"]["media_type"] == "application/octet-stream"

        await late.set(await late.id_of("Any"), n=4)
        await late.run(f"c{len(GALLERY) + 1}")
        assert await late.cell(f"c{len(GALLERY) + 1}") == ["4\n"]


# One widget and its kernel.


async def test_a_slider_is_set_by_a_late_peer_and_corrected_by_the_kernel(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon, f"{IMPORTS}\ns = w.IntSlider(value=3, max=100)\ns", "print(s.value)", "s.value = 7"
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        async with watching(daemon, opened) as late:
            comm_id = await late.id_of("IntSlider")
            await late.set(comm_id, value=42)
            await first.peer.wait_value(first.runtime, ["comms", comm_id, "state", "value"], 42)
            await late.set(comm_id, value=1000)
            await first.peer.wait_value(first.runtime, ["comms", comm_id, "state", "value"], 100)
            # What the kernel refuses does not stay either.
            await late.set(comm_id, value="no number")
            await first.peer.wait_value(first.runtime, ["comms", comm_id, "state", "value"], 100)
        await first.run("c1", "c2")
        assert await first.cell("c1") == ["100\n"]
        await first.peer.wait_value(first.runtime, ["comms", comm_id, "state", "value"], 7)
        assert (await first.peer.report(first.notebook))["early"] == 0


async def test_a_drag_never_jumps_back_and_all_end_equal(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\ns = w.IntSlider(max=100)\nseen = []\ns.observe(lambda c: seen.append(c.new), 'value')\ns",
        "print(s.value)",
    )
    async with watching(daemon, opened) as dragging, watching(daemon, opened) as other:
        await dragging.run("c0")
        comm_id = await dragging.id_of("IntSlider")
        path = ["comms", comm_id, "state", "value"]
        for watcher in (dragging, other):
            await watcher.peer.watch(watcher.runtime, "value", f"doc.comms['{comm_id}'].state.value")
        for value in range(200):
            await dragging.set(comm_id, value=value)
        for watcher in (dragging, other):
            await watcher.peer.wait_value(watcher.runtime, path, 100)
            series = await watcher.peer.watched("value")
            # Beyond the end, where the hand paused for longer than 0.1 s, the kernel's 100 may have shown.
            own = [value for value in series if value != 100]
            assert own == sorted(own)
            assert series[-1] == 100
        assert len(await dragging.peer.watched("value")) > 100
        await dragging.run("c1")
        assert await other.cell("c1") == ["100\n"]


async def test_two_peers_that_drag_the_same_slider_end_equal(daemon: ServedDaemon) -> None:
    opened = await open_story(daemon, f"{IMPORTS}\ns = w.IntSlider(max=1000)\ns", "print(s.value)")
    async with watching(daemon, opened) as one, watching(daemon, opened) as two:
        await one.run("c0")
        comm_id = await one.id_of("IntSlider")

        async def drag(watcher: Watcher, first: int) -> None:
            for value in range(first, first + 100):
                await watcher.set(comm_id, value=value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drag, one, 0)
            nursery.start_soon(drag, two, 500)
        await one.run("c1")
        [end] = await one.cell("c1")
        assert int(end) in (99, 599)
        for watcher in (one, two):
            await watcher.peer.wait_value(watcher.runtime, ["comms", comm_id, "state", "value"], int(end))


async def test_a_peer_that_missed_events_has_the_document(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\ns = w.IntSlider(max=10_000)\ns",
        # More than the sockets' own buffers take.
        "for n in range(2000):\n    s.send({'n': n, 'fill': 'x' * 20_000})\n    s.value = n",
    )
    async with watching(daemon, opened) as driver, watching(daemon, opened) as sleeper:
        await driver.run("c0")
        comm_id = await driver.id_of("IntSlider")
        await sleeper.peer.wait(sleeper.runtime, f"doc.comms['{comm_id}']")
        sleeper.peer.process.stop()
        await driver.run("c1")
        await driver.peer.wait_value(driver.runtime, ["comms", comm_id, "state", "value"], 1999)
        sleeper.peer.process.go_on()

        await sleeper.peer.wait_value(sleeper.runtime, ["comms", comm_id, "state", "value"], 1999)
        await sleeper.ask("barrier")  # behind all that it was to hear
        assert (await sleeper.peer.report(sleeper.notebook))["gaps"] > 0


async def test_a_click_runs_its_handler_and_prints_into_its_cell(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\nb, out = w.Button(), w.Output()\n@b.on_click\ndef go(_):\n    print('clicked')\n    with out:\n"
        "        print('captured')\nw.VBox([b, out])",
        SHOW,
        "b.send({'hello': 1}, [b'bytes'])",
        "b.close()",
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        button, out = await first.id_of("Button"), await first.id_of("Output")
        await first.ask("comm_custom", comm_id=button, content={"event": "click"})
        await first.peer.wait(first.runtime, f"doc.comms['{out}'].outputs.length && doc.cells.c0.outputs.length > 1")
        assert (await first.cell("c0"))[1] == "clicked\n"
        await first.run("c1", "c2")
        assert await first.cell("c1") == ["['captured\\n']\n"]
        event = await first.peer.wait_event(first.notebook, "comm_custom", comm_id=button)
        assert (event["params"]["content"], event["params"]["buffers"]) == ({"hello": 1}, [{"$bytes": "Ynl0ZXM="}])

        await first.run("c3")
        assert button not in (await first.doc())["comms"]
        await first.ask("restart_kernel")
        assert (await first.doc())["comms"] == {}
        assert await first.refusal("update_comm", comm_id=out, state={}) == "not_found"


async def test_what_peers_ask_of_widgets_is_checked(daemon: ServedDaemon) -> None:
    opened = await open_story(daemon, f"{IMPORTS}\no = w.Output()\ns = w.IntSlider(value=3)\ns", "print(s.value)")
    async with watching(daemon, opened) as first:
        await first.run("c0")
        slider, out = await first.id_of("IntSlider"), await first.id_of("Output")
        before = (await first.doc())["comms"]
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("update_comm", {"comm_id": slider}),
            ("update_comm", {"comm_id": slider, "state": [1]}),
            ("update_comm", {"comm_id": slider, "state": {"": 1}}),
            ("update_comm", {"comm_id": slider, "state": {"value": 9}, "buffers": [5]}),
            ("update_comm", {"comm_id": slider, "state": {"value": 9}, "buffer_paths": "value"}),
            ("update_comm", {"comm_id": slider, "state": {"value": 9}, "buffer_paths": [["value"]]}),
            ("update_comm", {"comm_id": slider, "state": {"value": 9}, "buffers": [{"$bytes": "aGk="}]}),
            (
                "update_comm",
                {"comm_id": slider, "state": {}, "buffers": [{"$bytes": "aGk="}], "buffer_paths": [["v", 0]]},
            ),
            ("update_comm", {"comm_id": slider, "state": {}, "buffers": [{"$bytes": "aGk="}], "buffer_paths": [[]]}),
            ("update_comm", {"comm_id": out, "state": {"outputs": []}}),
            ("update_comm", {"comm_id": out, "state": {"msg_id": ""}}),
            ("comm_custom", {"comm_id": 5, "content": {}}),
            ("comm_open", {"comm_id": "", "target_name": "x"}),
            ("comm_open", {"comm_id": "x" * 1000, "target_name": "x"}),
        ]
        for method, params in wrong:
            assert await first.refusal(method, **params) == "invalid_params"
        for method in ("update_comm", "comm_custom", "comm_close"):
            state = {"state": {"value": 9}} if method == "update_comm" else {}
            assert await first.refusal(method, comm_id="nobody", **state) == "not_found"
        assert (await first.doc())["comms"] == before
        await first.run("c1")
        assert await first.cell("c1") == ["3\n"]


async def test_bytes_alone_come_beside_an_empty_state(daemon: ServedDaemon) -> None:
    """As Jupyter's messages have it: a map's key whose value is bytes is not in the JSON."""
    opened = await open_story(daemon, f"{IMPORTS}\ni = w.Image(value=b'old', format='raw')\ni", "print(bytes(i.value))")
    async with watching(daemon, opened) as first:
        await first.run("c0")
        image = await first.id_of("Image")
        value: dict[str, Any] = {"buffer_paths": [["value"]], "buffers": [{"$bytes": "bmV3"}]}
        await first.ask("update_comm", comm_id=image, state={}, **value)
        assert (await first.seen()).comms[image]["state"]["value"] == b"new"
        await first.run("c1")
        assert await first.cell("c1") == ["b'new'\n"]
        await first.ask("update_comm", comm_id=image, state={})


async def test_comms_of_peers(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\nfrom ipykernel.comm import Comm\ngot = []\n"
        "def opened(comm, message):\n    got.append(message['content']['data'])\n"
        "    comm.on_msg(lambda m: (got.append((m['content']['data'], bytes(m['buffers'][0]))), comm.send({'pong': 1})))\n"
        "get_ipython().kernel.comm_manager.register_target('my.target', opened)\nup = w.FileUpload()\nup",
        "print(got, [(f.name, bytes(f.content)) for f in up.value])",
    )
    async with watching(daemon, opened) as first:
        assert await first.refusal("comm_open", comm_id="mine", target_name="my.target") == "no_kernel"
        await first.run("c0")
        await first.ask("comm_open", comm_id="mine", target_name="my.target", data={"hi": 1})
        assert await first.refusal("comm_open", comm_id="mine", target_name="my.target") == "conflict"
        await first.ask("comm_custom", comm_id="mine", content={"ping": 1}, buffers=[{"$bytes": "AAE="}])
        event = await first.peer.wait_event(first.notebook, "comm_custom", comm_id="mine")
        assert event["params"]["content"] == {"pong": 1}
        entry = (await first.seen()).comms["mine"]
        assert (entry["target_name"], entry["state"]) == ("my.target", {"hi": 1})

        upload = await first.id_of("FileUpload")
        file = {"name": "a.txt", "type": "text/plain", "size": 2, "last_modified": 0}
        await first.ask(
            "update_comm",
            comm_id=upload,
            state={"value": [file]},
            buffer_paths=[["value", 0, "content"]],
            buffers=[{"$bytes": "aGk="}],
        )
        await first.run("c1")
        assert await first.cell("c1") == ["[{'hi': 1}, ({'ping': 1}, b'\\x00\\x01')] [('a.txt', b'hi')]\n"]
        assert (await first.seen()).comms[upload]["state"]["value"][0]["content"] == b"hi"

        await first.ask("comm_open", comm_id="nobody", target_name="no.such.target")
        await first.peer.wait(first.runtime, "!doc.comms.nobody")
        await first.ask("comm_close", comm_id="mine")
        assert "mine" not in (await first.doc())["comms"]
        assert await first.refusal("comm_custom", comm_id="mine", content={}) == "not_found"


async def test_a_peer_opens_a_widget_and_a_comm_with_buffers(daemon: ServedDaemon) -> None:
    """As FileUpload's page sends its files: bytes beside the JSON, in the opening itself."""
    opened = await open_story(
        daemon,
        f"{IMPORTS}\ngot = []\n"
        "def opened(comm, message):\n    files = [bytes(b) for b in message['buffers']]\n"
        "    got.append((comm.comm_id, message['content']['data'], files))\n"
        "    comm.send({'thanks': len(files)}, buffers=[b'back'])\n    comm.on_close(lambda m: got.append('closed'))\n"
        "get_ipython().kernel.comm_manager.register_target('files', opened)",
        "image = w.widgets.widget._instances['mine']\nprint(type(image).__name__, bytes(image.value), image.format, got)",
        "image.value = b'from the kernel'",
        "print(got[-1])",
    )
    state = {
        "_model_module": "@jupyter-widgets/controls",
        "_model_module_version": "2.0.0",
        "_model_name": "ImageModel",
        "_view_module": "@jupyter-widgets/controls",
        "_view_module_version": "2.0.0",
        "_view_name": "ImageView",
        "format": "gif",
    }
    async with watching(daemon, opened) as first:
        await first.run("c0")
        data = {"state": state, "buffer_paths": [["value"]]}
        await first.ask(
            "comm_open", comm_id="mine", target_name="jupyter.widget", data=data, buffers=[{"$bytes": "R0lG"}]
        )
        await first.ask(
            "comm_open", comm_id="f", target_name="files", data={"name": "a"}, buffers=[{"$bytes": "aGk="}] * 2
        )
        event = await first.peer.wait_event(first.notebook, "comm_custom", comm_id="f")
        assert (event["params"]["content"], event["params"]["buffers"]) == ({"thanks": 2}, [{"$bytes": "YmFjaw=="}])
        await first.run("c1")
        assert await first.cell("c1") == ["Image b'GIF' gif [('f', {'name': 'a'}, [b'hi', b'hi'])]\n"]
        async with watching(daemon, opened) as late:
            comm = (await late.seen()).comms["mine"]
            assert (comm["model_name"], comm["state"]["value"]) == ("ImageModel", b"GIF")
            await first.run("c2")
            value = (await first.doc())["comms"]["mine"]["state"]["value"]
            await late.peer.wait(
                late.runtime, f"String(doc.comms.mine.state.value.blob ?? '') === {json.dumps(value['blob'])}"
            )
            assert (await late.seen()).comms["mine"]["state"]["value"] == b"from the kernel"
        await first.ask("comm_close", comm_id="f")
        await first.run("c3")
        assert await first.cell("c3") == ["closed\n"]


REFUSING = """
import traitlets as t
from anywidget._descriptor import MimeBundleDescriptor
class Plain(t.HasTraits):
    _repr_mimebundle_ = MimeBundleDescriptor(_esm='export default {}')
    v = t.Int(1).tag(sync=True)
plain = Plain()
plain
"""


async def test_a_value_that_is_refused_without_a_word_goes_again(daemon: ServedDaemon) -> None:
    """As by a descriptor of anywidget: it echoes nothing, and what it raises nobody shows."""
    opened = await open_story(daemon, _dedented(REFUSING), "print(plain.v)")
    async with watching(daemon, opened) as first:
        await first.run("c0")
        comm_id = await first.id_of("Any")
        value = f"doc.comms['{comm_id}'].state.v"
        await first.set(comm_id, v=7)
        await first.peer.watch(first.runtime, "values", f"String({value})")
        await first.set(comm_id, v="bad")
        await first.peer.wait(first.runtime, f"{value} === 7")
        assert await first.peer.watched("values") in (["7", "bad", "7"], ["bad", "7"])
        await first.run("c1")
        assert await first.cell("c1") == ["7\n"]


async def test_a_value_that_is_cast_to_what_the_kernel_has_does_not_stay(daemon: ServedDaemon) -> None:
    """Ipywidgets echoes it as it came; since nothing changes by it, it says nothing more."""
    opened = await open_story(daemon, f"{IMPORTS}\nslider = w.IntSlider(value=3)\nslider", "print(slider.value)")
    async with watching(daemon, opened) as first:
        await first.run("c0")
        comm_id = await first.id_of("IntSlider")
        value = f"doc.comms['{comm_id}'].state.value"
        await first.peer.watch(first.runtime, "values", value)
        await first.set(comm_id, value=3.7)
        await first.peer.wait(first.runtime, f"{value} === 3")
        assert 3.7 in await first.peer.watched("values")
        await first.run("c1")
        assert await first.cell("c1") == ["3\n"]


async def test_a_list_that_is_cast_to_what_the_kernel_has_does_not_stay(daemon: ServedDaemon) -> None:
    opened = await open_story(daemon, f"{IMPORTS}\nslider = w.IntRangeSlider(value=(3, 7))\nslider")
    async with watching(daemon, opened) as first:
        await first.run("c0")
        comm_id = await first.id_of("IntRangeSlider")
        value = f"String(doc.comms['{comm_id}'].state.value.json)"
        await first.peer.watch(first.runtime, "values", value)
        await first.set(comm_id, value=[3.4, 7.6])
        await first.peer.wait(first.runtime, f"{value} === '[3,7]'")
        assert "[3.4,7.6]" in await first.peer.watched("values")


async def test_a_value_is_corrected_within_a_cell_that_awaits(daemon: ServedDaemon) -> None:
    """While the cell waits for the click, the kernel takes messages and says neither busy nor idle of them."""
    waits = "import asyncio\nclicked = asyncio.Event()\nb.on_click(lambda _: clicked.set())\nawait clicked.wait()"
    opened = await open_story(
        daemon, f"{IMPORTS}\nslider, b = w.IntSlider(value=3), w.Button()\nw.VBox([slider, b])", waits
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        comm_id, button = await first.id_of("IntSlider"), await first.id_of("Button")
        value = f"doc.comms['{comm_id}'].state.value"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run, "c1")
            await first.peer.wait(first.runtime, "String(doc.kernel.status) === 'busy'")
            await first.set(comm_id, value=3.7)
            await first.peer.wait(first.runtime, f"{value} === 3.7")
            await first.peer.wait(first.runtime, f"{value} === 3")
            assert (await first.doc())["kernel"]["status"] == "busy"
            await first.ask("comm_custom", comm_id=button, content={"event": "click"})


async def test_an_output_widget_that_is_closed_where_it_was_filled_leaves_no_complaint(daemon: ServedDaemon) -> None:
    """What it captured is on its way to the kernel, where it is gone, of which ipykernel logs a line."""
    filled = "o = w.Output()\ndisplay(o)\nwith o:\n    print('x')\no.close()"
    opened = await open_story(daemon, IMPORTS, filled, "2")
    async with watching(daemon, opened) as first:
        await first.run("c0", "c1")
        await first.peer.wait(first.runtime, "JSON.stringify(doc.kernel_log).includes('No such comm')")
        await first.run("c2")
        assert len(await first.cell("c1")) == 1
        assert (await first.cell("c0"), len(await first.cell("c2"))) == ([], 1)


async def test_what_a_hook_prints_behind_the_daemons_own_question_is_in_no_cell(daemon: ServedDaemon) -> None:
    hook = "get_ipython().events.register('post_execute', lambda: print('hook'))"
    slow = "b.on_click(lambda _: time.sleep(3))"  # longer than it takes until the kernel is asked
    opened = await open_story(daemon, f"{IMPORTS}\nimport time\nb = w.Button()\n{slow}\nb", hook, "1")
    async with watching(daemon, opened) as first:
        await first.run("c0", "c1", "c2")
        before = [await first.cell(cell) for cell in ("c1", "c2")]
        await first.ask("comm_custom", comm_id=await first.id_of("Button"), content={"event": "click"})
        await first.peer.wait(first.runtime, "JSON.stringify(doc.kernel_log).includes('hook')")
        assert [await first.cell(cell) for cell in ("c1", "c2")] == before


async def test_a_widget_that_a_peer_opens_has_the_defaults_of_its_model(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        IMPORTS,
        "from ipywidgets.widgets.widget import _instances\nslider = _instances['mine']",
        "print(sorted(slider.get_state()))",
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        state: dict[str, Any] = {"_model_name": "IntSliderModel", "_view_name": "IntSliderView", "value": 120}
        for part in ("model", "view"):
            state |= {f"_{part}_module": "@jupyter-widgets/controls", f"_{part}_module_version": "2.0.0"}
        data = {"state": state, "buffer_paths": []}
        await first.ask("comm_open", comm_id="mine", target_name="jupyter.widget", data=data)
        await first.peer.wait(first.runtime, "doc.comms.mine.state.layout && doc.comms.mine.state.value === 100")
        await first.run("c1", "c2")
        seen = await first.seen()
        shown = seen.comms["mine"]["state"]
        assert await first.cell("c2") == [f"{sorted(shown)}\n"]
        assert (shown["max"], shown["orientation"]) == (100, "horizontal")
        assert seen.comms[shown["layout"].removeprefix("IPY_MODEL_")]["model_name"] == "LayoutModel"


async def test_a_page_of_ipywidgets_asks_for_all_widgets_in_its_own_way(daemon: ServedDaemon) -> None:
    opened = await open_story(daemon, f"{IMPORTS}\nimage = w.Image(value=b'GIF')")
    async with watching(daemon, opened) as first:
        await first.run("c0")
        await first.ask("comm_open", comm_id="control", target_name="jupyter.widget.control")
        await first.ask("comm_custom", comm_id="control", content={"method": "request_states"})
        event = await first.peer.wait_event(first.notebook, "comm_custom", comm_id="control")
        content, [image] = event["params"]["content"], event["params"]["buffers"]
        assert (content["method"], image) == ("update_states", {"$bytes": "R0lG"})
        assert content["buffer_paths"] == [[await first.id_of("Image"), "state", "value"]]


@pytest.mark.parametrize("end", ["restart_kernel", "shutdown_kernel", "its death"])
async def test_no_comm_survives_its_kernel_though_it_captured(daemon: ServedDaemon, end: str) -> None:
    cells = (
        f"{IMPORTS}\nimport os\ns, out = w.IntSlider(), w.Output()\nout",
        "with out:\n    print('captured', flush=True)\n    input()\n    os._exit(1)",
        "print('seen')",
    )
    opened = await open_story(daemon, *cells)
    async with watching(daemon, opened) as first:
        await first.run("c0")
        slider, out = await first.id_of("IntSlider"), await first.id_of("Output")
        await first.ask("execute_cell", cell_id="c1")
        await first.peer.wait(first.runtime, f"doc.comms['{out}'].outputs.length && doc.kernel.input_request")
        await first.peer.watch(first.runtime, "comms", "Object.keys(doc.comms).length")
        if end == "its death":
            asked = (await first.doc())["kernel"]["input_request"]["request_id"]
            await first.ask("input_reply", request_id=asked, value="")
            await first.peer.wait_value(first.runtime, ["kernel", "status"], "dead")
        else:
            await first.ask(end)
        assert (await first.doc())["comms"] == {}
        # All at once: no orphan was seen.
        counts = await first.peer.watched("comms")
        assert counts[0] > 2
        assert counts[1:] == [0]
        await first.run("c2")
        assert await first.cell("c2") == ["seen\n"]
        assert await first.refusal("update_comm", comm_id=slider, state={"value": 1}) == "not_found"


async def test_after_a_new_connection_to_the_kernel_its_comms_are_as_it_has_them(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\ns, gone, out = w.IntSlider(value=3), w.Text('x'), w.Output()",
        # A subscriber cannot be cut off from outside, but the kernel can close its end and listen again. Nobody hears
        # what it says in between.
        "with out:\n    print('captured')\nthread = get_ipython().kernel.iopub_thread\nat = thread.socket.LAST_ENDPOINT\n"
        "thread.schedule(lambda: thread.socket.unbind(at))\n"
        "s.value = 8; gone.close(); new = w.Checkbox(True); out.append_stdout('unheard')\n"
        "thread.schedule(lambda: thread.socket.bind(at))",
        "print(s.value, out.outputs)",
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        slider, gone, out = [await first.id_of(model) for model in ("IntSlider", "Text", "Output")]
        await first.run("c1")
        await first.peer.wait(
            first.runtime,
            f"doc.comms['{slider}'].state.value === 8 && !doc.comms['{gone}']"
            " && Object.values(doc.comms).some(c => String(c.model_name) === 'CheckboxModel')",
        )
        assert (await first.seen()).one("Checkbox")["state"]["value"] is True
        await first.set(slider, value=9)
        await first.run("c2")
        text = (await first.captured(out))[0]
        assert await first.cell("c2") == [f"9 {({'output_type': 'stream', 'name': 'stdout', 'text': text},)}\n"]


# Output widgets.


async def test_an_output_widget_captures_and_the_kernel_knows(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\nout, inner = w.Output(), w.Output()\nout",
        "with out:\n    print('one')\n    with inner:\n        print('inside')\n    print('two')\n    1 / 0\nprint('outside')",
        SHOW,
        "with out:\n    clear_output(wait=True)",
        SHOW,
        "with out:\n    print('fresh')",
        SHOW,
        "for n in range(3):\n    with out:\n        display(n)\nout.append_stdout('appended')",
        SHOW,
        "out.clear_output()",
        SHOW,
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        comms = (await first.doc())["comms"]
        out, inner = sorted(
            (i for i, c in comms.items() if c["model_name"] == "OutputModel"), key=lambda i: comms[i]["order"]
        )
        await first.peer.watch(first.runtime, "outputs", f"doc.comms['{out}'].outputs.map(o => String(o.output_type))")
        await first.run("c1")
        assert await first.captured(out) == ["one\ntwo\n", ("error", "ZeroDivisionError")]
        assert await first.captured(inner) == ["inside\n"]
        assert await first.cell("c1") == ["outside\n"]
        state = (await first.doc())["comms"][out]["state"]
        assert not {"outputs", "msg_id"} & state.keys()

        await first.run("c2", "c3", "c4")
        assert await first.cell("c2") == await first.cell("c4") == ["['one\\ntwo\\n', None]\n"]
        before = len(await first.peer.watched("outputs"))
        await first.run("c5", "c6")
        assert await first.captured(out) == ["fresh\n"]
        assert await first.cell("c6") == ["['fresh\\n']\n"]
        assert [] not in (await first.peer.watched("outputs"))[before:]

        await first.run("c7", "c8", "c9", "c10")
        assert await first.cell("c8") == ["['fresh\\n', '0', '1', '2', 'appended']\n"]
        assert await first.captured(out) == []
        assert await first.cell("c10") == ["[]\n"]


async def test_an_interrupt_within_a_capture_ends_it(daemon: ServedDaemon) -> None:
    cells = (
        f"{IMPORTS}\nimport time\nout = w.Output()\nout",
        "with out:\n    print('begun', flush=True)\n    any(time.sleep(0.1) for _ in range(6_000))\nprint('outside')",
        "print('next')\nwith out:\n    print('again')",
    )
    opened = await open_story(daemon, *cells)
    async with watching(daemon, opened) as first:
        await first.run("c0")
        out = await first.id_of("Output")
        await first.ask("execute_cell", cell_id="c1")
        await first.peer.wait(first.runtime, f"doc.comms['{out}'].outputs.length")
        await first.ask("interrupt")
        await first.run("c2")
        # The widget takes the exception as it takes an error, and the cell goes on.
        assert await first.captured(out) == ["begun\n", ("error", "KeyboardInterrupt"), "again\n"]
        assert await first.cell("c1") == ["outside\n"]
        assert await first.cell("c2") == ["next\n"]
        assert {entry["status"] for entry in (await first.doc())["executions"].values()} == {"done"}


async def test_displays_within_an_output_widget_change(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\nout = w.Output()\nwith out:\n    h = display('v1', display_id='d')\ndisplay('v1', display_id='d')\nout",
        "h.update('v2')",
        SHOW,
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        out = await first.id_of("Output")
        assert await first.captured(out) == [("'v1'",)]
        await first.run("c1", "c2")
        async with watching(daemon, opened) as late:
            assert await late.captured(out) == [("'v2'",)]
            assert (await late.cell("c0"))[0] == ("'v2'",)
            assert await late.cell("c2") == ["[\"'v2'\"]\n"]


async def test_cells_that_are_queued_read_what_the_ones_before_captured(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon, f"{IMPORTS}\nout = w.Output()", *["for n in range(2):\n    with out:\n        display(n)", SHOW] * 3
    )
    async with watching(daemon, opened) as first:
        result = await first.ask("run_all_cells")
        last = result["executions"][-1]["execution_id"]
        await first.peer.wait(first.runtime, f"String(doc.executions['{last}']?.status) === 'done'")
        shown = [await first.cell(f"c{n}") for n in (2, 4, 6)]
        assert shown == [[f"{['0', '1'] * count}\n"] for count in (1, 2, 3)]


# The file.


async def test_a_file_keeps_its_widgets_and_shows_them_without_a_kernel(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\ns = w.IntSlider(value=5, description='d' * 2000)\nbox = w.HBox([s, w.Image(value=b'\\x89PNG')])\nbox",
        "out = w.Output()\nwith out:\n    print('captured')\n    display('shown')\nout",
    )
    async with watching(daemon, opened) as first:
        await first.run("c0", "c1")
        await first.set(await first.id_of("IntSlider"), value=8)
        live = (await first.seen()).comms
        await first.ask("save_notebook")
    file = json.loads(opened.path.read_text())
    nbformat.validate(file)
    saved = file["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]
    assert saved["state"].keys() == live.keys()
    [image] = [model for model in saved["state"].values() if model["model_name"] == "ImageModel"]
    assert image["buffers"] == [
        {"path": ["value"], "encoding": "base64", "data": base64.b64encode(b"\x89PNG").decode()}
    ]
    [out] = [model for model in saved["state"].values() if model["model_name"] == "OutputModel"]
    assert out["state"]["outputs"] == [stream("captured\n"), display("'shown'")]
    await daemon.close(opened)  # ends the kernel, and saves what it then has: the same
    assert json.loads(opened.path.read_text())["metadata"]["widgets"] == file["metadata"]["widgets"]

    again = await daemon.open(opened.path.name)
    async with watching(daemon, again) as late:
        comms = (await late.seen()).comms
        assert {i: (c["model_name"], c["state"], c.get("outputs")) for i, c in comms.items()} == {
            i: (c["model_name"], c["state"], c.get("outputs")) for i, c in live.items()
        }
        slider = await late.id_of("IntSlider")
        assert await late.refusal("update_comm", comm_id=slider, state={"value": 1}) == "no_kernel"
        async with daemon.client() as client:
            served = (await client.get(f"/api/notebooks/{again.id}/file")).json()
        assert served["metadata"]["widgets"] == file["metadata"]["widgets"]

        await late.run("c1")  # its kernel has no `w` yet, but the cell's old widget goes
        comms = (await late.doc())["comms"]
        assert "OutputModel" not in {comm["model_name"] for comm in comms.values()}
        assert comms[slider]["state"]["value"] == 8
        assert await late.refusal("update_comm", comm_id=slider, state={"value": 1}) == "not_found"
        await late.run("c0")
        assert slider not in (await late.doc())["comms"]
        assert (await late.seen()).one("IntSlider")["state"]["value"] == 5


async def test_a_file_keeps_the_widgets_of_a_kernel_that_was_restarted(daemon: ServedDaemon) -> None:
    opened = await open_story(
        daemon,
        f"{IMPORTS}\ns, p = w.IntSlider(value=5), w.Play()\nl = w.jslink((p, 'value'), (s, 'value'))\nw.VBox([s, p])",
        f"{IMPORTS}\nw.Text('new')",
    )
    async with watching(daemon, opened) as first:
        await first.run("c0")
        old = (await first.doc())["comms"].keys()
        await first.ask("restart_kernel")
        assert (await first.doc())["comms"] == {}
        await first.run("c1")
        new = (await first.doc())["comms"].keys()
        await first.ask("save_notebook")
    file: dict[str, Any] = json.loads(opened.path.read_text())
    saved = file["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert saved.keys() == old | new


async def test_what_ipywidgets_itself_writes_of_widgets_is_what_the_file_has(daemon: ServedDaemon) -> None:
    """`ipywidgets.embed` writes the form that JupyterLab and nbconvert read; a file with it is loaded and saved again."""
    opened = await open_story(
        daemon,
        f"{IMPORTS}\nimport json\nfrom ipywidgets.embed import embed_data\n"
        "box = w.HBox([w.IntSlider(value=5), w.Image(value=b'\\x89PNG'), w.Text('x' * 2000)])\nout = w.Output()\nbox",
        "print(json.dumps(embed_data(views=[box, out], drop_defaults=False)['manager_state']))",
    )
    async with watching(daemon, opened) as first:
        await first.run("c0", "c1")
        theirs = json.loads((await first.cell("c1"))[0])
        box = await first.id_of("HBox")
        await first.ask("save_notebook")
    ours = json.loads(opened.path.read_text())["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]
    assert {key: ours[key] for key in ours if key != "state"} == {key: theirs[key] for key in theirs if key != "state"}
    assert _comparable(ours) == _comparable(theirs)

    file = notebook_file(["x"])
    view = {"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": box}}
    file["cells"][0]["outputs"] = [{"output_type": "display_data", "data": view, "metadata": {}}]
    file["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": theirs}
    again = await open_story(daemon, file=file)
    async with watching(daemon, again) as late:
        seen = await late.seen()
        slider, image, text = [child["state"] for child in seen.children(seen.one("HBox"))]
        assert (slider["value"], image["value"], text["value"]) == (5, b"\x89PNG", "x" * 2000)
        await late.ask("save_notebook")
    written = json.loads(again.path.read_text())
    nbformat.validate(written)
    saved = written["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]
    assert _comparable(saved) == _comparable(theirs)


def _comparable(widgets: dict[str, Any]) -> dict[str, Any]:
    """Models by id, without nulls of Layouts and Styles and in one order of keys and buffers."""
    models = {}
    for comm_id, model in widgets["state"].items():
        state = dict(model["state"])
        if model["model_name"].endswith(("LayoutModel", "StyleModel")):
            state = {name: value for name, value in state.items() if value is not None}
        models[comm_id] = {**model, "state": state}
    return models


async def test_a_notebook_of_another_program_is_shown(daemon: ServedDaemon) -> None:
    file = notebook_file(["x"])
    view = {"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": "b"}}
    file["cells"][0]["outputs"] = [{"output_type": "display_data", "data": view, "metadata": {}}]
    entry = {"model_module": "@jupyter-widgets/controls", "model_module_version": "1.5.0"}
    models = {
        # What closed widgets left in the kernel; it is all saved.
        **{f"left{n}": {**entry, "model_name": "LayoutModel", "state": {}} for n in range(10_000)},
        "b": {**entry, "model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_a"]}},
        "a": {**entry, "model_name": "TextModel", "state": {"value": "hello"}},
    }
    state = {"version_major": 2, "version_minor": 0, "state": models}
    file["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    opened = await open_story(daemon, file=file)
    async with watching(daemon, opened) as late:
        seen = await late.seen()
        assert [child["state"]["value"] for child in seen.children(seen.one("HBox"))] == ["hello"]
        assert seen.one("Text")["order"] < seen.one("HBox")["order"]
        [log] = (await late.doc())["kernel_log"]
        assert "2 widgets of the file are not shown" in log["text"][0]
