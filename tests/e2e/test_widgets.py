"""Widgets by document alone, with the real ipywidgets, as a stock peer sees them."""

import json
from pathlib import Path
from typing import Any

from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.fakes.stock_peer import StockPeer, open_stock_peer


def notebook(*sources: str) -> str:
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for n, source in enumerate(sources)
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


class Story:
    """A notebook, a peer that drives it, and late peers that look."""

    def __init__(self, daemon: DaemonProcess, opened: dict[str, str], peer: StockPeer) -> None:
        self.daemon = daemon
        self.notebook, self.runtime = opened["notebook"], opened["runtime"]
        self.peer = peer

    async def run(self, cell_id: str) -> str:
        response = await self.peer.request(self.notebook, "execute_cell", {"cell_id": cell_id})
        execution_id: str = response["result"]["execution_id"]
        await self.peer.wait(self.runtime, f"String(doc.executions['{execution_id}']?.status) === 'done'")
        return execution_id

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        response = await self.peer.request(self.notebook, method, params)
        assert "result" in response, response
        result: dict[str, Any] = response["result"]
        return result

    async def doc(self) -> dict[str, Any]:
        doc: dict[str, Any] = await self.peer.doc(self.runtime)
        return doc

    async def comms(self, model_name: str) -> dict[str, dict[str, Any]]:
        comms = (await self.doc())["comms"]
        return {comm_id: comm for comm_id, comm in comms.items() if comm["model_name"] == model_name}


async def begin(daemon: DaemonProcess, peer: StockPeer, *sources: str) -> Story:
    (daemon.root / "w.ipynb").write_text(notebook(*sources))
    opened = await daemon.open("w.ipynb")
    await peer.find(opened["notebook"])
    await peer.find(opened["runtime"])
    await peer.record(opened["notebook"])
    await peer.wait_value(opened["runtime"], ["file", "status"], "ready")
    return Story(daemon, opened, peer)


def text_of(outputs: list[dict[str, Any]]) -> str:
    return "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")


async def test_a_late_peer_sees_the_widgets_and_moves_one(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, open_stock_peer(daemon.sync_url, daemon.token) as peer:
        story = await begin(
            daemon,
            peer,
            "import ipywidgets as w\ns = w.IntSlider(value=3, max=100)\nb = w.HBox([s])\ndisplay(b)",
            "print(s.value)",
        )
        await story.run("c0")
        async with open_stock_peer(daemon.sync_url, daemon.token) as late:
            await late.find(story.runtime)
            comms = (await late.doc(story.runtime))["comms"]
        [(slider_id, slider)] = [(i, c) for i, c in comms.items() if c["model_name"] == "IntSliderModel"]
        [box] = [c for c in comms.values() if c["model_name"] == "HBoxModel"]
        [layout] = [c for i, c in comms.items() if f"IPY_MODEL_{i}" == slider["state"]["layout"]]
        assert slider["state"]["value"] == 3
        assert slider["order"] < box["order"]
        assert json.loads(box["state"]["children"]["json"]) == [f"IPY_MODEL_{slider_id}"]
        assert not [name for name, value in layout["state"].items() if value is None]

        await story.ask("update_comm", comm_id=slider_id, state={"value": 42})
        assert (await story.doc())["comms"][slider_id]["state"]["value"] == 42
        await story.ask("update_comm", comm_id=slider_id, state={"value": 1000})
        await peer.wait_value(story.runtime, ["comms", slider_id, "state", "value"], 100)
        await story.run("c1")
        assert text_of((await story.doc())["cells"]["c1"]["outputs"]) == "100\n"


async def test_an_output_widget_captures_and_the_kernel_knows(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, open_stock_peer(daemon.sync_url, daemon.token) as peer:
        story = await begin(
            daemon,
            peer,
            "import ipywidgets as w\nfrom IPython.display import clear_output, display\nout = w.Output()\ndisplay(out)",
            "with out:\n    print('one')\n    h = display('v1', display_id='d')\nprint('outside')",
            "print([o['output_type'] for o in out.outputs])",
            "h.update('v2')",
            "with out:\n    clear_output(wait=True)\n    print('fresh')",
            "print(out.outputs)",
            "out.clear_output()",
            "print(out.outputs)",
        )
        await story.run("c0")
        await story.run("c1")
        [(out_id, out)] = (await story.comms("OutputModel")).items()
        assert text_of(out["outputs"]) == "one\n"
        assert "outputs" not in out["state"]
        assert "msg_id" not in out["state"]
        assert text_of((await story.doc())["cells"]["c1"]["outputs"]) == "outside\n"
        await story.run("c2")
        assert text_of((await story.doc())["cells"]["c2"]["outputs"]) == "['stream', 'display_data']\n"
        await story.run("c3")
        assert (await story.doc())["comms"][out_id]["outputs"][1]["data"]["text/plain"] == "'v2'"
        await story.run("c4")
        assert text_of((await story.doc())["comms"][out_id]["outputs"]) == "fresh\n"
        await story.run("c5")
        shown = text_of((await story.doc())["cells"]["c5"]["outputs"])
        assert shown == "({'output_type': 'stream', 'name': 'stdout', 'text': 'fresh\\n'},)\n"
        await story.run("c6")
        assert (await story.doc())["comms"][out_id]["outputs"] == []
        await story.run("c7")
        assert text_of((await story.doc())["cells"]["c7"]["outputs"]) == "()\n"


async def test_a_click_runs_its_handler_and_prints_into_its_cell(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, open_stock_peer(daemon.sync_url, daemon.token) as peer:
        story = await begin(
            daemon,
            peer,
            "import ipywidgets as w\nb = w.Button()\nb.on_click(lambda _: print('clicked'))\nb",
            "1",
            "b.send({'hello': 1}, [b'bytes'])",
            "b.close()",
        )
        await story.run("c0")
        await story.run("c1")
        [button_id] = await story.comms("ButtonModel")
        await story.ask("comm_custom", comm_id=button_id, content={"event": "click"})
        await peer.wait(story.runtime, "doc.cells.c0.outputs.length > 1")
        assert text_of((await story.doc())["cells"]["c0"]["outputs"]) == "clicked\n"

        await story.run("c2")
        event = await peer.wait_event(story.notebook, "comm_custom", comm_id=button_id)
        assert event["params"]["content"] == {"hello": 1}
        await story.run("c3")
        assert button_id not in (await story.doc())["comms"]
        await story.ask("restart_kernel")
        assert (await story.doc())["comms"] == {}
        assert (await peer.report(story.notebook))["early"] == 0
