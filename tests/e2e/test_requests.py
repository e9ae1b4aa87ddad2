"""Every request of docs/wire.md against a real kernel: what it does, and how it is refused."""

import json
import os
import platform
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import nbformat
import pytest
import trio

from sync.core.limits import MAX_REQUESTS_IN_FLIGHT
from sync.core.notebook_schema import NotebookSchema
from tests.fakes.served_daemon import Opened, ServedDaemon
from tests.fakes.thin_peer import RequestFailed, ThinPeer, open_thin_peer

SLOW = "import time\nprint('begun', flush=True)\nany(time.sleep(0.1) for _ in range(1_000))"


@pytest.fixture(scope="module")
def opened(daemon: ServedDaemon) -> Opened:
    """One notebook, and one kernel, for all tests here that leave the kernel alive."""
    return trio.run(daemon.open)


@asynccontextmanager
async def joined(daemon: ServedDaemon, opened: Opened) -> AsyncIterator[ThinPeer]:
    """A peer of the notebook, which has no cells yet, with a kernel that runs."""
    async with open_thin_peer(daemon, opened) as peer:
        for cell in NotebookSchema.read_cells(peer.notebook.replica):
            peer.delete_cell(cell.cell_id)
        await peer.request("launch_kernel")
        yield peer


async def begin(peer: ThinPeer, source: str = SLOW) -> str:
    """Executes a source in a new cell and returns once it printed something; the execution's id."""
    cell_id = peer.add_cell(source)
    execution_id = await peer.execute(cell_id)
    await peer.wait(lambda: peer.read("cells", cell_id, "execution_id") == execution_id and peer.manifests(cell_id))
    return execution_id


async def interrupted(peer: ThinPeer, execution_id: str) -> None:
    """Interrupts what must be this execution, and waits for its end."""
    assert (await peer.request("interrupt"))["execution_id"] == execution_id
    assert await peer.done(execution_id) == "interrupted"


async def printed(peer: ThinPeer, source: str) -> str:
    """The text that a source prints."""
    return "".join(output["text"] for output in await peer.show(source))


