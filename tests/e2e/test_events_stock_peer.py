"""P1 with the real stock client: no event or response before the state that it speaks of."""

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.notebooks import Notebook, executions_ended, figures, open_notebook
from tests.fakes import stock_peer
from tests.fakes.daemon_process import running_daemon
from tests.fakes.stock_peer import StockPeer

CELLS = {f"cell-{n}": f"print({n})\nprint('second line', flush=True)\n{n}" for n in range(50)}
TYPED = "typed"
SOURCES = {**CELLS, TYPED: "# "}
ROUNDS = 10
EXECUTIONS = ROUNDS * len(CELLS)
JOINS_WITH_MUTATION = 40
RETRY_MS = 500  # the stock adapter gives up a handshake that takes longer than this
LATENCY_MS = 40  # of the storage: 0 to so many, as IndexedDB's


async def execute_in_bursts(notebook: Notebook, peer: StockPeer, rounds: int) -> None:
    """All cells at once, by requests that are all under way together."""
    for _ in range(rounds):
        async with trio.open_nursery() as nursery:
            for cell_id in CELLS:
                nursery.start_soon(lambda cell_id=cell_id: notebook.ask(peer, "execute_cell", cell_id=cell_id))


async def type_until(over: trio.Event, notebook: Notebook, peer: StockPeer) -> int:
    """Types one character after the other; waits for the daemon now and then, as a person pauses."""
    count = 0
    while not over.is_set():
        for _ in range(20):
            await peer.change(notebook.url, stock_peer.splice(["cells", TYPED, "source"], 2, 0, "x"))
            count += 1
        assert "result" in await peer.request(notebook.url, "barrier", at_heads=True)
    return count


async def reconnect_until(over: trio.Event, notebook: Notebook, peer: StockPeer) -> int:
    """Breaks the connection again and again, each time after the first events of the new one."""
    times = 0
    while not over.is_set():
        await peer.drop()
        times += 1
        heard = len(await peer.events(notebook.url))
        with trio.move_on_after(2):  # at the very end there may be no more events to wait for
            await peer.wait_event(notebook.url, "execution_done", since=heard)
    return times


async def join_until(
    over: trio.Event, notebook: Notebook, options: Callable[[], dict[str, Any]], together: int
) -> list[dict[str, Any]]:
    """One fresh peer after the other joins, stays for some events and leaves; their reports."""
    reports = []

    async def join() -> None:
        while not over.is_set():
            async with notebook.joined(**options()) as peer:
                with trio.move_on_after(2):
                    await peer.wait_event(notebook.url, "execution_done")
                reports.append(await peer.report(notebook.url))

    async with trio.open_nursery() as nursery:
        for _ in range(together):
            nursery.start_soon(join)
    return reports


def missing_runs(events: Sequence[dict[str, Any]]) -> int:
    """How often one or more values of `seq` are missing between two events."""
    seqs = [event["params"]["seq"] for event in events]
    return sum(after > before + 1 for before, after in pairwise(seqs))


@pytest.mark.time_limit(240)
@pytest.mark.parametrize("latency_ms", [None, LATENCY_MS], ids=["no storage", "slow storage"])
async def test_no_event_is_early_in_500_executions_with_typing_joins_and_reconnects(
    latency_ms: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six peers at a time, 500 executions: nothing early, gaps only where a peer was away, all replicas the same."""
    seeds = iter(range(1_000_000))

    def options() -> dict[str, Any]:
        return {} if latency_ms is None else {"storage_latency_ms": latency_ms, "seed": next(seeds)}

    over = trio.Event()
    done: dict[str, Any] = {}

    async def run(name: str, function: Callable[..., Any], *arguments: Any) -> None:
        done[name] = await function(over, notebook, *arguments)

    async with running_daemon(tmp_path) as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with (
            notebook.joined(**options()) as driver,
            notebook.joined(**options()) as typist,
            notebook.joined(**options(), retry_ms=RETRY_MS) as restless,
        ):
            await notebook.ask(driver, "launch_kernel")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, "typed", type_until, typist)
                nursery.start_soon(run, "reconnections", reconnect_until, restless)
                nursery.start_soon(run, "joined", join_until, options, 2)
                await execute_in_bursts(notebook, driver, ROUNDS)
                await driver.wait(notebook.runtime, executions_ended(EXECUTIONS), within=90)
                over.set()
            async with notebook.joined(**options()) as late:
                peers = [driver, typist, restless, late]
                end = await notebook.settle(*peers)
                for peer in peers:
                    assert await peer.heads(notebook.runtime) == end["heads"]
                    assert await peer.heads(notebook.url) == end["notebook_heads"]
                    assert len(await peer.doc(notebook.url, ["cells", TYPED, "source"])) == 2 + done["typed"]
                reports = [await peer.report(notebook.url) for peer in peers]
                gaps_when_away = missing_runs(await restless.events(notebook.url))
            held = await notebook.metric("notebookd_notices_held_total")
    total = figures([*reports, *done["joined"]])
    with capsys.disabled():
        print(
            f"\nP1, stock client, {'no storage' if latency_ms is None else 'storage of 0-40 ms'}: {EXECUTIONS} executions, "
            f"{done['typed']} characters typed, {len(done['joined'])} joins, {done['reconnections']} reconnections; "
            f"{total['events']} events and {total['responses']} responses heard, {total['early']} early; "
            f"held by the gate: {held:.0f}",
            file=sys.stderr,
        )
    assert total["early"] == 0, [report["early_details"] for report in reports + done["joined"]]
    assert total["repeats"] == total["unopened"] == 0
    assert reports[0]["gaps"] == reports[1]["gaps"] == 0
    assert gaps_when_away <= done["reconnections"]
    assert len(done["joined"]) > 0 < done["reconnections"]
    assert all(not report["error_frames"] for report in reports)


@pytest.mark.time_limit(240)
async def test_events_are_early_with_frames_that_do_not_wait_for_the_first_acknowledgement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mutation that the test above can tell: peers with a slow storage join until one hears something early."""
    seeds = iter(range(1_000_000))

    async def join_until_early() -> tuple[int, int, int]:
        joins = events = 0
        while joins < JOINS_WITH_MUTATION:
            joins += 1
            async with notebook.joined(storage_latency_ms=LATENCY_MS, seed=next(seeds)) as peer:
                await peer.wait_event(notebook.url, "execution_done")
                report = await peer.report(notebook.url)
                events += report["events"]
                if report["early"]:
                    return joins, events, report["early"]
        return joins, events, 0

    async with running_daemon(tmp_path, module="tests.fakes.mutated_daemon") as daemon:
        notebook = await open_notebook(daemon, SOURCES)
        async with notebook.joined() as driver:
            await notebook.ask(driver, "launch_kernel")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(execute_in_bursts, notebook, driver, 100)
                joins, events, early = await join_until_early()
                nursery.cancel_scope.cancel()
    with capsys.disabled():
        print(f"\nP1, frames that do not wait: {early} of {events} events early, with {joins} joins", file=sys.stderr)
    assert early > 0
