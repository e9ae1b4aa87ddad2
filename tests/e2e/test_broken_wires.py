"""Twenty peers edit and execute over connections that break at every place; a checker reads what they and the kernel saw."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.notebooks import Notebook, write_notebook
from tests.fakes.daemon_process import running_daemon
from tests.fakes.weather import FRAMES, RAN_LOG, RUN, Cast, Crowd, Skies, client, stock, thin
from tests.history import violations

# Of the stock client's connections and of ours, in both directions.
BOUNDARIES = 4 * FRAMES
CELLS = ["a", "b", "c", "d", "e"]
FORGETFUL = "tests.fakes.forgetful_daemon"  # it replaces runtime documents all the time
SHORT_SECONDS = 40.0
LONG_SECONDS = 600.0


async def live_through(
    directory: Path, seed: int, seconds: float, *, clients: int, stocks: int, thins: int, module: str = "daemon"
) -> str:
    """One run of so many peers of each kind, and a witness: until each boundary was met, or for so many seconds.

    Returns:
        What it met, as a line; `all boundaries` is in it if these were.
    """
    rng = random.Random(seed)
    of_clients, of_stocks = Skies.of_frames(rng), Skies.of_frames(rng)
    actors: list[Cast] = [
        *[(client, of_clients.next_cut, of_clients.again)] * clients,
        *[(stock, of_stocks.next_cut, of_stocks.again)] * stocks,
        *[
            (thin, of_clients.sluggish if number % 3 else of_clients.any_byte, of_clients.again)
            for number in range(thins)
        ],
    ]
    async with running_daemon(directory, module=module) as daemon:
        (daemon.root / "ran_log.py").write_text(RAN_LOG)
        write_notebook(daemon.root / "crowd.ipynb", dict.fromkeys(CELLS, RUN))
        crowd = Crowd(daemon, await daemon.open("crowd.ipynb"), CELLS, rng)

        def met() -> set[tuple[str, str, int]]:
            return {
                (history.name.rstrip("0123456789"), fault.direction, fault.cut_after_frames)
                for history, wire in crowd.actors
                for fault in wire.faults_met
                if fault.cut_after_frames is not None
            }

        await crowd.run(actors, lambda: len(met()) == BOUNDARIES, seconds)
        ran = crowd.ran()
        roll_overs = int(await Notebook(daemon, "", "", "").metric("notebookd_roll_overs_total"))
        assert (roll_overs > 3) == (module == FORGETFUL)
        found = violations(crowd.histories, ran, crowd.commits, witness="witness")
        assert not found, "\n".join(found[:20])
        faults = [fault for _, wire in crowd.actors for fault in wire.faults_met]
        kinds = Counter(
            "stalls" if f.stall_seconds else "byte cuts" if f.cut_after_frames is None else "boundary cuts"
            for f in faults
        )
        boundaries = "all" if len(met()) == BOUNDARIES else f"{len(met())} of {BOUNDARIES}"
        accepted = sum(asked.accepted for history in crowd.histories for asked in history.asked)
        lost = sum(asked.answer == "lost" for history in crowd.histories for asked in history.asked)
        edits = sum(len(history.acknowledged) for history in crowd.histories)
        events = sum(len(connection) for history in crowd.histories for connection in history.connections)
        connections = sum(wire.connections for _, wire in crowd.actors)
        return (
            f"seed {seed}: {len(crowd.histories)} peers, {dict(kinds)}, {boundaries} boundaries, "
            f"{connections} connections; "
            f"{accepted} executions accepted, {lost} requests lost, {len(ran.runs)} ran, {edits} edits acknowledged, "
            f"{events} events, {len(crowd.commits)} commits, {roll_overs} roll-overs; no violation"
        )


TWENTY = {"clients": 8, "stocks": 4, "thins": 7}  # and the witness


@pytest.mark.time_limit(180)
async def test_nothing_breaks_where_connections_do(tmp_path: Path) -> None:
    print(await live_through(tmp_path, seed=1, seconds=SHORT_SECONDS, **TWENTY))


@pytest.mark.time_limit(180)
async def test_nothing_breaks_where_runtime_documents_are_replaced_meanwhile(tmp_path: Path) -> None:
    print(await live_through(tmp_path, seed=6, seconds=SHORT_SECONDS, module=FORGETFUL, **TWENTY))


@pytest.mark.soak
@pytest.mark.time_limit(1200)
async def test_nothing_breaks_at_any_of_the_first_boundaries(tmp_path: Path) -> None:
    line = await live_through(tmp_path, seed=2, seconds=LONG_SECONDS, clients=4, stocks=6, thins=0)
    print(line)
    assert "all boundaries" in line


@pytest.mark.soak
@pytest.mark.time_limit(1200)
@pytest.mark.parametrize(("seed", "module"), [(3, "daemon"), (4, "daemon"), (5, FORGETFUL)])
async def test_nothing_breaks_in_a_long_storm(tmp_path: Path, seed: int, module: str) -> None:
    print(await live_through(tmp_path, seed=seed, seconds=LONG_SECONDS, module=module, **TWENTY))