async def test_the_kernel_is_launched_restarted_replaced_and_shut_down(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        for method in ("interrupt", "complete", "history"):
            refused = await peer.refusal(method, **({"code": "x"} if method == "complete" else {}))
            assert (refused.code, refused.reason) == (-32005, "no_kernel")
        assert peer.read("kernel", "status") == "not_started"

        launched = await peer.request("launch_kernel")
        assert (launched["name"], launched["language"]) == ("python3", "python")
        assert peer.read("kernel") == {"status": "idle", "name": "python3", "language": "python"}
        pid = await printed(peer, "import os; print(os.getpid())")
        assert (await peer.request("launch_kernel"))["name"] == "python3"
        assert (await peer.request("launch_kernel", kernel_name="python3"))["name"] == "python3"
        refused = await peer.refusal("launch_kernel", kernel_name="pythn3")
        assert refused.reason == "kernel_failed"
        assert all(name in str(refused) for name in ("bash", "python3")), "what there is"
        assert await printed(peer, "print(os.getpid())") == pid

        running = await begin(peer)
        queued = await peer.execute(peer.add_cell("print('never')"))
        await peer.request("restart_kernel")
        assert (peer.status(running), peer.status(queued)) == ("interrupted", "cancelled")
        assert peer.read("queue") == {"executing": None, "queued": []}
        again = peer.add_cell("import os; print(os.getpid())")
        await peer.run(again)
        assert (await peer.outputs(again))[0]["text"] != pid
        assert peer.read("cells", again, "execution_count") == 1

        running = await begin(peer)
        launched = await peer.request("launch_kernel", kernel_name="bash")
        assert (launched["name"], launched["language"]) == ("bash", "bash")
        assert peer.status(running) == "interrupted"
        assert await printed(peer, "echo from ${BASH##*/}") == "from bash\n"

        await peer.request("shutdown_kernel")
        assert peer.read("kernel", "status") == "not_started"
        await peer.request("shutdown_kernel")
        assert await printed(peer, "echo up again") == "up again\n"
        assert not peer.heard("kernel_error")


async def test_a_kernel_that_runs_is_not_ended_for_one_that_there_is_not(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        assert await printed(peer, "kept = 'kept'; print(kept)") == "kept\n"
        refused = await peer.refusal("launch_kernel", kernel_name="pyhton3")
        assert (refused.reason, "'pyhton3'" in str(refused)) == ("kernel_failed", True)
        assert (await peer.refusal("launch_kernel", kernel_name="x" * 1_000_000)).reason == "kernel_failed"
        # Names are folded, as Jupyter does: this is the one that runs.
        assert (await peer.request("launch_kernel", kernel_name="Python3"))["name"] == "python3"
        assert await printed(peer, "print(kept)") == "kept\n"
        assert peer.heard("kernel_error") == []


async def test_outputs_are_cleared_once_however_often_a_cell_is_named(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        cell_id = peer.add_cell("print(1)")
        assert await peer.run(cell_id) == "done"
        assert (await peer.request("clear_outputs", cell_ids=[cell_id] * 1_000))["cell_ids"] == [cell_id]
        await peer.settle()
        assert peer.manifests(cell_id) == []


async def test_what_cannot_be_executed_is_refused(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        code, text = peer.add_cell("1"), peer.add_cell("text", cell_type="markdown")
        heads = peer.notebook_heads()

        async def refusal(**params: object) -> tuple[int, str]:
            refused = await peer.refusal("execute_cell", **{"notebook_heads": heads, **params})
            return refused.code, refused.data.get("kind") or refused.data.get("param") or refused.reason

        assert await refusal(cell_id="nobody") == (-32001, "cell")
        assert await refusal(cell_id=text) == (-32002, "not_a_code_cell")
        cleared = await peer.refusal("clear_outputs", cell_ids=[code, text])
        assert (cleared.code, cleared.reason) == (-32002, "not_a_code_cell")
        assert await refusal() == (-32602, "cell_id")
        assert await refusal(cell_id=7) == (-32602, "cell_id")
        assert await refusal(cell_id=code, notebook_heads="x") == (-32602, "notebook_heads")
        assert await refusal(cell_id=code, notebook_heads=["zz"]) == (-32602, "notebook_heads")
        assert await refusal(cell_id=code, execution_id="7") == (-32602, "execution_id")
        assert await refusal(cell_id=code, execution_id=str(uuid4()).upper()) == (-32602, "execution_id")

        execution_id = str(uuid4())
        assert await peer.execute(code, execution_id=execution_id) == execution_id
        assert await peer.execute(code, execution_id=execution_id) == execution_id
        other = peer.add_cell("2")
        assert await refusal(cell_id=other, execution_id=execution_id, notebook_heads=peer.notebook_heads()) == (
            -32010,
            "conflict",
        )
        assert await peer.done(execution_id) == "done"
        assert await peer.execute(code, execution_id=execution_id) == execution_id
        await peer.settle()
        assert len(peer.heard("execution_started", execution_id=execution_id)) == 1
        assert len(peer.heard("execution_done", execution_id=execution_id)) == 1
        assert peer.read("cells", other, "execution_id") is None


@pytest.mark.parametrize("stop_on_error", [True, False])
async def test_an_error_stops_the_rest_of_its_own_run_alone(
    daemon: ServedDaemon, opened: Opened, stop_on_error: bool
) -> None:
    async with joined(daemon, opened) as peer:
        first = peer.add_cell("print('one')")
        peer.add_cell("text", cell_type="markdown")
        peer.add_cell("   \n")
        failing = peer.add_cell("1 / 0")
        last = peer.add_cell("print('last')")
        async with open_thin_peer(daemon, opened) as other:
            await peer.request("barrier", notebook_heads=peer.notebook_heads())
            answer = await peer.request(
                "run_all_cells", notebook_heads=peer.notebook_heads(), stop_on_error=stop_on_error
            )
            await other.wait(lambda: other.read("cells", first))
            of_other = await other.execute(other.add_cell("print('another person')"))
            executions = answer["executions"]
            assert [execution["cell_id"] for execution in executions] == [first, failing, last]
            statuses = [await peer.done(execution["execution_id"]) for execution in executions]
            assert statuses == ["done", "error", "cancelled" if stop_on_error else "done"]
            assert await other.done(of_other) == "done"
        orders = [peer.read("executions", execution["execution_id"], "order") for execution in executions]
        assert orders == sorted(orders)
        assert (await peer.request("run_all_cells", notebook_heads=[]))["executions"] == []


async def test_executions_are_cancelled_while_they_wait(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        running = await begin(peer)
        cell_id = peer.add_cell("print('never')")
        queued = await peer.execute(cell_id)
        assert (await peer.request("cancel_execution", execution_id=queued))["status"] == "cancelled"
        assert peer.status(queued) == "cancelled"
        assert (await peer.request("cancel_execution", execution_id=running))["status"] == "running"
        assert peer.status(running) == "running"
        refused = await peer.refusal("cancel_execution", execution_id=str(uuid4()))
        assert (refused.reason, refused.data["kind"]) == ("not_found", "execution")
        await interrupted(peer, running)
        assert (await peer.request("cancel_execution", execution_id=running))["status"] == "interrupted"
        assert not peer.heard("execution_started", execution_id=queued)
        assert peer.manifests(cell_id) == []


async def test_what_a_crash_left_of_a_save_goes_when_a_notebook_beside_it_is_opened(daemon: ServedDaemon) -> None:
    old, fresh = daemon.root / ".notebookd-old.tmp", daemon.root / ".notebookd-fresh.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half a notebook")
    os.utime(old, (1000, 1000))
    async with daemon.opened():
        assert not old.exists()
        assert fresh.exists()
    fresh.unlink()


async def test_an_interrupt_leaves_what_others_queued(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer, open_thin_peer(daemon, opened) as other:
        cells = [peer.add_cell(source) for source in (SLOW, "print('rest of the run')")]
        answer = await peer.request("run_all_cells", notebook_heads=peer.notebook_heads())
        slow, rest = (execution["execution_id"] for execution in answer["executions"])
        await peer.wait(lambda: peer.manifests(cells[0]))
        await other.wait(lambda: other.read("cells", cells[1]))
        of_other = await other.execute(other.add_cell("print('stays')"))
        await interrupted(other, slow)
        assert await other.done(rest) == "cancelled"
        assert await other.done(of_other) == "done"
        assert (await other.request("interrupt"))["execution_id"] is None


async def test_an_interrupt_right_behind_an_execution_meets_it(daemon: ServedDaemon, opened: Opened) -> None:
    """A kernel that has not begun would take no notice of the signal, and run to the end."""
    async with joined(daemon, opened) as peer:
        # No sleep: a signal that comes just before the system call is seen by Python when it returns.
        cell = peer.add_cell("while True:\n    pass")
        await peer.run(peer.add_cell("pass"))
        for _ in range(20):
            execution_id = await peer.execute(cell)
            assert (await peer.request("interrupt"))["execution_id"] == execution_id
            assert await peer.done(execution_id) == "interrupted"


async def test_an_interrupt_ends_a_cell_that_awaits(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        for seconds in (100, 1_000):
            execution_id = await begin(
                peer, f"import asyncio\nprint('begun', flush=True)\nawait asyncio.sleep({seconds})"
            )
            await interrupted(peer, execution_id)
        assert await printed(peer, "print('goes on')") == "goes on\n"


async def test_outputs_are_cleared_but_for_the_running_cells(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        one, two = peer.add_cell("print(1)"), peer.add_cell("print(2)")
        for cell_id in (one, two):
            await peer.run(cell_id)
        assert (await peer.request("clear_outputs", cell_ids=[]))["cell_ids"] == []
        assert len(peer.manifests(one)) == 1
        assert (await peer.request("clear_outputs", cell_ids=[one]))["cell_ids"] == [one]
        assert peer.read("cells", one) == {"execution_id": None, "execution_count": None, "outputs": []}
        assert len(peer.manifests(two)) == 1

        running = await begin(peer)
        busy: str = peer.read("executions", running, "cell_id")
        refused = await peer.refusal("clear_outputs", cell_ids=[two, busy])
        assert (refused.code, refused.reason) == (-32013, "busy")
        assert len(peer.manifests(two)) == 1
        assert set((await peer.request("clear_outputs"))["cell_ids"]) == {one, two}
        assert peer.manifests(two) == []
        assert len(peer.manifests(busy)) == 1
        assert (await peer.refusal("clear_outputs", cell_ids=["nobody"])).data["kind"] == "cell"
        await interrupted(peer, running)


async def test_the_kernel_is_asked_while_a_cell_runs(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        await peer.show("unusual_name = 1; import os.path")
        running = await begin(peer)
        # Positions are in code points: each of these is one, and two of JavaScript's units.
        code = "'😀😀'; unusual_n"
        answer = await peer.request("complete", code=code, cursor_pos=len(code))
        assert "unusual_name" in answer["matches"]
        assert (answer["cursor_start"], answer["cursor_end"]) == (len(code) - len("unusual_n"), len(code))
        found = await peer.request("inspect", code="os.path.join", cursor_pos=10)
        assert found["found"] is True
        assert "Join two or more pathname components" in found["data"]["text/plain"]
        assert (await peer.request("inspect", code="os.path.join", cursor_pos=10, detail_level=1))["found"] is True
        assert (await peer.request("is_complete", code="for x in y:"))["status"] == "incomplete"
        assert (await peer.request("is_complete", code="1 +* 2"))["status"] == "invalid"
        assert (await peer.refusal("complete")).data["param"] == "code"
        assert (await peer.refusal("inspect", code="x", detail_level=2)).data["param"] == "detail_level"
        # They only look: what runs is what ran.
        assert peer.read("kernel", "status") == "busy"
        assert peer.read("queue") == {"executing": running, "queued": []}
        await interrupted(peer, running)


async def test_the_history_is_told(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        for source in ("first = 1", "second = 2", "second = 2", "third = 3"):
            await peer.show(source)
        lines = (await peer.request("history", n=3))["history"]
        assert [source for _, _, source in lines] == ["second = 2", "second = 2", "third = 3"]
        lines = (await peer.request("history", pattern="second*", unique=True))["history"]
        assert [source for _, _, source in lines] == ["second = 2"]


async def test_the_notebook_is_saved(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        modified = (await trio.Path(opened.path).stat()).st_mtime
        assert abs(datetime.fromisoformat(peer.read("file", "saved_at")).timestamp() - modified) < 0.01
        shown = peer.add_cell("from IPython.display import HTML\nprint('x' * 5000)\nHTML('<b>bold</b>')", "shown")
        peer.add_cell("# Title", "title", "markdown")
        peer.add_cell("1 / 0", "failed")
        for cell_id in (shown, "failed"):
            await peer.run(cell_id)
        answer = await peer.request("save_notebook")
        assert answer["path"] == opened.path.name
        assert answer["notebook_heads"] == peer.notebook_heads()
        assert peer.read("file", "saved_notebook_heads") == peer.notebook_heads()
        assert peer.read("file", "saved_at") == answer["saved_at"]
        saved = json.loads(await trio.Path(opened.path).read_text())
        nbformat.validate(saved)
        assert [cell["id"] for cell in saved["cells"]] == ["shown", "title", "failed"]
        assert "".join(saved["cells"][0]["outputs"][0]["text"]) == "x" * 5000 + "\n"
        assert saved["cells"][2]["outputs"][0]["ename"] == "ZeroDivisionError"
        assert saved == await daemon.file(opened)

        assert (await peer.request("save_notebook", path="copy.ipynb"))["path"].endswith("copy.ipynb")
        assert json.loads(await trio.Path(opened.path.parent / "copy.ipynb").read_text()) == saved
        for path in ("../outside.ipynb", "/tmp/outside.ipynb"):
            refused = await peer.refusal("save_notebook", path=path)
            assert (refused.code, refused.reason) == (-32003, "forbidden")
        assert (await peer.refusal("save_notebook", path="notes.txt")).data["param"] == "path"
        assert (await peer.refusal("save_notebook", path="nosuch/n.ipynb")).data["kind"] == "folder"


async def test_a_file_names_the_kernel_that_ran_and_its_language(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        assert (await daemon.file(opened))["metadata"] == {}
        await peer.request("launch_kernel")
        heads = peer.notebook_heads()
        await peer.request("save_notebook")
        saved = json.loads(await trio.Path(opened.path).read_text())
        nbformat.validate(saved)
        assert saved["metadata"]["kernelspec"]["name"] == "python3"
        assert saved["metadata"]["kernelspec"]["language"] == "python"
        info = saved["metadata"]["language_info"]
        assert (info["name"], info["file_extension"], info["codemirror_mode"]["name"]) == ("python", ".py", "ipython")
        assert info["version"] == platform.python_version()
        assert peer.notebook_heads() == heads, "it stands in the file alone"
        await peer.request("shutdown_kernel")
        assert (await daemon.file(opened))["metadata"] == saved["metadata"], "it ran"
        await peer.request("launch_kernel", kernel_name="bash")
        metadata = (await daemon.file(opened))["metadata"]
        assert (metadata["kernelspec"]["display_name"], metadata["language_info"]["name"]) == ("Bash", "bash")
    async with daemon.opened(kernel_name="bash") as opened:
        kernelspec = {"name": "bash", "display_name": "Bash", "language": "bash"}
        assert json.loads(await trio.Path(opened.path).read_text())["metadata"] == {"kernelspec": kernelspec}


async def test_a_notebook_that_can_not_be_saved_stays_open_with_its_kernel(daemon: ServedDaemon) -> None:
    opened = await daemon.open()
    async with daemon.client() as client, open_thin_peer(daemon, opened) as peer:
        cell_id = peer.add_cell("kept = 41")
        await peer.run(cell_id)
        await trio.Path(opened.path).write_text("somebody else's")
        refused = await client.delete(f"/api/notebooks/{opened.id}")
        assert refused.status_code == 409
        assert refused.json()["error"]["reason"] == "conflict"
        assert "save_notebook" in refused.json()["error"]["message"]
        [shown] = await peer.show("kept + 1")
        assert shown["data"]["text/plain"] == "42"
        other = f"{uuid4()}.ipynb"
        assert (await peer.request("save_notebook", path=other))["path"] == other
        mine = {"save": "false", "peer": peer.peer_id}
        assert (await client.delete(f"/api/notebooks/{opened.id}", params=mine)).status_code == 204
    assert await trio.Path(opened.path).read_text() == "somebody else's"
    saved = json.loads(await trio.Path(opened.path.parent / other).read_text())
    assert "kept = 41" in ["".join(cell["source"]) for cell in saved["cells"]]


async def test_a_notebook_is_closed_unsaved_only_where_nothing_that_people_wrote_is_lost(daemon: ServedDaemon) -> None:
    opened = await daemon.open()
    address = f"/api/notebooks/{opened.id}"
    async with daemon.client() as client, open_thin_peer(daemon, opened) as peer:
        mine = {"save": "false", "peer": peer.peer_id}
        cell = peer.add_cell("print('first')")
        await peer.run(cell)
        assert (await client.delete(address, params=mine)).status_code == 409, "its cell is in no file"
        await peer.request("save_notebook")
        saved = await trio.Path(opened.path).read_text()
        assert "first" in saved
        await peer.request("clear_outputs")
        assert (await client.delete(address, params={"save": "false"})).status_code == 409, "a peer is connected"
        assert (await client.delete(address, params={"save": "perhaps"})).status_code == 400
        assert (await client.delete(address, params=mine)).status_code == 204
    again = await daemon.open(opened.path.name)  # which waits until the room is gone
    assert again.id != opened.id
    assert await trio.Path(opened.path).read_text() == saved
    await daemon.close(again)
    async with daemon.opened() as opened, daemon.client() as client, open_thin_peer(daemon, opened) as peer:
        mine = {"save": "false", "peer": peer.peer_id}
        async with open_thin_peer(daemon, opened):
            assert (await client.delete(f"/api/notebooks/{opened.id}", params=mine)).status_code == 409
        await peer.settle()


async def test_a_file_that_somebody_else_wrote_is_not_overwritten(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        await trio.Path(opened.path).write_text("somebody else's")
        refused = await peer.refusal("save_notebook")
        assert (refused.code, refused.reason) == (-32010, "conflict")
        await peer.wait(lambda: peer.read("file", "status") == "conflict")
        assert await trio.Path(opened.path).read_text() == "somebody else's"


async def test_whoever_reads_the_file_while_it_is_saved_finds_it_whole(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        cell_id = peer.add_cell("import os\nprint(os.urandom(100_000).hex())")
        await peer.run(cell_id)
        await peer.request("save_notebook")
        over = trio.Event()
        reads = 0

        async def read() -> None:
            nonlocal reads
            while not over.is_set():
                json.loads(await trio.Path(opened.path).read_text())
                reads += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for number in range(20):
                peer.edit(cell_id, f"# {number}")
                await peer.request("save_notebook")
            over.set()
        assert reads > 5
        assert not [path for path in await _names(opened.path.parent) if path.startswith(".notebookd")]


async def _names(folder: Path) -> list[str]:
    return [path.name for path in await trio.Path(folder).iterdir()]


async def test_a_barrier_is_behind_everything_accepted_before(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        cell_id = peer.add_cell("1")
        asked = peer.ask("execute_cell", cell_id=cell_id, notebook_heads=peer.notebook_heads())
        answer = await peer.request("barrier", notebook_heads=peer.notebook_heads())
        assert answer["durable"] is False
        assert answer["notebook_heads"] == peer.notebook_heads()
        execution_id = (await asked.result())["execution_id"]
        assert peer.status(execution_id) is not None
        await peer.done(execution_id)


async def test_what_is_no_request_of_ours_is_refused_or_ignored(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        refused = await peer.refusal("run_everything")
        assert (refused.code, refused.reason) == (-32601, "method_not_found")
        for request in ({"jsonrpc": "1.0", "method": "barrier"}, {"jsonrpc": "2.0", "method": 7}):
            asked = peer.send({**request, "id": str(uuid4())})
            with pytest.raises(RequestFailed) as invalid:
                await asked.result()
            assert (invalid.value.code, invalid.value.reason) == (-32600, "invalid_request")
        asked = peer.send({"jsonrpc": "2.0", "id": "list", "method": "barrier", "params": [1]})
        with pytest.raises(RequestFailed, match="-32602"):
            await asked.result()
        # A notification is executed and not answered.
        cell_id = peer.add_cell("print('told')")
        params = {"cell_id": cell_id, "notebook_heads": peer.notebook_heads()}
        peer.say({"jsonrpc": "2.0", "method": "execute_cell", "params": params})
        await peer.event("execution_done", cell_id=cell_id)
        assert (await peer.outputs(cell_id))[0]["text"] == "told\n"


async def test_a_repeated_request_is_not_executed_again(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        cell_id = peer.add_cell("print('once')")
        params = {"cell_id": cell_id, "notebook_heads": peer.notebook_heads()}
        request = {"jsonrpc": "2.0", "id": "same", "method": "execute_cell", "params": params}
        asked = peer.ask("execute_cell", rpc_id="same", **params)
        peer.say(request)
        execution_id = (await asked.result())["execution_id"]
        await peer.done(execution_id)
        peer.say(request)
        await peer.settle()
        assert [event.params["execution_id"] for event in peer.heard("execution_done", cell_id=cell_id)] == [
            execution_id
        ]
        assert peer.read("queue") == {"executing": None, "queued": []}


async def test_requests_in_flight_are_bounded(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        await peer.request("launch_kernel")
        peer.holds_edits = True
        peer.add_cell("held back")
        heads = peer.notebook_heads()
        waiting = [peer.ask("barrier", notebook_heads=heads) for _ in range(MAX_REQUESTS_IN_FLIGHT)]
        refused = await peer.refusal("barrier")
        assert (refused.code, refused.reason) == (-32008, "too_many_requests")
        assert (await peer.request("interrupt"))["execution_id"] is None, "what stops something has room left"
        peer.release_edits()
        for asked in waiting:
            assert (await asked.result())["notebook_heads"] == heads
        assert (await peer.request("barrier"))["durable"] is False


async def test_a_request_that_waits_for_heads_holds_back_the_next_but_not_the_urgent(
    daemon: ServedDaemon, opened: Opened
) -> None:
    async with joined(daemon, opened) as peer:
        running = await begin(peer)
        known = peer.add_cell("print('known')")
        await peer.settle()
        peer.holds_edits = True
        awaited = peer.add_cell("print('awaited')")
        first = peer.ask("execute_cell", cell_id=awaited, notebook_heads=peer.notebook_heads())
        second = peer.ask("execute_cell", cell_id=known)
        assert "matches" in await peer.request("complete", code="pri")
        await interrupted(peer, running)
        assert not first.arrived.is_set()
        assert not second.arrived.is_set()
        peer.release_edits()
        ids = [(await asked.result())["execution_id"] for asked in (first, second)]
        assert [await peer.done(execution_id) for execution_id in ids] == ["done", "done"]
        assert peer.read("executions", ids[0], "order") < peer.read("executions", ids[1], "order")


async def test_a_kernel_that_dies_is_told_and_launched_again(daemon: ServedDaemon, opened: Opened) -> None:
    async with joined(daemon, opened) as peer:
        died = await peer.execute(peer.add_cell("import os, signal\ninput()\nos.kill(os.getpid(), signal.SIGKILL)"))
        queued = await peer.execute(peer.add_cell("1"))
        asked = await peer.wait(lambda: peer.read("kernel", "input_request"))
        await peer.request("input_reply", request_id=asked["request_id"], value="")
        assert (await peer.done(died), await peer.done(queued)) == ("error", "cancelled")
        event = await peer.event("kernel_error", reason="died")
        assert str(int(signal.SIGKILL)) in event.params["message"]
        assert peer.read("kernel", "status") == "dead"
        assert peer.read("kernel", "error", "message") == event.params["message"]
        assert await printed(peer, "print('alive')") == "alive\n"
        assert peer.read("kernel", "error") is None

        at_once = peer.add_cell("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        died = await peer.execute(at_once)
        assert await peer.done(died) == "error", "it was not even heard to begin"
        assert peer.read("cells", at_once, "execution_id") == died
        assert len(peer.heard("execution_started", execution_id=died)) == 1


async def test_an_interrupt_while_a_kernel_starts_cancels_what_would_run_first(daemon: ServedDaemon) -> None:
    async with daemon.opened() as opened, open_thin_peer(daemon, opened) as peer:
        cells = [peer.add_cell(f"print({number})") for number in range(2)]
        await peer.settle()
        asked = [peer.ask("run_all_cells"), peer.ask("execute_cell", cell_id=cells[1])]
        ran, kept = (await asked[0].result())["executions"], (await asked[1].result())["execution_id"]
        assert (await peer.request("interrupt"))["execution_id"] == ran[0]["execution_id"]
        assert [await peer.done(one["execution_id"]) for one in ran] == ["cancelled", "cancelled"]
        assert await peer.done(kept) == "done"
