"""What may not be written is not, with the real stock client: no ping-pong, no wedge, and nobody else notices."""

import sys
from pathlib import Path
from time import monotonic

import pytest
import trio

from tests.e2e.notebooks import Notebook, open_notebook
from tests.fakes import stock_peer
from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import StockPeer

SOURCES = {"a": "print('a ran')", "b": "print('b ran')"}
RETRY_MS = 500  # the stock adapter gives up a handshake that takes longer than this
THROTTLE = 0.3  # seconds; a stock client sends its changes at most 0.1 s late
WATCHED = 0.5  # seconds; a peer and a daemon that answer each other for ever exchange 1 500 messages a second


async def assert_quiet(notebook: Notebook, peer: StockPeer) -> int:
    """After a while, during many round trips, no sync message goes in any direction; how many there were before."""

    async def sync_frames_after(seconds: float) -> tuple[int, int]:
        until = monotonic() + seconds
        while monotonic() < until:
            await notebook.ask(peer, "barrier")
        frames = (await peer.report(notebook.url))["frames"]
        return frames["sent"]["sync"], frames["received"]["sync"]

    before = await sync_frames_after(THROTTLE)
    assert await sync_frames_after(WATCHED) == before
    return sum(before)


async def test_edits_of_the_runtime_document_stay_with_the_peer_that_made_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An overwritten key, a deleted map: quiet afterwards, others never see them, later commits come all the same."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined(retry_ms=RETRY_MS) as vandal, notebook.joined() as other:
            await notebook.execute(other, "a")
            await notebook.settle(other)
            runtime = await other.doc(notebook.runtime)
            edits = [stock_peer.put(["file", "path"], "mine.ipynb"), stock_peer.delete(["cells", "b"])]
            for edit in edits:
                await vandal.change(notebook.runtime, edit)
            quiet_after = [await assert_quiet(notebook, vandal)]
            await vandal.drop()
            quiet_after.append(await assert_quiet(notebook, vandal))
            await vandal.disconnect()
            await vandal.change(notebook.runtime, stock_peer.put(["kernel", "status"], "dead"))
            await vandal.reconnect()
            quiet_after.append(await assert_quiet(notebook, vandal))

            assert await other.doc(notebook.runtime) == runtime
            async with notebook.joined() as late:
                assert await late.doc(notebook.runtime) == runtime

            done = await notebook.execute(other, "a")
            await vandal.wait_heads(notebook.runtime, done["heads"])
            assert await vandal.doc(notebook.runtime, ["executions", done["execution_id"], "status"]) == "done"
            # It is seen again once the daemon writes that key; busy and idle within one commit are no write.
            await notebook.ask(other, "restart_kernel")
            await vandal.wait_value(notebook.runtime, ["kernel", "status"], "idle")
            assert await vandal.doc(notebook.runtime, ["file", "path"]) == "mine.ipynb"  # as docs/wire.md says
            # What it may write is still taken.
            heads = await vandal.change(
                notebook.url, stock_peer.update_text(["cells", "a", "source"], "print('edited')")
            )
            await other.wait_heads(notebook.url, heads)
            await notebook.execute(vandal, "a")
            assert await notebook.text(other, "a") == "edited\n"
            report = await vandal.report(notebook.url)
    with capsys.disabled():
        print(f"\nRefusal: quiet after {quiet_after} sync messages, with 3 edits and 2 reconnections", file=sys.stderr)
    assert report["early"] == 0
    assert report["error_frames"] == []


async def test_a_viewer_reads_and_is_heard_but_changes_nothing(tmp_path: Path) -> None:
    """Its edits are dropped, its requests forbidden; presence passes, barrier is answered, the connection stays."""
    async with running_daemon(tmp_path, "--viewer-token", "look") as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as editor:
            before = await editor.heads(notebook.url)
            async with notebook.joined(viewer_token="look", peer_id="viewer", retry_ms=RETRY_MS) as viewer:
                await viewer.change(notebook.url, stock_peer.update_text(["cells", "a", "source"], "print('hacked')"))
                await assert_quiet(notebook, viewer)
                assert len((await viewer.report(notebook.url))["error_frames"]) == 1
                await viewer.disconnect()
                await viewer.change(notebook.url, stock_peer.delete(["cells", "b"]))
                await viewer.reconnect()
                await assert_quiet(notebook, viewer)
                for method in ("execute_cell", "run_all_cells", "interrupt", "save_notebook", "complete"):
                    response = await viewer.request(notebook.url, method, {"cell_id": "a", "code": ""})
                    assert response["error"]["data"]["reason"] == "forbidden", method
                await viewer.start_presence(notebook.url, {"cursor": 1})
                await editor.start_presence(notebook.url, {"cursor": 2})
                await viewer.set_presence(notebook.url, "cursor", 3)
                await editor.wait_presence(notebook.url, "viewer", "cursor", 3)
                await viewer.wait_presence(notebook.url, editor.peer_id, "cursor", 2)

                assert await editor.heads(notebook.url) == before
                done = await notebook.execute(editor, "a")
                await viewer.wait_heads(notebook.runtime, done["heads"])
                assert await notebook.text(viewer, "a") == "a ran\n"
                heads = await editor.change(
                    notebook.url, stock_peer.update_text(["cells", "b", "source"], "for all to see")
                )
                await viewer.wait_heads(notebook.url, heads)
                report = await viewer.report(notebook.url)
                assert len(report["error_frames"]) == 2  # one on each connection
                assert "may only read" in report["error_frames"][0]
                assert report["early"] == 0
            async with notebook.joined() as late:
                assert await late.doc(notebook.url, ["cells", "a", "source"]) == "print('a ran')"
                assert await late.doc(notebook.url, ["cells", "b", "source"]) == "for all to see"


async def test_an_editors_change_that_is_too_big_ends_its_right_to_write_and_nothing_else(tmp_path: Path) -> None:
    """200 000 operations in 115 bytes: one error frame, read-only from then on; others and the daemon do not notice."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined(retry_ms=RETRY_MS) as peer, notebook.joined() as other:
            bomb = stock_peer.put(["cells", "a", "metadata", "list"], {"$nulls": 200_000})
            await peer.change(notebook.url, bomb)
            await peer.change(notebook.url, stock_peer.update_text(["cells", "a", "source"], "after the bomb"))
            with trio.fail_after(20):
                while not (report := await peer.report(notebook.url))["error_frames"]:
                    await notebook.ask(peer, "barrier")
            await assert_quiet(notebook, peer)
            await peer.change(notebook.url, stock_peer.update_text(["cells", "b", "source"], "and later"))
            await assert_quiet(notebook, peer)
            report = await peer.report(notebook.url)
            assert len(report["error_frames"]) == 1
            assert "read-only" in report["error_frames"][0]

            heads = await other.change(notebook.url, stock_peer.update_text(["cells", "b", "source"], "print('fine')"))
            await notebook.settle(other)
            await peer.wait_heads(notebook.url, heads)
            done = await notebook.execute(other, "b")
            await peer.wait_heads(notebook.runtime, done["heads"])
            assert await notebook.text(other, "b") == "fine\n"
            assert await notebook.text(peer, "b") == "fine\n"
            assert "".join((await notebook.file())["cells"][0]["source"]) == "print('a ran')"
            # A new connection starts anew, and meets the same end: the change is still in its replica.
            await peer.drop()
            with trio.fail_after(20):
                while len((report := await peer.report(notebook.url))["error_frames"]) < 2:
                    await notebook.ask(peer, "barrier")
            await assert_quiet(notebook, peer)
        assert (await daemon.get("/health")).json()["status"] == "ok"
