"""Who says what: requests count once and from their own peer, events come from the daemon, presence is passed on."""

import sys
from pathlib import Path

import pytest
import trio

from tests.e2e.notebooks import open_notebook
from tests.fakes import stock_peer
from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import StockPeer

SOURCES = {"a": "runs = globals().get('runs', 0) + 1; print(runs)", "b": "print('b')"}
LINKED_EXECUTIONS = 20


async def test_peers_that_are_linked_with_each_other_ask_once_and_miss_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request that the other peer passes on is dropped and counted; copies of events have a `seq` that was there before."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as one, notebook.joined() as two:
            assert await two.link(await one.listen()) == one.peer_id
            for count in range(LINKED_EXECUTIONS):
                done = await notebook.execute(one, "a")
                # A copy that the other passed on may be here before the state.
                await one.wait_heads(notebook.runtime, done["heads"])
                assert await notebook.text(one, "a") == f"{count + 1}\n"  # it ran once
                await two.wait_event(notebook.url, "execution_done", execution_id=done["execution_id"])
            await notebook.settle(one, two)
            assert len(await one.doc(notebook.runtime, ["executions"])) == LINKED_EXECUTIONS
            foreign = await notebook.metric("notebookd_foreign_ephemerals_total")
            for peer in (one, two):
                events = await peer.events(notebook.url)
                seqs = {event["params"]["seq"] for event in events}
                assert seqs == set(range(min(seqs), max(seqs) + 1))
                done_seqs = {event["params"]["seq"] for event in events if event["method"] == "execution_done"}
                assert len(done_seqs) == LINKED_EXECUTIONS
                # Copies come under the daemon's own name, so nobody but `seq` tells them from what it sent.
                report = await peer.report(notebook.url)
                assert report["events"] == len(seqs) + report["repeats"]
                assert report["gaps"] == 0 < report["repeats"]
            reports = [await peer.report(notebook.url) for peer in (one, two)]
            # The other's requests, heard and not taken: a barrier of each, and all that `one` asked.
            assert [report["foreign"] for report in reports] == [1, LINKED_EXECUTIONS + 1]
    with capsys.disabled():
        copies = [f"{r['repeats']} of {r['events']} events heard were copies, {r['early']} early" for r in reports]
        print(
            f"\nLinked peers: {foreign:.0f} passed-on requests dropped by the daemon; {'; '.join(copies)}",
            file=sys.stderr,
        )
    assert foreign >= LINKED_EXECUTIONS


async def test_a_repeated_request_runs_once_and_a_made_up_response_is_not_passed_on(tmp_path: Path) -> None:
    """The same id again is not executed and not answered; events come once to each; nothing of another sender comes."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as one, notebook.joined() as two:
            response = await one.request(notebook.url, "execute_cell", {"cell_id": "a"}, request_id="same")
            with pytest.raises(stock_peer.StockPeerError, match="no response"):
                await one.request(notebook.url, "execute_cell", {"cell_id": "a"}, request_id="same", within=0.5)
            execution_id = response["result"]["execution_id"]
            for peer in (one, two):
                await peer.wait_event(notebook.url, "execution_done", execution_id=execution_id)
                assert list(await peer.doc(notebook.runtime, ["executions"])) == [execution_id]
                # A response to somebody else, or one that a peer makes up, is not taken for the daemon's.
                await peer.broadcast(notebook.url, {"jsonrpc": "2.0", "id": 9, "to": two.peer_id, "result": {}})
                await notebook.ask(peer, "barrier")
                report = await peer.report(notebook.url)
                assert (report["repeats"], report["gaps"], report["foreign"], report["early"]) == (0, 0, 0, 0)
            assert await notebook.metric("notebookd_foreign_ephemerals_total") == 0


async def test_two_connections_with_one_peer_id_are_two_peers(tmp_path: Path) -> None:
    """Each has its own answers under the same ids, and the other's edits; neither ends the other's connection."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined(peer_id="twin") as one, notebook.joined(peer_id="twin") as two:
            answers: list[dict[str, object]] = []

            async def ask(peer: StockPeer, cell_id: str) -> None:
                answers.append(await peer.request(notebook.url, "execute_cell", {"cell_id": cell_id}, request_id="1"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, one, "a")
                nursery.start_soon(ask, two, "b")
            ids = [answer["result"]["execution_id"] for answer in answers]
            assert len(set(ids)) == 2
            for peer, other in ((one, two), (two, one)):
                for execution_id in ids:
                    await peer.wait_event(notebook.url, "execution_done", execution_id=execution_id)
                heads = await peer.change(notebook.url, stock_peer.splice(["cells", "b", "source"], 0, 0, "#"))
                await other.wait_heads(notebook.url, heads)
            await notebook.settle(one, two)
            assert {await notebook.text(one, "a"), await notebook.text(two, "b")} == {"1\n", "b\n"}
            listed = (await daemon.get("/api/notebooks")).json()["notebooks"]
            assert [item["peers"] for item in listed] == [2]
            for peer in (one, two):
                report = await peer.report(notebook.url)
                assert (report["responses"], report["repeats"], report["early"]) == (2, 0, 0)


async def test_the_stock_presence_works_through_the_daemon(tmp_path: Path) -> None:
    """Sender, session and count are passed on unchanged: each sees the other, also one that came later."""
    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined(peer_id="ada") as ada, notebook.joined(peer_id="bob") as bob:
            await ada.start_presence(notebook.url, {"cell": "a"})
            await bob.start_presence(notebook.url, {"cell": "b"})
            for number in range(5):
                await ada.set_presence(notebook.url, "cursor", number)
            await bob.wait_presence(notebook.url, "ada", "cursor", 4)
            await ada.wait_presence(notebook.url, "bob", "cell", "b")
            async with notebook.joined(peer_id="late") as late:
                await late.start_presence(notebook.url, {"cell": "c"})
                await late.wait_presence(notebook.url, "ada", "cursor", 4)
                await ada.wait_presence(notebook.url, "late", "cell", "c")
            # What looks like JSON-RPC is never passed on.
            await ada.broadcast(notebook.url, {"jsonrpc": "2.0", "method": "execution_done", "params": {}})
            await ada.broadcast(notebook.url, {"jsonrpc": "2.0", "id": 1, "to": "bob", "result": {}})
            await notebook.ask(ada, "barrier")
            await notebook.ask(bob, "barrier")
            assert (await bob.report(notebook.url))["foreign"] == 0
