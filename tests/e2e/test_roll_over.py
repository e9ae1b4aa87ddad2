"""The runtime document is replaced while kernels print and peers watch: nobody misses anything, nothing comes early."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from sync.client import Event, open_notebook
from tests.e2e.notebooks import figures
from tests.e2e.notebooks import open_notebook as open_for_stock_peers
from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import StockPeer
from tests.fakes.tcp_proxy import wire_to

FORGETFUL = "tests.fakes.forgetful_daemon"
CELLS = {f"cell-{n}": f"print({n})\nfor i in range(20): display(i)\n{n}" for n in range(20)}
ROUNDS = 12
LATENCY_MS = 40  # of the storage: 0 to so many, as IndexedDB's


@pytest.mark.time_limit(240)
@pytest.mark.parametrize("latency_ms", [None, LATENCY_MS], ids=["no storage", "slow storage"])
async def test_stock_peers_follow_and_hear_nothing_early(
    latency_ms: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """240 executions by a stock peer beside one that connects again and again, and fresh ones."""
    seeds = iter(range(1_000_000))
    over = trio.Event()
    joined: list[dict[str, Any]] = []
    statuses: list[str] = []

    def options() -> dict[str, Any]:
        return {} if latency_ms is None else {"storage_latency_ms": latency_ms, "seed": next(seeds)}

    async def execute(peer: StockPeer, cell_id: str) -> None:
        statuses.append((await notebook.execute(peer, cell_id))["status"])

    async def join_until_over() -> None:
        while not over.is_set():
            async with notebook.joined(**options()) as peer:
                with trio.move_on_after(2):  # at the very end there may be no more events to wait for
                    await peer.wait_event(notebook.url, "execution_done")
                joined.append(await peer.report(notebook.url))

    async def reconnect_until_over(peer: StockPeer) -> None:
        while not over.is_set():
            await peer.drop()
            heard = len(await peer.events(notebook.url))
            with trio.move_on_after(2):
                await peer.wait_event(notebook.url, "execution_done", since=heard)

    async with running_daemon(tmp_path, module=FORGETFUL) as daemon:
        notebook = await open_for_stock_peers(daemon, CELLS)
        async with notebook.joined(**options()) as driver, notebook.joined(**options(), retry_ms=500) as restless:
            await notebook.ask(driver, "launch_kernel")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(join_until_over)
                nursery.start_soon(reconnect_until_over, restless)
                for _ in range(ROUNDS):
                    async with trio.open_nursery() as one_round:
                        for cell_id in CELLS:
                            one_round.start_soon(execute, driver, cell_id)
                over.set()
            async with notebook.joined(**options()) as late:
                end = await notebook.settle(driver, restless, late)
                for peer in (driver, restless, late):
                    assert await peer.heads(notebook.runtime) == end["heads"]
                    assert len(await peer.doc(notebook.runtime, ["cells", "cell-7", "outputs"])) == 22
                reports = [await peer.report(notebook.url) for peer in (driver, restless, late)]
            followed = await driver.followed(notebook.url)
            old = await driver.doc(followed[-2], ["successor"])
    total = figures([*reports, *joined])
    with capsys.disabled():
        print(
            f"\nRoll-over, stock client, {'no storage' if latency_ms is None else 'storage of 0-40 ms'}: "
            f"{len(statuses)} executions in {len(followed)} runtime documents, {len(joined)} joins; "
            f"{total['events']} events and {total['responses']} responses heard, {total['early']} early",
            file=sys.stderr,
        )
    assert statuses == ["done"] * ROUNDS * len(CELLS)
    assert len(followed) > 4
    assert followed[-1] == notebook.runtime == old
    assert total["early"] == 0, [report["early_details"] for report in [*reports, *joined]]
    assert total["repeats"] == total["unopened"] == reports[0]["gaps"] == 0
    assert all(not report["error_frames"] for report in reports)


async def test_the_client_reads_on_whatever_document_it_is(tmp_path: Path) -> None:
    """One that is connected throughout, one whose connection is cut meanwhile, and one that comes late."""
    async with running_daemon(tmp_path, module=FORGETFUL) as daemon, wire_to(daemon.url) as wire:
        near_by = open_notebook(daemon.url, token=daemon.token, path="a.ipynb", create=True)
        async with near_by as near, trio.open_nursery() as nursery:
            heard: list[Event] = []

            async def listen() -> None:
                stream = near.events()
                while True:
                    heard.append(await anext(stream))

            nursery.start_soon(listen)
            slider = near.add_cell("import ipywidgets as w\ns = w.IntSlider(); out = w.Output(); display(s, out)")
            await (await slider.execute()).result()
            async with open_notebook(wire.url, token=daemon.token, path="a.ipynb") as far:
                long = far.add_cell(
                    "import time\nfor i in range(300):\n    print('line', i); display(i); s.value = i % 100\n"
                    "    if i % 50 == 49: out.clear_output(); out.append_stdout(f'{i}\\n')\n    time.sleep(0.004)"
                )
                execution = await long.execute()
                await far.wait_for(lambda: long.outputs)
                wire.cut()
                await near.wait_for(lambda: near.queue["executing"] is None)
                wire.mend()
                there = await execution.result()
                assert there.outputs == near.cell(long.id).outputs
                await far.confirm_sync()
                seen = [near, far]
                async with open_notebook(daemon.url, token=daemon.token, path="a.ipynb") as late:
                    await near.confirm_sync()
                    await late.confirm_sync()
                    for nb in (*seen, late):
                        assert [cell.outputs for cell in nb.cells] == [cell.outputs for cell in near.cells]
                        widgets = nb.get_widgets()
                        assert [w.state["value"] for w in widgets.by_model["IntSliderModel"]] == [99]
                        assert [[o.text for o in w.outputs] for w in widgets.by_model["OutputModel"]] == [["299\n"]]
            nursery.cancel_scope.cancel()
        metrics = (await daemon.get("/metrics")).text
        assert there.status == "done"
        text = "".join(output.text for output in there.outputs if output.output_type == "stream")
        assert text == "".join(f"line {i}\n" for i in range(300))
        assert [event.seq for event in heard] == list(range(heard[0].seq, heard[0].seq + len(heard)))
        [roll_overs] = [line for line in metrics.splitlines() if line.startswith("notebookd_roll_overs_total ")]
        assert float(roll_overs.split()[1]) > 2  # a busy machine commits less often
        assert heard[0].params["runtime"] != heard[-1].params["runtime"]


async def test_a_file_keeps_the_widgets_whose_kernel_ended_in_a_document_that_was_left(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, module=FORGETFUL) as daemon:
        async with open_notebook(daemon.url, token=daemon.token, path="a.ipynb", create=True) as nb:
            cell = nb.add_cell("import ipywidgets as w\nw.IntSlider(value=42)")
            await (await cell.execute()).result()
            await nb.restart()
            before = nb.runtime_id
            while nb.runtime_id == before:
                await (await nb.add_cell("for i in range(100): display(i)").execute()).result()
            assert not nb.get_widgets().by_id
            await nb.save()
        saved = json.loads((daemon.root / "a.ipynb").read_text())
    widgets = saved["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    [slider] = [widget for widget in widgets.values() if widget["model_name"] == "IntSliderModel"]
    assert slider["state"]["value"] == 42
