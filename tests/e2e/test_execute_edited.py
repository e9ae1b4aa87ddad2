"""P2 with the real stock client: a request runs what its peer had just written, or does not run."""

import sys
from pathlib import Path
from time import monotonic

import pytest
import trio
import trio.testing

from tests.e2e.notebooks import open_notebook
from tests.fakes import stock_peer
from tests.fakes.daemon_process import running_daemon

EDITS = 200
WAIT_SECONDS = 10  # for heads, as docs/wire.md says
UNKNOWN = "00" * 32  # heads that nobody ever makes
SOURCES = {"first": "ran = []", "edited": "", "typed": "# ", "last": "print(ran)"}


@pytest.mark.time_limit(120)
async def test_an_edited_cell_executed_at_once_runs_as_edited_200_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edit and request leave in one tick, the request first, while another peer types into the same notebook and cell."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as peer, notebook.joined() as other:
            await notebook.execute(peer, "first")
            right = typed = 0
            over = trio.Event()

            async def type_meanwhile() -> None:
                nonlocal typed
                while not over.is_set():
                    await other.change(notebook.url, stock_peer.splice(["cells", "typed", "source"], 2, 0, "x"))
                    await other.change(notebook.url, stock_peer.splice(["cells", "edited", "source"], 0, 0, "#\n"))
                    await other.request(notebook.url, "barrier", at_heads=True)
                    typed += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(type_meanwhile)
                for counter in range(EDITS):
                    source = f"ran.append({counter}); print('run', {counter})"
                    response = await peer.edit_and_execute(notebook.url, "edited", source)
                    execution_id = response["result"]["execution_id"]
                    done = await peer.wait_event(notebook.url, "execution_done", execution_id=execution_id)
                    assert done["params"]["status"] == "done"
                    # The outputs are in this replica already: the event stands behind them.
                    right += await notebook.text(peer, "edited") == f"run {counter}\n"
                over.set()
            await notebook.execute(peer, "last")
            ran = await notebook.text(peer, "last")
            report = await peer.report(notebook.url)
    with capsys.disabled():
        print(
            f"\nP2: {right} of {EDITS} edits ran as edited, with {typed} edits of another peer; {report['early']} early",
            file=sys.stderr,
        )
    assert ran == f"{list(range(EDITS))}\n"
    assert right == EDITS
    assert report["early"] == 0


async def test_edits_that_never_arrive_are_a_heads_timeout_and_nothing_runs(tmp_path: Path) -> None:
    """Made-up heads: after 10 s an error that names them; what a person needs at once does not wait behind it."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as peer:
            known = await peer.heads(notebook.url)
            waited: dict[str, float] = {}
            began = monotonic()

            async def ask(method: str, **params: object) -> dict[str, dict[str, object]]:
                response = await peer.request(notebook.url, method, params)
                waited[method] = monotonic() - began
                return response

            async with trio.open_nursery() as nursery:

                async def execute() -> None:
                    params = {"cell_id": "first", "notebook_heads": [*known, UNKNOWN]}
                    error = (await ask("execute_cell", **params))["error"]
                    assert error["code"] == -32004
                    assert error["data"] == {"reason": "heads_timeout", "missing": [UNKNOWN]}

                nursery.start_soon(execute)
                await trio.testing.wait_all_tasks_blocked()  # it is sent first
                nursery.start_soon(ask, "barrier")
                nursery.start_soon(ask, "interrupt")
            assert waited["interrupt"] < WAIT_SECONDS - 0.5 < waited["execute_cell"] < 3 * WAIT_SECONDS
            assert waited["barrier"] > WAIT_SECONDS - 0.5  # in order, behind the one that waits
            assert await peer.doc(notebook.runtime, ["executions"]) == {}
            assert await peer.doc(notebook.runtime, ["kernel", "status"]) == "not_started"


async def test_a_refused_edit_is_a_heads_timeout_at_once(tmp_path: Path) -> None:
    """The request comes before the change that will be refused, and another one after it: neither waits 10 s."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as peer:
            huge = stock_peer.put(["cells", "first", "metadata", "list"], {"$nulls": 200_000})
            await peer.change(notebook.url, huge)
            for _ in range(2):
                began = monotonic()
                response = await peer.request(notebook.url, "execute_cell", {"cell_id": "first"}, at_heads=True)
                assert response["error"]["data"]["reason"] == "heads_timeout"
                assert response["error"]["data"]["missing"] == await peer.heads(notebook.url)
                assert monotonic() - began < WAIT_SECONDS - 1
            assert await peer.doc(notebook.runtime, ["executions"]) == {}


async def test_a_viewers_edit_is_a_heads_timeout_at_once(tmp_path: Path) -> None:
    """Its changes are never taken, so nothing that it names can still come."""
    async with running_daemon(tmp_path, "--viewer-token", "look") as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined(viewer_token="look") as viewer:
            began = monotonic()
            heads = await viewer.change(notebook.url, stock_peer.update_text(["cells", "first", "source"], "1/0"))
            response = await viewer.request(notebook.url, "barrier", at_heads=True)
            assert response["error"]["data"] == {"reason": "heads_timeout", "missing": heads}
            assert monotonic() - began < WAIT_SECONDS - 1


async def test_what_was_accepted_runs_though_its_peer_is_gone(tmp_path: Path) -> None:
    """It is killed right after the answer, before there is a kernel: the execution still ends as done for the others."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as stays, notebook.joined() as leaves:
            accepted = await notebook.ask(leaves, "execute_cell", cell_id="first")
            leaves.process.kill()
            execution_id = accepted["execution_id"]
            done = await stays.wait_event(notebook.url, "execution_done", execution_id=execution_id)
            assert done["params"]["status"] == "done"
