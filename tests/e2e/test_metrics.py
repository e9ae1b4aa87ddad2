"""Each figure of /metrics is moved by what it is said to count, and `notebookd status` tells the rest; a real daemon."""

import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from sync.core.frames import Ephemeral, Join, Peer, decode_frame, encode_data, encode_frame
from sync.core.limits import MAX_FRAME_BYTES
from sync.websocket import SocketClosed, connect_socket
from tests.e2e.notebooks import Notebook, open_notebook
from tests.e2e.test_cli import notebookd
from tests.fakes.daemon_process import DaemonProcess, running_daemon
from tests.fakes.thin_peer import open_thin_peer
from tests.soak.sampling import read_metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
WIDGET = "from IPython.display import display, HTML\ndisplay(HTML('x' * 5000))"


class Urls:
    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.runtime = notebook.url, notebook.runtime


async def figures(daemon: DaemonProcess) -> dict[str, float]:
    return read_metrics((await daemon.get("/metrics")).raise_for_status().text)


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By how much each figure moved."""
    names = before.keys() | after.keys()
    return {name.removeprefix("notebookd_"): after.get(name, 0) - before.get(name, 0) for name in names}


@asynccontextmanager
async def serving(tmp_path: Path, *options: str) -> AsyncIterator[tuple[DaemonProcess, Notebook]]:
    async with running_daemon(tmp_path, "--log-format", "json", *options) as daemon:
        yield daemon, await open_notebook(daemon, {"a": "print('x')", "b": WIDGET, "c": "input()"})


async def test_what_peers_and_kernels_do_moves_its_figures(tmp_path: Path) -> None:
    async with serving(tmp_path, "--viewer-token", "look") as (daemon, notebook):
        empty = await figures(daemon)
        assert empty["notebookd_rooms"] == 1
        assert empty["notebookd_peers"] == 0
        assert empty['notebookd_kernels{status="not_started"}'] == 1
        async with open_thin_peer(daemon, Urls(notebook)) as peer:
            assert await peer.run("a") == "done"
            await peer.run("b")
            waiting = await peer.execute("c")
            queued = await peer.execute("a")
            await peer.wait(lambda: peer.read("kernel", "input_request"))
            async with open_thin_peer(daemon, Urls(notebook), token="look") as viewer:
                await viewer.refusal("execute_cell", cell_id="a")
                busy = await figures(daemon)
            rose = moved(empty, busy)
            assert busy["notebookd_peers"] == 2
            assert busy['notebookd_peers_by_role{role="viewer"}'] == 1
            assert busy['notebookd_kernels{status="busy"}'] == 1
            assert rose['executions_total{status="done"}'] == 2
            assert busy["notebookd_executions_queued"] == 1
            assert rose["commits_total"] > 4
            assert rose["changes"] > 4
            assert rose['document_changes{document="runtime"}'] == rose["changes"]
            assert rose['document_bytes{document="runtime"}'] > 500
            assert rose['document_operations{document="runtime"}'] > rose["changes"]
            # Frames as they were written, so a little less than what went over the wire.
            assert rose["frames_sent_total"] > 10
            assert rose["bytes_sent_total"] > 30 * rose["frames_sent_total"]
            assert rose["frames_received_total"] > 5
            assert rose["bytes_received_total"] > 30 * rose["frames_received_total"]
            assert rose["payloads_total"] > 5
            assert rose["notices_written_total"] >= 8
            assert rose["requests_total"] >= 7
            assert rose['kernel_messages_total{channel="iopub"}'] >= 10
            assert rose['kernel_messages_total{channel="shell"}'] >= 2
            assert rose['kernel_messages_total{channel="stdin"}'] == 1
            assert rose['kernel_messages_sent_total{channel="shell"}'] >= 3
            assert rose["blobs_stored_total"] == 1
            assert rose["blob_bytes_stored_total"] == 5000
            assert rose["tasks"] > 10
            assert rose["process_open_fds"] > 5
            assert rose["uptime_seconds"] > 0
            assert rose["loop_seconds_count"] > 50
            assert rose["loop_seconds_sum"] > 0
            assert rose["gc_seconds_total"] >= 0

            await peer.request("interrupt")
            assert await peer.done(waiting) == "interrupted"
            await peer.done(queued)
            before = await figures(daemon)
            await peer.request("save_notebook")
            saved = moved(before, await figures(daemon))
            assert saved["fsyncs_total"] == 2  # the file, and its folder
            # A message of another kind than its name says: taken, and counted as bad.
            await peer.show(
                "k = get_ipython().kernel\nk.session.send(k.iopub_socket, 'stream', content={'name': 3})", "a"
            )
            bad = moved(before, await figures(daemon))
            assert bad['kernel_messages_bad_total{channel="iopub",reason="ill_typed"}'] == 1
        # What ended stays counted.
        counted = await figures(daemon)
        await daemon.delete(f"/api/notebooks/{notebook.id}")
        closed = await figures(daemon)
        assert closed["notebookd_rooms"] == 0
        assert closed["notebookd_changes"] == 0
        for name in counted:
            if "_total" in name:
                assert closed[name] >= counted[name], name


async def test_what_waits_and_what_is_dropped_is_seen(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, notebook), open_thin_peer(daemon, Urls(notebook)) as peer:
        before = await figures(daemon)
        # A request that waits for heads that do not come is in flight, and one behind it too.
        peer.ask("execute_cell", cell_id="a", notebook_heads=["ab" * 32])
        peer.ask("barrier")
        assert (await peer.refusal("complete", code="x")).reason == "no_kernel"  # is not held back by them
        assert (await figures(daemon))["notebookd_requests_in_flight"] == 2
        await _send_foreign(daemon, notebook)
        assert moved(before, await figures(daemon))["foreign_ephemerals_total"] == 1


async def _send_foreign(daemon: DaemonProcess, notebook: Notebook) -> None:
    async with connect_socket(daemon.sync_url, token=daemon.token, max_message_bytes=MAX_FRAME_BYTES) as socket:
        await socket.send([encode_frame(Join("one", ("1",), {"isEphemeral": True}))])
        answer = decode_frame((await socket.receive())[0])
        assert isinstance(answer, Peer)
        document = notebook.url.removeprefix("automerge:")
        await socket.send(
            [encode_frame(Ephemeral("another", answer.sender_id, document, "s", 1, encode_data({"x": 1})))]
        )
        await socket.send([b"\xff"])  # no frame: the connection ends behind what came before
        try:
            while True:
                await socket.receive()
        except SocketClosed:
            return


async def test_a_loop_that_stood_still_is_counted_and_logged_with_what_ran(tmp_path: Path) -> None:
    options = ("--log-format", "json")
    async with running_daemon(tmp_path, *options, module="tests.fakes.failing_daemon") as daemon:
        notebook = await open_notebook(daemon, {"a": "1"})
        async with open_thin_peer(daemon, Urls(notebook)) as peer:
            before = _slow(await figures(daemon))
            await peer.request("inspect", code="hold the loop")
            assert _slow(await figures(daemon)) > before
    records = [json.loads(line) for line in daemon.stderr.decode().splitlines()]
    told = [record for record in records if record["event"] == "slow loop iteration" and record["ms"] >= 200]
    [held] = [record for record in told if record["task"] == "daemon.dispatcher.Dispatcher._answer"]
    assert held["level"] == "warning"
    assert held["task_ms"] >= 200
    assert (held["peer"], held["room"], held["method"]) == (peer.peer_id, notebook.id, "inspect")


def _slow(metrics: Mapping[str, float]) -> float:
    return metrics["notebookd_loop_seconds_count"] - metrics['notebookd_loop_seconds_bucket{le="0.1"}']


async def test_every_figure_is_explained(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, _):
        text = (await daemon.get("/metrics")).text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    explained = set(re.findall(r"`(notebookd_[a-z_]+)", DOCUMENT.read_text()))
    assert {name for name in families if "_process_" not in name} <= explained
    assert {name for name in explained if "_process_" not in name} <= families


async def test_status_is_complete_as_json(tmp_path: Path) -> None:
    async with serving(tmp_path) as (daemon, notebook):
        async with open_thin_peer(daemon, Urls(notebook)) as peer:
            execution = await peer.execute("c")
            queued = await peer.execute("a")
            await peer.wait(lambda: peer.read("kernel", "input_request"))
            told = json.loads((await notebookd("status", "--json", state_dir=tmp_path / "state")).stdout)
            shown = (await notebookd("status", state_dir=tmp_path / "state")).stdout.decode()
            await peer.request("interrupt")
        assert told["url"] == daemon.url
        assert told["pid"] == daemon.process.pid
        assert told["version"]
        assert told["uptime_seconds"] > 0
        assert told["memory_bytes"] > 10 * 2**20
        assert told["peers"] == 1
        assert told["tasks"] > 10
        assert told["started_at"].endswith("Z")
        [row] = told["notebooks"]
        assert {key: row[key] for key in ("id", "path", "notebook", "runtime", "peers", "changed")} == {
            "id": notebook.id,
            "path": "test.ipynb",
            "notebook": notebook.url,
            "runtime": notebook.runtime,
            "peers": 1,
            "changed": True,
        }
        assert row["kernel"].keys() == {"status", "name", "pid"}
        assert (row["kernel"]["status"], row["kernel"]["name"]) == ("busy", "python3")
        os.kill(row["kernel"]["pid"], 0)
        assert row["queue"] == {"executing": execution, "queued": [queued]}
        for expected in (daemon.url, "test.ipynb", "busy", "MiB", str(daemon.process.pid)):
            assert expected in shown
