"""Twenty peers edit and execute over connections that break at every place; a checker reads what they and the kernel saw."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.notebooks import write_notebook
from tests.fakes.daemon_process import running_daemon
from tests.fakes.weather import RAN_LOG, RUN, Actor, Crowd, Plan, Skies, client, stock, thin
from tests.history import violations

CELLS = ["a", "b", "c", "d", "e"]
SHORT_SECONDS = 60.0
LONG_SECONDS = 600.0


async def live_through(directory: Path, seed: int, seconds: float, *, stop_early: bool) -> str:
    """One run; what it met, as a line. `stop_early`: it is over when every boundary was met."""
    rng = random.Random(seed)
    clients, stocks = Skies.of_frames(rng), Skies.of_frames(rng)
    actors: list[tuple[Actor, Plan]] = [
        *[(client, clients.next_cut)] * 10,
        *[(stock, stocks.next_cut)] * 3,
        *[(thin, clients.sluggish)] * 4,
        *[(thin, clients.any_byte)] * 2,
    ]
    async with running_daemon(directory) as daemon:
        (daemon.root / "ran_log.py").write_text(RAN_LOG)
        write_notebook(daemon.root / "crowd.ipynb", dict.fromkeys(CELLS, RUN))
        crowd = Crowd(daemon, await daemon.open("crowd.ipynb"), CELLS, rng)

        def met() -> Counter[str]:
            return Counter(
                f"{fault.direction} {fault.cut_after_frames}"
                for wire in crowd.wires
                for fault in wire.faults_met
                if fault.cut_after_frames is not None
            )

        await crowd.run(actors, lambda: stop_early and met().total() >= clients.planned + stocks.planned, seconds)
        ran = crowd.ran()
        found = violations(crowd.histories, ran, crowd.commits, witness="witness")
        assert not found, "\n".join(found[:20])
        faults = [fault for wire in crowd.wires for fault in wire.faults_met]
        kinds = Counter(
            "stalls" if f.stall_seconds else "byte cuts" if f.cut_after_frames is None else "boundary cuts"
            for f in faults
        )
        assert len(met()) == 100, f"met only {sorted(met())}"
        accepted = sum(asked.accepted for history in crowd.histories for asked in history.asked)
        lost = sum(asked.answer == "lost" for history in crowd.histories for asked in history.asked)
        edits = sum(len(history.acknowledged) for history in crowd.histories)
        events = sum(len(connection) for history in crowd.histories for connection in history.connections)
        return (
            f"seed {seed}: {len(crowd.histories)} peers, {dict(kinds)}, {sum(w.connections for w in crowd.wires)} connections; "
            f"{accepted} executions accepted, {lost} requests lost, {len(ran.runs)} ran, {edits} edits acknowledged, "
            f"{events} events, {len(crowd.commits)} commits; no violation"
        )


@pytest.mark.time_limit(180)
async def test_nothing_breaks_where_connections_do(tmp_path: Path) -> None:
    print(await live_through(tmp_path, seed=1, seconds=SHORT_SECONDS, stop_early=True))


@pytest.mark.soak
@pytest.mark.time_limit(3600)
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_nothing_breaks_in_a_long_storm(tmp_path: Path, seed: int) -> None:
    print(await live_through(tmp_path, seed=seed, seconds=LONG_SECONDS, stop_early=False))
